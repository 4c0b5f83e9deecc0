/**
 * Reads a span of whole blocks of a volume into one buffer, from wherever each of them is newest: cache, log, mass
 * storage, or nowhere (zeroes, which are reported and not written). Reads of clients and the merge step of partial writes
 * are made of spans.
 *
 * Invariants:
 * - What a span delivers is, for each block, a committed state that was current at some moment while the span was read.
 * - No byte is delivered whose checksum does not match. On a mismatch the block is looked up again: it may have been
 *   moved or rewritten between look-up and read. The same place with the same checksum twice means corruption: EIO.
 * - Data enters the cache only if nothing was committed to its blocks since it was looked up.
 *
 * Cost of a 4 KiB miss: look-ups 0.5 µs, one submission, checksum 0.3 µs, two copies 0.3 µs.
 */
import { assert } from '../base/assert.ts';
import type { BouncePool } from '../base/bounce-pool.ts';
import type { Checksums } from '../base/checksum.ts';
import { NO_SUM, takeSums } from '../base/checksum.ts';
import { EIO } from '../base/errno.ts';
import type { IoRequest } from '../base/io.ts';
import { readRetriesMax } from '../base/limits.ts';
import type { DamagedPlace, Location } from '../base/location.ts';
import type { Region } from '../base/memory.ts';
import type { BlockNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { BlockCache } from './block-cache.ts';
import type { CommitVersions } from './commit-versions.ts';
import type { Overlay } from './overlay.ts';
import type { Volume } from './volume.ts';

export interface LogReads {
  read(position: number, region: Region, offset: number, length: number, request: IoRequest): void;
}

export interface StorageReads {
  read(location: Location, region: Region, offset: number, length: number, request: IoRequest): void;
  readFailed(location: Location): void;
  checksumFailed(location: Location): void;
}

/** What reading takes; the head owns all of it. */
export interface ReadPorts {
  readonly overlay: Overlay;
  readonly cache: BlockCache;
  readonly versions: CommitVersions;
  readonly log: LogReads;
  readonly storage: StorageReads;
  readonly checksums: Checksums;
  readonly bounce: BouncePool;
  /** A block of the volume is beyond repair where it lies: for the status page. */
  corruptionFound(volume: Volume, block: BlockNumber, place: DamagedPlace): void;
}

export interface SpanOwner {
  /** All blocks are in the buffer (errno 0), or it failed. The span is the owner's until it releases it. */
  spanRead(span: Span, errno: number): void;
}

/** In `sums` for a block that came out of the cache, where its checksum is not at hand. */
const FROM_CACHE = 1;

/** One contiguous read from log or device. */
class Piece implements IoRequest {
  readonly span: Span;
  first = 0;
  count = 0;
  fromLog = false;
  /** Log position or location. */
  place = 0;
  version = 0;
  attempts = 0;

  constructor(span: Span) {
    this.span = span;
  }

  ioCompleted(result: number): void {
    this.span.pieceRead(this, result);
  }
}

export class Span {
  readonly #ports: ReadPorts;
  readonly #free: Span[];
  readonly #pieces: Piece[] = [];
  #pieceCount = 0;
  /** Pieces from here on have not been submitted and may still be joined by their neighbours. */
  #openPieces = 0;
  #pending = 0;
  #errno = 0;
  #caches = true;
  #owner: SpanOwner | undefined;
  #volume: Volume | undefined;
  #region: Region | undefined;
  #offset = 0;
  first = 0;
  count = 0;
  /** For each block its checksum, or NO_SUM where it reads as zeroes (and the buffer was left alone). */
  sums = new Uint32Array(16);

  constructor(ports: ReadPorts, free: Span[]) {
    this.#ports = ports;
    this.#free = free;
  }

  /**
   * Reads `count` blocks from `first` to `offset` of `region`; completes to `owner`, maybe before it returns. What the
   * cache did not have is put there if `caches`.
   */
  start(
    volume: Volume,
    first: number,
    count: number,
    region: Region,
    offset: number,
    owner: SpanOwner,
    caches = true,
  ): void {
    assert(this.#owner === undefined, 'a span reads one thing at a time');
    this.#caches = caches;
    this.#volume = volume;
    this.#region = region;
    this.#offset = offset;
    this.#owner = owner;
    this.#errno = 0;
    this.first = first;
    this.count = count;
    if (this.sums.length < count) this.sums = new Uint32Array(count * 2);
    this.#pieceCount = 0;
    this.#openPieces = 0;
    this.#pending = 1;
    this.#plan(0, count, 0);
    this.#submit();
    this.#finishOne();
  }

  release(): void {
    this.#volume = undefined;
    this.#region = undefined;
    this.#free.push(this);
  }

  isZero(index: number): boolean {
    return this.sums[index] === NO_SUM;
  }

  pieceRead(piece: Piece, result: number): void {
    if (result < 0) {
      if (!piece.fromLog) this.#ports.storage.readFailed(piece.place as Location);
      this.#errno = EIO;
    } else {
      this.#verify(piece);
    }
    this.#finishOne();
  }

  /** Decides for blocks [from, to) of the span where they come from. */
  #plan(from: number, to: number, attempts: number): void {
    const volume = this.#volume!;
    const { overlay, cache } = this.#ports;
    let index = from;
    while (index < to) {
      const chunk = volume.chunkOf((this.first + index) as BlockNumber);
      const inChunk = this.first + index - chunk * volume.blocksPerChunk;
      const end = Math.min(to, index + volume.blocksPerChunk - inChunk);
      const row = overlay.findChunk(volume.number, chunk);
      const hasBlocks = row >= 0 && overlay.firstBlock(row) >= 0;
      const entry = volume.viewEntry(chunk, row);
      for (; index < end; index++) {
        const block = (this.first + index) as BlockNumber;
        const slot = attempts === 0 ? cache.find(volume.number, block) : -1;
        if (slot >= 0) {
          index += this.#takeCached(slot, index, end) - 1;
          continue;
        }
        cache.misses++;
        const blockRow = hasBlocks ? overlay.findBlock(volume.number, block) : -1;
        if (blockRow >= 0) {
          this.sums[index] = overlay.sumOf(blockRow);
          if (this.sums[index] !== NO_SUM) this.#add(index, true, overlay.positionOf(blockRow), attempts);
        } else if (entry !== undefined) {
          const at = block - chunk * volume.blocksPerChunk;
          this.sums[index] = entry.sum(at);
          if (this.sums[index] !== NO_SUM) this.#add(index, false, entry.location + at, attempts);
        } else {
          this.sums[index] = NO_SUM;
        }
      }
    }
  }

  /** Copies a block that is in the cache, with those that lie behind it there as well; returns how many, up to `end`. */
  #takeCached(slot: number, index: number, end: number): number {
    const { cache } = this.#ports;
    const { number } = this.#volume!;
    const most = cache.runLength(slot, end - index);
    let count = 1;
    while (count < most && cache.find(number, (this.first + index + count) as BlockNumber) === slot + count) count++;
    cache.hits += count;
    cache.copyOut(slot, 0, count * BLOCK_BYTES, this.#region!.bytes, this.#offset + index * BLOCK_BYTES);
    this.sums.fill(FROM_CACHE, index, index + count);
    return count;
  }

  /** Adds a block to the last piece if it lies right behind it, or opens a new piece. */
  #add(index: number, fromLog: boolean, place: number, attempts: number): void {
    if (this.#pieceCount > this.#openPieces) {
      const last = this.#pieces[this.#pieceCount - 1];
      const unit = fromLog ? BLOCK_BYTES : 1;
      if (last.fromLog === fromLog && last.first + last.count === index && last.place + last.count * unit === place) {
        last.count++;
        return;
      }
    }
    if (this.#pieceCount === this.#pieces.length) this.#pieces.push(new Piece(this));
    const piece = this.#pieces[this.#pieceCount++];
    piece.first = index;
    piece.count = 1;
    piece.fromLog = fromLog;
    piece.place = place;
    piece.attempts = attempts;
  }

  #submit(): void {
    while (this.#openPieces < this.#pieceCount) {
      const piece = this.#pieces[this.#openPieces++];
      const offset = this.#offset + piece.first * BLOCK_BYTES;
      const length = piece.count * BLOCK_BYTES;
      piece.version = this.#ports.versions.of(this.#volume!.number, this.first + piece.first, piece.count);
      this.#pending++;
      if (piece.fromLog) this.#ports.log.read(piece.place, this.#region!, offset, length, piece);
      else this.#ports.storage.read(piece.place as Location, this.#region!, offset, length, piece);
    }
  }

  #verify(piece: Piece): void {
    const { checksums, cache, versions } = this.#ports;
    const bytes = this.#region!.bytes;
    const volume = this.#volume!;
    const scratch = scratchFor(piece.count);
    takeSums(checksums, bytes, this.#offset + piece.first * BLOCK_BYTES, piece.count, scratch, 0);
    for (let i = 0; i < piece.count; i++) {
      if (scratch[i] === this.sums[piece.first + i]) continue;
      this.#mismatch(piece, piece.first + i);
      return;
    }
    if (!this.#caches || versions.of(volume.number, this.first + piece.first, piece.count) !== piece.version) return;
    const first = (this.first + piece.first) as BlockNumber;
    cache.put(volume.number, first, piece.count, bytes, this.#offset + piece.first * BLOCK_BYTES);
  }

  /** A block is not what it should be: read again if it should be something else by now, else it is corrupt. */
  #mismatch(piece: Piece, index: number): void {
    const volume = this.#volume!;
    const sum = this.sums[index];
    const place = piece.place + (index - piece.first) * (piece.fromLog ? BLOCK_BYTES : 1);
    if (piece.attempts < readRetriesMax) {
      this.#plan(piece.first, piece.first + piece.count, piece.attempts + 1);
      if (this.#placeNow(index) !== place || this.sums[index] !== sum) {
        this.#submit();
        return;
      }
      this.#pieceCount = this.#openPieces;
    }
    this.#errno = EIO;
    if (!piece.fromLog) this.#ports.storage.checksumFailed(place as Location);
    const damaged: DamagedPlace = piece.fromLog
      ? { kind: 'log', position: place }
      : { kind: 'device', location: place as Location };
    this.#ports.corruptionFound(volume, (this.first + index) as BlockNumber, damaged);
  }

  /** Where the pieces that are not submitted yet would read a block of the span; -1 if none does. */
  #placeNow(index: number): number {
    for (let i = this.#openPieces; i < this.#pieceCount; i++) {
      const piece = this.#pieces[i];
      if (index < piece.first || index >= piece.first + piece.count) continue;
      return piece.place + (index - piece.first) * (piece.fromLog ? BLOCK_BYTES : 1);
    }
    return -1;
  }

  #finishOne(): void {
    if (--this.#pending > 0) return;
    const owner = this.#owner!;
    this.#owner = undefined;
    owner.spanRead(this, this.#errno);
  }
}

/** Spans that are used again, for one head. */
export class SpanPool {
  readonly #ports: ReadPorts;
  readonly #free: Span[] = [];

  constructor(ports: ReadPorts) {
    this.#ports = ports;
  }

  take(): Span {
    return this.#free.pop() ?? new Span(this.#ports, this.#free);
  }
}

let scratch = new Uint32Array(64);

function scratchFor(count: number): Uint32Array {
  if (scratch.length < count) scratch = new Uint32Array(count * 2);
  return scratch;
}
