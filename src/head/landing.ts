/** What a group of chunks writes to devices: to which, what is under way yet, and which slots could not be written. */
import { IoWindow } from '../base/io-wait.ts';
import type { Location } from '../base/location.ts';
import { locationDevice } from '../base/location.ts';
import type { Device } from '../sled/device.ts';

export class Landing {
  readonly window = new IoWindow();
  /** Slots that could not be written, and with which errno. */
  readonly failed = new Map<Location, number>();
  /** Nothing further is to be written. */
  isStopped = false;
  readonly #underWay = new Map<Device, number>();

  get devices(): Iterable<Device> {
    return this.#underWay.keys();
  }

  /** Devices that are waited for. */
  get busyDevices(): Device[] {
    return [...this.#underWay].filter(([, count]) => count > 0).map(([device]) => device);
  }

  hasFailed(device: Device): boolean {
    return [...this.failed.keys()].some(location => locationDevice(location) === device.number);
  }

  begins(device: Device): void {
    this.#underWay.set(device, (this.#underWay.get(device) ?? 0) + 1);
  }

  ended(device: Device): void {
    this.#underWay.set(device, this.#underWay.get(device)! - 1);
  }
}
