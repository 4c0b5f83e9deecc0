/**
 * A connected socket on the ring; made by the listener and by `connect`.
 *
 * Invariants: at most one receive and one send are under way; the descriptor is closed exactly once, and only when
 * nothing is under way, so that no operation can meet another socket under a reused number.
 */
import { assert } from '../base/assert.ts';
import { EAGAIN, ECANCELED, EINTR, EPIPE } from '../base/errno.ts';
import type { IoRequest } from '../base/io.ts';
import type { MemoryPiece, Region } from '../base/memory.ts';
import type { Stream } from '../base/stream.ts';
import { MIB } from '../base/units.ts';
import { addon } from './addon.ts';
import { addressWithin } from './io-memory.ts';
import { MessageHeader } from './message-header.ts';
import type { OpenThings } from './open-things.ts';
import type { Operation, OperationOwner } from './operation.ts';
import type { RingLoop } from './ring-loop.ts';
import { printPeer } from './socket-address.ts';
import { MSG_NOSIGNAL, MSG_WAITALL, OP_RECV, OP_SEND, OP_SENDMSG } from './submission.ts';

const SHUT_WR = 1;
const SHUT_RDWR = 2;
/** A reply of 1 MiB should not have to wait for the reader half-way. */
const UNIX_BUFFER_BYTES = 4 * MIB;
/** Enough for what a peer sent ahead; more than the loop should stand still for is not thrown away, but reset. */
const DISCARD_BYTES_MAX = MIB;

export class RingStream implements Stream, OperationOwner {
  readonly peer: string;
  readonly encrypted = false;
  readonly #loop: RingLoop;
  readonly #openThings: OpenThings;
  #fd: number;
  #receiving: Operation | undefined;
  #sending: Operation | undefined;
  /** Of a send of several pieces; made for the first one. */
  #header: MessageHeader | undefined;
  #shutdownAsked = false;
  #closing = false;

  /** Owns `fd`, a connected socket in blocking mode, from here on. */
  constructor(loop: RingLoop, openThings: OpenThings, fd: number) {
    this.#loop = loop;
    this.#openThings = openThings;
    this.#fd = fd;
    this.peer = printPeer(addon.nameOf(fd, true));
    addon.tune(fd, UNIX_BUFFER_BYTES);
    openThings.opened(this);
  }

  get peerHasEnded(): boolean {
    return addon.hasHungUp(this.#fd);
  }

  receive(region: Region, offset: number, length: number, request: IoRequest): void {
    assert(this.#receiving === undefined, 'one receive at a time');
    const address = addressWithin(region, offset, length);
    this.#receiving = this.#start(OP_RECV, MSG_NOSIGNAL, region, address, length, request);
  }

  send(region: Region, offset: number, length: number, request: IoRequest): void {
    assert(this.#sending === undefined, 'one send at a time');
    assert(!this.#shutdownAsked, 'nothing is sent after shutdown');
    const address = addressWithin(region, offset, length);
    this.#sending = this.#start(OP_SEND, MSG_NOSIGNAL | MSG_WAITALL, region, address, length, request);
  }

  sendPieces(pieces: readonly MemoryPiece[], count: number, request: IoRequest): void {
    assert(this.#sending === undefined, 'one send at a time');
    assert(!this.#shutdownAsked, 'nothing is sent after shutdown');
    this.#header ??= new MessageHeader();
    const { region } = this.#header;
    const length = this.#header.begin(pieces, count);
    this.#sending = this.#start(OP_SENDMSG, MSG_NOSIGNAL | MSG_WAITALL, region, region.address, length, request);
  }

  shutdown(): void {
    assert(this.#fd >= 0 && !this.#closing, 'the stream is open');
    this.#shutdownAsked = true;
    // A failure means that the peer has gone: the next receive tells.
    if (this.#sending === undefined) addon.shutdownSocket(this.#fd, SHUT_WR);
  }

  close(): void {
    assert(this.#fd >= 0 && !this.#closing, 'a stream is closed once');
    this.#closing = true;
    this.#openThings.closed(this);
    addon.shutdownSocket(this.#fd, SHUT_RDWR);
    if (this.#receiving !== undefined) this.#loop.cancel(this.#receiving);
    if (this.#sending !== undefined) this.#loop.cancel(this.#sending);
    this.#closeWhenIdle();
  }

  /** See `detachStream`. */
  detach(): number {
    assert(this.#fd >= 0 && !this.#closing, 'an open stream is detached');
    assert(this.#receiving === undefined && this.#sending === undefined, 'nothing is under way on a detached stream');
    const fd = this.#fd;
    this.#fd = -1;
    this.#openThings.closed(this);
    return fd;
  }

  operationEnded(operation: Operation, result: number): void {
    if (this.#closing) {
      this.#finish(operation, result < 0 ? result : -ECANCELED);
    } else if (result === -EINTR || result === -EAGAIN) {
      this.#loop.start(operation);
    } else if (operation === this.#receiving || result < 0) {
      this.#finish(operation, result);
    } else {
      this.#sent(operation, result);
    }
  }

  #sent(operation: Operation, result: number): void {
    operation.done += result;
    if (operation.done === operation.length) {
      this.#finish(operation, operation.length);
    } else if (result === 0) {
      this.#finish(operation, -EPIPE);
    } else {
      if (operation.opcode === OP_SENDMSG) this.#header!.layFrom(operation.done);
      else operation.address += result;
      this.#loop.start(operation);
    }
  }

  #finish(operation: Operation, result: number): void {
    const request = operation.request;
    assert(request !== undefined, 'an operation of a stream has a request');
    this.#loop.release(operation);
    if (operation === this.#receiving) {
      this.#receiving = undefined;
    } else {
      assert(operation === this.#sending, 'an operation of a stream is its receive or its send');
      this.#sending = undefined;
      if (this.#shutdownAsked && !this.#closing) addon.shutdownSocket(this.#fd, SHUT_WR);
    }
    if (this.#closing) this.#closeWhenIdle();
    request.ioCompleted(result);
  }

  #start(
    opcode: number,
    operationFlags: number,
    region: Region,
    address: number,
    length: number,
    request: IoRequest,
  ): Operation {
    assert(this.#fd >= 0 && !this.#closing, 'the stream is open');
    const operation = this.#loop.acquire(this);
    operation.opcode = opcode;
    operation.fd = this.#fd;
    operation.position = 0;
    operation.address = address;
    operation.length = length;
    operation.operationFlags = operationFlags;
    operation.region = region;
    operation.request = request;
    this.#loop.start(operation);
    return operation;
  }

  #closeWhenIdle(): void {
    if (this.#receiving !== undefined || this.#sending !== undefined) return;
    addon.discardReceived(this.#fd, DISCARD_BYTES_MAX);
    addon.closeDescriptor(this.#fd);
    this.#fd = -1;
  }
}

/**
 * Takes the socket out of a stream on which nothing is under way, to hand it to Node (`new net.Socket({ fd })`, for
 * TLS). The stream is done with: no call on it is allowed, and closing the descriptor is the caller's.
 */
export function detachStream(stream: Stream): number {
  assert(stream instanceof RingStream, 'only a stream of the ring has a descriptor');
  return stream.detach();
}
