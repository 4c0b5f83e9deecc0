/**
 * Answers which ranges of a volume hold data, from the real chunk map: overlay over index. Used for `base:allocation`.
 *
 * A block is reported as data, as zeroes in an allocated chunk (ZERO), or as a hole (HOLE and ZERO). Work is bounded: an
 * answer may end before the range does, which the protocol allows, but it always says something about its start.
 */
import { NO_SUM } from '../base/checksum.ts';
import type { BlockNumber, ChunkNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { IndexStore } from '../index/index-store.ts';
import type { VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { Overlay } from './overlay.ts';
import type { Volume } from './volume.ts';

/** Flags of `base:allocation`, as the NBD document gives them. */
const HOLE = 1;
const ZERO = 2;
const ABSENT = HOLE | ZERO;

/** Mapped chunks that one answer looks at. */
const CHUNKS_MAX = 1024;
/** Chunks that are looked up in the overlay at a time; it costs a probe each unless the overlay holds fewer. */
const WINDOW_CHUNKS = 16384;
/** Bounds the answer about a large, empty volume whose overlay is busy. */
const WINDOWS_MAX = 32;

export class BlockStatus {
  readonly #overlay: Overlay;
  readonly #index: IndexStore;

  constructor(overlay: Overlay, index: IndexStore) {
    this.#overlay = overlay;
    this.#index = index;
  }

  answer(volume: Volume, request: VolumeRequest): void {
    const runs = new Runs(request);
    const end = request.offsetBytes + request.lengthBytes;
    const lastChunk = Math.ceil(end / volume.chunkBytes);
    let chunk = Math.floor(request.offsetBytes / volume.chunkBytes);
    let looked = 0;
    for (let windows = 0; chunk < lastChunk && looked < CHUNKS_MAX && windows < WINDOWS_MAX; windows++) {
      const narrow = this.#overlay.chunkCount > WINDOW_CHUNKS;
      const windowEnd = narrow ? Math.min(lastChunk, chunk + WINDOW_CHUNKS) : lastChunk;
      const { mapped, known } = this.#mapped(volume, chunk, windowEnd, CHUNKS_MAX - looked);
      for (const [number, entry] of mapped) {
        runs.add(number * volume.chunkBytes, ABSENT);
        this.#chunkRuns(volume, number as ChunkNumber, entry, runs);
      }
      looked += mapped.length + 1;
      chunk = known;
      runs.add(Math.min(chunk * volume.chunkBytes, volume.sizeBytes), ABSENT);
    }
    runs.close();
    request.completed(0);
  }

  /**
   * Chunks of [from, known) that overlay or index have something of, ascending. `known` is `to`, or less where more than
   * `limit` chunks were met.
   */
  #mapped(volume: Volume, from: number, to: number, limit: number) {
    const found = new Map<number, ChunkEntry | undefined>();
    let known = to;
    let indexed = 0;
    for (const [chunk, entry] of this.#index.chunks(volume.number, from, to, limit)) {
      if (++indexed === limit) known = chunk + 1;
      if (!volume.isDropped(chunk as ChunkNumber)) found.set(chunk, entry);
    }
    this.#overlay.forChunks(volume.number, from, known, (chunk, row) => {
      const entry = this.#overlay.entryOf(row);
      if (entry !== undefined || !found.has(chunk)) found.set(chunk, entry);
    });
    const mapped = [...found].sort((a, b) => a[0] - b[0]);
    if (mapped.length > limit) {
      mapped.length = limit;
      known = mapped[limit - 1][0] + 1;
    }
    return { mapped, known };
  }

  #chunkRuns(volume: Volume, chunk: ChunkNumber, entry: ChunkEntry | undefined, runs: Runs): void {
    const row = this.#overlay.findChunk(volume.number, chunk);
    const first = chunk * volume.blocksPerChunk;
    for (let i = 0; i < volume.blocksPerChunk; i++) {
      const end = (first + i + 1) * BLOCK_BYTES;
      if (end > volume.sizeBytes) return;
      const block = row >= 0 ? this.#overlay.findBlock(volume.number, (first + i) as BlockNumber) : -1;
      const sum = block >= 0 ? this.#overlay.sumOf(block) : (entry?.sums[i] ?? NO_SUM);
      runs.add(end, sum !== NO_SUM ? 0 : entry === undefined ? ABSENT : ZERO);
    }
  }
}

/** Joins neighbours that are alike and hands the runs on. */
class Runs {
  readonly #request: VolumeRequest;
  #position: number;
  #runStart: number;
  #flags = -1;

  constructor(request: VolumeRequest) {
    this.#request = request;
    this.#position = request.offsetBytes;
    this.#runStart = request.offsetBytes;
  }

  /** Everything from where the last call ended up to `end`, in bytes of the volume, has these flags. */
  add(end: number, flags: number): void {
    if (end <= this.#position) return;
    if (flags !== this.#flags) this.#emit(flags);
    this.#position = end;
  }

  close(): void {
    this.#emit(-1);
  }

  #emit(next: number): void {
    if (this.#position > this.#runStart) this.#request.addExtent(this.#position - this.#runStart, this.#flags);
    this.#runStart = this.#position;
    this.#flags = next;
  }
}
