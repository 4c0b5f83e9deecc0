/**
 * Index entries of one volume in memory, so that a read that misses the block cache does not walk the B-tree each time.
 * All volumes share one budget: when half of it has been filled, every cache drops what it did not use since the last
 * time (two generations), those of volumes that nobody uses included.
 *
 * Entries lie in rows of a table, not as objects: one is found with two looks at memory that is not in the processor's
 * cache rather than six (measured, 64 Ki of them at random: 0.13 µs instead of 0.43), and thousands that come and go with
 * the destage leave nothing to collect.
 *
 * Invariant: a chunk is in one of the two generations, and in one row.
 */
import { KEY_WORDS, KeyTable, keyHigh } from '../base/key-table.ts';
import type { Location } from '../base/location.ts';
import type { ChunkNumber, OpNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';

/** A row behind its key: op number and location, in numbers of 64 bits, then the checksums, in words of 32 bits. */
const OP = 1;
const LOCATION = 2;
const SUMS = 6;
/** In place of a location: the index has no entry of the chunk. */
const ABSENT = -1;
/** Of a row's place in the table, at the load of a table that is full. */
const BUCKET_BYTES = 8;
const ROWS_MIN = 16;
/** What a volume has whose entries nobody has asked for. */
const NOTHING = new KeyTable(1);

/** How many bytes the entries of the caches that share it take, at most, together. */
export class EntryBudget {
  readonly #half: number;
  readonly #caches = new Set<EntryCache>();
  #filled = 0;

  constructor(bytes: number) {
    this.#half = Math.max(1, Math.floor(bytes / 2));
  }

  /** What the entries of all caches take together. */
  get heldBytes(): number {
    let sum = 0;
    for (const cache of this.#caches) sum += cache.size * cache.entryBytes;
    return sum;
  }

  join(cache: EntryCache): void {
    this.#caches.add(cache);
  }

  leave(cache: EntryCache): void {
    this.#caches.delete(cache);
  }

  added(bytes: number): void {
    this.#filled += bytes;
    if (this.#filled < this.#half) return;
    this.#filled = 0;
    for (const cache of this.#caches) cache.rotate();
  }
}

/** An entry where it lies: good until the next look at its volume's entries, or change of them. */
export class EntryView {
  location = 0 as Location;
  #sums: Int32Array | Uint32Array = new Uint32Array(0);
  #from = 0;

  set(location: Location, sums: Int32Array | Uint32Array, from: number): this {
    this.location = location;
    this.#sums = sums;
    this.#from = from;
    return this;
  }

  /** Checksum of the chunk's block at `index`. */
  sum(index: number): number {
    return this.#sums[this.#from + index] >>> 0;
  }
}

export class EntryCache {
  readonly #budget: EntryBudget;
  readonly #rowWords: number;
  readonly #view = new EntryView();
  #young = NOTHING;
  #old = NOTHING;
  /** Where the last one that was asked for is: in the younger generation, as long as that was not over with it. */
  #table = NOTHING;

  constructor(budget: EntryBudget, blocksPerChunk: number) {
    this.#budget = budget;
    this.#rowWords = SUMS + blocksPerChunk;
  }

  get size(): number {
    return this.#young.count + this.#old.count;
  }

  get entryBytes(): number {
    return this.#rowWords * 4 + BUCKET_BYTES;
  }

  /** The entry where it lies; null: the index has none for this chunk; undefined: not known here. */
  look(chunk: ChunkNumber): EntryView | null | undefined {
    const row = this.#find(chunk);
    if (row < 0) return undefined;
    const { words, numbers } = this.#table;
    const at = row * this.#rowWords;
    const location = numbers[at / 2 + LOCATION];
    return location === ABSENT ? null : this.#view.set(location as Location, words, at + SUMS);
  }

  /** As `look`, but to keep. */
  get(chunk: ChunkNumber): ChunkEntry | null | undefined {
    const row = this.#find(chunk);
    if (row < 0) return undefined;
    const { words, numbers } = this.#table;
    const at = row * this.#rowWords;
    const location = numbers[at / 2 + LOCATION];
    if (location === ABSENT) return null;
    const sums = new Uint32Array(this.#rowWords - SUMS);
    for (let i = 0; i < sums.length; i++) sums[i] = words[at + SUMS + i];
    return { op: numbers[at / 2 + OP] as OpNumber, location: location as Location, sums };
  }

  set(chunk: ChunkNumber, entry: ChunkEntry | null): void {
    const known = this.#find(chunk);
    const row = known < 0 ? this.#insert(chunk) : known;
    const { words, numbers } = this.#table;
    const at = row * this.#rowWords;
    numbers[at / 2 + LOCATION] = entry?.location ?? ABSENT;
    if (entry !== null) {
      numbers[at / 2 + OP] = entry.op;
      for (let i = 0; i < entry.sums.length; i++) words[at + SUMS + i] = entry.sums[i];
    }
    if (known < 0) this.#added();
  }

  clear(): void {
    this.#young = NOTHING;
    this.#old = NOTHING;
    this.#budget.leave(this);
  }

  /** A generation is over. */
  rotate(): void {
    const old = this.#young;
    this.#old = old;
    // The next one will be as large, in all likelihood; what it does not fill it does not touch.
    this.#young = old.count === 0 ? NOTHING : new KeyTable(old.capacity, this.#rowWords);
    if (old.count === 0) this.#budget.leave(this);
  }

  /** The chunk's row in `#table`, or -1. What was in the older generation is in the younger one then. */
  #find(chunk: ChunkNumber): number {
    const high = keyHigh(0, chunk);
    const young = this.#young.find(high, chunk >>> 0);
    this.#table = this.#young;
    if (young >= 0) return young;
    const old = this.#old;
    const from = old.find(high, chunk >>> 0);
    if (from < 0) return -1;
    const row = this.#insert(chunk);
    const { words } = this.#table;
    for (let i = KEY_WORDS; i < this.#rowWords; i++)
      words[row * this.#rowWords + i] = old.words[from * this.#rowWords + i];
    old.remove(from);
    this.#added();
    return row;
  }

  /** A row of the younger generation, to be filled. */
  #insert(chunk: ChunkNumber): number {
    if (this.#young === NOTHING) this.#young = new KeyTable(ROWS_MIN, this.#rowWords);
    else if (this.#young.count === this.#young.capacity) this.#young.grow(2 * this.#young.capacity);
    this.#table = this.#young;
    return this.#young.insert(keyHigh(0, chunk), chunk >>> 0);
  }

  #added(): void {
    if (this.size === 1) this.#budget.join(this);
    this.#budget.added(this.entryBytes);
  }
}
