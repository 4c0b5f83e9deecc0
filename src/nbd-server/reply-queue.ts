/**
 * The replies of one connection on their way to the socket. Small ones are laid one behind another into a reply buffer;
 * large payloads lie in blocks of the pool, or in memory that the volume lends, and go out from there; all in the order in
 * which they were completed.
 *
 * ```
 *  filling:  [small small small][block][small][header][lent][lent] …   laid during this turn, and while the other is sent
 *  sending:  [small small][block] …                                    one send after another, each of several segments
 * ```
 * At the end of a turn, or when its owner is in a hurry, the two swap places if nothing is being sent. Invariants:
 * - `used + reserved` never exceeds the buffer: every admitted request has reserved the most that its reply may take, so
 *   that laying a reply can not fail.
 * - A block is released, and a loan returned, when its last byte was handed on, or by `discard`.
 */
import { assert } from '../base/assert.ts';
import type { IoRequest } from '../base/io.ts';
import type { MemoryPiece, Region } from '../base/memory.ts';
import { type Stream, sendPiecesMax } from '../base/stream.ts';
import { KIB, MIB } from '../base/units.ts';
import type { Loan } from './exported-volume.ts';
import type { PayloadPool } from './payload-pool.ts';

/** A send takes no further segment once it has this much, and is no longer than that: a slow client is seen to make progress. */
const SEND_BYTES_ENOUGH = MIB;
/** A reply of a mebibyte goes out at once, with its header. */
const SEND_BYTES_MAX = MIB + 64 * KIB;
const NO_BLOCK = -1;

export interface ReplyQueueOwner {
  /** All of a batch was handed on; there may be more. */
  repliesSent(): void;
  sendFailed(errno: number): void;
}

interface Segment extends MemoryPiece {
  /** Block to release once sent, or −1. */
  block: number;
  /** To return once sent. */
  loan: Loan | undefined;
}

/** One of the two buffers, with the segments in order. Segment objects are reused. */
class Batch {
  readonly region: Region;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  readonly capacity: number;
  /** Bytes laid into the buffer. */
  used = 0;
  /** Up to where they belong to segments. */
  #closed = 0;
  readonly #segments: Segment[] = [];
  #count = 0;

  constructor(region: Region) {
    this.region = region;
    this.view = region.view;
    this.bytes = region.bytes;
    this.capacity = region.bytes.length;
  }

  get count(): number {
    return this.#count;
  }

  segment(index: number): Segment {
    return this.#segments[index];
  }

  /** Makes a segment of the small replies laid since the last one. */
  closeSegment(): void {
    if (this.used === this.#closed) return;
    this.push(this.region, this.#closed, this.used - this.#closed, NO_BLOCK);
    this.#closed = this.used;
  }

  push(region: Region, offset: number, length: number, block: number, loan?: Loan): void {
    if (this.#count === this.#segments.length) {
      this.#segments.push({ region, offset, length, block, loan });
    } else {
      const segment = this.#segments[this.#count];
      segment.region = region;
      segment.offset = offset;
      segment.length = length;
      segment.block = block;
      segment.loan = loan;
    }
    this.#count += 1;
  }

  reset(): void {
    this.used = 0;
    this.#closed = 0;
    this.#count = 0;
  }
}

export class ReplyQueue implements IoRequest {
  readonly #owner: ReplyQueueOwner;
  readonly #pool: PayloadPool;
  #filling: Batch;
  #sending: Batch;
  #stream: Stream | undefined;
  #reserved = 0;
  /** Small reads whose data is being laid right now. */
  #open = 0;
  #busy = false;
  /** The segment that is sent next, and what of it was sent already. */
  #index = 0;
  #done = 0;
  readonly #pieces: MemoryPiece[] = [];
  /** Rises with each send that completes: how a slow client is told from a stuck one. */
  progress = 0;

  constructor(owner: ReplyQueueOwner, pool: PayloadPool, regions: readonly [Region, Region]) {
    this.#owner = owner;
    this.#pool = pool;
    this.#filling = new Batch(regions[0]);
    this.#sending = new Batch(regions[1]);
  }

  /** Where replies are laid now: write behind `used`, and move it. */
  get filling(): {
    readonly view: DataView;
    readonly bytes: Uint8Array;
    readonly region: Region;
    used: number;
    readonly capacity: number;
  } {
    return this.#filling;
  }

  get sending(): boolean {
    return this.#busy;
  }

  get idle(): boolean {
    return !this.#busy && this.#filling.used === 0 && this.#filling.count === 0;
  }

  get reservedBytes(): number {
    return this.#reserved;
  }

  /** Sets room aside for a reply; false when there is none, until something has been sent. */
  reserve(bytes: number): boolean {
    if (this.#filling.used + this.#reserved + bytes > this.#filling.capacity) return false;
    this.#reserved += bytes;
    return true;
  }

  /** The reply is laid, or will never be. */
  unreserve(bytes: number): void {
    this.#reserved -= bytes;
    assert(this.#reserved >= 0 && this.#filling.used + this.#reserved <= this.#filling.capacity, 'replies fit');
  }

  /** A small read begins to lay its data: the buffers may not swap until it ends. */
  openSmall(): void {
    assert(this.#open === 0, 'one read is placed at a time');
    this.#open += 1;
  }

  closeSmall(): void {
    this.#open -= 1;
  }

  /** Appends a piece of the pool; `block` is released with it unless it is −1. */
  pushBlock(offset: number, length: number, block: number): void {
    this.#filling.closeSegment();
    this.#filling.push(this.#pool.region, offset, length, block);
  }

  /** Appends a header that lies in the pool, and behind it what is lent; both are given back together. */
  pushLoan(offset: number, length: number, block: number, loan: Loan): void {
    this.pushBlock(offset, length, NO_BLOCK);
    const last = loan.pieceCount - 1;
    for (let index = 0; index <= last; index++) {
      const piece = loan.pieces[index];
      const isLast = index === last;
      this.#filling.push(
        piece.region,
        piece.offset,
        piece.length,
        isLast ? block : NO_BLOCK,
        isLast ? loan : undefined,
      );
    }
  }

  /** Begins to send what is laid. Returns whether the buffers swapped, so that there is room again. */
  flush(stream: Stream): boolean {
    assert(this.#open === 0, 'a placed read is completed before anything else');
    if (this.#busy) return false;
    this.#filling.closeSegment();
    if (this.#filling.count === 0) return false;
    const batch = this.#filling;
    this.#filling = this.#sending;
    this.#sending = batch;
    this.#stream = stream;
    this.#busy = true;
    this.#index = 0;
    this.#done = 0;
    this.#sendNext();
    return true;
  }

  #sendNext(): void {
    const batch = this.#sending;
    const pieces = this.#pieces;
    let count = 0;
    let bytes = 0;
    let done = this.#done;
    for (let index = this.#index; index < batch.count; index += 1) {
      if (count === sendPiecesMax || bytes >= SEND_BYTES_ENOUGH) break;
      const { region, offset, length } = batch.segment(index);
      if (count === pieces.length) pieces.push({ region, offset, length });
      const piece = pieces[count];
      piece.region = region;
      piece.offset = offset + done;
      piece.length = Math.min(length - done, SEND_BYTES_MAX - bytes);
      bytes += piece.length;
      count += 1;
      done = 0;
    }
    if (count === 1) this.#stream!.send(pieces[0].region, pieces[0].offset, pieces[0].length, this);
    else this.#stream!.sendPieces(pieces, count, this);
  }

  ioCompleted(result: number): void {
    if (result < 0) {
      this.#busy = false;
      this.#owner.sendFailed(-result);
      return;
    }
    this.progress += 1;
    const batch = this.#sending;
    this.#done += result;
    while (this.#index < batch.count && this.#done >= batch.segment(this.#index).length) {
      const segment = batch.segment(this.#index);
      this.#done -= segment.length;
      this.#index += 1;
      this.#giveBack(segment);
    }
    if (this.#index < batch.count) {
      this.#sendNext();
      return;
    }
    batch.reset();
    this.#busy = false;
    this.#stream = undefined;
    this.#owner.repliesSent();
  }

  /** Gives back the blocks of what will not be sent any more. Nothing may be under way. */
  discard(): void {
    assert(!this.#busy, 'no send is under way');
    this.#discardBatch(this.#filling);
    this.#discardBatch(this.#sending);
  }

  #discardBatch(batch: Batch): void {
    for (let index = 0; index < batch.count; index += 1) {
      this.#giveBack(batch.segment(index));
    }
    batch.reset();
  }

  #giveBack(segment: Segment): void {
    const { block, loan } = segment;
    segment.block = NO_BLOCK;
    segment.loan = undefined;
    if (block >= 0) this.#pool.release(block);
    loan?.returned();
  }
}
