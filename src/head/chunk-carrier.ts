/**
 * Carries chunks of the overlay into mass storage and index. The destage says which and when, and has synced the log up
 * to a fence before: nothing behind the fence is touched.
 *
 * A group of chunks, in this order, each part finished before the next begins:
 *   1. piece by piece: look up the chunks, bring the data of their blocks together from cache and log, check it, write
 *      it to the slots; chunks that have none get one
 *   2. sync the devices that were written to, and the log, for what has taken the place of operations meanwhile (and for
 *      the data of chunks that were written as a whole: it is as durable as the records that name it)
 *   3. index transactions, each durable when it completes; the last one of a step moves the log's cut, too (carry-store.ts)
 *
 * A group is as large as memory allows, because syncs are what is dear: a disk that has to empty its cache lets nobody
 * else in meanwhile. Pieces and transactions are small, and gone through in slices, because the loop serves nobody meanwhile.
 *
 * Invariants:
 * - One group at a time; its data is written a bounded number of blocks at a time.
 * - Data that does not match its checksum is never written over a block of the slot that does.
 * - While a group is under way, entries that it may make the index refer to are known (`takesOver`), so that nobody
 *   else retires their slots.
 */
import { isNoSpace } from '../base/errno.ts';
import type { IoRequest } from '../base/io.ts';
import { completion, Gather, nextTurn, Slices } from '../base/io-wait.ts';
import {
  destageGroupBlocks,
  destageGroupChunks,
  destagePieceBytes,
  destagePieces,
  destagePieceUsualBytes,
  destageSliceLength,
  destageTransactionChunks,
  destageWritesHurried,
  destageWritesInFlight,
} from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import { locationDevice } from '../base/location.ts';
import type { RegionSource } from '../base/memory.ts';
import type { BlockNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import { isEmpty } from '../index/chunk-entry.ts';
import type { DirtyList } from '../volume/overlay.ts';
import { BlockSource } from './block-source.ts';
import type { CarryTask, Conclude, Fence } from './carry-group.ts';
import { CarryGroup } from './carry-group.ts';
import { CarryPiece } from './carry-piece.ts';
import { CarryStore } from './carry-store.ts';
import type { DestageStore } from './destage-store.ts';
import { DestageStuck, DevicesFull } from './destage-store.ts';
import type { Head } from './head.ts';
import { Landing } from './landing.ts';
import { SeparateGroup } from './separate-group.ts';

export class ChunkCarrier {
  readonly #head: Head;
  readonly #logSynced: () => Promise<void>;
  readonly #store: CarryStore;
  readonly #source: BlockSource;
  readonly #pieces: readonly CarryPiece[];
  readonly #slices = new Slices(destageSliceLength);
  readonly #storing = new Set<ChunkEntry>();
  /** A task that found no room in the last piece. */
  #left: CarryTask | undefined;
  #separate: SeparateGroup | undefined;

  constructor(head: Head, store: DestageStore, regions: RegionSource) {
    this.#head = head;
    this.#logSynced = () => store.logSynced();
    this.#store = new CarryStore(head, store);
    this.#source = new BlockSource(head);
    this.#pieces = Array.from({ length: destagePieces }, () => new CarryPiece(regions.allocate(destagePieceBytes)));
  }

  /**
   * The overlay lets go of an entry: whether a group that is under way may make the index refer to it, so that its slot
   * is left to that.
   */
  takesOver(entry: ChunkEntry): boolean {
    if (!this.#storing.has(entry)) return false;
    this.#separate?.orphans.add(entry);
    return true;
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
      const landing = new Landing();
      const next = await this.#writeGroup(group, dirty, from, fence, landing);
      const isLast = next === dirty.chunks.length;
      if (tasks.length > 0 || isLast) await this.#sync(landing);
      while (stored < tasks.length) {
        const due = tasks.slice(stored, stored + destageTransactionChunks);
        const isEnd = stored + due.length === tasks.length;
        await this.#store.commit(due, isLast && isEnd ? conclude : undefined);
        await this.#allStored(group, due);
        stored += due.length;
      }
      if (isLast && tasks.length === 0) await this.#store.commit([], conclude);
      return next;
    } finally {
      for (const task of tasks.slice(stored)) this.#taskFailed(task);
    }
  }

  // --- one group, with others destaging beside it ------------------------------------------------------------------------

  /**
   * The same in three parts, for where a device may take its time. Nobody else destages during `begin` and `finish`, others
   * may during `land`: so all that is needed is in memory and has its place before, the slots are pinned, and what has been
   * overtaken by then is found out afterwards. Of a list, from `from` on, as much as memory is there for. Each part rejects
   * with `DestageStuck`; after `land` or `finish` has, `abandon` is due. Chunks that cannot be written do not keep the others
   * of their group from being carried: `finish` rejects when those are. Only where nobody else has destaged since `begin` may
   * it conclude a step: then all that was taken is stored, whatever has been written since.
   */
  async begin(dirty: DirtyList, from: number, fence: Fence): Promise<SeparateGroup> {
    const group = new SeparateGroup();
    this.#left = undefined;
    let next = from;
    try {
      for (const piece of this.#pieces) {
        next = await this.#fill(piece, group, dirty, next, fence, destagePieceBytes);
        if (piece.tasks.length > 0) await this.#gatherData(group, piece);
      }
      if (this.#left !== undefined) {
        // It is on no piece.
        this.#taskFailed(group.tasks.pop()!);
        next--;
      }
      for (const task of group.tasks) this.#place(group, task);
    } catch (error) {
      for (const task of group.tasks) this.#taskFailed(task);
      throw error;
    }
    for (const task of group.tasks) if (this.#store.isOrphaned(task)) group.orphans.add(task.base!);
    group.close(next, this.#head.slots);
    this.#separate = group;
    return group;
  }

  async land(group: SeparateGroup): Promise<void> {
    const { landing } = group;
    try {
      for (const piece of this.#pieces) if (piece.tasks.length > 0) await this.#writeData(group, piece, landing);
    } finally {
      await landing.window.drained();
    }
    group.failure = this.#judge(landing);
    if (group.failure !== undefined) this.#dropUnwritten(group);
    await this.#sync(landing);
    for (const device of landing.devices) if (!landing.hasFailed(device)) this.#head.sled.writeSucceeded(device);
  }

  #dropUnwritten(group: SeparateGroup): void {
    const { tasks, landing } = group;
    for (const task of tasks.splice(0)) {
      if (task.entry === undefined || !landing.failed.has(task.entry.location)) tasks.push(task);
      else this.#drop(task, group);
    }
  }

  async finish(group: SeparateGroup, conclude?: Conclude): Promise<void> {
    await this.#logSynced();
    do {
      const due: CarryTask[] = [];
      for (const task of group.tasks.splice(0, destageTransactionChunks)) {
        if (group.isBesideOthers && this.#isOvertaken(task, group)) this.#drop(task, group);
        else due.push({ ...task, indexed: task.volume.lookupIndexed(task.chunk) });
      }
      const conclusion = group.tasks.length === 0 && group.failure === undefined ? conclude : undefined;
      try {
        if (due.length > 0 || conclusion !== undefined) await this.#store.commit(due, conclusion);
      } catch (error) {
        group.tasks.unshift(...due);
        throw error;
      }
      await this.#allStored(group, due);
    } while (group.tasks.length > 0);
    this.#end(group);
    if (group.failure !== undefined) throw group.failure;
  }

  /** Nothing of what is left of it is carried. */
  abandon(group: SeparateGroup): void {
    for (const task of group.tasks.splice(0)) this.#drop(task, group);
    this.#end(group);
  }

  #end(group: SeparateGroup): void {
    group.unpin(this.#head.slots);
    this.#separate = undefined;
  }

  /**
   * Whether the chunk was dropped or is elsewhere by now: what was written to its slot is nobody's any more. (Blocks that
   * were written meanwhile are in the overlay still, and newer there.)
   */
  #isOvertaken({ volume, chunk, base, from, to }: CarryTask, { blocks }: CarryGroup): boolean {
    if (this.#head.volume(volume.number) !== volume || volume.isDropPending(chunk)) return true;
    if (volume.locationOf(chunk) !== base?.location) return true;
    for (let i = from; i < to; i++) if (this.#head.overlay.findBlock(volume.number, blocks[i]) < 0) return true;
    return false;
  }

  /** A task that is not carried. Others may have destaged meanwhile: only what is nobody else's business is undone. */
  #drop({ base, entry }: CarryTask, { orphans }: SeparateGroup): void {
    const { slots } = this.#head;
    if (base !== undefined) this.#storing.delete(base);
    if (this.#store.hasFailed) return;
    if (base === undefined && entry !== undefined) slots.release(entry.location);
    if (base !== undefined && orphans.has(base)) {
      slots.retire(base.location, slots.namedUntil(base.location), false);
    }
  }

  /** The index has them. */
  async #allStored(group: CarryGroup, tasks: readonly CarryTask[]): Promise<void> {
    for (const task of tasks) {
      this.#taskStored(group, task);
      if (this.#slices.isOver(1 + task.to - task.from)) await nextTurn(this.#head.turns);
    }
    // The overlay may have room again.
    this.#head.roomFreed();
  }

  #taskStored(group: CarryGroup, task: CarryTask): void {
    if (task.base !== undefined) this.#storing.delete(task.base);
    this.#store.stored(group, task);
  }

  #taskFailed(task: CarryTask): void {
    if (task.base !== undefined) this.#storing.delete(task.base);
    this.#store.failed(task);
  }

  // --- data --------------------------------------------------------------------------------------------------------------

  async #writeGroup(
    group: CarryGroup,
    dirty: DirtyList,
    from: number,
    fence: Fence,
    landing: Landing,
  ): Promise<number> {
    const { window } = landing;
    let next = from;
    this.#left = undefined;
    try {
      for (let turn = 0; ; turn++) {
        const piece = this.#pieces[turn % destagePieces];
        await piece.written;
        if (window.error < 0) break;
        next = await this.#fill(piece, group, dirty, next, fence);
        if (piece.tasks.length === 0) break;
        await this.#gatherData(group, piece);
        for (const task of piece.tasks) this.#place(group, task);
        await this.#writeData(group, piece, landing);
      }
    } finally {
      // Buffers and slots are not let go of while the device still works on them.
      await window.drained();
    }
    const failure = this.#judge(landing);
    if (failure !== undefined) throw failure;
    return next;
  }

  /** The writes of a group have ended: what is wrong, if anything. */
  #judge({ failed }: Landing): DestageStuck | undefined {
    if (failed.size === 0) return undefined;
    const broken = [...failed].filter(([, errno]) => !isNoSpace(errno));
    if (broken.length === 0) return new DevicesFull('the file system of a device has no space left');
    for (const [location] of broken) this.#head.sled.writeFailed(location);
    return new DestageStuck('a device cannot be written');
  }

  /**
   * Takes chunks of the list as long as their data fits the piece and the group; returns where to go on. Long lists have
   * many chunks of which nothing is to be carried any more.
   */
  async #fill(
    piece: CarryPiece,
    group: CarryGroup,
    dirty: DirtyList,
    from: number,
    fence: Fence,
    usualBytes = destagePieceUsualBytes,
  ): Promise<number> {
    piece.clear();
    const left = this.#left;
    this.#left = undefined;
    if (left !== undefined) piece.add(group, left);
    let next = from;
    let steps = 0;
    while (next < dirty.chunks.length && piece.usedBytes < usualBytes) {
      if (group.tasks.length >= destageGroupChunks || group.blocks.length >= destageGroupBlocks) break;
      // Not between a chunk's look-up and where it is known that its entry is being stored.
      if (this.#slices.isOver(steps)) await nextTurn(this.#head.turns);
      const volume = this.#head.volume(dirty.volumes[next]);
      const chunk = dirty.chunks[next];
      next++;
      const task = volume === undefined ? undefined : group.add(this.#head, volume, chunk, fence);
      steps = task === undefined ? 1 : 1 + task.to - task.from;
      if (task === undefined) continue;
      if (task.base !== undefined) this.#storing.add(task.base);
      if (!piece.add(group, task)) {
        this.#left = task;
        break;
      }
    }
    return next;
  }

  /** Brings the data of a piece's blocks into its buffer and checks it against its checksums. */
  async #gatherData(group: CarryGroup, piece: CarryPiece): Promise<void> {
    const { region, tasks, offsets, firstBlock } = piece;
    const gather = new Gather();
    for (const task of tasks) {
      for (let i = task.from; i < task.to; i++) {
        const offset = offsets[i - firstBlock];
        if (offset < 0) continue;
        this.#source.fetch(task.volume.number, group.blocks[i], group.positions[i], region, offset, gather);
        if (this.#slices.isOver(1)) await nextTurn(this.#head.turns);
      }
    }
    await this.#source.fetched(gather);
    for (const task of tasks) {
      for (let i = task.from; i < task.to; i++) {
        const offset = offsets[i - firstBlock];
        if (offset >= 0 && !this.#source.matches(group.sums[i], region, offset))
          await this.#gatherAgain(group, piece, task, i);
      }
    }
  }

  /**
   * Where the log's copy is bad, too, its slot may have the block already, from a step before: a chunk is carried with all
   * that it has, but the log is cut only as far as the step went. Then nothing is written over it. Otherwise the block is
   * carried over as it is, beside the checksum that tells: it is lost, and reads of it say so, but everything else goes on.
   */
  async #gatherAgain(group: CarryGroup, { region, offsets, firstBlock }: CarryPiece, task: CarryTask, index: number) {
    const position = group.positions[index];
    const sum = group.sums[index];
    if (await this.#source.fetchAgain(position, sum, region, offsets[index - firstBlock])) return;
    if (hasInPlace(task, group.blocks[index], sum)) offsets[index - firstBlock] = -1;
    else this.#head.corruptionFound(task.volume, group.blocks[index], { kind: 'log', position });
  }

  /** Starts to write a piece's blocks to their slots, neighbours as one. `piece.written` is of all of them. */
  async #writeData(group: CarryGroup, piece: CarryPiece, landing: Landing): Promise<void> {
    const gather = new Gather();
    piece.written = gather.result;
    const { window } = landing;
    const { region, offsets, firstBlock } = piece;
    const { blocks } = group;
    try {
      for (const task of piece.tasks) {
        if (landing.isStopped) throw new DestageStuck('the server stops');
        if (task.entry === undefined || task.from === task.to) continue;
        const { location } = task.entry;
        const slot = location - task.chunk * task.volume.blocksPerChunk;
        const request = this.#requestFor(location, gather, landing);
        for (let i = task.from; i < task.to; ) {
          const offset = offsets[i - firstBlock];
          let j = i + 1;
          if (offset >= 0) {
            while (j < task.to && offsets[j - firstBlock] >= 0 && blocks[j] === blocks[j - 1] + 1) j++;
            if (window.inFlight >= this.#writesInFlight()) await window.room(this.#writesInFlight());
            window.begin();
            gather.expect();
            request.begin();
            this.#head.sled.write((slot + blocks[i]) as Location, region, offset, (j - i) * BLOCK_BYTES, request);
            if (this.#slices.isOver(1)) await nextTurn(this.#head.turns);
          }
          i = j;
        }
      }
    } finally {
      void gather.close();
    }
  }

  /** What the writes of a chunk are started with, each after a call of `begin`. */
  #requestFor(location: Location, gather: Gather, landing: Landing): IoRequest & { begin(): void } {
    const { sled } = this.#head;
    const device = sled.device(locationDevice(location));
    const request = landing.window.joinedBy(gather);
    let begunMs = 0;
    return {
      begin: () => {
        begunMs = sled.carryBegins(device);
        landing.begins(device);
      },
      ioCompleted: result => {
        sled.carryEnded(device, begunMs);
        landing.ended(device);
        if (result < 0) landing.failed.set(location, result);
        request.ioCompleted(result);
      },
    };
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

  // --- durability --------------------------------------------------------------------------------------------------------

  /** All have ended before anything is let go of. */
  async #sync(landing: Landing): Promise<void> {
    const devicesSynced = [...landing.devices].map(async device => {
      landing.begins(device);
      const result = await completion(request => this.#head.sled.syncDevices([device], request));
      landing.ended(device);
      if (result < 0) throw new DestageStuck('a device cannot be synced');
    });
    const outcomes = await Promise.allSettled([...devicesSynced, this.#logSynced()]);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  }
}

/** Whether the slot that a task writes to has this content of the block, as far as is known of it. */
function hasInPlace({ volume, chunk, base, indexed }: CarryTask, block: BlockNumber, sum: number): boolean {
  // Of one slot the index knows more: recovery enters it once more as it was when the log named it.
  const known = indexed?.location === base?.location ? indexed : base;
  return known?.sums[block - chunk * volume.blocksPerChunk] === sum;
}
