/**
 * The columns as the index has them, checked against devices and volumes; which slots the index marks, and which ones
 * its chunks were then seen in. The checks of log and chunks ask it what lies at a location.
 */
import { testBit } from '../base/bits.ts';
import { columnBytes } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import { locationDevice, locationPosition } from '../base/location.ts';
import type { VolumeNumber } from '../base/units.ts';
import type { ColumnEntry, VolumeEntry } from '../index/index-store.ts';
import type { CheckedDevice } from './check-devices.ts';
import type { Findings } from './finding.ts';

export interface CheckedColumn {
  readonly entry: ColumnEntry;
  readonly device: CheckedDevice;
  /** Of the column's first byte on its device. */
  readonly position: number;
  readonly slotCount: number;
  /** Slots in which a chunk was seen. */
  readonly seen: Uint32Array;
}

/** Slots that are marked and in which no chunk was seen, ascending. */
export function orphansOf({ entry, seen, slotCount }: CheckedColumn): number[] {
  return slotsWhere(slotCount, slot => testBit(entry.slots, slot) && !testBit(seen, slot));
}

/** Slots in which a chunk was seen and that are not marked, ascending. */
export function unmarkedOf({ entry, seen, slotCount }: CheckedColumn): number[] {
  return slotsWhere(slotCount, slot => testBit(seen, slot) && !testBit(entry.slots, slot));
}

function slotsWhere(slotCount: number, holds: (slot: number) => boolean): number[] {
  const slots: number[] = [];
  for (let slot = 0; slot < slotCount; slot++) if (holds(slot)) slots.push(slot);
  return slots;
}

/** What is at a location. */
export type Place =
  | { readonly kind: 'slot'; readonly device: CheckedDevice; readonly position: number; readonly slot: number }
  /** On a device that is missing or not sound: nothing can be said. */
  | { readonly kind: 'lost'; readonly device: CheckedDevice }
  | { readonly kind: 'outside'; readonly why: string };

export class ColumnTable {
  readonly #devices: ReadonlyMap<number, CheckedDevice>;
  readonly #columns = new Map<string, CheckedColumn>();
  /** Bytes of the slots that are marked. */
  markedBytes = 0;

  constructor(devices: readonly CheckedDevice[]) {
    this.#devices = new Map(devices.map(device => [device.number, device]));
  }

  get count(): number {
    return this.#columns.size;
  }

  columns(): Iterable<CheckedColumn> {
    return this.#columns.values();
  }

  /** Takes in a column of the index; `volumes` are those that exist, `nextVolume` the first number never given. */
  add(
    entry: ColumnEntry,
    volumes: ReadonlyMap<VolumeNumber, VolumeEntry>,
    nextVolume: number,
    findings: Findings,
  ): void {
    const name = `Column ${entry.column} of device ${entry.device}`;
    const device = this.#devices.get(entry.device);
    if (device === undefined) {
      findings.add('column-outside', `${name} is on no device of this node.`);
      return;
    }
    const superblock = device.sound?.superblock;
    if (superblock !== undefined && entry.column >= superblock.columnCount) {
      const what = `${name} (${device.path}) does not exist: the device has ${superblock.columnCount}.`;
      findings.add('column-outside', what, { file: device.path });
      return;
    }
    const position = superblock === undefined ? 0 : superblock.firstColumn + entry.column * superblock.columnBytes;
    const place = superblock === undefined ? { file: device.path } : { file: device.path, offsetBytes: position };
    const volume = volumes.get(entry.volume);
    if (volume === undefined && (entry.slots.some(word => word !== 0) || entry.volume >= nextVolume)) {
      findings.add('column-volume-unknown', `${name} belongs to volume ${entry.volume}, which is not there.`, place);
    } else if (volume === undefined) {
      findings.add('column-left-over', `${name} is still in the name of volume ${entry.volume}.`, place);
    }
    const slotCount = columnBytes / entry.chunkBytes;
    if (!Number.isInteger(slotCount) || entry.slots.length !== Math.ceil(slotCount / 32)) {
      const what = `${name} has ${entry.slots.length * 32} bits for slots of ${entry.chunkBytes} bytes.`;
      findings.add('column-shape', what, place);
      return;
    }
    if (volume !== undefined && volume.chunkBytes !== entry.chunkBytes) {
      const what = `${name} has slots of ${entry.chunkBytes} bytes, chunks of ${volume.name} have ${volume.chunkBytes}.`;
      findings.add('column-shape', what, place);
    }
    for (let slot = slotCount; slot < entry.slots.length * 32; slot++) {
      if (testBit(entry.slots, slot)) {
        findings.add('column-shape', `${name} has ${slotCount} slots, and slot ${slot} is marked.`, place);
        break;
      }
    }
    for (let slot = 0; slot < slotCount; slot++) {
      if (testBit(entry.slots, slot)) this.markedBytes += entry.chunkBytes;
    }
    const seen = new Uint32Array(entry.slots.length);
    this.#columns.set(keyOf(entry.device, entry.column), { entry, device, position, slotCount, seen });
  }

  /** Where a chunk of that length would lie; whether anybody has the slot is another question. */
  place(location: Location, chunkBytes: number): Place {
    const number = locationDevice(location);
    const position = locationPosition(location);
    const device = this.#devices.get(number);
    if (device === undefined) return { kind: 'outside', why: `device ${number} does not exist` };
    if (device.sound === undefined) return { kind: 'lost', device };
    const { firstColumn, columnCount } = device.sound.superblock;
    const offset = position - firstColumn;
    if (!Number.isSafeInteger(location) || offset < 0 || offset >= columnCount * columnBytes) {
      return { kind: 'outside', why: `byte ${position} of ${device.path} is in no column` };
    }
    const inColumn = offset % columnBytes;
    if (inColumn % chunkBytes !== 0) {
      return { kind: 'outside', why: `byte ${position} of ${device.path} is not where a slot begins` };
    }
    return { kind: 'slot', device, position, slot: inColumn / chunkBytes };
  }

  /** The column that a place is in; undefined where nobody has it. */
  columnOf(place: Place & { readonly kind: 'slot' }): CheckedColumn | undefined {
    const { firstColumn } = place.device.sound!.superblock;
    return this.#columns.get(keyOf(place.device.number, Math.floor((place.position - firstColumn) / columnBytes)));
  }
}

function keyOf(device: number, column: number): string {
  return `${device}/${column}`;
}
