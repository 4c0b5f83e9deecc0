/**
 * A hash table from a 64-bit key, held as two 32-bit halves, to a small row number. The overlay and the cache keep
 * their columns of figures in typed arrays indexed by row, so a million entries cost the garbage collector nothing.
 *
 * Invariants:
 * - A key is in the table at most once; its row stays the same from `insert` to `remove`.
 * - Rows are handed out densely (0, 1, 2 …) before any freed one is used again only when none is free, so memory is
 *   touched no further than it was ever full.
 * - Linear probing at a load of at most one half, with backward-shift deletion: there are no tombstones to sweep.
 *
 * Cost: one probe is a multiplication, a mask and on average 1.5 reads of adjacent memory: 10 ns in cache, 100 ns out.
 */
import { assert } from './assert.ts';

const TWO_32 = 2 ** 32;

/** High half of the key of (volume, number): `number` may have 40 bits, `volume` 24. */
export function keyHigh(volume: number, number: number): number {
  return volume * 256 + Math.floor(number / TWO_32);
}

/** The number (block or chunk) of a key. */
export function keyNumber(high: number, low: number): number {
  return (high & 255) * TWO_32 + low;
}

/** The volume of a key. */
export function keyVolume(high: number): number {
  return high >>> 8;
}

export class KeyTable {
  #capacity: number;
  #mask: number;
  /** Row + 1 of the key that lives in each bucket; 0 where there is none. */
  #buckets: Int32Array;
  #high: Uint32Array;
  #low: Uint32Array;
  /** Next free row of each free row, -1 at the end. */
  #nextFree: Int32Array;
  #firstFree = -1;
  #fresh = 0;
  #count = 0;

  constructor(capacity: number) {
    assert(Number.isSafeInteger(capacity) && capacity > 0 && capacity < 2 ** 30, 'a table holds 1 to 2^30 rows');
    this.#capacity = capacity;
    const buckets = bucketsFor(capacity);
    this.#mask = buckets - 1;
    this.#buckets = new Int32Array(buckets);
    this.#high = new Uint32Array(capacity);
    this.#low = new Uint32Array(capacity);
    this.#nextFree = new Int32Array(capacity);
  }

  /** Rows that there is room for. */
  get capacity(): number {
    return this.#capacity;
  }

  get count(): number {
    return this.#count;
  }

  /** Rows from 0 to this have been in use at some time: the bound of a scan with `isUsed`. */
  get rowsTouched(): number {
    return this.#fresh;
  }

  highOf(row: number): number {
    return this.#high[row];
  }

  lowOf(row: number): number {
    return this.#low[row];
  }

  /** The row of the key, or -1. `low` is an unsigned 32-bit number. */
  find(high: number, low: number): number {
    let bucket = this.#home(high, low);
    for (;;) {
      const row = this.#buckets[bucket] - 1;
      if (row < 0 || (this.#low[row] === low && this.#high[row] === high)) return row;
      bucket = (bucket + 1) & this.#mask;
    }
  }

  isUsed(row: number): boolean {
    return row < this.#fresh && this.find(this.#high[row], this.#low[row]) === row;
  }

  /** Adds a key that is not in the table, which has room. Returns its row. */
  insert(high: number, low: number): number {
    let row = this.#firstFree;
    if (row >= 0) {
      this.#firstFree = this.#nextFree[row];
    } else {
      assert(this.#fresh < this.#capacity, 'the table has room');
      row = this.#fresh++;
    }
    let bucket = this.#home(high, low);
    for (;;) {
      const other = this.#buckets[bucket] - 1;
      if (other < 0) break;
      assert(this.#low[other] !== low || this.#high[other] !== high, 'the key is new to the table');
      bucket = (bucket + 1) & this.#mask;
    }
    this.#buckets[bucket] = row + 1;
    this.#high[row] = high;
    this.#low[row] = low;
    this.#count++;
    return row;
  }

  /** Takes the key of `row`, which is in use, out of the table. */
  remove(row: number): void {
    let hole = this.#home(this.#high[row], this.#low[row]);
    while (this.#buckets[hole] !== row + 1) {
      assert(this.#buckets[hole] !== 0, 'the row is in use');
      hole = (hole + 1) & this.#mask;
    }
    // Move back what could not live at its home because of the key that leaves.
    let bucket = hole;
    for (;;) {
      bucket = (bucket + 1) & this.#mask;
      const other = this.#buckets[bucket] - 1;
      if (other < 0) break;
      const home = this.#home(this.#high[other], this.#low[other]);
      if (((bucket - home) & this.#mask) >= ((bucket - hole) & this.#mask)) {
        this.#buckets[hole] = other + 1;
        hole = bucket;
      }
    }
    this.#buckets[hole] = 0;
    this.#nextFree[row] = this.#firstFree;
    this.#firstFree = row;
    this.#count--;
  }

  /** Makes room for more rows; those in use stay the same. */
  grow(capacity: number): void {
    assert(capacity > this.#capacity && capacity < 2 ** 30, 'a table grows up to 2^30 rows');
    const old = this.#buckets;
    const buckets = bucketsFor(capacity);
    this.#capacity = capacity;
    this.#mask = buckets - 1;
    this.#buckets = new Int32Array(buckets);
    this.#high = lengthened(this.#high, new Uint32Array(capacity));
    this.#low = lengthened(this.#low, new Uint32Array(capacity));
    this.#nextFree = lengthened(this.#nextFree, new Int32Array(capacity));
    for (const rowAndOne of old) {
      if (rowAndOne === 0) continue;
      let bucket = this.#home(this.#high[rowAndOne - 1], this.#low[rowAndOne - 1]);
      while (this.#buckets[bucket] !== 0) bucket = (bucket + 1) & this.#mask;
      this.#buckets[bucket] = rowAndOne;
    }
  }

  #home(high: number, low: number): number {
    let hash = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b);
    hash ^= hash >>> 15;
    hash = Math.imul(hash, 0xc2b2ae35);
    return (hash ^ (hash >>> 13)) & this.#mask;
  }
}

function bucketsFor(capacity: number): number {
  return 2 ** Math.ceil(Math.log2(capacity * 2));
}

/** `long`, which begins with what `short` holds: for columns that grow with a table. */
export function lengthened<Column extends Int32Array | Uint32Array | Float64Array>(
  short: Column,
  long: Column,
): Column {
  long.set(short);
  return long;
}
