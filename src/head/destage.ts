/**
 * Carries operations from log and overlay into mass storage and index, and cuts the log behind them. What is done is a step
 * (`destage-step.ts`); here stands when: steps follow one another while log or overlay are full, or their oldest operation
 * has waited long enough, or somebody asks for haste. One at a time, and beside other changes of the index none.
 *
 * Volumes with something on a device that is aside have a part of log and overlay, and where there are several devices a part
 * of the log is not for clients, so that there is always room to carry forward.
 */
import { assert } from '../base/assert.ts';
import { SledgeError } from '../base/errors.ts';
import type { CancelTimer, Clock } from '../base/io.ts';
import {
  asideShare,
  destageAgeMs,
  destageFillLow,
  destageFillStart,
  destageRetryMs,
  dropAgeMs,
  fillWithRoom,
  namedChunksMax,
  pressingFill,
  retiredChunksMax,
} from '../base/limits.ts';
import type { RegionSource } from '../base/memory.ts';
import type { Epoch, LogPosition, VolumeNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import { writeRecordBytes } from '../oplog/record.ts';
import type { Volume } from '../volume/volume.ts';
import { DestageStep, type StepPressure, segmentsAtOnce } from './destage-step.ts';
import { DestageStore, DestageStuck, DevicesFull } from './destage-store.ts';
import type { DestageControl, Head } from './head.ts';
import { LateLane } from './late-lane.ts';
import { Pace } from './pace.ts';

export interface DestageEvents {
  /** Destaging cannot go on, or for another reason than before; unless that is for good it is tried again. */
  stuck(why: string, lasts: DestageStuck['lasts']): void;
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

export class Destage implements DestageControl, StepPressure {
  readonly #head: Head;
  readonly #ports: DestagePorts;
  readonly #step: DestageStep;
  readonly #pace: Pace;
  readonly #late: LateLane;
  /** Blocks in the overlay of volumes with something on a device that is aside: counted now and then, and what came since. */
  #asideRows = 0;
  /** What their data takes in the log at least. */
  #asideBytes = 0;
  #running = false;
  #wanted = false;
  #stopped = false;
  /** What keeps it from going on, if anything does. */
  #stuckWhy: string | undefined;
  #devicesFull = false;
  /** What steps have left out for want of slots lies before: until the cut has passed that, devices may be full still. */
  #unplacedEnd = 0 as LogPosition;
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
    this.#pace = new Pace(ports.clock, () => ports.head.roomFreed());
    const store = new DestageStore(ports.head, ports.epoch);
    this.#late = new LateLane({
      ...ports,
      store,
      exclusively: work => this.exclusively(work),
      roundEnded: () => this.#countAside(),
      nothingFound: () => this.#nothingLate(),
    });
    this.#step = new DestageStep({ ...ports, store, late: this.#late, pace: this.#pace, pressure: this });
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
      else this.#begin(() => this.#step.carryDrops());
    });
  }

  hurry(): void {
    if (!this.#gainsRoom) return;
    this.#wanted = true;
    if (!this.#running) this.#begin();
  }

  admits(recordBytes: number): boolean {
    if (this.#stopped || this.#devicesFull) return true;
    const { log } = this.#head;
    const isBeyond = log.usedBytes + recordBytes > this.#clientsBytes;
    // To go on it may have to carry something forward. Then it tells those who wait.
    if (this.#stuckWhy !== undefined) return !isBeyond;
    if (isBeyond) return this.#pace.refuses();
    return this.#pace.admits(recordBytes, this.fill, log.limitBytes, log.madeBytes);
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

  get isStopped(): boolean {
    return this.#stopped;
  }

  get storageIsFull(): boolean {
    return this.#devicesFull;
  }

  takesOver(entry: ChunkEntry): boolean {
    return this.#step.takesOver(entry) || this.#late.takesOver(entry);
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
        await this.#exclusive(() => this.#stepOnce());
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

  /** Whether there is more than what would only be carried forward, or is being just now. */
  get #gainsRoom(): boolean {
    const { log, overlay } = this.#head;
    if (!this.#late.isOpen || log.usedBytes - this.#asideBytes > log.segmentBytes) return true;
    return overlay.enteredRows - this.#asideRows > overlay.capacity / 16;
  }

  /** What the log may take of clients: where a device may be set aside some is left for what is carried forward then. */
  get #clientsBytes(): number {
    const { limitBytes, segmentBytes } = this.#head.log;
    if (this.#head.sled.deviceCount === 1) return limitBytes;
    return limitBytes - (segmentsAtOnce(this.#head.log) + 1) * segmentBytes;
  }

  get isPressing(): boolean {
    return this.fill > fillWithRoom(pressingFill, this.#head.log.limitBytes);
  }

  #isAbove(fill: number): boolean {
    return this.fill > fillWithRoom(fill, this.#head.log.limitBytes) && this.#gainsRoom;
  }

  #isFull(): boolean {
    const { slots } = this.#head;
    if (this.#isAbove(destageFillStart)) return true;
    return slots.retiredCount > retiredChunksMax || slots.namedCount > namedChunksMax || slots.isShort;
  }

  #isLow(): boolean {
    const { slots } = this.#head;
    if (this.#isAbove(destageFillLow)) return false;
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
        if (this.#head.log.cut < this.#unplacedEnd) this.#head.roomFreed();
        else this.#recovered();
        // What was committed or asked for meanwhile found the destage running and left it at that.
        if (this.#head.log.cut < this.#head.log.committedEnd) this.committed();
      },
      (error: unknown) => {
        if (!(error instanceof DestageStuck)) throw error;
        if (this.#stuckWhy !== error.message) this.#ports.events.stuck(error.message, error.lasts);
        this.#stuckWhy = error.message;
        this.#wanted = true;
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

  #recovered(): void {
    const wasStuck = this.#stuckWhy !== undefined;
    this.#stuckWhy = undefined;
    this.#devicesFull = false;
    if (!wasStuck) return;
    this.#ports.events.recovered();
    this.#head.roomFreed();
  }

  async #run(): Promise<void> {
    // Between steps whoever waits for its turn gets it; what is left is begun again afterwards.
    while (!this.#stopped && this.#idleWaiters.length === 0) {
      const wanted = this.#wanted || this.#head.log.cut < this.#cutWanted || !this.#isLow();
      if (!wanted || this.#head.log.cut === this.#head.log.committedEnd) return;
      this.#wanted = false;
      await this.#stepOnce();
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

  async #stepOnce(): Promise<void> {
    const frees = this.#head.slots.retiredCount > 0;
    const end = await this.#step.run(this.#devicesFull);
    if (end === 'handed over') {
      // What is in the way is left out when it is tried again.
      this.#wanted = true;
      return;
    }
    this.steps++;
    if (this.#late.isOpen) this.#countAside();
    if (end === 'cut, unplaced left out') {
      this.#unplacedEnd = this.#head.log.committedEnd;
      // What the next step frees may be what is wanted.
      if (frees) this.#wanted = true;
    }
    if (end !== 'cut' && this.#late.isOpen) this.#late.wanted();
  }

  /** Removes some of the index entries of chunks [from, end), while no destage runs; returns from where to go on. */
  removeIndexed(volume: Volume, from: number, end: number): Promise<number> {
    return this.#step.removeIndexed(volume, from, end);
  }

  // --- what is aside -----------------------------------------------------------------------------------------------------

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
}

/** 0 to 1, where nothing may be left of the whole. */
function shareOf(part: number, whole: number): number {
  return whole <= 0 ? 1 : Math.max(0, Math.min(1, part / whole));
}
