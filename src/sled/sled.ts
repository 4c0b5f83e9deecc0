/**
 * The devices of a node behind one interface: slots are read and written by location. The head's data path and its
 * destage call it. It runs in the head's process; what it promises is what a sled elsewhere would promise.
 *
 * Invariants:
 * - A sync covers every write whose completion was reported before the sync began: `syncData` those reported with `wrote`,
 *   which is what records of the log name, `syncDevices` those with `carried`, too, which the log still holds itself. So who
 *   waits for the log does not wait for a device that has only been carried to, however long that takes to sync.
 * - Where a device has taken long to sync lately, data that the log is about to name is synced before it is named
 *   (`secure`): so the log never waits for such a device, and who flushes something else does not either.
 * - After a failed sync of a device its syncs keep failing: nobody is told that what it lost is safe. Who did not rely on it
 *   does not hear of it.
 * - A device is *aside* while it is slow, failing or failed and another one is not: the destage goes on without it, and no
 *   column of it is reserved where another device has one. One that has failed for good is aside beside any that has not.
 *   Otherwise, when all are ill, there is nobody to protect, and none is aside.
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
/** A write waits for others that are under way: four times as long as a sync may take is too long. */
const WRITE_WEIGHT = 1 / 4;
/** What a device counts for that others had to wait for. */
const HOLDS_UP_MS = 10 * laggingSyncMs;

export class Sled {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #devices = new Map<number, Device>();
  #hasAside = false;
  /** Called when a device is set aside, or taken back. */
  asideChanged: (device: Device) => void = () => {};

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

  get deviceCount(): number {
    return this.#devices.size;
  }

  /** Whether any device is aside. */
  get hasAside(): boolean {
    return this.#hasAside;
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
      if (device.slownessMs > laggingSyncMs || device.failure !== undefined) lagging.add(device);
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

  /** The destage begins a write; gives what `carryEnded` wants to know. */
  carryBegins(device: Device): number {
    const now = this.#clock.nowMs();
    if (device.pendingCount++ === 0) device.progressMs = now;
    return now;
  }

  /** A write that the destage has begun has ended. */
  carryEnded(device: Device, begunMs: number): void {
    const now = this.#clock.nowMs();
    device.writeCount++;
    device.pendingCount--;
    device.progressMs = now;
    this.#wasSlow(device, (now - begunMs) * WRITE_WEIGHT);
  }

  /**
   * What is waited for is under way on these devices: those that have ended nothing for a while are slow. Whether all of
   * them are aside now.
   */
  judgeStalled(devices: readonly Device[]): boolean {
    const now = this.#clock.nowMs();
    for (const device of devices) this.#wasSlow(device, (now - device.progressMs) * WRITE_WEIGHT);
    return devices.length > 0 && devices.every(device => device.isAside);
  }

  /** Others wait because something takes long on these devices: they are slow for a while, if another one is well. */
  holdsUpOthers(devices: readonly Device[]): void {
    const others = [...this.#devices.values()].filter(device => !devices.includes(device));
    if (!others.some(device => device.illness === undefined)) return;
    for (const device of devices) this.#wasSlow(device, HOLDS_UP_MS);
  }

  #wasSlow(device: Device, slownessMs: number): void {
    if (slownessMs <= device.slownessMs) return;
    device.slownessMs = slownessMs;
    if (slownessMs > laggingSyncMs && !device.isAside) this.#judge();
  }

  readFailed(location: Location): void {
    this.device(locationDevice(location)).errors.read++;
  }

  writeFailed(location: Location): void {
    const device = this.device(locationDevice(location));
    device.errors.write++;
    device.isFailing = true;
    this.#judge();
  }

  /** The device has taken what was written to it, and synced it. */
  writeSucceeded(device: Device): void {
    if (!device.isFailing) return;
    device.isFailing = false;
    this.#judge();
  }

  checksumFailed(location: Location): void {
    this.device(locationDevice(location)).errors.checksum++;
  }

  /** Syncs every device with data that the log names; completes with 0 or the first negative errno. */
  syncData(request: IoRequest): void {
    this.#sync(this.#devices.values(), device => device.reliedCount, request);
  }

  /** Syncs those of the devices that were written to since; completes with 0 or the first negative errno. */
  syncDevices(devices: Iterable<Device>, request: IoRequest): void {
    this.#sync(devices, device => device.writeCount, request);
  }

  #sync(among: Iterable<Device>, wanted: (device: Device) => number, request: IoRequest): void {
    // Also those whose sync is under way for somebody else: what it covers is durable only when it has ended.
    this.#begin(
      [...among].filter(device => device.syncedCount < wanted(device)),
      request,
    );
  }

  #begin(devices: readonly Device[], request: IoRequest): void {
    new SledSync(this.#clock, devices, request, () => this.#judge()).start();
  }

  /** Who is aside, by what is known of them. */
  #judge(): void {
    const devices = [...this.#devices.values()];
    const someAreWell = devices.some(device => device.illness === undefined);
    const someWork = devices.some(device => device.failure === undefined);
    const changed: Device[] = [];
    for (const device of devices) {
      const isAside = device.failure === undefined ? someAreWell && device.illness !== undefined : someWork;
      if (isAside !== device.isAside) changed.push(device);
      device.isAside = isAside;
    }
    this.#hasAside = devices.some(device => device.isAside);
    for (const device of changed) this.asideChanged(device);
  }
}

class SledSync {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #devices: readonly Device[];
  readonly #request: IoRequest;
  readonly #judge: () => void;
  #pending = 1;
  #result = 0;

  constructor(clock: Pick<Clock, 'nowMs'>, devices: readonly Device[], request: IoRequest, judge: () => void) {
    this.#clock = clock;
    this.#devices = devices;
    this.#request = request;
    this.#judge = judge;
  }

  start(): void {
    const begunMs = this.#clock.nowMs();
    for (const device of this.#devices) {
      this.#pending++;
      const { writeCount } = device;
      if (device.pendingCount++ === 0) device.progressMs = begunMs;
      device.file.sync({ ioCompleted: result => this.#synced(device, writeCount, begunMs, result) });
    }
    // Never from inside of the call: completes behind a microtask when no device had anything to sync.
    queueMicrotask(() => this.#finish(0));
  }

  #synced(device: Device, writeCount: number, begunMs: number, result: number): void {
    const now = this.#clock.nowMs();
    device.pendingCount--;
    device.progressMs = now;
    device.slownessMs = Math.max(now - begunMs, device.slownessMs * REMEMBERED);
    if (result < 0) {
      device.errors.write++;
      if (device.failure === undefined) {
        device.failure = 'a sync of it failed: what was written before may be lost';
        device.syncFailed();
      }
    } else if (device.failure === undefined) {
      device.syncedCount = Math.max(device.syncedCount, writeCount);
    }
    this.#judge();
    this.#finish(device.failure === undefined ? 0 : -EIO);
  }

  #finish(result: number): void {
    if (result < 0 && this.#result === 0) this.#result = result;
    if (--this.#pending === 0) this.#request.ioCompleted(this.#result);
  }
}
