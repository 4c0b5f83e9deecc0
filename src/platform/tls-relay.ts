/**
 * TLS between the kernel, which speaks none, and the server: one end of a pair of sockets is the kernel's, the other one is
 * read and written here, by way of a TLS client. Where the supervisor ends, its relays end; the device then waits for
 * another supervisor to adopt it.
 *
 * Invariants: when one side ends or fails, both are ended at once, and what was under way from the kernel is thrown away,
 * in this process and in the socket to the server (which is reset): the kernel sends it again on the next connection, and
 * must not be overtaken by what was left here. While the server takes nothing, nothing is read from the kernel either, and so
 * not the end of it: `endThoseShut` is to be called when the kernel has given up a connection, before it gets another.
 */
import { connect as connectPlain, Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { EAGAIN } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import { encodeOption } from '../nbd-server-protocol/client-handshake.ts';
import { OPT_ABORT } from '../nbd-server-protocol/constants.ts';
import { formatNbdUri, type NbdUri } from '../nbd-server-protocol/uri.ts';
import { addon } from './addon.ts';
import type { FirstConnection, HandshakeChannel } from './client-negotiation.ts';
import { negotiate } from './client-negotiation.ts';
import { systemError } from './system-error.ts';
import { connectionOptions, type TlsClientMaterial } from './tls-client.ts';

const PAIR_BUFFER_BYTES = 4 * 1024 * 1024;
const NOTHING = new Uint8Array(0);

interface OpenRelay {
  end(): void;
  /** If the kernel has shut its end. */
  endIfShut(): void;
}

/** Those of this process, which lives as long as it has any. */
const relays = new Set<OpenRelay>();

export const TlsRelay = {
  /** A connection under TLS, with the kernel's end of the relay as its socket. */
  async connect(uri: NbdUri, material: TlsClientMaterial | undefined, timeoutMs: number): Promise<FirstConnection> {
    const channel = new NodeChannel(uri, timeoutMs);
    try {
      const handshake = await negotiate(channel, uri, false, () => channel.upgrade(material));
      const { sizeBytes, transmissionFlags, minimumBlockBytes } = handshake.agreement;
      const kernelEnd = relay(channel.detach(), () => channel.reset());
      let isHeld = true;
      const release = (): void => {
        if (isHeld) addon.closeDescriptor(kernelEnd);
        isHeld = false;
      };
      return { sizeBytes, transmissionFlags, minimumBlockBytes, socket: kernelEnd, release };
    } catch (error) {
      channel.close();
      throw error;
    }
  },

  endThoseShut(): void {
    for (const open of relays) open.endIfShut();
  },

  /** With the supervisor: nobody would tell when the kernel shuts its ends. */
  endAll(): void {
    for (const open of relays) open.end();
  },

  async inquire(uri: NbdUri, material: TlsClientMaterial | undefined, timeoutMs: number): Promise<number> {
    const channel = new NodeChannel(uri, timeoutMs);
    try {
      const handshake = await negotiate(channel, uri, true, () => channel.upgrade(material));
      await channel.send(encodeOption(OPT_ABORT));
      return handshake.agreement.sizeBytes;
    } finally {
      channel.close();
    }
  },
};

/** Joins a socket with a new pair; gives the descriptor of the pair's other end. `reset` ends the connection under TLS. */
function relay(upstream: Socket, reset: () => void): number {
  const pair = addon.socketPair();
  if (typeof pair === 'number') throw systemError('io', 'no pair of sockets can be made', pair);
  const [kernelEnd, ourEnd] = pair;
  for (const fd of pair) addon.tune(fd, PAIR_BUFFER_BYTES);
  const local = new Socket({ fd: ourEnd, readable: true, writable: true });
  const open: OpenRelay = {
    end() {
      relays.delete(open);
      local.destroy();
      reset();
      upstream.destroy();
    },
    endIfShut() {
      // Where nothing could be sent any more, sending nothing fails.
      const result = addon.sendBytes(ourEnd, NOTHING, 0, 0);
      if (result < 0 && result !== -EAGAIN) open.end();
    },
  };
  relays.add(open);
  for (const socket of [local, upstream]) {
    socket.on('error', open.end);
    socket.on('close', open.end);
    socket.on('end', open.end);
  }
  local.pipe(upstream);
  upstream.pipe(local);
  return kernelEnd;
}

/** A handshake over one of Node's sockets, which becomes TLS on the way. */
class NodeChannel implements HandshakeChannel {
  readonly #plain: Socket;
  readonly #uri: NbdUri;
  readonly #deadline: NodeJS.Timeout;
  #socket: Socket;
  #failure: SledgeError | undefined;
  #wake: () => void = () => {};
  readonly #onChange = (): void => this.#wake();
  readonly #onError = (error: Error): void => this.#fail(error.message, error);
  readonly #onEnd = (): void => this.#fail('the server closed the connection');

  constructor(uri: NbdUri, timeoutMs: number) {
    this.#uri = uri;
    const { endpoint } = uri;
    const socket =
      endpoint.kind === 'tcp'
        ? connectPlain({ host: endpoint.host, port: endpoint.port, noDelay: true, keepAlive: true })
        : connectPlain({ path: endpoint.path });
    this.#plain = socket;
    this.#socket = socket;
    this.#listen(socket);
    this.#deadline = setTimeout(() => this.#fail('no answer in time'), timeoutMs);
  }

  send(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, error => (error ? reject(this.#failure ?? this.#error(error.message)) : resolve()));
    });
  }

  async receive(): Promise<Uint8Array> {
    for (;;) {
      const bytes: Buffer | null = this.#socket.read();
      if (bytes !== null) return bytes;
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>(resolve => {
        this.#wake = resolve;
      });
    }
  }

  /** Rejects with `connection-failed` where the server's certificate is not what it should be, too. */
  async upgrade(material: TlsClientMaterial | undefined): Promise<HandshakeChannel> {
    const plain = this.#socket;
    this.#ignore(plain);
    const secure = connectTls({ ...connectionOptions(this.#uri, material), socket: plain });
    this.#socket = secure;
    this.#listen(secure);
    let isSecure = false;
    secure.once('secureConnect', () => {
      isSecure = true;
      this.#wake();
    });
    while (!isSecure) {
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>(resolve => {
        this.#wake = resolve;
      });
    }
    return this;
  }

  detach(): Socket {
    clearTimeout(this.#deadline);
    this.#ignore(this.#socket);
    return this.#socket;
  }

  /** What TCP has not got across yet is thrown away. What was sent to a Unix socket has arrived. */
  reset(): void {
    if (this.#uri.endpoint.kind === 'tcp' && !this.#plain.destroyed) this.#plain.resetAndDestroy();
  }

  close(): void {
    clearTimeout(this.#deadline);
    this.#socket.destroy();
  }

  #listen(socket: Socket): void {
    socket.on('readable', this.#onChange);
    socket.on('error', this.#onError);
    socket.on('end', this.#onEnd);
    socket.on('close', this.#onEnd);
  }

  #ignore(socket: Socket): void {
    socket.off('readable', this.#onChange);
    socket.off('error', this.#onError);
    socket.off('end', this.#onEnd);
    socket.off('close', this.#onEnd);
  }

  #fail(reason: string, cause?: Error): void {
    this.#failure ??= this.#error(reason, cause);
    this.#wake();
  }

  #error(reason: string, cause?: Error): SledgeError {
    return new SledgeError('connection-failed', `cannot connect to ${formatNbdUri(this.#uri)}: ${reason}`, { cause });
  }
}
