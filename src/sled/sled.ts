/**
 * The devices of a node behind one interface: slots are read and written by location. The head's data path and its
 * destage call it. It runs in the head's process; what it promises is what a sled elsewhere would promise.
 *
 * Invariants:
 * - A sync covers every write whose completion was reported before the sync began: `syncData` those reported with `wrote`,
 *   which is what records of the log name, `syncAll` those with `carried`, too, which the log still holds itself. So who
 *   waits for the log does not wait for a device that has only been carried to, however long that takes to sync.
 * - Where a device has taken long to sync lately, data that the log is about to name is synced before it is named
 *   (`secure`): so the log never waits for such a device, and who flushes something else does not either.
 * - After a failed sync of a device, syncs keep failing: nobody is told that what it lost is safe.
 */
import { assert } from '../base/assert.ts';
import { EIO } from '../base/errno.ts';
import type { Clock, IoRequest } from '../base/io.ts';
import { laggingSyncMs } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import { locationDevice, locationPosition } from '../base/location.ts';
import type { Region } from '../base/memory.ts';
import type { Device } from './device.ts';

/** Of the longest sync so much counts after the next one: it takes some quick ones until a device counts as quick again. */
const REMEMBERED = 3 / 4;

export class Sled {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #devices = new Map<number, Device>();

  constructor(clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
  }

  add(device: Device): void {
    assert(!this.#devices.has(device.number), 'device numbers are unique');
    this.#devices.set(device.number, device);
  }

  devices(): Iterable<Device> {
    return this.#devices.values();
  }

  device(number: number): Device {
    const device = this.#devices.get(number);
    assert(device !== undefined, 'every location is on a device that is there');
    return device;
  }

  has(number: number): boolean {
    return this.#devices.has(number);
  }

  /** Position, offset, length and address are multiples of 4096. */
  read(location: Location, region: Region, offset: number, length: number, request: IoRequest): void {
    this.device(locationDevice(location)).file.read(locationPosition(location), region, offset, length, request);
  }

  write(location: Location, region: Region, offset: number, length: number, request: IoRequest): void {
    this.device(locationDevice(location)).file.write(locationPosition(location), region, offset, length, request);
  }

  discard(location: Location, length: number, request: IoRequest): void {
    this.device(locationDevice(location)).file.discard(locationPosition(location), length, request);
  }

  /** A write that the log is about to name has completed. */
  wrote(location: Location): void {
    const device = this.device(locationDevice(location));
    device.reliedCount = ++device.writeCount;
  }

  /**
   * Writes that the log is about to name have completed. True where they are on devices that take long to sync: then
   * `request` completes, as a sync does, when it is time to name them. Otherwise nothing is done.
   */
  secure(written: readonly { readonly location: Location }[], request: IoRequest): boolean {
    const lagging = new Set<Device>();
    for (const { location } of written) {
      const device = this.device(locationDevice(location));
      if (device.syncMs > laggingSyncMs) lagging.add(device);
    }
    if (lagging.size === 0) return false;
    for (const { location } of written) {
      if (lagging.has(this.device(locationDevice(location)))) this.carried(location);
      else this.wrote(location);
    }
    this.#begin([...lagging], request);
    return true;
  }

  /** A write of data that the log still holds has completed. */
  carried(location: Location): void {
    this.device(locationDevice(location)).writeCount++;
  }

  readFailed(location: Location): void {
    this.device(locationDevice(location)).errors.read++;
  }

  writeFailed(location: Location): void {
    this.device(locationDevice(location)).errors.write++;
  }

  checksumFailed(location: Location): void {
    this.device(locationDevice(location)).errors.checksum++;
  }

  /** Syncs every device with data that the log names; completes with 0 or the first negative errno. */
  syncData(request: IoRequest): void {
    this.#sync(device => device.reliedCount, request);
  }

  /** Syncs every device that was written to; completes with 0 or the first negative errno. */
  syncAll(request: IoRequest): void {
    this.#sync(device => device.writeCount, request);
  }

  #sync(wanted: (device: Device) => number, request: IoRequest): void {
    // Also those whose sync is under way for somebody else: what it covers is durable only when it has ended.
    const devices = [...this.#devices.values()].filter(
      device => device.syncedCount < wanted(device) || device.failure !== undefined,
    );
    this.#begin(devices, request);
  }

  #begin(devices: readonly Device[], request: IoRequest): void {
    new SledSync(this.#clock, devices, request).start();
  }
}

class SledSync {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #devices: readonly Device[];
  readonly #request: IoRequest;
  #pending = 1;
  #result = 0;

  constructor(clock: Pick<Clock, 'nowMs'>, devices: readonly Device[], request: IoRequest) {
    this.#clock = clock;
    this.#devices = devices;
    this.#request = request;
  }

  start(): void {
    const begunMs = this.#clock.nowMs();
    for (const device of this.#devices) {
      this.#pending++;
      const { writeCount } = device;
      device.file.sync({ ioCompleted: result => this.#synced(device, writeCount, begunMs, result) });
    }
    // Never from inside of the call: completes behind a microtask when no device had anything to sync.
    queueMicrotask(() => this.#finish(0));
  }

  #synced(device: Device, writeCount: number, begunMs: number, result: number): void {
    device.syncMs = Math.max(this.#clock.nowMs() - begunMs, device.syncMs * REMEMBERED);
    if (result < 0) {
      device.errors.write++;
      if (device.failure === undefined) {
        device.failure = 'a sync of it failed: what was written before may be lost';
        device.syncFailed();
      }
    } else {
      device.syncedCount = Math.max(device.syncedCount, writeCount);
    }
    this.#finish(device.failure === undefined ? 0 : -EIO);
  }

  #finish(result: number): void {
    if (result < 0 && this.#result === 0) this.#result = result;
    if (--this.#pending === 0) this.#request.ioCompleted(this.#result);
  }
}
