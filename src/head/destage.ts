/**
 * Carries operations from log and overlay into mass storage and index, and cuts the log behind them. It goes on in
 * steps: a step takes the oldest segments of the log and destages every chunk that has a block in them that is still the
 * newest, with all that the overlay holds of that chunk. So a chunk is written as seldom as the log's length allows.
 *
 * A step, in this order: sync the log; take out of the index what was trimmed as whole chunks; carry the chunks over
 * (`chunk-carrier.ts`), the last transaction of which moves the cut. Only then is the log trimmed.
 *
 * A crash in between leaves the log as it was: recovery plays it again over whatever the batch had done.
 */
import { assert } from '../base/assert.ts';
import { SledgeError } from '../base/errors.ts';
import type { CancelTimer, Clock } from '../base/io.ts';
import {
  destageAgeMs,
  destageFillLow,
  destageFillStart,
  destageStepSegments,
  destageStepsPerLog,
  dropAgeMs,
  namedChunksMax,
  retiredChunksMax,
} from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { RegionSource } from '../base/memory.ts';
import type { ChunkNumber, Epoch, LogPosition, OpNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { IndexTransaction } from '../index/index-store.ts';
import type { Volume } from '../volume/volume.ts';
import { ChunkCarrier } from './chunk-carrier.ts';
import { DestageStore, DestageStuck, DevicesFull } from './destage-store.ts';
import type { DestageControl, Head } from './head.ts';
import { Pace } from './pace.ts';

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
const INDEX_REMOVALS_AT_ONCE = 1024;

export class Destage implements DestageControl {
  readonly #head: Head;
  readonly #ports: DestagePorts;
  readonly #store: DestageStore;
  readonly #carrier: ChunkCarrier;
  readonly #pace: Pace;
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

  admits(recordBytes: number): boolean {
    if (this.#stuck || this.#stopped) return true;
    return this.#pace.admits(recordBytes, this.fill, this.#head.log.limitBytes);
  }

  get storageIsFull(): boolean {
    return this.#devicesFull;
  }

  isStoring(entry: ChunkEntry): boolean {
    return this.#carrier.isStoring(entry);
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
    this.#pace.stop();
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

  get fill(): number {
    const { log, overlay } = this.#head;
    return Math.max(log.usedBytes / log.limitBytes, overlay.fill);
  }

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
    try {
      await this.#store.logSynced();
      await this.#carryDrops();
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
    await this.#carrier.carryAll(dirty, { cut, position, ops }, conclude, putBack);
    for (const [volume, lastOp] of ops) volume.storedOp = lastOp;
    this.#pace.stepEnded();
    log.trim(cut);
    this.#head.slots.cutPassed(cut);
    this.steps++;
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
