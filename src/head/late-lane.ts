/**
 * Destages to devices that are aside, at their own pace, beside the steps of the destage. A step leaves out what lies on
 * such a device and has it carried forward in the log (relog.ts); here it goes on from there to the device, a group at a
 * time.
 *
 * A round: while no step runs, take a group of chunks of one device, with their data, out of log and overlay; while steps
 * may run, write and sync it; while no step runs, put into the index what has not been overtaken meanwhile.
 *
 * Invariants:
 * - A chunk that a round has in hand is left alone by the steps (`isLate`), wherever it lies.
 * - A device that failed a sync gets no more data; what it should have had stays in the log.
 */
import { SledgeError } from '../base/errors.ts';
import type { CancelTimer, Clock } from '../base/io.ts';
import { destageGroupChunks, destageRetryMs } from '../base/limits.ts';
import { locationDevice } from '../base/location.ts';
import type { RegionSource } from '../base/memory.ts';
import type { BlockNumber, ChunkNumber, OpNumber, VolumeNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { Device } from '../sled/device.ts';
import type { DirtyList } from '../volume/overlay.ts';
import type { Volume } from '../volume/volume.ts';
import { ChunkCarrier } from './chunk-carrier.ts';
import type { DestageStore } from './destage-store.ts';
import { DestageStuck, DevicesFull } from './destage-store.ts';
import type { Head } from './head.ts';
import type { SeparateGroup } from './separate-group.ts';

export interface LateLanePorts {
  readonly head: Head;
  readonly clock: Clock;
  readonly store: DestageStore;
  readonly regions: RegionSource;
  /** Runs `work` while no step of the destage runs; rejects with `shutting-down` when none will any more. */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
  /** A round has ended: log and overlay may have room for those who wait. */
  roundEnded(): void;
  /** There is nothing that could be done now. */
  nothingFound(): void;
}

/** A group that a step gave up waiting for. */
interface Adopted {
  readonly carrier: ChunkCarrier;
  readonly group: SeparateGroup;
  readonly landed: Promise<void>;
}

export class LateLane {
  readonly #ports: LateLanePorts;
  readonly #head: Head;
  /** Made when it is needed first: it has buffers of its own. */
  #carrier: ChunkCarrier | undefined;
  #group: SeparateGroup | undefined;
  /** Taken over while a round waited for its turn, which goes on with this instead. */
  #adopted: Adopted | undefined;
  #running = false;
  #stopped = false;
  /** After a run: the next one waits a moment. */
  #restTimer: CancelTimer | undefined;
  #wanted = false;
  #error: DestageStuck | undefined;
  #waiters: (() => void)[] = [];
  /** The device whose turn it was last. */
  #lastDevice = -1;

  constructor(ports: LateLanePorts) {
    this.#ports = ports;
    this.#head = ports.head;
  }

  /** Whether anything may be late at all: if not, nobody has to ask for chunks. */
  get isOpen(): boolean {
    return this.#head.sled.hasAside || this.#group !== undefined;
  }

  /** Whether a round has chunks in hand. */
  get isUnderWay(): boolean {
    return this.#group !== undefined;
  }

  /** Whether a step leaves the chunk out. */
  isLate(volume: Volume, chunk: ChunkNumber): boolean {
    if (this.#group?.has(volume, chunk) === true) return true;
    if (!this.#head.sled.hasAside) return false;
    const device = this.#deviceOf(volume, chunk);
    return device === undefined ? this.#head.slots.goesAside(volume.number) : device.isAside;
  }

  /** See ChunkCarrier. */
  takesOver(entry: ChunkEntry): boolean {
    return this.#carrier?.takesOver(entry) === true;
  }

  /** A block that a round may have in hand was appended to the log again. */
  moved(volume: Volume, block: BlockNumber, from: number, to: number): void {
    this.#group?.moved(volume, block, from, to);
  }

  /**
   * A step gives up waiting for the devices that it was writing a group to: it goes on here. Gives another carrier in
   * exchange, or nothing where that cannot be.
   */
  adopt(carrier: ChunkCarrier, group: SeparateGroup, landed: Promise<void>): ChunkCarrier | undefined {
    if (this.#group !== undefined || this.#stopped) return undefined;
    const { regions, store } = this.#ports;
    const spare = this.#carrier ?? new ChunkCarrier(this.#head, store, regions);
    const adopted = { carrier, group, landed };
    this.#carrier = carrier;
    this.#group = group;
    if (this.#running) {
      this.#adopted = adopted;
    } else {
      this.#running = true;
      void this.#run(() => this.#complete(adopted));
    }
    return spare;
  }

  /** Something may be late. */
  wanted(): void {
    this.#wanted = true;
    if (this.#running || this.#stopped || this.#restTimer !== undefined) return;
    this.#running = true;
    void this.#run();
  }

  /** Resolves when nothing is late any more. Rejects with `DestageStuck` when that will not be. */
  async drained(): Promise<void> {
    if (!this.isOpen) return;
    this.#error = undefined;
    this.#restTimer?.();
    this.#restTimer = undefined;
    this.wanted();
    while (this.#running) await this.#ended();
    if (this.#error !== undefined) throw this.#error;
  }

  /** Begins nothing new, and gives up a round whose end would be long in coming; resolves when its I/Os have ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#group !== undefined) this.#group.landing.isStopped = true;
    this.#restTimer?.();
    while (this.#running) await this.#ended();
  }

  #ended(): Promise<void> {
    return new Promise(resolve => this.#waiters.push(resolve));
  }

  async #run(first?: () => Promise<void>): Promise<void> {
    this.#wanted = false;
    try {
      if (first !== undefined) await first();
      while (!this.#stopped && (await this.#round())) {
        // Until nothing is left.
      }
      this.#rest();
      this.#ports.nothingFound();
    } catch (error) {
      if (error instanceof DestageStuck) this.#hasFailed(error);
      else if (!(error instanceof SledgeError && error.code === 'shutting-down')) throw error;
    } finally {
      this.#running = false;
      for (const resolve of this.#waiters.splice(0)) resolve();
    }
  }

  #hasFailed(error: DestageStuck): void {
    this.#error = error;
    if (error.lasts === 'for good') return;
    this.#wanted = true;
    this.#rest();
    // Nor is there anything to be done about it.
    this.#ports.nothingFound();
  }

  #rest(): void {
    if (this.#stopped) return;
    this.#restTimer = this.#ports.clock.after(destageRetryMs, () => {
      this.#restTimer = undefined;
      if (this.#wanted) this.wanted();
    });
  }

  /** False when nothing was left to do. */
  async #round(): Promise<boolean> {
    const { exclusively, regions, store } = this.#ports;
    this.#carrier ??= new ChunkCarrier(this.#head, store, regions);
    const carrier = this.#carrier;
    let adopted: Adopted | undefined;
    try {
      await exclusively(async () => {
        if (this.#adopted === undefined) await this.#begin(carrier);
      });
    } finally {
      adopted = this.#adopted;
      this.#adopted = undefined;
      // Also when nothing is begun any more: then it is abandoned.
      if (adopted !== undefined) await this.#complete(adopted);
    }
    if (adopted !== undefined) return true;
    const group = this.#group;
    if (group === undefined) return false;
    await this.#complete({ carrier, group, landed: carrier.land(group) });
    return true;
  }

  async #complete({ carrier, group, landed }: Adopted): Promise<void> {
    const { exclusively, roundEnded } = this.#ports;
    group.isBesideOthers = true;
    try {
      await landed;
      await exclusively(() => carrier.finish(group));
    } catch (error) {
      carrier.abandon(group);
      throw error;
    } finally {
      this.#group = undefined;
      roundEnded();
    }
  }

  /** Takes a group of the next device for which there is something. */
  async #begin(carrier: ChunkCarrier): Promise<void> {
    const devices = [...this.#head.sled.devices()].filter(({ isAside, failure }) => isAside && failure === undefined);
    const next = devices.findIndex(({ number }) => number > this.#lastDevice);
    const inTurn = next < 0 ? devices : [...devices.slice(next), ...devices.slice(0, next)];
    for (const device of inTurn) {
      const dirty = this.#lateChunks(device, 'new ones, too');
      if (dirty.chunks.length === 0) continue;
      const position = this.#head.log.committedEnd;
      const ops = new Map<Volume, OpNumber>();
      for (const volume of this.#head.volumes()) ops.set(volume, volume.committedOp);
      await this.#ports.store.logSynced();
      const fence = { cut: position, position, ops };
      const group = await carrier.begin(dirty, 0, fence).catch((error: unknown) => {
        // What has a place does not wait for what finds none.
        if (error instanceof DevicesFull) return carrier.begin(this.#lateChunks(device, 'placed'), 0, fence);
        throw error;
      });
      if (group.tasks.length === 0) continue;
      this.#group = group;
      this.#lastDevice = device.number;
      return;
    }
  }

  /** Chunks that are in the overlay and belong on the device, or on none yet and can go to none that is well. */
  #lateChunks(device: Device, which: 'placed' | 'new ones, too'): DirtyList {
    const { overlay, slots } = this.#head;
    const volumes: VolumeNumber[] = [];
    const chunks: ChunkNumber[] = [];
    for (const volume of this.#head.volumes()) {
      const goesAside = which !== 'placed' && slots.goesAside(volume.number);
      if (!goesAside && !slots.liesAside(volume.number)) continue;
      const own: ChunkNumber[] = [];
      overlay.forChunks(volume.number, 0, Number.POSITIVE_INFINITY, chunk => {
        if (chunks.length + own.length >= destageGroupChunks) return;
        const at = this.#deviceOf(volume, chunk);
        if (at === device || (at === undefined && goesAside)) own.push(chunk);
      });
      own.sort((a, b) => a - b);
      for (const chunk of own) {
        volumes.push(volume.number);
        chunks.push(chunk);
      }
    }
    return { volumes, chunks };
  }

  #deviceOf(volume: Volume, chunk: ChunkNumber): Device | undefined {
    const location = volume.locationOf(chunk);
    return location === undefined ? undefined : this.#head.sled.device(locationDevice(location));
  }
}
