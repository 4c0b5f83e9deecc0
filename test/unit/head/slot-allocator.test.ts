/** Slots and columns: who has which, when they come free, and that the index is told. */
import t from 'tap';
import { completion } from '../../../src/base/io-wait.ts';
import type { Location } from '../../../src/base/location.ts';
import { locationDevice, locationOf, locationPosition } from '../../../src/base/location.ts';
import type { LogPosition, VolumeNumber } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { SlotAllocator } from '../../../src/head/slot-allocator.ts';
import { Device } from '../../../src/sled/device.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';
import { IndexContents, MemoryIndex } from '../../support/memory-index.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from '../oplog/controlled-file.ts';

const COLUMN = 16 * MIB;
const V1 = 1 as VolumeNumber;
const V2 = 2 as VolumeNumber;
const at = (position: number) => position as LogPosition;

function deviceOf(number: number, columnCount: number): Device {
  const file = new ControlledFile(new MemoryLoop(), MIB + columnCount * COLUMN);
  const identity = { node: '0'.repeat(32), device: String(number).repeat(32), number };
  const superblock = { ...identity, columnBytes: COLUMN, firstColumn: MIB, columnCount, serial: 1 };
  return new Device(`/d${number}`, file, superblock);
}

function allocatorOf(...devices: Device[]): SlotAllocator {
  const slots = new SlotAllocator();
  for (const device of devices) slots.addDevice(device);
  slots.loaded();
  return slots;
}

t.test('slots of a volume follow one another, and volumes do not share columns', t => {
  const slots = allocatorOf(deviceOf(0, 4));
  const first = Array.from({ length: 5 }, () => slots.allocate(V1, 64 * KIB)!);
  for (let i = 0; i < 5; i++) t.equal(locationPosition(first[i]), MIB + i * 64 * KIB);
  t.equal(locationPosition(slots.allocate(V2, MIB)!), MIB + COLUMN);
  t.equal(locationPosition(slots.allocate(V1, 64 * KIB)!), MIB + 5 * 64 * KIB);
  t.equal(slots.usedBytes(V1), 6 * 64 * KIB);
  t.equal(slots.usedBytes(V2), MIB);
  t.equal(slots.usedBytes(3 as VolumeNumber), 0);
  t.equal(slots.freeColumns, 2);
  t.end();
});

t.test('a full device gives undefined, and goes on when something has come free', t => {
  const device = deviceOf(0, 2);
  const slots = allocatorOf(device);
  const taken: Location[] = [];
  for (let slot = slots.allocate(V1, 4 * MIB); slot !== undefined; slot = slots.allocate(V1, 4 * MIB)) taken.push(slot);
  t.equal(taken.length, 8);
  t.equal(new Set(taken).size, 8);
  t.equal(slots.allocate(V2, 4 * MIB), undefined);
  slots.release(taken[2]);
  t.equal(slots.allocate(V2, 4 * MIB), undefined, 'a slot of another volume’s column is of no use');
  t.equal(slots.allocate(V1, 4 * MIB), taken[2]);
  for (let i = 4; i < 8; i++) slots.release(taken[i]);
  t.equal(slots.freeColumns, 1);
  t.ok(slots.allocate(V2, 64 * KIB) !== undefined, 'a whole column is of use to all');
  t.end();
});

t.test('new columns come from the device with the most room, and none from one that has failed', t => {
  const devices = [deviceOf(0, 2), deviceOf(1, 5)];
  const slots = allocatorOf(...devices);
  const places = Array.from({ length: 4 }, () => locationDevice(slots.allocate(V1, 4 * MIB)!));
  t.same(places, [1, 1, 1, 1]);
  devices[1].failure = 'gone';
  t.equal(slots.freeColumns, 2);
  for (let i = 0; i < 8; i++) t.equal(locationDevice(slots.allocate(V1, 4 * MIB)!), 0);
  t.equal(slots.allocate(V1, 4 * MIB), undefined);
  t.equal(slots.freeColumnsOf(devices[1]), 4);
  t.end();
});

t.test('new columns come from a device that is aside only where no other has one', t => {
  const devices = [deviceOf(0, 1), deviceOf(1, 5)];
  const slots = allocatorOf(...devices);
  t.equal(locationDevice(slots.allocate(V1, 4 * MIB)!), 1);
  devices[1].isAside = true;
  t.ok(slots.liesAside(V1));
  t.ok(slots.goesAside(V1), 'its column has room');
  t.notOk(slots.liesAside(V2));
  t.notOk(slots.goesAside(V2));
  t.equal(locationDevice(slots.allocate(V2, 4 * MIB)!), 0);
  t.notOk(slots.goesAside(V2));
  for (let i = 0; i < 3; i++) t.equal(locationDevice(slots.allocate(V2, 4 * MIB)!), 0);
  t.ok(slots.goesAside(V2), 'there is room on no other');
  t.notOk(slots.liesAside(V2));
  const last = slots.allocate(V2, 4 * MIB)!;
  t.equal(locationDevice(last), 1);
  t.ok(slots.liesAside(V2));
  slots.release(last);
  t.notOk(slots.liesAside(V2));
  devices[1].isAside = false;
  t.notOk(slots.liesAside(V1));
  t.end();
});

t.test('nothing goes to a device that has failed, and where there is no room at all nothing goes aside', t => {
  const devices = [deviceOf(0, 1), deviceOf(1, 5)];
  const slots = allocatorOf(...devices);
  t.equal(locationDevice(slots.allocate(V1, 4 * MIB)!), 1);
  devices[1].failure = 'a sync of it failed';
  devices[1].isAside = true;
  t.notOk(slots.goesAside(V1), 'its column there has room, but is not used any more');
  t.equal(locationDevice(slots.allocate(V2, 4 * MIB)!), 0);
  t.notOk(slots.goesAside(V1), 'who wants a slot hears that there is none');
  t.equal(slots.allocate(V1, 4 * MIB), undefined);
  t.end();
});

t.test('a pinned slot comes free when it is unpinned, in the way in which it would have come free', t => {
  const slots = allocatorOf(deviceOf(0, 1));
  const discarded: Location[] = [];
  slots.returnSpaceTo({ discard: location => void discarded.push(location) });
  const [released, retired, dropped, kept] = Array.from({ length: 4 }, () => slots.allocate(V1, 4 * MIB)!);
  for (const location of [released, retired, dropped, kept]) slots.pin(location);
  slots.release(released);
  slots.retire(retired, at(100), false);
  slots.retire(dropped, at(0), true);
  slots.cutPassed(at(100));
  t.equal(slots.allocate(V1, 4 * MIB), undefined, 'all of them may be written to still');
  t.same(discarded, []);
  slots.unpin(released);
  t.equal(slots.allocate(V1, 4 * MIB), released);
  slots.unpin(retired);
  t.equal(slots.allocate(V1, 4 * MIB), retired);
  slots.pin(dropped);
  slots.unpin(dropped);
  t.same(discarded, [], 'it was pinned twice');
  slots.unpin(dropped);
  t.same(discarded, [dropped]);
  t.equal(slots.allocate(V1, 4 * MIB), undefined);
  slots.discarded(dropped, 4 * MIB);
  t.equal(slots.allocate(V1, 4 * MIB), dropped);
  slots.unpin(kept);
  t.equal(slots.allocate(V1, 4 * MIB), undefined, 'it is in use');
  t.throws(() => slots.unpin(kept), /pinned/);
  t.end();
});

t.test('a retired slot is nobody else’s until the cut has passed what may name it', t => {
  const slots = allocatorOf(deviceOf(0, 1));
  const taken = Array.from({ length: 4 }, () => slots.allocate(V1, 4 * MIB)!);
  slots.retire(taken[0], at(100), false);
  slots.retire(taken[1], at(200), false);
  t.equal(slots.usedBytes(V1), 2 * 4 * MIB, 'it does not count as used any more');
  t.equal(slots.retiredCount, 2);
  t.equal(slots.allocate(V1, 4 * MIB), undefined);
  slots.cutPassed(at(99));
  t.equal(slots.allocate(V1, 4 * MIB), undefined);
  slots.cutPassed(at(100));
  t.equal(slots.allocate(V1, 4 * MIB), taken[0]);
  slots.cutPassed(at(1000));
  t.equal(slots.allocate(V1, 4 * MIB), taken[1]);
  t.equal(slots.retiredCount, 0);
  t.end();
});

t.test('it is known up to where records name a slot', t => {
  const slots = allocatorOf(deviceOf(0, 1));
  const [a, b] = [slots.allocate(V1, 4 * MIB)!, slots.allocate(V1, 4 * MIB)!];
  t.equal(slots.namedUntil(a), 0, 'a slot that a destage has taken is named by none');
  slots.name([{ location: a }], at(100));
  slots.name([{ location: b }], at(200));
  slots.name([{ location: a }], at(300));
  t.equal(slots.namedCount, 3);
  t.equal(slots.namedUntil(a), 300, 'the newest record counts');
  slots.cutPassed(at(250));
  t.equal(slots.namedCount, 1);
  t.equal(slots.namedUntil(b), 0);
  t.equal(slots.namedUntil(a), 300);
  slots.retire(b, slots.namedUntil(b), false);
  t.equal(slots.retiredCount, 0, 'what no record names is free at once');
  t.equal(slots.allocate(V1, 4 * MIB), b);
  slots.cutPassed(at(300));
  t.equal(slots.namedCount, 0);
  t.end();
});

t.test('names in several columns are forgotten with the cut, and a column that is taken again has none', t => {
  const slots = allocatorOf(deviceOf(0, 2));
  const taken = Array.from({ length: 8 }, () => slots.allocate(V1, 4 * MIB)!);
  const [a, b] = [taken[0], taken[4]];
  t.equal(slots.freeColumns, 0, 'they are of both');
  slots.name([{ location: a }], at(100));
  slots.name([{ location: b }], at(200));
  slots.name([{ location: a }], at(300));
  slots.cutPassed(at(200));
  t.same([slots.namedUntil(a), slots.namedUntil(b), slots.namedCount], [300, 0, 1]);
  slots.name([{ location: b }], at(400));
  slots.cutPassed(at(300));
  t.same([slots.namedUntil(a), slots.namedUntil(b), slots.namedCount], [0, 400, 1]);
  for (const location of taken.slice(4)) slots.retire(location, slots.namedUntil(location), false);
  t.equal(slots.freeColumns, 0);
  slots.cutPassed(at(400));
  t.equal(slots.freeColumns, 1);
  const again = Array.from({ length: 4 }, () => slots.allocate(V1, 4 * MIB)!);
  t.ok(again.includes(b));
  t.equal(slots.namedUntil(b), 0);
  t.end();
});

t.test('a dropped slot is free only when its space has been given back', t => {
  const slots = allocatorOf(deviceOf(0, 1));
  const discards: [Location, number][] = [];
  slots.returnSpaceTo({ discard: (location, length) => void discards.push([location, length]) });
  const taken = Array.from({ length: 4 }, () => slots.allocate(V1, 4 * MIB)!);
  slots.retire(taken[0], at(100), true);
  slots.retire(taken[1], at(100), true);
  slots.cutPassed(at(100));
  t.same(discards, [
    [taken[0], 4 * MIB],
    [taken[1], 4 * MIB],
  ]);
  t.equal(slots.allocate(V1, 4 * MIB), undefined);
  slots.discarded(taken[0], 8 * MIB);
  t.equal(slots.allocate(V1, 4 * MIB), taken[0]);
  t.equal(slots.allocate(V1, 4 * MIB), taken[1]);
  t.end();
});

t.test('giving a slot up twice, or one the index still refers to, is a bug that shows', t => {
  const slots = allocatorOf(deviceOf(0, 2));
  const [a, b] = [slots.allocate(V1, 4 * MIB)!, slots.allocate(V1, 4 * MIB)!];
  slots.release(a);
  t.throws(() => slots.release(a), /freed once/);
  slots.markIndexed(b);
  t.throws(() => slots.release(b), /out of the index/);
  t.throws(() => slots.unmarkIndexed(a), /only what is indexed/);
  t.throws(() => slots.markIndexed((b + 1) as Location), /start of a slot/);
  t.throws(() => slots.markIndexed(locationOf(0, MIB + COLUMN)), /reserved column/);
  t.throws(() => slots.markIndexed(locationOf(9, MIB)), /device that is there/);
  t.end();
});

t.test('what the index is told brings an allocator back, without what only the log named', async t => {
  const device = deviceOf(0, 4);
  const slots = allocatorOf(device);
  const taken = Array.from({ length: 300 }, () => slots.allocate(V1, 64 * KIB)!);
  for (const location of taken.slice(0, 10)) slots.markIndexed(location);
  const other = slots.allocate(V2, 64 * KIB)!;
  const index = new MemoryIndex(new IndexContents());
  const store = async () => {
    const transaction = index.begin();
    slots.store(transaction);
    await completion(request => transaction.commit(request));
  };
  await store();
  const reload = () => {
    const again = new SlotAllocator();
    again.addDevice(device);
    for (const column of index.columns()) again.loadColumn(device, column);
    again.loaded();
    return again;
  };
  const again = reload();
  t.equal(again.usedBytes(V1), 10 * 64 * KIB);
  again.adopt(taken[20], V1, 64 * KIB, device);
  again.adopt(taken[20], V1, 64 * KIB, device);
  again.adopt(taken[280], V1, 64 * KIB, device);
  t.equal(again.usedBytes(V1), 12 * 64 * KIB, 'what the log names is adopted, once');
  again.settle();
  t.equal(again.freeColumns, 2, 'columns without anything in them are free: those of the second volume');
  const fresh = Array.from({ length: 500 }, () => again.allocate(V1, 64 * KIB)!);
  for (const location of [...taken.slice(0, 10), taken[20], taken[280]]) t.notOk(fresh.includes(location));
  t.equal(new Set(fresh).size, 500);
  slots.release(other);
  for (const location of taken.slice(10)) slots.release(location);
  for (const location of taken.slice(0, 10)) {
    slots.unmarkIndexed(location);
    slots.release(location);
  }
  await store();
  t.same([...index.columns()], []);
  t.equal(reload().freeColumns, 4);
});

t.test('a column that the log has for another volume than the index goes to that one', async t => {
  const device = deviceOf(0, 2);
  const slots = new SlotAllocator();
  slots.addDevice(device);
  slots.loadColumn(device, { device: 0, column: 0, volume: V1, chunkBytes: 64 * KIB, slots: new Uint32Array(8) });
  slots.loaded();
  slots.adopt(locationOf(0, MIB + 4 * MIB), V2, 4 * MIB, device);
  t.equal(slots.usedBytes(V2), 4 * MIB);
  t.not(locationPosition(slots.allocate(V1, 64 * KIB)!), MIB);
});

t.test('no slot is ever in two hands, whatever is done in which order', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const sizes = [16 * KIB, 64 * KIB, 4 * MIB];
  const slots = allocatorOf(deviceOf(0, 3), deviceOf(1, 5));
  const discards: [Location, number][] = [];
  slots.returnSpaceTo({ discard: (location, length) => void discards.push([location, length]) });
  const owned = new Map<Location, { volume: VolumeNumber; bytes: number }>();
  const retired: { location: Location; bytes: number; until: number; dropped: boolean }[] = [];
  const busy: { from: number; to: number }[] = [];
  const free = (location: Location) => {
    const i = busy.findIndex(range => range.from === location);
    if (i < 0) throw new Error('freed what was not taken');
    busy.splice(i, 1);
  };
  let cut = 0;
  for (let round = 0; round < 20_000; round++) {
    const volume = (1 + random(3)) as VolumeNumber;
    const what = random(10);
    if (what < 5) {
      const bytes = sizes[volume - 1];
      const location = slots.allocate(volume, bytes);
      if (location === undefined) continue;
      const range = { from: location as number, to: location + bytes / 4096 };
      if (owned.has(location)) t.fail('the same slot');
      if (busy.some(other => other.from < range.to && range.from < other.to)) t.fail(`round ${round}: slots overlap`);
      busy.push(range);
      owned.set(location, { volume, bytes });
    } else if (what < 7 && owned.size > 0) {
      const [location, { bytes }] = [...owned][random(owned.size)];
      owned.delete(location);
      if (random(3) === 0) {
        slots.release(location);
        free(location);
      } else {
        const dropped = random(2) === 0;
        slots.retire(location, at(round), dropped);
        retired.push({ location, bytes, until: round, dropped });
      }
    } else if (what === 7) {
      cut = Math.max(cut, round - random(50));
      while (retired.length > 0 && retired[0].until <= cut) {
        const { location, dropped } = retired.shift()!;
        if (!dropped) free(location);
      }
      slots.cutPassed(at(cut));
    } else if (discards.length > 0) {
      const [location, length] = discards.shift()!;
      free(location);
      slots.discarded(location, length);
    }
  }
  slots.cutPassed(at(20_000));
  for (const [location, length] of discards.splice(0)) slots.discarded(location, length);
  for (const location of owned.keys()) slots.release(location);
  t.equal(slots.freeColumns, 8, 'all of it comes back');
  for (const volume of [1, 2, 3]) t.equal(slots.usedBytes(volume as VolumeNumber), 0);
  t.end();
});
