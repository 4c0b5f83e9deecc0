/**
 * Gives the space of dropped slots back to the devices: a file shrinks, an SSD learns of it. A slot is free for others
 * only when its discard has ended, or it would take the new data with it.
 *
 * One discard at a time, neighbours joined: punching holes into a file holds up all other I/O on it. A discard is
 * advice; one that fails changes nothing but that the space stays taken until the slot is used again.
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

export class DiscardedSpace implements IoRequest {
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

  discard(location: Location, lengthBytes: number): void {
    const last = this.#last;
    const follows =
      last !== undefined &&
      last.location + last.lengthBytes / BLOCK_BYTES === location &&
      locationDevice(last.location) === locationDevice(location) &&
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

  /** Begins no further discard; resolves when the one under way has ended. What waits is found free at the next start. */
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
