/**
 * Gives space that has come free back to the devices: a file shrinks, an SSD learns of it. A discard is advice, so one
 * that fails changes nothing; but a device is not closed before those under way have ended.
 */
import type { IoRequest } from '../base/io.ts';
import type { Location } from '../base/location.ts';
import type { Sled } from '../sled/sled.ts';
import type { SpaceReturn } from './slot-allocator.ts';

export class DiscardedSpace implements SpaceReturn, IoRequest {
  #sled: Sled | undefined;
  #pending = 0;
  #waiting: (() => void)[] = [];

  /** The devices that the locations are of. */
  use(sled: Sled): void {
    this.#sled = sled;
  }

  discard(location: Location, lengthBytes: number): void {
    this.#pending++;
    this.#sled!.discard(location, lengthBytes, this);
  }

  ioCompleted(): void {
    if (--this.#pending > 0) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Resolves when no discard is under way. */
  async idle(): Promise<void> {
    if (this.#pending > 0) await new Promise<void>(resolve => this.#waiting.push(resolve));
  }
}
