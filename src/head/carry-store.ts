/**
 * What the index gets to know of chunks whose data is durable, and what becomes of their slots and of their entries in the
 * overlay then: the last part of carrying a group of chunks (chunk-carrier.ts).
 *
 * Invariants:
 * - Only what has not changed since its data was taken leaves the overlay.
 * - A slot that was replaced is retired when the index refers to it no more, and not before.
 */
import { indexGrowthBytes } from '../base/limits.ts';
import type { CarryGroup, CarryTask, Conclude } from './carry-group.ts';
import type { DestageStore } from './destage-store.ts';
import type { Head } from './head.ts';

export class CarryStore {
  readonly #head: Head;
  readonly #store: DestageStore;

  constructor(head: Head, store: DestageStore) {
    this.#head = head;
    this.#store = store;
  }

  /** One transaction for these chunks. Rejects with `DestageStuck`. */
  async commit(tasks: readonly CarryTask[], conclude: Conclude | undefined): Promise<void> {
    const { index, slots } = this.#head;
    this.#store.refuseUnwritable(indexGrowthBytes);
    const transaction = index.begin();
    for (const { volume, chunk, indexed, entry } of tasks) {
      if (indexed !== undefined && indexed.location !== entry?.location) slots.unmarkIndexed(indexed.location);
      if (entry === undefined) {
        if (indexed !== undefined) transaction.removeChunk(volume.number, chunk);
        continue;
      }
      transaction.putChunk(volume.number, chunk, entry);
      if (indexed?.location !== entry.location) slots.markIndexed(entry.location);
    }
    const cut = conclude?.(transaction);
    await this.#store.commit(transaction, cut);
  }

  /** The index has it: the overlay lets go of what has not changed since, and replaced slots are retired. */
  stored(group: CarryGroup, task: CarryTask): void {
    const { overlay, slots } = this.#head;
    const { volume, chunk, base, indexed, entry } = task;
    volume.indexChanged(chunk, entry);
    for (let i = task.from; i < task.to; i++) {
      const row = overlay.findBlock(volume.number, group.blocks[i]);
      if (row >= 0 && overlay.positionOf(row) === group.positions[i]) overlay.removeBlock(row);
    }
    const row = overlay.findChunk(volume.number, chunk);
    if (row >= 0 && base !== undefined && overlay.entryOf(row) === base) overlay.removeEntry(row);
    if (indexed !== undefined && indexed.location !== entry?.location) {
      slots.retire(indexed.location, slots.namedUntil(indexed.location), entry === undefined);
    }
    // A chunk that was written as a whole and then zeroed block by block never reaches the index.
    if (entry === undefined && base !== undefined && base.location !== indexed?.location) {
      slots.retire(base.location, slots.namedUntil(base.location), true);
    }
  }

  /**
   * Nothing has changed, but what the overlay let go of meanwhile was left for the index, which will not have it. Not
   * after the index has failed: what it holds is found out at the next start, and until then no slot comes free.
   */
  failed(task: CarryTask): void {
    const { slots } = this.#head;
    const { base, entry } = task;
    if (this.hasFailed) return;
    if (base === undefined && entry !== undefined) slots.release(entry.location);
    if (this.isOrphaned(task)) slots.retire(base!.location, slots.namedUntil(base!.location), false);
  }

  /** Whether the task is laid over an entry that the overlay has let go of, and that the index has not. */
  isOrphaned({ volume, chunk, base, indexed }: CarryTask): boolean {
    if (base === undefined || base.location === indexed?.location) return false;
    const row = this.#head.overlay.findChunk(volume.number, chunk);
    return row < 0 || this.#head.overlay.entryOf(row) !== base;
  }

  /** The index takes nothing any more. */
  get hasFailed(): boolean {
    return this.#store.failed;
  }
}
