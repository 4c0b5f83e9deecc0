/**
 * Decoded index entries of one volume, so that a read that misses the block cache does not walk the B-tree each time.
 * All volumes share one budget: when half of it has been filled, every cache drops what it did not use since the last
 * time (two generations; a rotation costs nothing but at the next use).
 */
import type { ChunkEntry } from '../index/chunk-entry.ts';

/** How many entries the caches that share it hold, at most, together. */
export class EntryBudget {
  readonly #half: number;
  #filled = 0;
  generation = 0;

  constructor(entriesMax: number) {
    this.#half = Math.max(1, Math.floor(entriesMax / 2));
  }

  added(): void {
    if (++this.#filled < this.#half) return;
    this.#filled = 0;
    this.generation++;
  }
}

export class EntryCache {
  readonly #budget: EntryBudget;
  #generation: number;
  #young = new Map<number, ChunkEntry | null>();
  #old = new Map<number, ChunkEntry | null>();

  constructor(budget: EntryBudget) {
    this.#budget = budget;
    this.#generation = budget.generation;
  }

  /** The entry; null: the index has none for this chunk; undefined: not known here. */
  get(chunk: number): ChunkEntry | null | undefined {
    if (this.#generation !== this.#budget.generation) this.#rotate();
    const young = this.#young.get(chunk);
    if (young !== undefined) return young;
    const old = this.#old.get(chunk);
    if (old !== undefined) this.set(chunk, old);
    return old;
  }

  set(chunk: number, entry: ChunkEntry | null): void {
    if (this.#generation !== this.#budget.generation) this.#rotate();
    const before = this.#young.size;
    this.#young.set(chunk, entry);
    this.#old.delete(chunk);
    if (this.#young.size > before) this.#budget.added();
  }

  clear(): void {
    this.#young.clear();
    this.#old.clear();
  }

  #rotate(): void {
    this.#old = this.#budget.generation === this.#generation + 1 ? this.#young : new Map();
    this.#young = new Map();
    this.#generation = this.#budget.generation;
  }
}
