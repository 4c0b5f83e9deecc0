/**
 * Decoded index entries of one volume, so that a read that misses the block cache does not walk the B-tree each time.
 * All volumes share one budget: when half of it has been filled, every cache drops what it did not use since the last
 * time (two generations), those of volumes that nobody uses included.
 */
import type { ChunkEntry } from '../index/chunk-entry.ts';

/** How many entries the caches that share it hold, at most, together. */
export class EntryBudget {
  readonly #half: number;
  readonly #caches = new Set<EntryCache>();
  #filled = 0;

  constructor(entriesMax: number) {
    this.#half = Math.max(1, Math.floor(entriesMax / 2));
  }

  /** The entries that all caches hold together. */
  get held(): number {
    let sum = 0;
    for (const cache of this.#caches) sum += cache.size;
    return sum;
  }

  join(cache: EntryCache): void {
    this.#caches.add(cache);
  }

  leave(cache: EntryCache): void {
    this.#caches.delete(cache);
  }

  added(): void {
    if (++this.#filled < this.#half) return;
    this.#filled = 0;
    for (const cache of this.#caches) cache.rotate();
  }
}

export class EntryCache {
  readonly #budget: EntryBudget;
  #young = new Map<number, ChunkEntry | null>();
  #old = new Map<number, ChunkEntry | null>();

  constructor(budget: EntryBudget) {
    this.#budget = budget;
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** The entry; null: the index has none for this chunk; undefined: not known here. */
  get(chunk: number): ChunkEntry | null | undefined {
    const young = this.#young.get(chunk);
    if (young !== undefined) return young;
    const old = this.#old.get(chunk);
    if (old !== undefined) this.set(chunk, old);
    return old;
  }

  set(chunk: number, entry: ChunkEntry | null): void {
    const before = this.#young.size;
    this.#young.set(chunk, entry);
    this.#old.delete(chunk);
    if (this.#young.size === before) return;
    if (this.size === 1) this.#budget.join(this);
    this.#budget.added();
  }

  clear(): void {
    this.#young.clear();
    this.#old.clear();
    this.#budget.leave(this);
  }

  /** A generation is over. */
  rotate(): void {
    this.#old = this.#young;
    this.#young = new Map();
    if (this.#old.size === 0) this.#budget.leave(this);
  }
}
