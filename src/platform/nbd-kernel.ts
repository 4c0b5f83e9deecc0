/**
 * The kernel's NBD driver over a netlink socket: devices are connected, reconfigured and disconnected, and events of dead
 * connections arrive. Used by `sledge attach` and `sledge detach`; the bytes are made in `attach/nbd-netlink.ts`.
 *
 * The kernel does what a request asks for before `send` returns, so that the answers lie ready to be read: requests are
 * plain calls. Events come on a socket of their own, or a request would have to be told from them.
 */
import {
  type ConnectRequest,
  encodeConnect,
  encodeDisconnect,
  encodeFamilyRequest,
  encodeReconfigure,
  type NbdFamily,
  parseConnected,
  parseFamily,
  parseLinkDead,
  type ReconfigureRequest,
} from '../attach/nbd-netlink.ts';
import { type NetlinkMessage, parseDatagram } from '../attach/netlink-message.ts';
import { assert } from '../base/assert.ts';
import { EBUSY, EINTR, ENOBUFS, ENOENT, EPERM, EPROTO } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import { addon, type NativeWatch } from './addon.ts';
import { systemError } from './system-error.ts';

/** An answer is a few hundred bytes. */
const DATAGRAM_BYTES = 32 * 1024;

export class NbdKernel {
  readonly #requests: NetlinkSocket;
  readonly #family: NbdFamily;
  #events: NetlinkSocket | undefined;
  #watch: NativeWatch | undefined;

  /** Throws `no-nbd-driver` when the kernel has none. */
  constructor() {
    this.#requests = new NetlinkSocket();
    try {
      this.#family = this.#findFamily();
    } catch (error) {
      this.#requests.close();
      throw error;
    }
  }

  /**
   * Makes a device of connected sockets; gives its number. Throws `device-in-use`, `not-permitted`, or `not-supported`
   * with what the kernel says.
   */
  connect(request: ConnectRequest): number {
    const exchange = this.#requests.exchange(sequence => encodeConnect(this.#family.family, sequence, request));
    const index = exchange.messages.map(parseConnected).find(found => found !== undefined);
    if (exchange.result === 0 && index !== undefined) return index;
    const device = request.index === undefined ? 'a device' : `/dev/nbd${request.index}`;
    switch (-exchange.result) {
      case EBUSY:
        throw new SledgeError('device-in-use', `${device} is connected already`, {
          hint: 'Detach it first, or leave the device out to get one that is free.',
        });
      case EPERM:
        throw new SledgeError('not-permitted', `${device} may not be connected by this user`);
      default:
        throw systemError('not-supported', `the kernel refused to connect ${device}`, exchange.result);
    }
  }

  /** 0 or a negative errno; -EINVAL also for a device that is not connected, or not with this backend. */
  reconfigure(request: ReconfigureRequest): number {
    return this.#requests.exchange(sequence => encodeReconfigure(this.#family.family, sequence, request)).result;
  }

  /** 0 or a negative errno. Waits for the driver to end the device's I/O, which fails from then on. */
  disconnect(index: number): number {
    return this.#requests.exchange(sequence => encodeDisconnect(this.#family.family, sequence, index)).result;
  }

  /** From now on `linkDied` is called with the device's number, once for each connection that dies. */
  watchLinks(linkDied: (index: number) => void, eventsLost: () => void): void {
    assert(this.#events === undefined, 'events are watched once');
    const events = new NetlinkSocket();
    this.#events = events;
    const result = addon.joinNetlinkGroup(events.fd, this.#family.group);
    if (result < 0) throw systemError('not-supported', 'the events of the NBD driver cannot be had', result);
    const watch = new addon.DescriptorWatch(events.fd, () => {
      for (;;) {
        const messages = events.receive();
        if (messages === -ENOBUFS) eventsLost();
        else if (typeof messages === 'number') break;
        else for (const message of messages) this.#event(message, linkDied);
      }
      if (this.#watch === watch) watch.readable();
    });
    this.#watch = watch;
    watch.readable();
  }

  close(): void {
    this.#watch?.close();
    this.#watch = undefined;
    this.#events?.close();
    this.#events = undefined;
    this.#requests.close();
  }

  #event(message: NetlinkMessage, linkDied: (index: number) => void): void {
    const index = parseLinkDead(this.#family.family, message);
    if (index !== undefined) linkDied(index);
  }

  #findFamily(): NbdFamily {
    const { result, messages } = this.#requests.exchange(encodeFamilyRequest);
    if (result === -ENOENT) throw new SledgeError('no-nbd-driver', 'the kernel has no NBD driver loaded');
    if (result < 0) throw systemError('no-nbd-driver', 'the kernel does not say whether it has an NBD driver', result);
    for (const message of messages) {
      const family = message.kind === 'generic' ? parseFamily(message.attributes) : undefined;
      if (family !== undefined) return family;
    }
    throw new SledgeError('no-nbd-driver', "the kernel's NBD driver has no netlink interface: it is too old");
  }
}

interface Exchange {
  readonly result: number;
  readonly messages: readonly NetlinkMessage[];
}

class NetlinkSocket {
  readonly fd: number;
  readonly #buffer = new Uint8Array(DATAGRAM_BYTES);
  #sequence = 0;

  constructor() {
    this.fd = addon.netlinkSocket();
    if (this.fd < 0) throw systemError('not-supported', 'no netlink socket can be made', this.fd);
  }

  /** Sends one request and reads up to its end. */
  exchange(encode: (sequence: number) => Uint8Array): Exchange {
    const sequence = ++this.#sequence;
    const request = encode(sequence);
    const sent = retried(() => addon.sendBytes(this.fd, request, 0, request.length));
    if (sent < 0) return { result: sent, messages: [] };
    const messages: NetlinkMessage[] = [];
    for (;;) {
      const received = this.receive();
      if (typeof received === 'number') return { result: received < 0 ? received : -EPROTO, messages };
      for (const message of received) {
        if (message.sequence !== sequence) continue;
        if (message.kind === 'ended') return { result: Math.min(message.result, 0), messages };
        messages.push(message);
      }
    }
  }

  /** The messages of the next datagram, or a negative errno. */
  receive(): NetlinkMessage[] | number {
    const count = retried(() => addon.receiveBytes(this.fd, this.#buffer, 0, this.#buffer.length));
    // Attributes refer to these bytes, and the buffer is used again.
    return count < 0 ? count : parseDatagram(this.#buffer.slice(0, count));
  }

  close(): void {
    addon.closeDescriptor(this.fd);
  }
}

function retried(call: () => number): number {
  for (;;) {
    const result = call();
    if (result !== -EINTR) return result;
  }
}
