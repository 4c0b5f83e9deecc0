/**
 * Carries operations from log and overlay into mass storage and index, and cuts the log behind them. It goes on in
 * steps: a step takes the oldest segment of the log and destages, in batches, every chunk that has an operation in it,
 * with all that the overlay holds of that chunk. So a chunk is written as seldom as the log's length allows.
 *
 * A batch, in this order, each part finished before the next begins:
 *   1. look up the chunks, bring the data of their blocks together from cache and log, check it
 *   2. sync the log: nothing is rewritten in place that the log does not hold for good
 *   3. write blocks to their slots; chunks that have none get one
 *   4. sync the devices
 *   5. one index transaction, durable when it completes
 *   6. take out of the overlay what has not changed since; retire slots that were replaced
 * A step ends with a transaction that moves the cut, and only then is the log trimmed.
 *
 * A crash in between leaves the log as it was: recovery plays it again over whatever the batch had done.
 */
import { assert } from '../base/assert.ts';
import { NO_SUM, takeSums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { CancelTimer, Clock, IoRequest } from '../base/io.ts';
import { completion, Gather, IoWindow } from '../base/io-wait.ts';
import {
  destageAgeMs,
  destageBatchBytes,
  destageBatchChunks,
  destageFillLow,
  destageFillStart,
  destageWritesInFlight,
  dropAgeMs,
  namedChunksMax,
  retiredChunksMax,
} from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import type { BlockNumber, ChunkNumber, Epoch, LogPosition, OpNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import { isEmpty } from '../index/chunk-entry.ts';
import type { IndexTransaction } from '../index/index-store.ts';
import type { DirtyList } from '../volume/overlay.ts';
import type { Volume } from '../volume/volume.ts';
import type { DestageControl, Head } from './head.ts';

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

export interface DestageEvents {
  /** Destaging cannot go on, and why; it is tried again later. */
  stuck(why: string): void;
  /** It goes on again. */
  recovered(): void;
}

export interface DestagePorts {
  readonly head: Head;
  readonly clock: Clock;
  readonly regions: RegionSource;
  readonly events: DestageEvents;
  readonly epoch: Epoch;
}

const RETRY_MS = 1000;
/** One reads and writes while the other one's devices and index are synced. */
const BATCHES_AT_ONCE = 2;
const INDEX_REMOVALS_AT_ONCE = 1024;

export class Destage implements DestageControl {
  readonly #head: Head;
  readonly #ports: DestagePorts;
  readonly #buffers: readonly Region[];
  /** Entries, and overlay rows of the chunks, of the batches that are under way. */
  readonly #storing = new Set<ChunkEntry>();
  readonly #inHand = new Set<number>();
  readonly #sum = new Uint32Array(1);
  #running = false;
  #wanted = false;
  #stopped = false;
  #stuck = false;
  #idleWaiters: (() => void)[] = [];
  #ageTimer: CancelTimer | undefined;
  #dropTimer: CancelTimer | undefined;
  /** Set while destaging is stuck, so that those who ask for haste do not start it over and over. */
  #retryTimer: CancelTimer | undefined;
  #indexFailed = false;
  #cutWanted = 0 as LogPosition;
  steps = 0;

  constructor(ports: DestagePorts) {
    this.#ports = ports;
    this.#head = ports.head;
    this.#buffers = Array.from({ length: BATCHES_AT_ONCE }, () => ports.regions.allocate(destageBatchBytes));
  }

  committed(): void {
    if (this.#running || this.#stopped) return;
    if (this.#wanted || this.#isFull()) this.#begin();
    else this.#ageTimer ??= this.#ports.clock.after(destageAgeMs, () => this.#grownOld());
  }

  /** Whole chunks were trimmed or zeroed: their slots are given up soon, without waiting for a step. */
  dropped(): void {
    if (this.#stopped) return;
    this.#dropTimer ??= this.#ports.clock.after(dropAgeMs, () => {
      this.#dropTimer = undefined;
      if (this.#running) this.dropped();
      else this.#begin(() => this.#carryDrops());
    });
  }

  hurry(): void {
    this.#wanted = true;
    if (!this.#running) this.#begin();
  }

  isStoring(entry: ChunkEntry): boolean {
    return this.#storing.has(entry);
  }

  /** Destages all that was committed before the call. Rejects when it cannot go on. */
  async all(): Promise<void> {
    const target = this.#head.log.committedEnd;
    try {
      while (this.#head.log.cut < target) {
        if (this.#running) {
          await this.#idle();
          continue;
        }
        this.#refuseWhenStopped();
        await this.#exclusive(() => this.#step());
      }
    } finally {
      // Who asked for haste meanwhile found a destage running and left it at that.
      if (this.#head.log.cut < this.#head.log.committedEnd) this.committed();
    }
  }

  /** Begins nothing new; resolves when what is under way has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#ageTimer?.();
    this.#dropTimer?.();
    this.#retryTimer?.();
    while (this.#running) await this.#idle();
  }

  /** Runs `work` while no destage runs: changes of the index that are not destage. */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    while (this.#running) await this.#idle();
    this.#refuseWhenStopped();
    try {
      return await this.#exclusive(work);
    } finally {
      this.committed();
    }
  }

  /** What this destage works on is closed soon. */
  #refuseWhenStopped(): void {
    if (this.#stopped) throw new SledgeError('shutting-down', 'the destage has stopped');
  }

  // --- when --------------------------------------------------------------------------------------------------------------

  #isFull(): boolean {
    const { log, overlay, slots } = this.#head;
    if (log.usedBytes > log.limitBytes * destageFillStart || overlay.fill > destageFillStart) return true;
    return slots.retiredCount > retiredChunksMax || slots.namedCount > namedChunksMax || slots.isShort;
  }

  #isLow(): boolean {
    const { log, overlay, slots } = this.#head;
    if (log.usedBytes > log.limitBytes * destageFillLow || overlay.fill > destageFillLow) return false;
    return slots.retiredCount <= retiredChunksMax / 2 && slots.namedCount <= namedChunksMax / 2 && !slots.isShort;
  }

  /** The oldest operation has waited long enough: everything that was there when the timer was set goes. */
  #grownOld(): void {
    this.#ageTimer = undefined;
    this.#cutWanted = this.#head.log.committedEnd;
    if (!this.#running && this.#head.log.cut < this.#cutWanted) this.#begin();
  }

  #begin(work: () => Promise<void> = () => this.#run()): void {
    if (this.#stopped || this.#retryTimer !== undefined || this.#head.log.failure !== 0) return;
    this.#exclusive(work).then(
      () => {
        if (this.#stuck) this.#ports.events.recovered();
        this.#stuck = false;
        // What was committed or asked for meanwhile found the destage running and left it at that.
        if (this.#head.log.cut < this.#head.log.committedEnd) this.committed();
      },
      (error: unknown) => {
        if (!(error instanceof DestageStuck)) throw error;
        if (!this.#stuck) this.#ports.events.stuck(error.message);
        this.#stuck = true;
        if (error.lasts === 'for good') {
          this.#stopped = true;
          return;
        }
        this.#retryTimer = this.#ports.clock.after(RETRY_MS, () => {
          this.#retryTimer = undefined;
          if (!this.#running) this.#begin();
        });
      },
    );
  }

  async #run(): Promise<void> {
    // Between steps whoever waits for its turn gets it; what is left is begun again afterwards.
    while (!this.#stopped && this.#idleWaiters.length === 0) {
      const wanted = this.#wanted || this.#head.log.cut < this.#cutWanted || !this.#isLow();
      if (!wanted || this.#head.log.cut === this.#head.log.committedEnd) return;
      this.#wanted = false;
      await this.#step();
    }
  }

  #idle(): Promise<void> {
    return new Promise(resolve => this.#idleWaiters.push(resolve));
  }

  async #exclusive<T>(work: () => Promise<T>): Promise<T> {
    assert(!this.#running, 'one destage at a time');
    this.#running = true;
    try {
      return await work();
    } finally {
      this.#running = false;
      const waiters = this.#idleWaiters;
      this.#idleWaiters = [];
      for (const resolve of waiters) resolve();
    }
  }

  // --- a step ------------------------------------------------------------------------------------------------------------

  async #step(): Promise<void> {
    this.#refuseFailedIndex();
    const { log } = this.#head;
    const segment = Math.floor(log.cut / log.segmentBytes);
    const segmentEnd = (segment + 1) * log.segmentBytes;
    const cut = Math.min(segmentEnd, log.committedEnd) as LogPosition;
    // In the same moment: what is committed from now on lies behind the cut and goes into a new list.
    const dirty = this.#head.overlay.takeDirty(segment);
    const lastOps = new Map<Volume, OpNumber>();
    for (const volume of this.#head.volumes()) {
      if (volume.committedOp !== volume.storedOp) lastOps.set(volume, volume.committedOp);
    }
    await this.#carryChunks(segment, dirty);
    // Where a newer operation has taken the place of one below the cut, it has to be as durable as that was.
    await this.#logSynced();
    const transaction = this.#head.index.begin();
    for (const [volume, lastOp] of lastOps) {
      if (volume.state === 'present') transaction.putVolume(volume.toEntry(lastOp));
    }
    transaction.putState({ cut, epoch: this.#ports.epoch, since: log.beginning });
    await this.#commit(transaction);
    for (const [volume, lastOp] of lastOps) volume.storedOp = lastOp;
    log.trim(cut);
    this.#head.slots.cutPassed(cut);
    this.steps++;
  }

  /** Carries drops, then the chunks of a segment's list, in batches of which two are under way at a time. */
  async #carryChunks(segment: number, dirty: DirtyList): Promise<void> {
    const { overlay } = this.#head;
    const running: { readonly from: number; readonly carried: Promise<void> }[] = [];
    let from = 0;
    try {
      await this.#logSynced();
      await this.#carryDrops();
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
      // What is left of the list is dirty still; chunks that were carried are not met again.
      const since = overlay.takeDirty(segment);
      overlay.putBackDirty(segment, dirty, running[0]?.from ?? from, since);
      throw error;
    }
  }

  async #logSynced(): Promise<void> {
    if ((await this.#head.flush()) !== 0) throw new DestageStuck('the op log cannot be synced');
  }

  /** To be called before slots are marked for a transaction: marks of one that is never made would stay. */
  #refuseFailedIndex(): void {
    if (this.#indexFailed) throw new DestageStuck('the index could not be written', 'for good');
  }

  async #commit(transaction: IndexTransaction): Promise<void> {
    this.#refuseFailedIndex();
    this.#head.slots.store(transaction);
    const result = await completion(request => transaction.commit(request));
    if (result >= 0) return;
    this.#indexFailed = true;
    throw new DestageStuck(`the index cannot be written: ${errnoName(result)}`, 'for good');
  }

  /** Takes out of the index what was trimmed or zeroed as whole chunks. */
  async #carryDrops(): Promise<void> {
    for (const volume of [...this.#head.volumes()]) {
      if (!volume.hasDropped || volume.state !== 'present') continue;
      const ranges = [...volume.beginDropping().ranges()];
      // Operations that were committed meanwhile are in the log, but perhaps not synced.
      await this.#logSynced();
      for (const [start, end] of ranges) {
        for (let from = start; from < end; ) from = await this.removeIndexed(volume, from, end);
      }
      volume.endDropping();
    }
  }

  /** Removes some of the index entries of chunks [from, end); returns from where to go on. */
  async removeIndexed(volume: Volume, from: number, end: number): Promise<number> {
    const { index, overlay, slots } = this.#head;
    this.#refuseFailedIndex();
    const transaction = index.begin();
    const removed: [ChunkNumber, Location][] = [];
    let next = end;
    let seen = 0;
    for (const [number, entry] of index.chunks(volume.number, from, end, INDEX_REMOVALS_AT_ONCE)) {
      if (++seen === INDEX_REMOVALS_AT_ONCE) next = number + 1;
      const chunk = number as ChunkNumber;
      // After a crash the log may name again what the index has already: that entry is newer than the drop.
      const row = overlay.findChunk(volume.number, chunk);
      if (row >= 0 && overlay.entryOf(row)?.location === entry.location) continue;
      transaction.removeChunk(volume.number, chunk);
      slots.unmarkIndexed(entry.location);
      removed.push([chunk, entry.location]);
    }
    if (removed.length === 0) return next;
    await this.#commit(transaction);
    for (const [chunk, location] of removed) {
      volume.indexChanged(chunk, undefined);
      slots.retire(location, slots.namedUntil(location), true);
    }
    return next;
  }

  // --- a batch -----------------------------------------------------------------------------------------------------------

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
      await this.#logSynced();
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
        else if (!this.#indexFailed) this.#taskFailed(task);
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
    this.#refuseFailedIndex();
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
    await this.#commit(transaction);
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

/** Destaging cannot go on; nothing is lost, the log still holds it all. */
class DestageStuck extends Error {
  override readonly name = 'DestageStuck';
  readonly lasts: 'for now' | 'for good';

  constructor(message: string, lasts: 'for now' | 'for good' = 'for now') {
    super(message);
    this.lasts = lasts;
  }
}
