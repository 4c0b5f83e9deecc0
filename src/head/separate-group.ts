/**
 * A group of chunks that can be under way while others destage: what others need to know of it, and what it has to know of
 * what they did meanwhile.
 *
 * Invariants:
 * - From `close` to `unpin` none of its slots is handed out to anybody, whatever becomes of its chunks.
 * - Where its blocks lie in the log is kept up to date while they are carried forward there.
 */
import type { Location } from '../base/location.ts';
import type { BlockNumber, ChunkNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { Volume } from '../volume/volume.ts';
import { CarryGroup } from './carry-group.ts';
import { ChunkSet } from './chunk-set.ts';
import type { DestageStuck } from './destage-store.ts';
import { Landing } from './landing.ts';
import type { SlotAllocator } from './slot-allocator.ts';

export class SeparateGroup extends CarryGroup {
  /** Others may have destaged since it was begun. */
  isBesideOthers = false;
  /** Entries that the overlay has let go of, and whose slots nobody else retires. */
  readonly orphans = new Set<ChunkEntry>();
  readonly landing = new Landing();
  /** From where on the list is to be carried yet. */
  next = 0;
  /** Of some of its chunks; they are not in it any more. */
  failure: DestageStuck | undefined;
  readonly #pinned: Location[] = [];
  readonly #chunks = new ChunkSet();
  /** Where in the columns a block stands. */
  readonly #rowOf = new Map<Volume, Map<BlockNumber, number>>();

  /** Everything has its place. */
  close(next: number, slots: SlotAllocator): void {
    this.next = next;
    for (const { volume, chunk, entry, from, to } of this.tasks) {
      this.#chunks.add(volume, chunk);
      const rows = this.#rowOf.get(volume) ?? new Map<BlockNumber, number>();
      this.#rowOf.set(volume, rows);
      for (let i = from; i < to; i++) rows.set(this.blocks[i], i);
      if (entry === undefined) continue;
      slots.pin(entry.location);
      this.#pinned.push(entry.location);
    }
  }

  unpin(slots: SlotAllocator): void {
    for (const location of this.#pinned.splice(0)) slots.unpin(location);
  }

  has(volume: Volume, chunk: ChunkNumber): boolean {
    return this.#chunks.has(volume, chunk);
  }

  /** A block's newest data lies elsewhere in the log: the same data. */
  moved(volume: Volume, block: BlockNumber, from: number, to: number): void {
    const row = this.#rowOf.get(volume)?.get(block);
    if (row !== undefined && this.positions[row] === from) this.positions[row] = to;
  }
}
