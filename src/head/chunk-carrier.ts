/**
 * Carries chunks of the overlay into mass storage and index. The destage says which and when, and has synced the log up
 * to a fence before: nothing behind the fence is touched.
 *
 * A group of chunks, in this order, each part finished before the next begins:
 *   1. piece by piece: look up the chunks, bring the data of their blocks together from cache and log, check it, write
 *      it to the slots; chunks that have none get one
 *   2. sync the devices, and the log, for what has taken the place of operations meanwhile
 *   3. index transactions, each durable when it completes; the last one of a step moves the log's cut, too. After each
 *      what it stored and what has not changed since is taken out of the overlay, and slots that were replaced are retired
 *
 * A group is as large as memory allows, because syncs are what is dear: a disk that has to empty its cache lets nobody
 * else in meanwhile. Pieces and transactions are small, because the loop serves nobody while it puts one together.
 *
 * Invariants:
 * - One group at a time; its data is written a bounded number of blocks at a time.
 * - While a group is under way, entries that it may make the index refer to are known (`isStoring`), so that nobody
 *   else retires their slots.
 */
import { NO_SUM, takeSums } from '../base/checksum.ts';
import { isNoSpace } from '../base/errno.ts';
import type { IoRequest } from '../base/io.ts';
import { completion, Gather, IoWindow } from '../base/io-wait.ts';
import {
  destageGroupBlocks,
  destageGroupChunks,
  destagePieceBytes,
  destagePieces,
  destagePieceUsualBytes,
  destageTransactionChunks,
  destageWritesHurried,
  destageWritesInFlight,
} from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import { isEmpty } from '../index/chunk-entry.ts';
import type { DirtyList } from '../volume/overlay.ts';
import type { CarryTask, Conclude, Fence } from './carry-group.ts';
import { CarryGroup } from './carry-group.ts';
import type { DestageStore } from './destage-store.ts';
import { DestageStuck, DevicesFull } from './destage-store.ts';
import type { Head } from './head.ts';

/** Some chunks of a group whose data lies in one buffer: its writes have to end before the buffer is used again. */
class Piece {
  readonly region: Region;
  readonly tasks: CarryTask[] = [];
  /** Where the data of each block lies in the buffer, from the first task's first block on; -1 where it has none. */
  readonly offsets: number[] = [];
  usedBytes = 0;
  written: Promise<number> = Promise.resolve(0);

  constructor(region: Region) {
    this.region = region;
  }

  get firstBlock(): number {
    return this.tasks[0].from;
  }

  clear(): void {
    this.tasks.length = 0;
    this.offsets.length = 0;
    this.usedBytes = 0;
  }
}

export class ChunkCarrier {
  readonly #head: Head;
  readonly #store: DestageStore;
  readonly #pieces: readonly Piece[];
  readonly #storing = new Set<ChunkEntry>();
  readonly #sum = new Uint32Array(1);
  /** A task that found no room in the last piece. */
  #left: CarryTask | undefined;

  constructor(head: Head, store: DestageStore, regions: RegionSource) {
    this.#head = head;
    this.#store = store;
    this.#pieces = Array.from({ length: destagePieces }, () => new Piece(regions.allocate(destagePieceBytes)));
  }

  /** Whether a group that is under way may make the index refer to this entry. */
  isStoring(entry: ChunkEntry): boolean {
    return this.#storing.has(entry);
  }

  /**
   * Destages what the chunks of a list hold from before the fence; `conclude` adds to the last transaction and gives the
   * log's new cut. When it rejects, `unfinished` says from where on the list is dirty still.
   */
  async carryAll(
    dirty: DirtyList,
    fence: Fence,
    conclude: Conclude,
    unfinished: (from: number) => void,
  ): Promise<void> {
    let from = 0;
    try {
      do {
        from = await this.#carryGroup(dirty, from, fence, conclude);
      } while (from < dirty.chunks.length);
    } catch (error) {
      unfinished(from);
      throw error;
    }
  }

  /** Returns from where on the list is to be carried yet. */
  async #carryGroup(dirty: DirtyList, from: number, fence: Fence, conclude: Conclude) {
    const group = new CarryGroup();
    const { tasks } = group;
    let stored = 0;
    try {
      const next = await this.#writeGroup(group, dirty, from, fence);
      const isLast = next === dirty.chunks.length;
      if (tasks.length > 0 || isLast) await this.#syncAll();
      while (stored < tasks.length) {
        const end = Math.min(stored + destageTransactionChunks, tasks.length);
        await this.#storeTasks(tasks.slice(stored, end), isLast && end === tasks.length ? conclude : undefined);
        for (; stored < end; stored++) this.#taskStored(group, tasks[stored]);
        // The overlay may have room again.
        this.#head.roomFreed();
      }
      if (isLast && tasks.length === 0) await this.#storeTasks([], conclude);
      return next;
    } finally {
      for (const task of tasks.slice(stored)) this.#taskFailed(task);
    }
  }

  // --- data --------------------------------------------------------------------------------------------------------------

  async #writeGroup(group: CarryGroup, dirty: DirtyList, from: number, fence: Fence): Promise<number> {
    const window = new IoWindow();
    let next = from;
    this.#left = undefined;
    try {
      for (let turn = 0; ; turn++) {
        const piece = this.#pieces[turn % destagePieces];
        await piece.written;
        if (window.error < 0) break;
        next = this.#fill(piece, group, dirty, next, fence);
        if (piece.tasks.length === 0) break;
        await this.#gatherData(group, piece);
        await this.#writeData(group, piece, window);
      }
    } finally {
      // Buffers and slots are not let go of while the device still works on them.
      await window.drained();
    }
    const { sled } = this.#head;
    for (const { entry } of group.tasks) {
      if (entry === undefined) continue;
      sled.carried(entry.location);
      if (window.error === 0) continue;
      if (isNoSpace(window.error)) throw new DevicesFull('the file system of a device has no space left');
      sled.writeFailed(entry.location);
      throw new DestageStuck('a device cannot be written');
    }
    return next;
  }

  /** Takes chunks of the list as long as their data fits the piece and the group; returns where to go on. */
  #fill(piece: Piece, group: CarryGroup, dirty: DirtyList, from: number, fence: Fence): number {
    piece.clear();
    const left = this.#left;
    this.#left = undefined;
    if (left !== undefined) this.#addTo(piece, group, left);
    let next = from;
    while (next < dirty.chunks.length && piece.usedBytes < destagePieceUsualBytes) {
      if (group.tasks.length >= destageGroupChunks || group.blocks.length >= destageGroupBlocks) break;
      const volume = this.#head.volume(dirty.volumes[next]);
      const chunk = dirty.chunks[next];
      next++;
      const task = volume === undefined ? undefined : group.add(this.#head, volume, chunk, fence);
      if (task === undefined) continue;
      if (task.base !== undefined) this.#storing.add(task.base);
      if (!this.#addTo(piece, group, task)) {
        this.#left = task;
        break;
      }
    }
    return next;
  }

  #addTo(piece: Piece, group: CarryGroup, task: CarryTask): boolean {
    if (piece.usedBytes + group.dataCount(task) * BLOCK_BYTES > destagePieceBytes) return false;
    for (let i = task.from; i < task.to; i++) {
      const hasData = group.sums[i] !== NO_SUM;
      piece.offsets.push(hasData ? piece.usedBytes : -1);
      if (hasData) piece.usedBytes += BLOCK_BYTES;
    }
    piece.tasks.push(task);
    return true;
  }

  /** Brings the data of a piece's blocks into its buffer and checks it against its checksums. */
  async #gatherData(group: CarryGroup, piece: Piece): Promise<void> {
    const { cache, log } = this.#head;
    const { region, offsets, firstBlock } = piece;
    const gather = new Gather();
    for (const task of piece.tasks) {
      for (let i = task.from; i < task.to; i++) {
        const offset = offsets[i - firstBlock];
        if (offset < 0) continue;
        const slot = cache.peek(task.volume.number, group.blocks[i]);
        if (slot >= 0) cache.copyOut(slot, 0, BLOCK_BYTES, region.bytes, offset);
        else log.read(group.positions[i], region, offset, BLOCK_BYTES, gather.expect());
      }
    }
    if ((await gather.close()) < 0) throw new DestageStuck('the op log cannot be read');
    for (const task of piece.tasks) {
      for (let i = task.from; i < task.to; i++) {
        const offset = offsets[i - firstBlock];
        if (offset >= 0 && !this.#matches(group, i, region, offset))
          await this.#gatherAgain(group, task, i, region, offset);
      }
    }
  }

  #matches(group: CarryGroup, index: number, region: Region, offset: number): boolean {
    takeSums(this.#head.checksums, region.bytes, offset, 1, this.#sum, 0);
    return this.#sum[0] === group.sums[index];
  }

  /**
   * A copy of a block does not match its checksum: the cache may have had a newer one. The log's copy decides; where that
   * is bad too it is carried over as it is, beside the checksum that tells: one block is lost, and reads of it say so,
   * but everything else goes on.
   */
  async #gatherAgain(group: CarryGroup, task: CarryTask, index: number, region: Region, offset: number): Promise<void> {
    const position = group.positions[index];
    const read = (request: IoRequest) => this.#head.log.read(position, region, offset, BLOCK_BYTES, request);
    if ((await completion(read)) < 0) throw new DestageStuck('the op log cannot be read');
    if (this.#matches(group, index, region, offset)) return;
    this.#head.corruptionFound(task.volume, group.blocks[index], { kind: 'log', position });
  }

  /** Decides on slots and starts to write a piece's blocks, neighbours as one. `piece.written` is of all of them. */
  async #writeData(group: CarryGroup, piece: Piece, window: IoWindow): Promise<void> {
    const gather = new Gather();
    piece.written = gather.result;
    const request = window.joinedBy(gather);
    const { region, offsets, firstBlock } = piece;
    const { blocks } = group;
    try {
      for (const task of piece.tasks) {
        this.#place(group, task);
        if (task.entry === undefined) continue;
        const slot = task.entry.location - task.chunk * task.volume.blocksPerChunk;
        for (let i = task.from; i < task.to; ) {
          const offset = offsets[i - firstBlock];
          let j = i + 1;
          if (offset >= 0) {
            while (j < task.to && offsets[j - firstBlock] >= 0 && blocks[j] === blocks[j - 1] + 1) j++;
            if (window.inFlight >= this.#writesInFlight()) await window.room(this.#writesInFlight());
            window.begin();
            gather.expect();
            this.#head.sled.write((slot + blocks[i]) as Location, region, offset, (j - i) * BLOCK_BYTES, request);
          }
          i = j;
        }
      }
    } finally {
      void gather.close();
    }
  }

  /** Clients' reads queue behind these writes: there are many at a time only when clients wait for room anyway. */
  #writesInFlight(): number {
    const { log, overlay, waitingWrites } = this.#head;
    const fill = Math.max(log.usedBytes / log.limitBytes, overlay.fill);
    return waitingWrites > 0 || fill > 0.9 ? destageWritesHurried : destageWritesInFlight;
  }

  #place(group: CarryGroup, task: CarryTask): void {
    const { volume, base } = task;
    if (task.from === task.to) {
      task.entry = base;
      return;
    }
    const sums = base === undefined ? new Uint32Array(volume.blocksPerChunk) : base.sums.slice();
    const first = task.chunk * volume.blocksPerChunk;
    for (let i = task.from; i < task.to; i++) sums[group.blocks[i] - first] = group.sums[i];
    if (isEmpty(sums)) return;
    const location = base?.location ?? this.#head.slots.allocate(volume.number, volume.chunkBytes);
    if (location === undefined) throw new DevicesFull('all devices are full');
    task.entry = { op: task.op, location, sums };
  }

  // --- index -------------------------------------------------------------------------------------------------------------

  /**
   * Devices, for what the index will say of them; and the log: where a newer operation has taken the place of one below
   * the cut, it has to be as durable as that was.
   */
  async #syncAll(): Promise<void> {
    const devicesSynced = completion(request => this.#head.sled.syncAll(request)).then(result => {
      if (result < 0) throw new DestageStuck('a device cannot be synced');
    });
    // Both have ended before anything is let go of.
    const outcomes = await Promise.allSettled([devicesSynced, this.#store.logSynced()]);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  }

  async #storeTasks(tasks: readonly CarryTask[], conclude: Conclude | undefined): Promise<void> {
    const { index, slots } = this.#head;
    this.#store.refuseFailed();
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
  #taskStored(group: CarryGroup, task: CarryTask): void {
    const { overlay, slots } = this.#head;
    const { volume, chunk, base, indexed, entry } = task;
    if (base !== undefined) this.#storing.delete(base);
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
  #taskFailed(task: CarryTask): void {
    const { overlay, slots } = this.#head;
    const { volume, chunk, base, indexed, entry } = task;
    if (base !== undefined) this.#storing.delete(base);
    if (this.#store.failed) return;
    if (base === undefined) {
      if (entry !== undefined) slots.release(entry.location);
      return;
    }
    if (base.location === indexed?.location) return;
    const row = overlay.findChunk(volume.number, chunk);
    if (row < 0 || overlay.entryOf(row) !== base) slots.retire(base.location, slots.namedUntil(base.location), false);
  }
}
