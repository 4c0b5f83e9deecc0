/**
 * The client's side of an NBD handshake over a socket whose descriptor can be handed on: connect, send, receive, each with
 * an end to the waiting. For `attach-connector.ts`; TLS has its own way there.
 *
 * Invariants: not one byte is read beyond what the handshake consists of, for the rest is the kernel's; the descriptor is
 * closed exactly once.
 */
import { EAGAIN, EINPROGRESS, ETIMEDOUT } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { NbdEndpoint } from '../nbd-server-protocol/uri.ts';
import { addon, type NativeWatch } from './addon.ts';
import { printAddress, type SocketAddress, tcpAddresses, unixAddress } from './socket-address.ts';
import { systemError } from './system-error.ts';

const UNIX_BUFFER_BYTES = 4 * 1024 * 1024;

export class NbdChannel {
  readonly #endpoint: NbdEndpoint;
  readonly #buffer = new Uint8Array(16 * 1024);
  #fd: number;
  #watch: NativeWatch | undefined;
  #deadline: NodeJS.Timeout | undefined;
  #isLate = false;
  #wake: () => void = () => {};

  private constructor(endpoint: NbdEndpoint, fd: number, timeoutMs: number) {
    this.#endpoint = endpoint;
    this.#fd = fd;
    this.#watch = new addon.DescriptorWatch(fd, () => this.#wake());
    this.#startDeadline(timeoutMs);
  }

  /**
   * `timeoutMs` is for all that is done with the channel. The addresses of a host are tried one after the other, each with
   * its share of what is left of the time. Rejects with `connection-failed`, or with `bad-address` for a path that is none.
   */
  static async connect(endpoint: NbdEndpoint, timeoutMs: number): Promise<NbdChannel> {
    const end = performance.now() + timeoutMs;
    const addresses =
      endpoint.kind === 'tcp' ? await lookUp(endpoint.host, endpoint.port) : [unixAddress(endpoint.path)];
    const leftMs = (): number => Math.max(0, end - performance.now());
    for (let tries = addresses.length; ; tries--) {
      try {
        const address = addresses[addresses.length - tries];
        const channel = await NbdChannel.#connectTo(endpoint, address, leftMs() / tries);
        channel.#startDeadline(leftMs());
        return channel;
      } catch (error) {
        if (tries === 1) throw error;
      }
    }
  }

  static async #connectTo(endpoint: NbdEndpoint, address: SocketAddress, timeoutMs: number): Promise<NbdChannel> {
    const fd = addon.socketFor(address.bytes, address.length);
    if (fd < 0) throw systemError('connection-failed', `cannot make a socket for ${printAddress(endpoint)}`, fd);
    const channel = new NbdChannel(endpoint, fd, timeoutMs);
    try {
      addon.tune(fd, UNIX_BUFFER_BYTES);
      if (endpoint.kind === 'tcp') addon.setLinkOptions(fd);
      let result = addon.startConnect(fd, address.bytes, address.length);
      if (result === -EINPROGRESS) {
        await channel.#ready('writable');
        result = addon.socketError(fd);
      }
      if (result < 0) throw channel.#error('cannot connect to', result);
      return channel;
    } catch (error) {
      channel.close();
      throw error;
    }
  }

  async send(bytes: Uint8Array): Promise<void> {
    let at = 0;
    while (at < bytes.length) {
      const result = addon.sendBytes(this.#fd, bytes, at, bytes.length - at);
      if (result === -EAGAIN) await this.#ready('writable');
      else if (result < 0) throw this.#error('cannot send to', result);
      else at += result;
    }
  }

  /** What has arrived, at least one byte. */
  async receive(): Promise<Uint8Array> {
    for (;;) {
      const result = addon.receiveBytes(this.#fd, this.#buffer, 0, this.#buffer.length);
      if (result > 0) return this.#buffer.slice(0, result);
      if (result === 0) {
        throw new SledgeError('connection-failed', `${printAddress(this.#endpoint)} closed the connection`);
      }
      if (result !== -EAGAIN) throw this.#error('cannot receive from', result);
      await this.#ready('readable');
    }
  }

  /** To hand to the kernel, which takes a reference of its own. */
  get descriptor(): number {
    return this.#fd;
  }

  /** The handshake is over: nothing is sent or received here any more, and the deadline has no meaning. */
  stopWatching(): void {
    clearTimeout(this.#deadline);
    this.#watch?.close();
    this.#watch = undefined;
  }

  /** Ends this process's hold on the socket; any further call does nothing. */
  close(): void {
    this.stopWatching();
    if (this.#fd >= 0) addon.closeDescriptor(this.#fd);
    this.#fd = -1;
  }

  #startDeadline(timeoutMs: number): void {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => {
      this.#isLate = true;
      this.#wake();
    }, timeoutMs);
  }

  async #ready(what: 'readable' | 'writable'): Promise<void> {
    await new Promise<void>(resolve => {
      this.#wake = resolve;
      if (this.#isLate) resolve();
      else this.#watch?.[what]();
    });
    if (this.#isLate) throw this.#error('no answer in time from', -ETIMEDOUT);
  }

  #error(what: string, errno: number): SledgeError {
    return systemError('connection-failed', `${what} ${printAddress(this.#endpoint)}`, errno);
  }
}

async function lookUp(host: string, port: number): Promise<SocketAddress[]> {
  try {
    return await tcpAddresses(host, port);
  } catch (error) {
    // A name that nobody knows may be known when the network is there.
    if (error instanceof SledgeError) throw new SledgeError('connection-failed', error.message, { cause: error });
    throw error;
  }
}
