/**
 * Index entries of one volume in memory, so that a read that misses the block cache does not walk the B-tree each time.
 * All volumes share one budget: when half of it has been filled, every cache drops what it did not use since the last
 * time (two generations), those of volumes that nobody uses included.
 *
 * Entries lie in rows of a table, not as objects: one is found with two looks at memory that is not in the processor's
 * cache rather than six (measured, 64 Ki of them at random: 0.13 µs instead of 0.43), and those of the thousands of chunks
 * that are written leave little to collect.
 *
 * | words of a row | 0, 1 | 2, 3 | 4, 5 | 6 … |
 * |---|---|---|---|---|
 * | | chunk | op number | location, or ABSENT | checksums, one for each block |
 *
 * Invariants:
 * - A chunk is in one of the two generations; what was asked for last is in the younger one.
 * - No table outlives its generation: what a volume took that is used no more is given back.
 */
import { assert } from '../base/assert.ts';
import { KEY_WORDS, KeyTable, keyHigh } from '../base/key-table.ts';
import type { Location } from '../base/location.ts';
import type { ChunkNumber, OpNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';

/** In numbers of 64 bits. */
const OP = 1;
const LOCATION = 2;
/** In words of 32 bits. */
const SUMS = 6;
/** In place of a location: the index has no entry of the chunk. */
const ABSENT = -1;
/** Of a row's place in its table. */
const BUCKET_BYTES = 8;
const ROWS_MIN = 16;
/** What a volume has whose entries nobody asks for. */
const NOTHING = new KeyTable(1);
const NO_SUMS = new Uint32Array(0);

/** How many bytes the entries of the caches that share it take, at most, together. */
export class EntryBudget {
  readonly #half: number;
  readonly #caches = new Set<EntryCache>();
  #filled = 0;

  constructor(bytes: number) {
    this.#half = Math.floor(bytes / 2);
  }

  /** What the entries of all caches take together. */
  get heldBytes(): number {
    let sum = 0;
    for (const cache of this.#caches) sum += cache.size * cache.entryBytes;
    return sum;
  }

  /** The cache is about to take a further entry into its younger generation. */
  adding(cache: EntryCache): void {
    if (this.#filled + cache.entryBytes > this.#half) {
      this.#filled = 0;
      for (const each of this.#caches) each.rotate();
    }
    this.#filled += cache.entryBytes;
    if (cache.size === 0) this.#caches.add(cache);
  }

  leave(cache: EntryCache): void {
    this.#caches.delete(cache);
  }
}

/** An entry where it lies: good until an entry of any volume is asked for or changes. */
export class EntryView {
  readonly #blocksPerChunk: number;
  #op = 0 as OpNumber;
  #location = 0 as Location;
  #sums: Int32Array | Uint32Array = NO_SUMS;
  #from = 0;

  constructor(blocksPerChunk: number) {
    this.#blocksPerChunk = blocksPerChunk;
  }

  get location(): Location {
    return this.#location;
  }

  set(op: OpNumber, location: Location, sums: Int32Array | Uint32Array, from: number): this {
    this.#op = op;
    this.#location = location;
    this.#sums = sums;
    this.#from = from;
    return this;
  }

  clear(): void {
    this.#sums = NO_SUMS;
  }

  /** Checksum of the chunk's block at `index`. */
  sum(index: number): number {
    return this.#sums[this.#from + index] >>> 0;
  }

  /** The entry to keep. */
  toEntry(): ChunkEntry {
    const sums = new Uint32Array(this.#blocksPerChunk);
    for (let i = 0; i < sums.length; i++) sums[i] = this.#sums[this.#from + i];
    return { op: this.#op, location: this.#location, sums };
  }
}

export class EntryCache {
  readonly #budget: EntryBudget;
  readonly #rowWords: number;
  readonly #view: EntryView;
  #young = NOTHING;
  #old = NOTHING;

  constructor(budget: EntryBudget, blocksPerChunk: number) {
    this.#budget = budget;
    this.#rowWords = SUMS + blocksPerChunk;
    this.#view = new EntryView(blocksPerChunk);
  }

  get size(): number {
    return this.#young.count + this.#old.count;
  }

  get entryBytes(): number {
    return this.#rowWords * 4 + BUCKET_BYTES;
  }

  /** The entry where it lies; null: the index has none for this chunk; undefined: not known here. */
  view(chunk: ChunkNumber): EntryView | null | undefined {
    const row = this.#find(chunk);
    if (row < 0) return undefined;
    const { words, numbers } = this.#young;
    const at = row * this.#rowWords;
    const location = numbers[at / 2 + LOCATION];
    if (location === ABSENT) return null;
    return this.#view.set(numbers[at / 2 + OP] as OpNumber, location as Location, words, at + SUMS);
  }

  set(chunk: ChunkNumber, entry: ChunkEntry | null): void {
    const known = this.#find(chunk);
    const at = (known < 0 ? this.#insert(chunk) : known) * this.#rowWords;
    const { words, numbers } = this.#young;
    numbers[at / 2 + LOCATION] = entry?.location ?? ABSENT;
    if (entry === null) return;
    assert(entry.sums.length === this.#rowWords - SUMS, 'an entry has a checksum for each block of its chunk');
    numbers[at / 2 + OP] = entry.op;
    for (let i = 0; i < entry.sums.length; i++) words[at + SUMS + i] = entry.sums[i];
  }

  clear(): void {
    this.#young = NOTHING;
    this.rotate();
  }

  /** A generation is over. */
  rotate(): void {
    this.#old = this.#young;
    this.#young = NOTHING;
    this.#view.clear();
    if (this.#old.count === 0) this.#budget.leave(this);
  }

  /** The chunk's row in the younger generation, to which it is moved from the older one; or -1. */
  #find(chunk: ChunkNumber): number {
    const high = keyHigh(0, chunk);
    const known = this.#young.find(high, chunk >>> 0);
    if (known >= 0) return known;
    const old = this.#old;
    const from = old.find(high, chunk >>> 0);
    if (from < 0) return -1;
    const row = this.#insert(chunk);
    const { words } = this.#young;
    const width = this.#rowWords;
    for (let i = KEY_WORDS; i < width; i++) words[row * width + i] = old.words[from * width + i];
    old.remove(from);
    return row;
  }

  /** A row of the younger generation, to be filled. */
  #insert(chunk: ChunkNumber): number {
    this.#budget.adding(this);
    if (this.#young === NOTHING) {
      // As many as the last time, in all likelihood: then the table does not have to grow, which takes a while.
      this.#young = new KeyTable(Math.max(ROWS_MIN, this.#old.count), this.#rowWords);
    } else if (this.#young.count === this.#young.capacity) {
      this.#young.grow(2 * this.#young.capacity);
    }
    return this.#young.insert(keyHigh(0, chunk), chunk >>> 0);
  }
}
