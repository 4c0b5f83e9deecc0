/**
 * Carries chunks of the overlay into mass storage and index, in batches. The destage says which and when.
 *
 * A batch, in this order, each part finished before the next begins:
 *   1. look up the chunks, bring the data of their blocks together from cache and log, check it
 *   2. sync the log: nothing is rewritten in place that the log does not hold for good
 *   3. write blocks to their slots; chunks that have none get one
 *   4. sync the devices
 *   5. one index transaction, durable when it completes
 *   6. take out of the overlay what has not changed since; retire slots that were replaced
 *
 * Invariants:
 * - A chunk is in one batch at a time.
 * - While a batch is under way, entries that it may make the index refer to are known (`isStoring`), so that nobody
 *   else retires their slots.
 */
import { NO_SUM, takeSums } from '../base/checksum.ts';
import type { IoRequest } from '../base/io.ts';
import { completion, Gather, IoWindow } from '../base/io-wait.ts';
import { destageBatchBytes, destageBatchChunks, destageWritesInFlight } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import type { BlockNumber, ChunkNumber, OpNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import { isEmpty } from '../index/chunk-entry.ts';
import type { DirtyList } from '../volume/overlay.ts';
import type { Volume } from '../volume/volume.ts';
import type { DestageStore } from './destage-store.ts';
import { DestageStuck } from './destage-store.ts';
import type { Head } from './head.ts';

/** One reads and writes while the other one's devices and index are synced. */
const BATCHES_AT_ONCE = 2;

/** A chunk that is being destaged. */
interface Task {
  readonly volume: Volume;
  readonly chunk: ChunkNumber;
  /** Of the chunk in the overlay when the batch began. */
  readonly row: number;
  /** What its blocks are laid over: the newest entry when the batch began. */
  readonly base: ChunkEntry | undefined;
  /** What the index had. */
  readonly indexed: ChunkEntry | undefined;
  readonly op: OpNumber;
  /** Blocks of the overlay, ascending; their log positions and checksums; where their data lies in the buffer or -1. */
  readonly blocks: BlockNumber[];
  readonly positions: number[];
  readonly sums: number[];
  readonly offsets: number[];
  /** What the index gets; undefined: the chunk is removed from it. */
  entry: ChunkEntry | undefined;
}

export class ChunkCarrier {
  readonly #head: Head;
  readonly #store: DestageStore;
  readonly #buffers: readonly Region[];
  /** Entries, and overlay rows of the chunks, of the batches that are under way. */
  readonly #storing = new Set<ChunkEntry>();
  readonly #inHand = new Set<number>();
  readonly #sum = new Uint32Array(1);

  constructor(head: Head, store: DestageStore, regions: RegionSource) {
    this.#head = head;
    this.#store = store;
    this.#buffers = Array.from({ length: BATCHES_AT_ONCE }, () => regions.allocate(destageBatchBytes));
  }

  /** Whether a batch that is under way may make the index refer to this entry. */
  isStoring(entry: ChunkEntry): boolean {
    return this.#storing.has(entry);
  }

  /**
   * Destages the chunks of a list, two batches at a time. When it rejects, `unfinished` says from where on the list is
   * dirty still; chunks that were carried are not met again.
   */
  async carryAll(dirty: DirtyList, unfinished: (from: number) => void): Promise<void> {
    const running: { readonly from: number; readonly carried: Promise<void> }[] = [];
    let from = 0;
    try {
      for (let batch = 0; from < dirty.chunks.length; batch++) {
        if (running.length === BATCHES_AT_ONCE) {
          await running[0].carried;
          running.shift();
        }
        const { tasks, next } = this.#collect(dirty.volumes, dirty.chunks, from);
        const carried = this.#carry(tasks, this.#buffers[batch % BATCHES_AT_ONCE]);
        // Each is awaited in its turn; when an earlier one fails this one's failure must not go unheard.
        carried.catch(() => {});
        running.push({ from, carried });
        from = next;
      }
      while (running.length > 0) {
        await running[0].carried;
        running.shift();
      }
    } catch (error) {
      await Promise.allSettled(running.map(batch => batch.carried));
      unfinished(running[0]?.from ?? from);
      throw error;
    }
  }

  /** Chooses the chunks of a batch from the list, from `from` on; `next` is where the one after it begins. */
  #collect(volumes: readonly VolumeNumber[], chunks: readonly ChunkNumber[], from: number) {
    const tasks: Task[] = [];
    let bytes = 0;
    let next = from;
    for (; next < chunks.length && tasks.length < destageBatchChunks; next++) {
      const volume = this.#head.volume(volumes[next]);
      if (volume === undefined) continue;
      const row = this.#head.overlay.findChunk(volume.number, chunks[next]);
      if (row < 0 || volume.isDropPending(chunks[next]) || this.#inHand.has(row)) continue;
      const task = this.#task(volume, chunks[next], row, bytes);
      const taskBytes = task.offsets.length * BLOCK_BYTES;
      if (bytes + taskBytes > destageBatchBytes) break;
      bytes += taskBytes;
      this.#inHand.add(row);
      if (task.base !== undefined) this.#storing.add(task.base);
      tasks.push(task);
    }
    return { tasks, next };
  }

  async #carry(tasks: readonly Task[], buffer: Region): Promise<void> {
    if (tasks.length === 0) return;
    let stored = false;
    try {
      await this.#gatherData(tasks, buffer);
      await this.#store.logSynced();
      await this.#writeData(tasks, buffer);
      if ((await completion(request => this.#head.sled.syncData(request))) < 0) {
        throw new DestageStuck('a device cannot be synced');
      }
      await this.#storeTasks(tasks);
      stored = true;
    } finally {
      for (const task of tasks) {
        this.#inHand.delete(task.row);
        if (task.base !== undefined) this.#storing.delete(task.base);
        if (stored) this.#taskStored(task);
        else if (!this.#store.failed) this.#taskFailed(task);
      }
    }
    // The overlay has room again.
    this.#head.roomFreed();
  }

  #task(volume: Volume, chunk: ChunkNumber, row: number, bufferOffset: number): Task {
    const { overlay } = this.#head;
    const rows: number[] = [];
    for (let block = overlay.firstBlock(row); block >= 0; block = overlay.nextBlock(block)) rows.push(block);
    rows.sort((a, b) => overlay.blockOf(a) - overlay.blockOf(b));
    const sums = rows.map(block => overlay.sumOf(block));
    let offset = bufferOffset;
    const offsets = sums.map(sum => {
      if (sum === NO_SUM) return -1;
      offset += BLOCK_BYTES;
      return offset - BLOCK_BYTES;
    });
    return {
      volume,
      chunk,
      row,
      base: volume.lookup(chunk),
      indexed: volume.lookupIndexed(chunk),
      op: overlay.opOf(row),
      blocks: rows.map(block => overlay.blockOf(block)),
      positions: rows.map(block => overlay.positionOf(block)),
      sums,
      offsets,
      entry: undefined,
    };
  }

  /** Brings the data of all blocks into the buffer and checks it against its checksums. */
  async #gatherData(tasks: readonly Task[], buffer: Region): Promise<void> {
    const { cache, log } = this.#head;
    const gather = new Gather();
    for (const task of tasks) {
      for (let i = 0; i < task.blocks.length; i++) {
        if (task.offsets[i] < 0) continue;
        const slot = cache.peek(task.volume.number, task.blocks[i]);
        if (slot >= 0) cache.copyOut(slot, 0, BLOCK_BYTES, buffer.bytes, task.offsets[i]);
        else log.read(task.positions[i], buffer, task.offsets[i], BLOCK_BYTES, gather.expect());
      }
    }
    if ((await gather.close()) < 0) throw new DestageStuck('the op log cannot be read');
    for (const task of tasks) {
      for (let i = 0; i < task.blocks.length; i++) {
        if (task.offsets[i] >= 0 && !this.#matches(task, i, buffer)) await this.#gatherAgain(task, i, buffer);
      }
    }
  }

  #matches(task: Task, index: number, buffer: Region): boolean {
    takeSums(this.#head.checksums, buffer.bytes, task.offsets[index], 1, this.#sum, 0);
    return this.#sum[0] === task.sums[index];
  }

  /**
   * A copy of a block does not match its checksum. The log's copy decides; where that is bad too it is carried over as it
   * is, beside the checksum that tells: one block is lost, and reads of it say so, but everything else goes on.
   */
  async #gatherAgain(task: Task, index: number, buffer: Region): Promise<void> {
    const { volume, blocks, positions, offsets } = task;
    const position = positions[index];
    const read = (request: IoRequest) => this.#head.log.read(position, buffer, offsets[index], BLOCK_BYTES, request);
    if ((await completion(read)) < 0) throw new DestageStuck('the op log cannot be read');
    if (this.#matches(task, index, buffer)) return;
    this.#head.corruptionFound(volume, blocks[index], `log position ${position}`);
  }

  /** Decides on slots and writes the blocks, neighbours as one, a bounded number at a time. */
  async #writeData(tasks: readonly Task[], buffer: Region): Promise<void> {
    const { sled } = this.#head;
    const window = new IoWindow(destageWritesInFlight);
    try {
      for (const task of tasks) {
        this.#placeTask(task);
        if (task.entry === undefined) continue;
        const { location } = task.entry;
        const first = task.chunk * task.volume.blocksPerChunk;
        for (let i = 0; i < task.blocks.length; ) {
          let j = i + 1;
          if (task.offsets[i] >= 0) {
            while (j < task.blocks.length && task.offsets[j] >= 0 && task.blocks[j] === task.blocks[j - 1] + 1) j++;
            const place = (location + task.blocks[i] - first) as Location;
            if (window.isFull) await window.room();
            sled.write(place, buffer, task.offsets[i], (j - i) * BLOCK_BYTES, window.begin());
          }
          i = j;
        }
      }
    } finally {
      // The buffer and the slots are not let go of while the device still works on them.
      await window.drained();
    }
    for (const task of tasks) {
      if (task.entry === undefined) continue;
      sled.wrote(task.entry.location);
      if (window.error < 0) throw this.#writeFailed(task.entry.location);
    }
  }

  #writeFailed(location: Location): DestageStuck {
    this.#head.sled.writeFailed(location);
    return new DestageStuck('a device cannot be written');
  }

  #placeTask(task: Task): void {
    const { volume, base } = task;
    if (task.blocks.length === 0) {
      task.entry = base;
      return;
    }
    const sums = base === undefined ? new Uint32Array(volume.blocksPerChunk) : base.sums.slice();
    const first = task.chunk * volume.blocksPerChunk;
    for (let i = 0; i < task.blocks.length; i++) sums[task.blocks[i] - first] = task.sums[i];
    if (isEmpty(sums)) return;
    const location = base?.location ?? this.#head.slots.allocate(volume.number, volume.chunkBytes);
    if (location === undefined) throw new DestageStuck('all devices are full');
    task.entry = { op: task.op, location, sums };
  }

  async #storeTasks(tasks: readonly Task[]): Promise<void> {
    const { index, slots } = this.#head;
    this.#store.refuseFailed();
    const transaction = index.begin();
    for (const task of tasks) {
      const { volume, chunk, indexed, entry } = task;
      if (indexed !== undefined && indexed.location !== entry?.location) slots.unmarkIndexed(indexed.location);
      if (entry === undefined) {
        if (indexed !== undefined) transaction.removeChunk(volume.number, chunk);
        continue;
      }
      transaction.putChunk(volume.number, chunk, entry);
      if (indexed?.location !== entry.location) slots.markIndexed(entry.location);
    }
    await this.#store.commit(transaction);
  }

  /** The index has it: the overlay lets go of what has not changed since, and replaced slots are retired. */
  #taskStored(task: Task): void {
    const { overlay, slots } = this.#head;
    const { volume, chunk, base, indexed, entry } = task;
    volume.indexChanged(chunk, entry);
    for (let i = 0; i < task.blocks.length; i++) {
      const row = overlay.findBlock(volume.number, task.blocks[i]);
      if (row >= 0 && overlay.positionOf(row) === task.positions[i]) overlay.removeBlock(row);
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
  #taskFailed(task: Task): void {
    const { overlay, slots } = this.#head;
    const { volume, chunk, base, indexed, entry } = task;
    if (base === undefined) {
      if (entry !== undefined) slots.release(entry.location);
      return;
    }
    if (base.location === indexed?.location) return;
    const row = overlay.findChunk(volume.number, chunk);
    if (row < 0 || overlay.entryOf(row) !== base) slots.retire(base.location, slots.namedUntil(base.location), false);
  }
}
