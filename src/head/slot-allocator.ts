/**
 * Who has which column, and which slots of it are in use. The head allocates slots for bulk writes and for destage, and
 * gives them back when nothing refers to them any more.
 *
 * What each column keeps of its slots is in column.ts.
 *
 * Invariants:
 * - A slot is handed out only while nothing can read or replay it: a slot that lost its last reference stays *retired*
 *   until the log's cut has passed every record that names it.
 * - What the index refers to is in use, and all slots in use of a column are of its one volume.
 * - A column without a used slot goes back to its device.
 * - A slot whose content was dropped is in use until its space has been given back, and a slot that is *pinned*, because a
 *   write to it may be under way still, until it is unpinned.
 * - A column of a device that is aside is reserved only where no other has one.
 */
import { assert } from '../base/assert.ts';
import { clearBit, setBit, testBit } from '../base/bits.ts';
import { columnBytes, retiredBytesMin } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import { locationDevice, locationPosition } from '../base/location.ts';
import { RingQueue } from '../base/ring-queue.ts';
import type { LogPosition, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ColumnEntry, IndexTransaction } from '../index/index-store.ts';
import type { Device } from '../sled/device.ts';
import { Column } from './column.ts';

/** Gives the space of dropped slots back to the device; `SlotAllocator.discarded` is called when it has. */
export interface SpaceReturn {
  discard(location: Location, lengthBytes: number): void;
}

interface VolumeSpace {
  readonly chunkBytes: number;
  usedSlots: number;
  /** Columns that may have a free slot; the last one is filled first. */
  readonly open: Column[];
  /** Where it has columns, and how many. */
  readonly devices: Map<Device, number>;
}

interface DeviceSpace {
  readonly device: Device;
  /** Those that a volume has, by their numbers. */
  readonly columns: Map<number, Column>;
  /** Free columns, highest first, so that the lowest is taken from the end. */
  readonly free: number[];
}

interface Retired {
  readonly location: Location;
  readonly until: LogPosition;
  /** Its content was dropped by the client (trim, zero, delete), not replaced: give the space back at once. */
  readonly dropped: boolean;
}

interface Pinned {
  count: number;
  /** How it is to come free then, if it is. */
  comesFree: (() => void) | undefined;
}

/** How many slots a record names: for their count, which goes down with the cut. */
interface Names {
  readonly end: LogPosition;
  readonly count: number;
}

export class SlotAllocator {
  readonly #volumes = new Map<VolumeNumber, VolumeSpace>();
  readonly #devices: DeviceSpace[] = [];
  readonly #devicesByNumber: (DeviceSpace | undefined)[] = [];
  readonly #retired = new RingQueue<Retired>();
  #retiredBytes = 0;
  /** Slots whose space is being given back to the device. */
  #discardingCount = 0;
  /** Of the bulk records behind the cut, oldest first. */
  readonly #names = new RingQueue<Names>();
  #namedCount = 0;
  /** Columns with names, in the order of the newest name of each. */
  readonly #namedColumns = new Set<Column>();
  #newestNamed: Column | undefined;
  #cut = 0 as LogPosition;
  readonly #changed = new Set<Column>();
  /** Given back since the last transaction. */
  readonly #returned = new Set<Column>();
  readonly #pinned = new Map<Location, Pinned>();
  #space: SpaceReturn | undefined;

  /** Where dropped slots go before they are free; without one they are free at once. */
  returnSpaceTo(space: SpaceReturn): void {
    this.#space = space;
  }

  /** A device whose columns may be reserved; columns that are in use are announced with `loadColumn` afterwards. */
  addDevice(device: Device): void {
    const free = Array.from({ length: device.columnCount }, (_, i) => device.columnCount - 1 - i);
    const space = { device, free, columns: new Map<number, Column>() };
    this.#devices.push(space);
    this.#devicesByNumber[device.number] = space;
  }

  /** Takes in a column as the index has it. */
  loadColumn(device: Device, entry: ColumnEntry): void {
    const column = this.#reserve(this.#deviceSpace(device), entry.column, entry.volume, entry.chunkBytes);
    for (let slot = 0; slot < column.slotCount; slot++) {
      if (!testBit(entry.slots, slot)) continue;
      setBit(column.indexed, slot);
      column.use(slot);
      this.#spaceOf(entry.volume, entry.chunkBytes).usedSlots++;
    }
  }

  /** After all columns were loaded: takes them out of the lists of free ones. */
  loaded(): void {
    for (const { columns, free } of this.#devices) {
      if (columns.size === 0) continue;
      const left = free.filter(number => !columns.has(number));
      free.length = 0;
      for (const number of left) free.push(number);
    }
  }

  /** After recovery: columns that were reserved and in which nothing is go back. */
  settle(): void {
    for (const { columns } of this.#devices) {
      for (const column of [...columns.values()]) if (column.usedCount === 0) this.#giveBack(column);
    }
  }

  /** Bytes of mass storage that a volume's slots take, retired ones not counted. */
  usedBytes(volume: VolumeNumber): number {
    const space = this.#volumes.get(volume);
    return space === undefined ? 0 : space.usedSlots * space.chunkBytes;
  }

  get freeColumns(): number {
    return this.#devices.reduce((sum, { device, free }) => sum + (isUsable(device) ? free.length : 0), 0);
  }

  freeColumnsOf(device: Device): number {
    return this.#devicesByNumber[device.number]?.free.length ?? 0;
  }

  get retiredCount(): number {
    return this.#retired.length;
  }

  /** Slots that are nobody's any more are on their way to come free. */
  get comesFree(): boolean {
    return this.#retired.length > 0 || this.#discardingCount > 0;
  }

  /** More space waits for the log's cut than is free: the destage should go on before there is none. */
  get isShort(): boolean {
    return this.#retiredBytes > Math.max(retiredBytesMin, this.freeColumns * columnBytes);
  }

  /** Tells of one chunk after the other whether there is a slot for it, beside those before it. Nothing is taken. */
  forecast(): (volume: VolumeNumber, chunkBytes: number) => boolean {
    const free = new Map<VolumeNumber, number>();
    let columns = this.freeColumns;
    return (volume, chunkBytes) => {
      let left = free.get(volume) ?? this.#freeSlots(volume);
      if (left === 0 && columns > 0) {
        columns--;
        left = columnBytes / chunkBytes;
      }
      free.set(volume, Math.max(0, left - 1));
      return left > 0;
    };
  }

  #freeSlots(volume: VolumeNumber): number {
    let sum = 0;
    for (const { device, slotCount, usedCount } of this.#volumes.get(volume)?.open ?? []) {
      if (isUsable(device)) sum += slotCount - usedCount;
    }
    return sum;
  }

  /** A slot for one chunk of the volume; undefined when all devices are full. Slots follow one another if they can. */
  allocate(volume: VolumeNumber, chunkBytes: number): Location | undefined {
    const space = this.#spaceOf(volume, chunkBytes);
    for (let column = space.open.at(-1); column !== undefined; column = space.open.at(-1)) {
      const slot = isUsable(column.device) ? column.take() : -1;
      if (slot >= 0) {
        space.usedSlots++;
        return column.locationOf(slot);
      }
      column.isListed = false;
      space.open.pop();
    }
    const column = this.#newColumn(volume, chunkBytes);
    if (column === undefined) return undefined;
    this.#open(space, column);
    return this.allocate(volume, chunkBytes);
  }

  /** Whether the volume has anything on a device that is aside. */
  liesAside(volume: VolumeNumber): boolean {
    const devices = this.#volumes.get(volume)?.devices;
    if (devices !== undefined) for (const device of devices.keys()) if (device.isAside) return true;
    return false;
  }

  /** Whether the volume's next slot will be on a device that is aside. Where there is none anywhere, who wants it is told. */
  goesAside(volume: VolumeNumber): boolean {
    const column = this.#volumes
      .get(volume)
      ?.open.findLast(({ device, usedCount, slotCount }) => isUsable(device) && usedCount < slotCount);
    if (column !== undefined) return column.device.isAside;
    const spaces = this.#devices.filter(({ device, free }) => isUsable(device) && free.length > 0);
    return spaces.length > 0 && spaces.every(({ device }) => device.isAside);
  }

  /** A write to the slot may be under way: whatever happens, it is not handed out again until it is unpinned as often. */
  pin(location: Location): void {
    const pinned = this.#pinned.get(location);
    if (pinned === undefined) this.#pinned.set(location, { count: 1, comesFree: undefined });
    else pinned.count++;
  }

  unpin(location: Location): void {
    const pinned = this.#pinned.get(location);
    assert(pinned !== undefined, 'only what is pinned is unpinned');
    if (--pinned.count > 0) return;
    this.#pinned.delete(location);
    pinned.comesFree?.();
  }

  /** Chunks that records behind the cut name; those that several name count as often. */
  get namedCount(): number {
    return this.#namedCount;
  }

  /** A record that ends at `end`, and behind all before it, names slots: until the cut is there, recovery may ask for them. */
  name(slots: readonly { readonly location: Location }[], end: LogPosition): void {
    for (const { location } of slots) {
      const column = this.#columnOf(location);
      column.name(column.slotOf(location), end);
      if (column === this.#newestNamed) continue;
      this.#newestNamed = column;
      this.#namedColumns.delete(column);
      this.#namedColumns.add(column);
    }
    this.#namedCount += slots.length;
    this.#names.push({ end, count: slots.length });
  }

  /** How far the cut has to be before no record names the slot; 0 where none does. */
  namedUntil(location: Location): LogPosition {
    const column = this.#columnOf(location);
    return column.namedUntil(column.slotOf(location), this.#cut);
  }

  /** Recovery: a log record names this slot, so it is in use whatever the index says. Counted once. */
  adopt(location: Location, volume: VolumeNumber, chunkBytes: number, device: Device): void {
    const space = this.#deviceSpace(device);
    const number = device.columnAt(locationPosition(location));
    let column = space.columns.get(number);
    if (column !== undefined && column.volume !== volume) {
      // The index does not know yet that the other volume gave it back.
      assert(column.usedCount === 0, 'a column has one volume');
      this.#giveBack(column);
      column = undefined;
    }
    if (column === undefined) {
      const at = space.free.indexOf(number);
      assert(at >= 0, 'a column that nobody has is free');
      space.free.splice(at, 1);
      column = this.#reserve(space, number, volume, chunkBytes);
      this.#changed.add(column);
    }
    const slot = column.slotOf(location);
    if (column.isUsed(slot)) return;
    column.use(slot);
    this.#spaceOf(volume, chunkBytes).usedSlots++;
  }

  /** The index refers to this slot from the next transaction on. */
  markIndexed(location: Location): void {
    const column = this.#columnOf(location);
    const slot = column.slotOf(location);
    assert(column.isUsed(slot), 'what the index refers to is in use');
    setBit(column.indexed, slot);
    this.#changed.add(column);
  }

  /** The index does not refer to this slot any more from the next transaction on. */
  unmarkIndexed(location: Location): void {
    const column = this.#columnOf(location);
    const slot = column.slotOf(location);
    assert(testBit(column.indexed, slot), 'only what is indexed is unmarked');
    clearBit(column.indexed, slot);
    this.#changed.add(column);
  }

  /** Adds the changed columns to a transaction that is about to be committed. */
  store(transaction: IndexTransaction): void {
    for (const { device, number } of this.#returned) {
      if (!this.#deviceSpace(device).columns.has(number)) transaction.removeColumn(device.number, number);
    }
    this.#returned.clear();
    for (const column of this.#changed) {
      transaction.putColumn({
        device: column.device.number,
        column: column.number,
        volume: column.volume,
        chunkBytes: column.chunkBytes,
        slots: column.indexed.slice(),
      });
    }
    this.#changed.clear();
  }

  /**
   * Nothing refers to the slot any more, but records below `until` may name it: it comes free with the cut.
   */
  retire(location: Location, until: LogPosition, dropped: boolean): void {
    const column = this.#columnOf(location);
    assert(column.isUsed(column.slotOf(location)), 'a slot is retired once');
    this.#spaceOf(column.volume, column.chunkBytes).usedSlots--;
    if (until <= this.#cut) {
      this.#letGo(location, dropped);
      return;
    }
    this.#retired.push({ location, until, dropped });
    this.#retiredBytes += column.chunkBytes;
  }

  /** A slot that no record ever named: free at once. */
  release(location: Location): void {
    const column = this.#columnOf(location);
    this.#spaceOf(column.volume, column.chunkBytes).usedSlots--;
    const pinned = this.#pinned.get(location);
    if (pinned !== undefined) pinned.comesFree = () => this.#free(location);
    else this.#free(location);
  }

  /** The log was cut here: what was retired before is free. */
  cutPassed(cut: LogPosition): void {
    this.#cut = cut;
    for (let names = this.#names.peek(); names !== undefined && names.end <= cut; names = this.#names.peek()) {
      this.#namedCount -= this.#names.shift().count;
    }
    for (const column of this.#namedColumns) {
      if (!column.forgetNames(cut)) break;
      this.#namedColumns.delete(column);
      if (column === this.#newestNamed) this.#newestNamed = undefined;
    }
    for (let next = this.#retired.peek(); next !== undefined && next.until <= cut; next = this.#retired.peek()) {
      this.#retired.shift();
      this.#retiredBytes -= this.#columnOf(next.location).chunkBytes;
      this.#letGo(next.location, next.dropped);
    }
  }

  /** The space of what was dropped is given back before the slot is free. */
  #letGo(location: Location, dropped: boolean): void {
    const pinned = this.#pinned.get(location);
    if (pinned !== undefined) pinned.comesFree = () => this.#letGo(location, dropped);
    else if (dropped && this.#space !== undefined) this.#discard(location, this.#space);
    else this.#free(location);
  }

  #discard(location: Location, space: SpaceReturn): void {
    this.#discardingCount++;
    space.discard(location, this.#columnOf(location).chunkBytes);
  }

  /** The space of one or more slots that follow one another has been given back. */
  discarded(location: Location, lengthBytes: number): void {
    const end = location + lengthBytes / BLOCK_BYTES;
    for (let at: number = location; at < end; ) {
      const { chunkBytes } = this.#columnOf(at as Location);
      this.#discardingCount--;
      this.#free(at as Location);
      at += chunkBytes / BLOCK_BYTES;
    }
  }

  #free(location: Location): void {
    const column = this.#columnOf(location);
    column.free(column.slotOf(location));
    if (column.usedCount === 0) {
      this.#giveBack(column);
    } else {
      this.#open(this.#spaceOf(column.volume, column.chunkBytes), column);
    }
  }

  #giveBack(column: Column): void {
    this.#forget(column);
    insertDescending(this.#deviceSpace(column.device).free, column.number);
  }

  #forget(column: Column): void {
    this.#deviceSpace(column.device).columns.delete(column.number);
    this.#changed.delete(column);
    this.#returned.add(column);
    const space = this.#spaceOf(column.volume, column.chunkBytes);
    const count = space.devices.get(column.device)! - 1;
    if (count > 0) space.devices.set(column.device, count);
    else space.devices.delete(column.device);
    const at = space.open.indexOf(column);
    if (at >= 0) space.open.splice(at, 1);
  }

  #newColumn(volume: VolumeNumber, chunkBytes: number): Column | undefined {
    let best: DeviceSpace | undefined;
    for (const space of this.#devices) {
      if (!isUsable(space.device) || space.free.length === 0) continue;
      if (best === undefined || isBetter(space, best)) best = space;
    }
    if (best === undefined) return undefined;
    const column = this.#reserve(best, best.free.pop()!, volume, chunkBytes);
    this.#changed.add(column);
    return column;
  }

  #reserve({ device, columns }: DeviceSpace, number: number, volume: VolumeNumber, chunkBytes: number): Column {
    assert(!columns.has(number), 'a column is reserved once');
    const column = new Column(device, number, volume, chunkBytes);
    columns.set(number, column);
    const space = this.#spaceOf(volume, chunkBytes);
    space.devices.set(device, (space.devices.get(device) ?? 0) + 1);
    this.#open(space, column);
    return column;
  }

  #open(space: VolumeSpace, column: Column): void {
    if (column.isListed) return;
    column.isListed = true;
    space.open.push(column);
  }

  #spaceOf(volume: VolumeNumber, chunkBytes: number): VolumeSpace {
    let space = this.#volumes.get(volume);
    if (space === undefined) {
      space = { chunkBytes, usedSlots: 0, open: [], devices: new Map() };
      this.#volumes.set(volume, space);
    }
    return space;
  }

  #deviceSpace(device: Device): DeviceSpace {
    const space = this.#devicesByNumber[device.number];
    assert(space !== undefined, 'the device is there');
    return space;
  }

  #columnOf(location: Location): Column {
    const space = this.#devicesByNumber[locationDevice(location)];
    assert(space !== undefined, 'a location is on a device that is there');
    const column = space.columns.get(space.device.columnAt(locationPosition(location)));
    assert(column !== undefined, 'a slot in use is in a reserved column');
    return column;
  }
}

function isUsable(device: Device): boolean {
  return device.failure === undefined;
}

/** Whether a column is rather taken from here than from there: both have one. */
function isBetter(here: DeviceSpace, there: DeviceSpace): boolean {
  if (here.device.isAside !== there.device.isAside) return there.device.isAside;
  return here.free.length > there.free.length;
}

/** Keeps a list that is sorted from high to low so. */
function insertDescending(list: number[], value: number): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (list[middle] > value) low = middle + 1;
    else high = middle;
  }
  list.splice(low, 0, value);
}
