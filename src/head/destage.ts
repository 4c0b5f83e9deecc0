/**
 * Carries operations from log and overlay into mass storage and index, and cuts the log behind them. It goes on in
 * steps: a step takes the oldest segments of the log and destages every chunk that has a block in them that is still the
 * newest, with all that the overlay holds of that chunk. So a chunk is written as seldom as the log's length allows.
 *
 * A step, in this order: sync the log; take out of the index what was trimmed as whole chunks; carry the chunks over
 * (`chunk-carrier.ts`), the last transaction of which moves the cut. Only then is the log trimmed.
 *
 * A crash in between leaves the log as it was: recovery plays it again over whatever the batch had done.
 *
 * Where there are several devices no step waits long for one that is ill while another is well. What lies on that one is
 * appended to the log again (`relog.ts`) instead of carried over, and goes to the device at its own pace (`late-lane.ts`); a
 * group that is being written to it when that shows is handed over. Volumes with something on such a device have a part of
 * log and overlay, and a part of the log is not for clients, so that there is always room to carry forward.
 */
import { assert } from '../base/assert.ts';
import { SledgeError } from '../base/errors.ts';
import type { CancelTimer, Clock } from '../base/io.ts';
import {
  asideShare,
  destageAgeMs,
  destageFillLow,
  destageFillStart,
  destageLooksMax,
  destagePatienceMs,
  destageRetryMs,
  destageStepSegments,
  destageStepsPerLog,
  dropAgeMs,
  namedChunksMax,
  pressingFill,
  retiredChunksMax,
} from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { RegionSource } from '../base/memory.ts';
import type { ChunkNumber, Epoch, LogPosition, OpNumber, VolumeNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { IndexTransaction } from '../index/index-store.ts';
import { writeRecordBytes } from '../oplog/record.ts';
import type { DirtyList } from '../volume/overlay.ts';
import type { Volume } from '../volume/volume.ts';
import type { Conclude, Fence } from './carry-group.ts';
import { ChunkCarrier } from './chunk-carrier.ts';
import { ChunkSet } from './chunk-set.ts';
import { DestageStore, DestageStuck, DevicesFull } from './destage-store.ts';
import type { DestageControl, Head } from './head.ts';
import { LateLane } from './late-lane.ts';
import { Pace } from './pace.ts';
import type { ChunkOf } from './relog.ts';
import { Relog } from './relog.ts';
import type { SeparateGroup } from './separate-group.ts';

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

const INDEX_REMOVALS_AT_ONCE = 1024;

export class Destage implements DestageControl {
  readonly #head: Head;
  readonly #ports: DestagePorts;
  readonly #store: DestageStore;
  #carrier: ChunkCarrier;
  readonly #pace: Pace;
  readonly #late: LateLane;
  /** Made when it is needed first: it has a buffer. */
  #relog: Relog | undefined;
  /** Blocks in the overlay of volumes with something on a device that is aside: counted now and then, and what came since. */
  #asideRows = 0;
  /** What their data takes in the log at least. */
  #asideBytes = 0;
  #running = false;
  #wanted = false;
  #stopped = false;
  #stuck = false;
  #devicesFull = false;
  #idleWaiters: (() => void)[] = [];
  #ageTimer: CancelTimer | undefined;
  #dropTimer: CancelTimer | undefined;
  /** Set while destaging is stuck, so that those who ask for haste do not start it over and over. */
  #retryTimer: CancelTimer | undefined;
  #cutWanted = 0 as LogPosition;
  steps = 0;

  constructor(ports: DestagePorts) {
    this.#ports = ports;
    this.#head = ports.head;
    this.#store = new DestageStore(ports.head, ports.epoch);
    this.#pace = new Pace(ports.clock, () => ports.head.roomFreed());
    this.#carrier = new ChunkCarrier(ports.head, this.#store, ports.regions);
    this.#late = new LateLane({
      ...ports,
      store: this.#store,
      exclusively: work => this.exclusively(work),
      roundEnded: () => this.#countAside(),
      nothingFound: () => this.#nothingLate(),
    });
  }

  committed(): void {
    if (this.#running || this.#stopped) return;
    if (this.#wanted || this.#isFull()) this.#begin();
    else this.#setAgeTimer();
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
    if (!this.#gainsRoom) return;
    this.#wanted = true;
    if (!this.#running) this.#begin();
  }

  admits(recordBytes: number): boolean {
    if (this.#stuck || this.#stopped) return true;
    const { log } = this.#head;
    if (log.usedBytes + recordBytes > this.#clientsBytes) return this.#pace.refuses();
    return this.#pace.admits(recordBytes, this.fill, log.limitBytes);
  }

  get asideHasRoom(): boolean {
    const { log, overlay } = this.#head;
    return this.#asideRows < Math.min(overlay.capacity, log.limitBytes / writeRecordBytes(1)) * asideShare;
  }

  asideTakes(rows: number): void {
    this.#asideRows += rows;
    this.#asideBytes += rows * writeRecordBytes(1);
  }

  asideRoomWanted(): void {
    this.#late.wanted();
  }

  get storageIsFull(): boolean {
    return this.#devicesFull;
  }

  takesOver(entry: ChunkEntry): boolean {
    return this.#carrier.takesOver(entry) || this.#late.takesOver(entry);
  }

  /** Destages all that was committed before the call. Rejects when it cannot go on. */
  async all(): Promise<void> {
    await this.cutAll();
    await this.#late.drained();
  }

  /** The same, but for devices that are aside: then the log's cut is behind what was committed before the call. */
  async cutAll(): Promise<void> {
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
    this.#pace.stop();
    this.#ageTimer?.();
    this.#dropTimer?.();
    this.#retryTimer?.();
    const lateStopped = this.#late.stop();
    while (this.#running) await this.#idle();
    await lateStopped;
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

  /** Of what clients may take; without what is only carried forward, since no step makes room of that. */
  get fill(): number {
    const { log, overlay } = this.#head;
    const [bytes, rows] = this.#late.isOpen ? [this.#asideBytes, this.#asideRows] : [0, 0];
    const logFill = shareOf(log.usedBytes - bytes, this.#clientsBytes - bytes);
    return Math.max(logFill, shareOf(overlay.usedRows - rows, overlay.capacity - rows));
  }

  /** Whether there is more than what would only be carried forward. */
  get #gainsRoom(): boolean {
    const { log, overlay } = this.#head;
    if (!this.#late.isOpen || log.usedBytes - this.#asideBytes > log.segmentBytes) return true;
    return overlay.usedRows - this.#asideRows > overlay.capacity / 16;
  }

  /** What the log may take of clients: where a device may be set aside some is left for what is carried forward then. */
  get #clientsBytes(): number {
    const { limitBytes, segmentBytes } = this.#head.log;
    if (this.#head.sled.deviceCount === 1) return limitBytes;
    return limitBytes - (this.#segmentsAtOnce() + 1) * segmentBytes;
  }

  #isFull(): boolean {
    const { slots } = this.#head;
    if (this.fill > destageFillStart && this.#gainsRoom) return true;
    return slots.retiredCount > retiredChunksMax || slots.namedCount > namedChunksMax || slots.isShort;
  }

  #isLow(): boolean {
    const { slots } = this.#head;
    if (this.fill > destageFillLow && this.#gainsRoom) return false;
    return slots.retiredCount <= retiredChunksMax / 2 && slots.namedCount <= namedChunksMax / 2 && !slots.isShort;
  }

  #setAgeTimer(): void {
    this.#ageTimer ??= this.#ports.clock.after(destageAgeMs, () => this.#grownOld());
  }

  /**
   * The oldest operation has waited long enough: everything that was there when the timer was set goes. But not for the sake
   * of little beside what would be carried forward each time.
   */
  #grownOld(): void {
    this.#ageTimer = undefined;
    if (!this.#gainsRoom) {
      this.#setAgeTimer();
      return;
    }
    this.#cutWanted = this.#head.log.committedEnd;
    if (!this.#running && this.#head.log.cut < this.#cutWanted) this.#begin();
  }

  #begin(work: () => Promise<void> = () => this.#run()): void {
    if (this.#stopped || this.#retryTimer !== undefined || this.#head.log.failure !== 0) return;
    this.#exclusive(work).then(
      () => {
        if (this.#stuck) this.#ports.events.recovered();
        this.#stuck = false;
        this.#devicesFull = false;
        // What was committed or asked for meanwhile found the destage running and left it at that.
        if (this.#head.log.cut < this.#head.log.committedEnd) this.committed();
      },
      (error: unknown) => {
        if (!(error instanceof DestageStuck)) throw error;
        if (!this.#stuck) this.#ports.events.stuck(error.message);
        this.#stuck = true;
        this.#devicesFull = error instanceof DevicesFull;
        // Who waits for room may have to be told that none will come.
        if (this.#devicesFull) this.#head.roomFreed();
        if (error.lasts === 'for good') {
          this.#stopped = true;
          return;
        }
        this.#retryTimer = this.#ports.clock.after(destageRetryMs, () => {
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
    this.#store.refuseFailed();
    const { log, overlay } = this.#head;
    const segment = Math.floor(log.cut / log.segmentBytes);
    const end = segment + this.#segmentsAtOnce();
    const cut = Math.min(end * log.segmentBytes, log.committedEnd) as LogPosition;
    this.#pace.stepBegan(cut - log.cut);
    // In the same moment: what is committed from now on lies behind the cut and goes into new lists.
    const dirty = overlay.takeDirty(segment, end);
    const position = log.committedEnd;
    const ops = new Map<Volume, OpNumber>();
    for (const volume of this.#head.volumes()) ops.set(volume, volume.committedOp);
    const putBack = (from: number) => overlay.putBackDirty(segment, dirty, from);
    /** What the step leaves out. */
    let late: ChunkSet | undefined;
    try {
      await this.#store.logSynced();
      await this.#carryDrops();
      if (this.#late.isOpen) late = await this.#carryForward(dirty, cut);
    } catch (error) {
      putBack(0);
      throw error;
    }
    const conclude = (transaction: IndexTransaction) => {
      for (const [volume, lastOp] of ops) {
        if (volume.state === 'present' && lastOp !== volume.storedOp) transaction.putVolume(volume.toEntry(lastOp));
      }
      return cut;
    };
    const fence = { cut, position, ops, late };
    if (!(await this.#carry(dirty, fence, conclude, putBack))) {
      // What is in the way is left out when it is tried again.
      this.#wanted = true;
      return;
    }
    for (const [volume, lastOp] of ops) volume.storedOp = lastOp;
    this.#pace.stepEnded();
    log.trim(cut);
    this.#head.slots.cutPassed(cut);
    this.steps++;
    if (this.#late.isOpen) this.#countAside();
    if (late !== undefined) this.#late.wanted();
  }

  /** False where a part was handed over to the lane for what is late: nothing was concluded, and the rest is dirty still. */
  async #carry(dirty: DirtyList, fence: Fence, conclude: Conclude, putBack: (from: number) => void): Promise<boolean> {
    if (this.#head.sled.deviceCount === 1) {
      await this.#carrier.carryAll(dirty, fence, conclude, putBack);
      return true;
    }
    // Where one device may hold up another a group is no larger than what can be handed over.
    let from = 0;
    try {
      do {
        const carrier = this.#carrier;
        const group = await carrier.begin(dirty, from, fence);
        const landed = carrier.land(group);
        if (await this.#handedOver(carrier, group, landed)) {
          putBack(from);
          return false;
        }
        try {
          await landed;
          await carrier.finish(group, group.next === dirty.chunks.length ? conclude : undefined);
        } catch (error) {
          carrier.abandon(group);
          throw error;
        }
        from = group.next;
      } while (from < dirty.chunks.length);
    } catch (error) {
      putBack(from);
      throw error;
    }
    return true;
  }

  /** Waits for what a group writes, but not for a device that is ill while others are well. */
  async #handedOver(carrier: ChunkCarrier, group: SeparateGroup, landed: Promise<void>): Promise<boolean> {
    let hasLanded = false;
    const done = () => {
      hasLanded = true;
    };
    const ended = landed.then(done, done);
    for (let looks = 1; ; looks++) {
      let cancel: CancelTimer = () => {};
      const patience = new Promise<void>(resolve => {
        cancel = this.#ports.clock.after(destagePatienceMs, resolve);
      });
      await Promise.race([ended, patience]);
      cancel();
      if (hasLanded || this.#stopped) return false;
      const { sled } = this.#head;
      const { busyDevices } = group.landing;
      if (looks >= destageLooksMax && this.fill > pressingFill) sled.holdsUpOthers(busyDevices);
      if (!sled.judgeStalled(busyDevices)) continue;
      const spare = this.#late.adopt(carrier, group, landed);
      if (spare === undefined) continue;
      this.#carrier = spare;
      return true;
    }
  }

  /**
   * What of the list is on devices that are aside is appended to the log again, so that the step goes on without them. Where
   * the log has no room for that, it has to wait for them.
   */
  async #carryForward(dirty: DirtyList, cut: LogPosition): Promise<ChunkSet | undefined> {
    const late = new ChunkSet();
    const chunks: ChunkOf[] = [];
    for (let i = 0; i < dirty.chunks.length; i++) {
      const volume = this.#head.volume(dirty.volumes[i]);
      const chunk = dirty.chunks[i];
      if (volume === undefined || late.has(volume, chunk) || !this.#late.isLate(volume, chunk)) continue;
      chunks.push({ volume, chunk });
      late.add(volume, chunk);
    }
    if (chunks.length === 0) return undefined;
    this.#relog ??= new Relog(this.#head, this.#ports.regions, (...move) => this.#late.moved(...move));
    if (await this.#relog.forward(chunks, cut)) return late;
    if (!this.#late.isUnderWay) return undefined;
    throw new DestageStuck('the op log is full of what a device takes its time for');
  }

  /**
   * Who waits for the part that is there for volumes with something aside may wait for what they have on other devices. A
   * step for those who have nothing there would only carry forward, and end where it began.
   */
  #nothingLate(): void {
    this.#countAside();
    if (this.#head.waitingAsideWrites === 0 || this.#stopped || !this.#asideHasOthers()) return;
    this.#wanted = true;
    if (!this.#running) this.#begin();
  }

  #countAside(): void {
    const { slots, overlay } = this.#head;
    const volumes = new Set<VolumeNumber>();
    for (const { number } of this.#head.volumes()) if (slots.liesAside(number)) volumes.add(number);
    const { rows, withData } = volumes.size === 0 ? { rows: 0, withData: 0 } : overlay.blocksOf(volumes);
    this.#asideRows = rows;
    this.#asideBytes = withData * writeRecordBytes(1);
    this.#head.roomFreed();
  }

  /** Whether volumes with something on a device that is aside have anything in the overlay that a step would not leave out. */
  #asideHasOthers(): boolean {
    const { overlay, slots } = this.#head;
    let found = false;
    for (const volume of this.#head.volumes()) {
      if (!slots.liesAside(volume.number)) continue;
      overlay.forChunks(volume.number, 0, Number.POSITIVE_INFINITY, chunk => {
        found ||= !this.#late.isLate(volume, chunk);
      });
    }
    return found;
  }

  /** Syncs are dear, so a step takes as much as a large log can spare; a small one is cut in small steps. */
  #segmentsAtOnce(): number {
    const { log } = this.#head;
    const segments = Math.floor(log.limitBytes / log.segmentBytes / destageStepsPerLog);
    return Math.max(1, Math.min(segments, destageStepSegments));
  }

  /** Takes out of the index what was trimmed or zeroed as whole chunks. */
  async #carryDrops(): Promise<void> {
    for (const volume of [...this.#head.volumes()]) {
      if (!volume.hasDropped || volume.state !== 'present') continue;
      const ranges = [...volume.beginDropping().ranges()];
      // Operations that were committed meanwhile are in the log, but perhaps not synced.
      await this.#store.logSynced();
      for (const [start, end] of ranges) {
        for (let from = start; from < end; ) from = await this.removeIndexed(volume, from, end);
      }
      volume.endDropping();
    }
  }

  /** Removes some of the index entries of chunks [from, end); returns from where to go on. */
  async removeIndexed(volume: Volume, from: number, end: number): Promise<number> {
    const { index, overlay, slots } = this.#head;
    this.#store.refuseFailed();
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
    await this.#store.commit(transaction);
    for (const [chunk, location] of removed) {
      volume.indexChanged(chunk, undefined);
      slots.retire(location, slots.namedUntil(location), true);
    }
    return next;
  }
}

/** 0 to 1, where nothing may be left of the whole. */
function shareOf(part: number, whole: number): number {
  return whole <= 0 ? 1 : Math.max(0, Math.min(1, part / whole));
}
