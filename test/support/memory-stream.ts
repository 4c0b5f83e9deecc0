/**
 * A `Stream` in memory with the client's end in the test's hands: what the client writes arrives in pieces of a chosen
 * size, what the server sends is collected, and sends can be held back as by a client that does not read.
 */
import { assert } from '../../src/base/assert.ts';
import { ECANCELED, ECONNRESET } from '../../src/base/errno.ts';
import type { IoRequest } from '../../src/base/io.ts';
import type { MemoryPiece, Region } from '../../src/base/memory.ts';
import type { Stream } from '../../src/base/stream.ts';
import { firstPieces, gathered, totalBytes } from './gathered.ts';
import type { MemoryLoop } from './memory-loop.ts';

interface Receiving extends MemoryPiece {
  readonly request: IoRequest;
}

interface Sending {
  readonly pieces: readonly MemoryPiece[];
  readonly request: IoRequest;
}

export class MemoryStream implements Stream {
  readonly peer = 'memory';
  readonly encrypted: boolean;
  readonly #loop: MemoryLoop;
  #inbound: Uint8Array[] = [];
  #ended = false;
  #reset = false;
  #receiving: Receiving | undefined;
  #sending: Sending | undefined;
  #outbound: Uint8Array[] = [];
  #held = false;
  closed = false;
  shutDown = false;
  /** Count of sends, to see that replies are gathered. */
  sendCount = 0;
  receiveCount = 0;
  /** Most bytes that one receive delivers. */
  pieceBytes: () => number = () => Number.MAX_SAFE_INTEGER;

  constructor(loop: MemoryLoop, encrypted = false) {
    this.#loop = loop;
    this.encrypted = encrypted;
  }

  // --- the server's end ----------------------------------------------------------------------------------------------

  get peerHasEnded(): boolean {
    return this.#ended || this.#reset;
  }

  receive(region: Region, offset: number, length: number, request: IoRequest): void {
    assert(!this.closed && this.#receiving === undefined && length > 0, 'one receive at a time, on an open stream');
    assert(offset >= 0 && offset + length <= region.bytes.length, 'the receive lies in its region');
    this.receiveCount += 1;
    this.#receiving = { region, offset, length, request };
    this.#deliver();
  }

  send(region: Region, offset: number, length: number, request: IoRequest): void {
    this.sendPieces([{ region, offset, length }], 1, request);
  }

  sendPieces(pieces: readonly MemoryPiece[], count: number, request: IoRequest): void {
    assert(!this.closed && !this.shutDown && this.#sending === undefined, 'one send at a time');
    const sent = firstPieces(pieces, count);
    this.sendCount += 1;
    this.#sending = { pieces: sent, request };
    this.#transmit();
  }

  shutdown(): void {
    assert(!this.closed && this.#sending === undefined, 'shut down after what was sent');
    this.shutDown = true;
  }

  close(): void {
    assert(!this.closed, 'closed once');
    this.closed = true;
    this.#loop.post(() => {
      this.#takeReceiving()?.request.ioCompleted(-ECANCELED);
      this.#takeSending()?.request.ioCompleted(-ECANCELED);
    });
  }

  #takeReceiving(): Receiving | undefined {
    const receiving = this.#receiving;
    this.#receiving = undefined;
    return receiving;
  }

  #takeSending(): Sending | undefined {
    const sending = this.#sending;
    this.#sending = undefined;
    return sending;
  }

  #deliver(): void {
    this.#loop.post(() => {
      if (this.closed || this.#receiving === undefined) return;
      if (this.#reset) {
        this.#takeReceiving()?.request.ioCompleted(-ECONNRESET);
        return;
      }
      if (this.#inbound.length === 0) {
        if (this.#ended) this.#takeReceiving()?.request.ioCompleted(0);
        return;
      }
      const pending = this.#takeReceiving()!;
      const wanted = Math.min(pending.length, Math.max(1, this.pieceBytes()));
      let taken = 0;
      while (taken < wanted && this.#inbound.length > 0) {
        const part = this.#inbound[0].subarray(0, wanted - taken);
        pending.region.bytes.set(part, pending.offset + taken);
        taken += part.length;
        if (part.length === this.#inbound[0].length) this.#inbound.shift();
        else this.#inbound[0] = this.#inbound[0].subarray(part.length);
      }
      pending.request.ioCompleted(taken);
    });
  }

  #transmit(): void {
    if (this.#held) return;
    this.#loop.post(() => {
      if (this.closed || this.#held || this.#sending === undefined) return;
      const pending = this.#takeSending()!;
      if (this.#reset) {
        pending.request.ioCompleted(-ECONNRESET);
        return;
      }
      // Copied now, not at `send`: a buffer that is reused too early shows up as wrong bytes.
      const length = totalBytes(pending.pieces);
      this.#outbound.push(gathered(pending.pieces, 0, length));
      pending.request.ioCompleted(length);
    });
  }

  // --- the client's end ----------------------------------------------------------------------------------------------

  write(...parts: Uint8Array[]): void {
    for (const part of parts) if (part.length > 0) this.#inbound.push(part);
    if (this.#receiving !== undefined) this.#deliver();
  }

  /** The client closes its sending half. */
  end(): void {
    this.#ended = true;
    if (this.#receiving !== undefined) this.#deliver();
  }

  /** The connection breaks: everything under way and to come fails. */
  reset(): void {
    this.#reset = true;
    this.#held = false;
    if (this.#receiving !== undefined) this.#deliver();
    if (this.#sending !== undefined) this.#transmit();
  }

  /** The client stops or begins again to take what is sent. */
  hold(held: boolean): void {
    this.#held = held;
    if (!held && this.#sending !== undefined) this.#transmit();
  }

  /** Takes all that the server has sent so far. */
  read(): Uint8Array {
    const parts = this.#outbound;
    this.#outbound = [];
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  get unreadByServer(): number {
    return this.#inbound.reduce((sum, part) => sum + part.length, 0);
  }
}
