/**
 * A column that a volume has: where its slots lie, which of them are in use, and up to where records of the log name them.
 *
 * Two bitmaps: `indexed`, the slots that the index refers to, which is what a transaction stores; and what is in use: those
 * and besides the slots that only log, overlay or a write under way refer to, plus the retired ones.
 */
import { assert } from '../base/assert.ts';
import { clearBit, setBit, testBit } from '../base/bits.ts';
import { columnBytes } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import { locationOf, locationPosition } from '../base/location.ts';
import type { LogPosition, VolumeNumber } from '../base/units.ts';
import type { Device } from '../sled/device.ts';

export class Column {
  readonly device: Device;
  readonly number: number;
  readonly volume: VolumeNumber;
  readonly chunkBytes: number;
  readonly slotCount: number;
  readonly indexed: Uint32Array;
  /** In the list of its volume's columns that may have a free slot. */
  isListed = false;
  readonly #position: number;
  readonly #used: Uint32Array;
  #usedCount = 0;
  /** Where the search for a free slot goes on. */
  #cursor = 0;
  /** Of slots that are named the end of the newest record that does; slots are small numbers, which a Map finds at once. */
  #named: Map<number, LogPosition> | undefined;
  /** The largest of them. */
  #namedEnd = 0 as LogPosition;

  constructor(device: Device, number: number, volume: VolumeNumber, chunkBytes: number) {
    this.device = device;
    this.number = number;
    this.volume = volume;
    this.chunkBytes = chunkBytes;
    this.slotCount = columnBytes / chunkBytes;
    this.#position = device.columnPosition(number);
    const words = Math.ceil(this.slotCount / 32);
    this.indexed = new Uint32Array(words);
    this.#used = new Uint32Array(words);
  }

  get usedCount(): number {
    return this.#usedCount;
  }

  slotOf(location: Location): number {
    const slot = (locationPosition(location) - this.#position) / this.chunkBytes;
    assert(Number.isInteger(slot), 'a location is the start of a slot');
    return slot;
  }

  locationOf(slot: number): Location {
    return locationOf(this.device.number, this.#position + slot * this.chunkBytes);
  }

  isUsed(slot: number): boolean {
    return testBit(this.#used, slot);
  }

  use(slot: number): void {
    assert(!this.isUsed(slot), 'a slot is used once');
    setBit(this.#used, slot);
    this.#usedCount++;
  }

  free(slot: number): void {
    assert(this.isUsed(slot) && !testBit(this.indexed, slot), 'a slot is freed once, and out of the index');
    clearBit(this.#used, slot);
    this.#usedCount--;
    this.#cursor = Math.min(this.#cursor, slot);
  }

  /** Uses a slot that was free; −1 if there is none. */
  take(): number {
    for (let slot = this.#cursor; slot < this.slotCount; slot++) {
      if (this.isUsed(slot)) continue;
      this.use(slot);
      this.#cursor = slot + 1;
      return slot;
    }
    this.#cursor = this.slotCount;
    return -1;
  }

  /** A record that ends at `end`, and behind all before it, names the slot. */
  name(slot: number, end: LogPosition): void {
    assert(end >= this.#namedEnd, 'records come in their order');
    this.#named ??= new Map();
    this.#named.set(slot, end);
    this.#namedEnd = end;
  }

  /** Where the newest record that names the slot and ends behind the cut does; 0 where there is none. */
  namedUntil(slot: number, cut: LogPosition): LogPosition {
    const end = this.#named?.get(slot);
    return end !== undefined && end > cut ? end : (0 as LogPosition);
  }

  /** Forgets the names if no record behind the cut has made one; whether that is so. */
  forgetNames(cut: LogPosition): boolean {
    if (this.#namedEnd > cut) return false;
    this.#named = undefined;
    return true;
  }
}
