/**
 * A connected pair of `Stream`s in memory, for cores that speak over one: a pipe of bounded length in each direction. Bytes
 * can be cut into small pieces, changed on the way, held up for good without an end being seen, and the connection can break.
 */
import { assert } from '../../src/base/assert.ts';
import { ECANCELED, ECONNRESET } from '../../src/base/errno.ts';
import type { IoRequest } from '../../src/base/io.ts';
import type { MemoryPiece, Region } from '../../src/base/memory.ts';
import type { Stream } from '../../src/base/stream.ts';
import { KIB } from '../../src/base/units.ts';
import { firstPieces, gathered, totalBytes } from './gathered.ts';

const CAPACITY_BYTES = 256 * KIB;

export interface PipeOptions {
  /** Has a completion called later: `MemoryLoop.post`, `SimLoop.post`. */
  readonly post: (completion: () => void) => void;
  /** Most bytes that one receive delivers. */
  readonly pieceBytes?: () => number;
  /** Sees, and may change, what one end sends. */
  readonly meddle?: (bytes: Uint8Array, end: 0 | 1) => void;
}

interface Receiving extends MemoryPiece {
  readonly request: IoRequest;
}

interface Sending {
  readonly pieces: readonly MemoryPiece[];
  readonly length: number;
  readonly request: IoRequest;
  done: number;
}

export class MemoryPipe {
  readonly ends: readonly [PipeEnd, PipeEnd];
  broken = false;
  /** By the end that sends: its bytes stay in the pipe. */
  readonly held: [boolean, boolean] = [false, false];
  readonly options: PipeOptions;

  constructor(options: PipeOptions) {
    this.options = options;
    this.ends = [new PipeEnd(this, 0), new PipeEnd(this, 1)];
  }

  /** Both ends see an error. */
  break(): void {
    this.broken = true;
    for (const end of this.ends) end.poke();
  }

  hold(end: 0 | 1, held: boolean): void {
    this.held[end] = held;
    this.ends[1 - end].poke();
  }
}

export class PipeEnd implements Stream {
  readonly peer = 'memory';
  readonly encrypted = false;
  readonly #pipe: MemoryPipe;
  readonly #number: 0 | 1;
  /** Sent by the other end and not received yet. */
  #inbound: Uint8Array[] = [];
  #inboundBytes = 0;
  #receiving: Receiving | undefined;
  #sending: Sending | undefined;
  #shutDown = false;
  closed = false;

  constructor(pipe: MemoryPipe, number: 0 | 1) {
    this.#pipe = pipe;
    this.#number = number;
  }

  get peerHasEnded(): boolean {
    return this.#pipe.broken || this.#other.closed || this.#other.#shutDown;
  }

  receive(region: Region, offset: number, length: number, request: IoRequest): void {
    assert(!this.closed && this.#receiving === undefined && length > 0, 'one receive at a time, on an open stream');
    assert(offset >= 0 && offset + length <= region.bytes.length, 'the receive lies in its region');
    this.#receiving = { region, offset, length, request };
    this.poke();
  }

  send(region: Region, offset: number, length: number, request: IoRequest): void {
    this.sendPieces([{ region, offset, length }], 1, request);
  }

  sendPieces(pieces: readonly MemoryPiece[], count: number, request: IoRequest): void {
    assert(!this.closed && !this.#shutDown && this.#sending === undefined, 'one send at a time');
    const sent = firstPieces(pieces, count);
    this.#sending = { pieces: sent, length: totalBytes(sent), request, done: 0 };
    this.poke();
  }

  shutdown(): void {
    assert(!this.closed, 'the stream is open');
    this.#shutDown = true;
    this.#other.poke();
  }

  close(): void {
    assert(!this.closed, 'a stream is closed once');
    this.closed = true;
    this.poke();
    this.#other.poke();
  }

  get #other(): PipeEnd {
    return this.#pipe.ends[1 - this.#number];
  }

  /** Something has changed: what can go on does so, later. */
  poke(): void {
    this.#pipe.options.post(() => {
      this.#transmit();
      this.#deliver();
    });
  }

  #transmit(): void {
    const sending = this.#sending;
    if (sending === undefined) return;
    if (this.closed || this.#pipe.broken || this.#other.closed) {
      this.#sending = undefined;
      sending.request.ioCompleted(this.closed ? -ECANCELED : -ECONNRESET);
      return;
    }
    const count = Math.min(sending.length - sending.done, CAPACITY_BYTES - this.#other.#inboundBytes);
    if (count > 0) {
      // Copied now, not at `send`: a buffer that is used again too early shows up as wrong bytes.
      const bytes = gathered(sending.pieces, sending.done, count);
      this.#pipe.options.meddle?.(bytes, this.#number);
      this.#other.#inbound.push(bytes);
      this.#other.#inboundBytes += count;
      sending.done += count;
      this.#other.poke();
    }
    if (sending.done < sending.length) return;
    this.#sending = undefined;
    sending.request.ioCompleted(sending.length);
  }

  #deliver(): void {
    const receiving = this.#receiving;
    if (receiving === undefined) return;
    const isHeld = this.#pipe.held[1 - this.#number];
    if (this.closed || this.#pipe.broken) {
      this.#complete(this.closed ? -ECANCELED : -ECONNRESET);
    } else if (isHeld) {
      // Nothing of it is heard of, not even its end.
    } else if (this.#inbound.length > 0) {
      const wanted = Math.min(receiving.length, this.#pipe.options.pieceBytes?.() ?? receiving.length);
      const part = this.#inbound[0].subarray(0, wanted);
      receiving.region.bytes.set(part, receiving.offset);
      if (part.length === this.#inbound[0].length) this.#inbound.shift();
      else this.#inbound[0] = this.#inbound[0].subarray(part.length);
      this.#inboundBytes -= part.length;
      this.#complete(part.length);
      this.#other.poke();
    } else if (this.#other.closed || (this.#other.#shutDown && this.#other.#sending === undefined)) {
      this.#complete(0);
    }
  }

  #complete(result: number): void {
    const { request } = this.#receiving!;
    this.#receiving = undefined;
    request.ioCompleted(result);
  }
}
