/**
 * A step of the destage: takes the oldest segments of the log and carries over every chunk that has a block in them that is
 * still the newest, with all that the overlay holds of that chunk. So a chunk is written as seldom as the log's length
 * allows. `destage.ts` says when.
 *
 * In this order: sync the log; take out of the index what was trimmed as whole chunks; carry the chunks over
 * (`chunk-carrier.ts`), the last transaction of which moves the cut. Only then is the log trimmed.
 *
 * A crash in between leaves the log as it was: recovery plays it again over whatever the batch had done.
 *
 * What a step leaves out is in the log again before (`carry-forward.ts`): what is for devices that are aside, and what finds
 * no slot. So where there are several devices no step waits long for one that is ill while another is well; a group that is
 * being written to it when that shows is handed over to the lane for what is late (`late-lane.ts`).
 */
import type { CancelTimer, Clock } from '../base/io.ts';
import {
  destageLooksMax,
  destagePatienceMs,
  destageStepSegments,
  destageStepsPerLog,
  indexRemovalGrowthBytes,
} from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { RegionSource } from '../base/memory.ts';
import type { ChunkNumber, LogPosition, OpNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { IndexTransaction } from '../index/index-store.ts';
import type { OpLog } from '../oplog/log.ts';
import type { DirtyList } from '../volume/overlay.ts';
import type { Volume } from '../volume/volume.ts';
import { CarryForward, LeftOut } from './carry-forward.ts';
import type { Conclude, Fence } from './carry-group.ts';
import { ChunkCarrier } from './chunk-carrier.ts';
import type { DestageStore } from './destage-store.ts';
import type { Head } from './head.ts';
import type { LateLane } from './late-lane.ts';
import type { Pace } from './pace.ts';
import type { SeparateGroup } from './separate-group.ts';

/** What a step looks at while it waits. */
export interface StepPressure {
  /** Log or overlay are so full that writers are slowed down. */
  readonly isPressing: boolean;
  readonly isStopped: boolean;
}

export interface StepPorts {
  readonly head: Head;
  readonly clock: Clock;
  readonly regions: RegionSource;
  readonly store: DestageStore;
  readonly late: LateLane;
  readonly pace: Pace;
  readonly pressure: StepPressure;
}

/** How a step ended: the log is cut; or a group was handed over and nothing was concluded: the rest is dirty still. */
export type StepEnd = LeftOut['what'] | 'handed over';

const INDEX_REMOVALS_AT_ONCE = 1024;

/** Syncs are dear, so a step takes as much as a large log can spare; a small one is cut in small steps. */
export function segmentsAtOnce({ limitBytes, segmentBytes }: Pick<OpLog, 'limitBytes' | 'segmentBytes'>): number {
  const segments = Math.floor(limitBytes / segmentBytes / destageStepsPerLog);
  return Math.max(1, Math.min(segments, destageStepSegments));
}

export class DestageStep {
  readonly #ports: StepPorts;
  readonly #head: Head;
  readonly #store: DestageStore;
  readonly #late: LateLane;
  #carrier: ChunkCarrier;
  readonly #carryForward: CarryForward;

  constructor(ports: StepPorts) {
    this.#ports = ports;
    this.#head = ports.head;
    this.#store = ports.store;
    this.#late = ports.late;
    this.#carrier = new ChunkCarrier(ports.head, ports.store, ports.regions);
    this.#carryForward = new CarryForward(ports);
  }

  /** See ChunkCarrier. */
  takesOver(entry: ChunkEntry): boolean {
    return this.#carrier.takesOver(entry);
  }

  /**
   * `devicesFull`: the step before found no slot for something. Rejects with `DestageStuck`: then all that was not concluded
   * is dirty still.
   */
  async run(devicesFull: boolean): Promise<StepEnd> {
    this.#store.refuseUnwritable(indexRemovalGrowthBytes);
    const { pace } = this.#ports;
    const { log, overlay } = this.#head;
    const segment = Math.floor(log.cut / log.segmentBytes);
    const end = segment + segmentsAtOnce(log);
    const cut = Math.min(end * log.segmentBytes, log.committedEnd) as LogPosition;
    pace.stepBegan(cut - log.cut);
    // In the same moment: what is committed from now on lies behind the cut and goes into new lists.
    const dirty = overlay.takeDirty(segment, end);
    const position = log.committedEnd;
    const ops = new Map<Volume, OpNumber>();
    for (const volume of this.#head.volumes()) ops.set(volume, volume.committedOp);
    const putBack = (from: number) => overlay.putBackDirty(segment, dirty, from);
    const left = new LeftOut();
    try {
      await this.#store.logSynced();
      await this.carryDrops();
      if (this.#late.isOpen) await this.#carryForward.leaveLate(dirty, cut, left);
      if (devicesFull) await this.#carryForward.leaveUnplaced(dirty, cut, left);
    } catch (error) {
      putBack(0);
      throw error;
    }
    const conclude = (transaction: IndexTransaction) => {
      for (const [volume, lastOp] of ops) {
        if (lastOp !== volume.storedOp) transaction.putVolume(volume.toEntry(lastOp));
      }
      return cut;
    };
    const fence = { cut, position, ops, late: left.chunks };
    if (!(await this.#carry(dirty, fence, conclude, putBack))) return 'handed over';
    for (const [volume, lastOp] of ops) volume.storedOp = lastOp;
    pace.stepEnded();
    log.trim(cut);
    this.#head.slots.cutPassed(cut);
    return left.what;
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
    const { pressure } = this.#ports;
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
      if (hasLanded || pressure.isStopped) return false;
      const { sled } = this.#head;
      const { busyDevices } = group.landing;
      if (looks >= destageLooksMax && pressure.isPressing) sled.holdsUpOthers(busyDevices);
      if (!sled.judgeStalled(busyDevices)) continue;
      const spare = this.#late.adopt(carrier, group, landed);
      if (spare === undefined) continue;
      this.#carrier = spare;
      return true;
    }
  }

  /** Takes out of the index what was trimmed or zeroed as whole chunks. */
  async carryDrops(): Promise<void> {
    for (const volume of [...this.#head.volumes()]) {
      if (!volume.hasDropped || volume.state !== 'present') continue;
      const ranges = [...volume.beginDropping().ranges()];
      try {
        // Operations that were committed meanwhile are in the log, but perhaps not synced.
        await this.#store.logSynced();
        for (const [start, end] of ranges) {
          for (let from = start; from < end; ) from = await this.removeIndexed(volume, from, end);
        }
      } catch (error) {
        volume.dropAgain();
        throw error;
      }
      volume.endDropping();
    }
  }

  /** Removes some of the index entries of chunks [from, end); returns from where to go on. */
  async removeIndexed(volume: Volume, from: number, end: number): Promise<number> {
    const { index, overlay, slots } = this.#head;
    this.#store.refuseUnwritable(indexRemovalGrowthBytes);
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
