/**
 * Gives the space of dropped slots back to the devices: a file shrinks, an SSD learns of it. A slot is free for others
 * only when its discard has ended, or it would take the new data with it.
 *
 * One discard at a time on each device, neighbours joined: punching holes into a file holds up all other I/O on it. A discard
 * is advice; one that fails changes nothing but that the space stays taken until the slot is used again.
 */
import type { IoRequest } from '../base/io.ts';
import { discardBytesMax } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import { locationDevice } from '../base/location.ts';
import { RingQueue } from '../base/ring-queue.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { Sled } from '../sled/sled.ts';

/** Told that the slots of a range may be used again. */
export interface SpaceOwner {
  discarded(location: Location, lengthBytes: number): void;
}

interface Range {
  readonly location: Location;
  lengthBytes: number;
}

export class DiscardedSpace {
  readonly #sled: Sled;
  readonly #owner: SpaceOwner;
  readonly #devices = new Map<number, DeviceDiscards>();

  constructor(sled: Sled, owner: SpaceOwner) {
    this.#sled = sled;
    this.#owner = owner;
  }

  discard(location: Location, lengthBytes: number): void {
    const number = locationDevice(location);
    let discards = this.#devices.get(number);
    if (discards === undefined) {
      discards = new DeviceDiscards(this.#sled, this.#owner);
      this.#devices.set(number, discards);
    }
    discards.add(location, lengthBytes);
  }

  /** Begins no further discard; resolves when those under way have ended. What waits is found free at the next start. */
  async stop(): Promise<void> {
    await Promise.all([...this.#devices.values()].map(discards => discards.stop()));
  }
}

/** The discards of one device. */
class DeviceDiscards implements IoRequest {
  readonly #sled: Sled;
  readonly #owner: SpaceOwner;
  readonly #queue = new RingQueue<Range>();
  #last: Range | undefined;
  #current: Range | undefined;
  #stopped = false;
  #waiting: (() => void)[] = [];

  constructor(sled: Sled, owner: SpaceOwner) {
    this.#sled = sled;
    this.#owner = owner;
  }

  add(location: Location, lengthBytes: number): void {
    const last = this.#last;
    const follows =
      last !== undefined &&
      last.location + last.lengthBytes / BLOCK_BYTES === location &&
      last.lengthBytes + lengthBytes <= discardBytesMax;
    if (follows) {
      last.lengthBytes += lengthBytes;
    } else {
      this.#last = { location, lengthBytes };
      this.#queue.push(this.#last);
    }
    this.#next();
  }

  ioCompleted(): void {
    const done = this.#current!;
    this.#current = undefined;
    this.#owner.discarded(done.location, done.lengthBytes);
    this.#next();
    if (this.#current === undefined) for (const resolve of this.#waiting.splice(0)) resolve();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#current !== undefined) await new Promise<void>(resolve => this.#waiting.push(resolve));
  }

  #next(): void {
    if (this.#current !== undefined || this.#stopped || this.#queue.length === 0) return;
    this.#current = this.#queue.shift();
    if (this.#current === this.#last) this.#last = undefined;
    this.#sled.discard(this.#current.location, this.#current.lengthBytes, this);
  }
}
