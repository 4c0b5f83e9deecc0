/**
 * The chunks that one index transaction will be about, and the blocks of theirs that go to mass storage before it. The
 * carrier fills a group chunk by chunk; figures of blocks stand in columns, so that a group of tens of thousands of
 * blocks costs the garbage collector no more than its chunks do.
 *
 * Of a chunk that was written as a whole before the cut, and whose blocks are all from behind it, only the entry is carried:
 * else the first step would write a volume once more that was filled and is then written to at random, and the log would
 * fill up meanwhile.
 *
 * Invariants:
 * - A chunk is in a group at most once.
 * - Only what lies before the fence is taken: it is durable in the log, so that a slot may be rewritten with it in place,
 *   and an index entry never knows of an operation that a power cut could take out of the log again.
 */
import { NO_SUM } from '../base/checksum.ts';
import type { BlockNumber, ChunkNumber, LogPosition, OpNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { IndexTransaction } from '../index/index-store.ts';
import type { Volume } from '../volume/volume.ts';
import type { ChunkSet } from './chunk-set.ts';
import type { Head } from './head.ts';

/** What was committed, and is durable in the log, when a step of the destage began. */
export interface Fence {
  /** The log is cut here: only chunks that hold something from before are carried, others can wait. */
  readonly cut: LogPosition;
  readonly position: LogPosition;
  /** The last operation before the fence, of each volume. */
  readonly ops: ReadonlyMap<Volume, OpNumber>;
  /** Chunks whose blocks are not carried, since their device is aside. An entry of theirs is: what it names is durable. */
  readonly late?: ChunkSet | undefined;
}

/** Adds to the last transaction of a step, and gives the log's new cut. */
export type Conclude = (transaction: IndexTransaction) => LogPosition;

/** A chunk that is being destaged. */
export interface CarryTask {
  readonly volume: Volume;
  readonly chunk: ChunkNumber;
  /** Of the chunk in the overlay when the task was made. */
  readonly row: number;
  /** What its blocks are laid over: the newest entry when the task was made. */
  readonly base: ChunkEntry | undefined;
  /** What the index had. */
  readonly indexed: ChunkEntry | undefined;
  readonly op: OpNumber;
  /** Its blocks in the columns of the group: [from, to), ascending. */
  readonly from: number;
  readonly to: number;
  /** What the index gets; undefined: the chunk is removed from it. */
  entry: ChunkEntry | undefined;
}

export class CarryGroup {
  readonly tasks: CarryTask[] = [];
  /** For each block its number, the position of its data in the log, and its checksum. */
  readonly blocks: BlockNumber[] = [];
  readonly positions: number[] = [];
  readonly sums: number[] = [];
  readonly #rows = new Set<number>();
  readonly #found: number[] = [];

  /** Adds what there is to carry of a chunk. Undefined where there is nothing. */
  add(head: Head, volume: Volume, chunk: ChunkNumber, fence: Fence): CarryTask | undefined {
    const { overlay, slots } = head;
    const row = overlay.findChunk(volume.number, chunk);
    if (row < 0 || volume.isDropPending(chunk) || this.#rows.has(row)) return undefined;
    const own = overlay.entryOf(row);
    // What is newer than the fence has taken the place of everything before it: a later step meets it.
    if (own !== undefined && slots.namedUntil(own.location) > fence.position) return undefined;
    const isEntryDue = own !== undefined && slots.namedUntil(own.location) <= fence.cut;
    const from = this.blocks.length;
    if (!fence.late?.has(volume, chunk)) this.#takeBlocks(head, row, fence);
    const to = this.blocks.length;
    if (from === to && !isEntryDue) return undefined;
    const last = fence.ops.get(volume);
    const newest = overlay.opOf(row);
    const indexed = volume.lookupIndexed(chunk);
    const task: CarryTask = {
      volume,
      chunk,
      row,
      base: own ?? (volume.isDropped(chunk) ? undefined : indexed),
      indexed,
      op: last !== undefined && last < newest ? last : newest,
      from,
      to,
      entry: undefined,
    };
    this.#rows.add(row);
    this.tasks.push(task);
    return task;
  }

  /** If one of the chunk's blocks is from before the cut: appends all from before the fence to the columns, by their numbers. */
  #takeBlocks(head: Head, chunkRow: number, fence: Fence): void {
    const { overlay } = head;
    if (overlay.oldestOf(chunkRow) >= fence.cut) return;
    const found = this.#found;
    found.length = 0;
    let oldest = Number.POSITIVE_INFINITY;
    for (let row = overlay.firstBlock(chunkRow); row >= 0; row = overlay.nextBlock(row)) {
      const position = overlay.positionOf(row);
      if (position < fence.position) found.push(row);
      if (position < oldest) oldest = position;
    }
    overlay.learnOldest(chunkRow, oldest);
    if (oldest >= fence.cut) return;
    if (found.length > 1) found.sort((a, b) => overlay.blockOf(a) - overlay.blockOf(b));
    for (const row of found) {
      this.blocks.push(overlay.blockOf(row));
      this.positions.push(overlay.positionOf(row));
      this.sums.push(overlay.sumOf(row));
    }
  }

  /** Count of a task's blocks that have data. */
  dataCount(task: CarryTask): number {
    let count = 0;
    for (let i = task.from; i < task.to; i++) if (this.sums[i] !== NO_SUM) count++;
    return count;
  }
}
