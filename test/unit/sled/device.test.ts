/** Devices: the superblock's bytes and what is made of damaged ones, taking, opening and growing, syncs that fail. */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import { completion } from '../../../src/base/io-wait.ts';
import { laggingSyncMs } from '../../../src/base/limits.ts';
import type { Location } from '../../../src/base/location.ts';
import { locationOf } from '../../../src/base/location.ts';
import { plainRegion } from '../../../src/base/memory.ts';
import { MIB } from '../../../src/base/units.ts';
import { addon } from '../../../src/platform/addon.ts';
import { columnsThatFit, examineDevice, openDevice, takeDevice } from '../../../src/sled/device.ts';
import { Sled } from '../../../src/sled/sled.ts';
import type { Superblock, SuperblockVerdict } from '../../../src/sled/superblock.ts';
import {
  decodeSuperblock,
  encodeSuperblock,
  FIRST_COLUMN_POSITION,
  judgeCopies,
  SUPERBLOCK_POSITIONS,
} from '../../../src/sled/superblock.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { pump } from '../head/head-rig.ts';
import { ControlledFile } from '../oplog/controlled-file.ts';

const tools = { regions: { allocate: plainRegion }, checksums: addon };
const identity = { node: '00112233445566778899aabbccddeeff', device: 'f0e1d2c3b4a5968778695a4b3c2d1e0f', number: 3 };
const superblock: Superblock = {
  ...identity,
  columnBytes: 16 * MIB,
  firstColumn: MIB,
  columnCount: 2 ** 33 + 5,
  serial: 7,
};

function encoded(value: Superblock = superblock): Uint8Array {
  const bytes = new Uint8Array(4096);
  encodeSuperblock(value, bytes, addon);
  return bytes;
}

/** Made with another program, from the table in `sled/superblock.ts`. */
const GOLDEN: readonly string[] = [
  '534c454447450d0a010000005f7e6fef',
  '00112233445566778899aabbccddeeff',
  'f0e1d2c3b4a5968778695a4b3c2d1e0f',
  '03000000100000000000100000000000',
  '05000000020000000700000000000000',
];

t.test('a superblock has the bytes that the format says', t => {
  const bytes = encoded();
  t.same(Buffer.from(bytes.subarray(0, 80)).toString('hex').match(/.{32}/g), GOLDEN);
  t.ok(bytes.subarray(80).every(byte => byte === 0));
  t.same(decodeSuperblock(bytes, addon), { kind: 'valid', superblock });
  t.end();
});

t.test('a superblock with any one bit turned over is not valid', t => {
  const kinds = new Map<string, number>();
  for (let bit = 0; bit < 4096 * 8; bit += bit < 1024 ? 1 : 61) {
    const bytes = encoded();
    bytes[bit >> 3] ^= 1 << (bit & 7);
    const { kind } = decodeSuperblock(bytes, addon);
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  t.same([...kinds.keys()].sort(), ['damaged', 'foreign'], JSON.stringify([...kinds]));
  t.equal(kinds.get('foreign'), 64, 'only without its magic it is somebody else’s');
  t.end();
});

t.test('rubbish is never taken for a superblock', t => {
  const random = randomFrom(testSeed());
  for (let round = 0; round < 300; round++) {
    const bytes = Uint8Array.from({ length: 4096 }, () => random(256));
    if (round % 2 === 0) bytes.set(encoded().subarray(0, 8 + random(80)));
    if (decodeSuperblock(bytes, addon).kind === 'valid') t.fail(`round ${round}`);
  }
  t.same(decodeSuperblock(new Uint8Array(4096), addon), { kind: 'blank' });
  t.end();
});

t.test('a later format is told by its version', t => {
  const bytes = encoded();
  const view = new DataView(bytes.buffer);
  view.setUint32(8, 2, true);
  view.setUint32(12, 0, true);
  view.setUint32(12, addon.checksum(bytes, 0, 4096, 0), true);
  t.same(decodeSuperblock(bytes, addon), { kind: 'version', version: 2 });
  t.end();
});

t.test('of two copies the newest whole one counts, and else the verdict that calls for most care', t => {
  const valid = (serial: number): SuperblockVerdict => ({ kind: 'valid', superblock: { ...superblock, serial } });
  const blank: SuperblockVerdict = { kind: 'blank' };
  const foreign: SuperblockVerdict = { kind: 'foreign' };
  const damaged: SuperblockVerdict = { kind: 'damaged' };
  const version: SuperblockVerdict = { kind: 'version', version: 9 };
  const cases: [SuperblockVerdict[], SuperblockVerdict][] = [
    [[valid(1), valid(2)], valid(2)],
    [[valid(2), valid(1)], valid(2)],
    [[damaged, valid(1)], valid(1)],
    [[valid(1), foreign], valid(1)],
    [[blank, valid(1)], valid(1)],
    [[blank, blank], blank],
    [[blank, foreign], foreign],
    [[foreign, damaged], damaged],
    [[damaged, version], version],
    [[blank, damaged], damaged],
    [[], blank],
  ];
  for (const [copies, expected] of cases) t.same(judgeCopies(copies), expected);
  t.end();
});

function blankFile(columns: number, extra = 0): { loop: MemoryLoop; file: ControlledFile } {
  const loop = new MemoryLoop();
  return { loop, file: new ControlledFile(loop, FIRST_COLUMN_POSITION + columns * 16 * MIB + extra) };
}

t.test('a blank device is taken: both copies, each durable before the next is touched', async t => {
  const { loop, file } = blankFile(3, 12345 * 512);
  t.same(await pump(loop, examineDevice('/d', file, tools)), { kind: 'blank' });
  t.equal(file.counts.write, 0, 'looking changes nothing');
  file.hold.add('write').add('sync');
  const taking = pump(loop, takeDevice('/d', file, identity, tools));
  const order: string[] = [];
  for (let i = 0; i < 4; i++) {
    while (file.held.length === 0) await new Promise(resolve => setImmediate(resolve));
    order.push(`${file.held[0].command} ${file.held[0].position}`);
    file.held[0].finish();
  }
  const device = await taking;
  t.same(order, ['write 0', 'sync 0', `write ${SUPERBLOCK_POSITIONS[1]}`, 'sync 0']);
  t.equal(device.columnCount, 3);
  t.equal(device.identity, identity.device);
  t.equal(device.columnPosition(2), MIB + 32 * MIB);
  t.equal(device.columnAt(MIB + 16 * MIB), 1);
  t.equal(device.columnAt(MIB + 16 * MIB - 1), 0);
  t.throws(() => device.columnAt(0), /in a column/);
  t.throws(() => device.columnPosition(3), /on the device/);
  file.hold.clear();
  t.match(await pump(loop, examineDevice('/d', file, tools)), { kind: 'valid', superblock: { columnCount: 3 } });
});

t.test('a device that is too small is refused and left alone', async t => {
  for (const size of [0, 4096, MIB, MIB + 16 * MIB - 512]) {
    const loop = new MemoryLoop();
    const file = new ControlledFile(loop, size);
    t.equal(columnsThatFit(size), 0);
    t.same(await pump(loop, examineDevice('/d', file, tools)), { kind: 'blank' });
    await t.rejects(pump(loop, takeDevice('/d', file, identity, tools)), { code: 'no-space' });
    t.equal(file.counts.write, 0);
  }
});

t.test('a device with one damaged copy is known by the other one', async t => {
  for (const position of SUPERBLOCK_POSITIONS) {
    const { loop, file } = blankFile(2);
    await pump(loop, takeDevice('/d', file, identity, tools));
    file.flip(position + 20);
    t.equal((await pump(loop, examineDevice('/d', file, tools))).kind, 'valid');
    for (const other of SUPERBLOCK_POSITIONS) if (other !== position) file.flip(other + 20);
    t.equal((await pump(loop, examineDevice('/d', file, tools))).kind, 'damaged');
  }
});

t.test('a device that holds other data is foreign, wherever that lies', async t => {
  const { loop, file } = blankFile(2);
  file.poke(SUPERBLOCK_POSITIONS[1] + 1080, Uint8Array.of(0x53, 0xef));
  t.equal((await pump(loop, examineDevice('/d', file, tools))).kind, 'foreign');
});

t.test('a device that has grown has more columns from then on; one that has shrunk is refused', async t => {
  const { loop, file } = blankFile(2);
  await pump(loop, takeDevice('/d', file, identity, tools));
  const verdict = async () => {
    const found = await pump(loop, examineDevice('/d', file, tools));
    if (found.kind !== 'valid') throw new Error(found.kind);
    return found.superblock;
  };
  const writes = file.counts.write;
  t.equal((await pump(loop, openDevice('/d', file, await verdict(), tools))).columnCount, 2);
  t.equal(file.counts.write, writes, 'opening it as it is changes nothing');
  file.sizeBytes += 3 * 16 * MIB + 512;
  t.equal((await pump(loop, openDevice('/d', file, await verdict(), tools))).columnCount, 5);
  t.match(await verdict(), { columnCount: 5, serial: 2 });
  // A crash between the two copies leaves one that is old and whole: the newer one counts.
  file.poke(SUPERBLOCK_POSITIONS[1], encoded({ ...superblock, columnCount: 2, serial: 1 }));
  t.match(await verdict(), { columnCount: 5, serial: 2 });
  file.sizeBytes -= 16 * MIB;
  await t.rejects(pump(loop, openDevice('/d', file, await verdict(), tools)), { code: 'device-unusable' });
});

t.test('a device that cannot be read or written is refused with io', async t => {
  const { loop, file } = blankFile(2);
  file.failing.set('read', -EIO);
  await t.rejects(pump(loop, examineDevice('/d', file, tools)), { code: 'io', message: /\/d: read at 0 failed: EIO/ });
  file.failing.set('write', -EIO);
  await t.rejects(pump(loop, takeDevice('/d', file, identity, tools)), { code: 'io' });
  file.failing.delete('write');
  file.failing.set('sync', -EIO);
  await t.rejects(pump(loop, takeDevice('/d', file, identity, tools)), { code: 'io', message: /sync/ });
});

async function sledOf(count: number) {
  const loop = new MemoryLoop();
  const sled = new Sled(loop);
  const files: ControlledFile[] = [];
  for (let number = 0; number < count; number++) {
    const file = new ControlledFile(loop, FIRST_COLUMN_POSITION + 2 * 16 * MIB);
    sled.add(await pump(loop, takeDevice(`/d${number}`, file, { ...identity, number }, tools)));
    files.push(file);
  }
  const sync = () =>
    pump(
      loop,
      completion(request => sled.syncData(request)),
    );
  await sync();
  const syncDevices = () =>
    pump(
      loop,
      completion(request => sled.syncDevices(sled.devices(), request)),
    );
  return { loop, sled, files, sync, syncDevices };
}

t.test('a sled reads and writes by location, each device its own', async t => {
  const { loop, sled, files } = await sledOf(2);
  const region = plainRegion(8192);
  region.bytes.fill(5);
  const place = locationOf(1, MIB + 4096);
  t.equal(
    await pump(
      loop,
      completion(request => sled.write(place, region, 0, 8192, request)),
    ),
    8192,
  );
  t.ok(files[1].peek(MIB + 4096, 8192).every(byte => byte === 5));
  t.ok(files[0].peek(MIB + 4096, 8192).every(byte => byte === 0));
  t.throws(() => sled.device(2), /is there/);
  t.ok(sled.has(1));
  t.notOk(sled.has(2));
});

t.test('a sync goes to the devices that were written to, and to no others', async t => {
  const { sled, files, sync } = await sledOf(3);
  const before = files.map(file => file.counts.sync);
  sled.wrote(locationOf(1, MIB) as Location);
  t.equal(await sync(), 0);
  t.same(
    files.map((file, i) => file.counts.sync - before[i]),
    [0, 1, 0],
  );
  t.equal(await sync(), 0);
  t.equal(files[1].counts.sync - before[1], 1, 'and once');
});

t.test('what was carried is synced for the destage, and not for who waits for the log', async t => {
  const { sled, files, sync, syncDevices } = await sledOf(2);
  const before = files.map(file => file.counts.sync);
  const syncs = () => files.map((file, i) => file.counts.sync - before[i]);
  sled.carried(locationOf(0, MIB));
  t.equal(await sync(), 0);
  t.same(syncs(), [0, 0]);
  sled.wrote(locationOf(1, MIB));
  t.equal(await syncDevices(), 0);
  t.same(syncs(), [1, 1], 'all of it');
  t.equal(await sync(), 0);
  t.equal(await syncDevices(), 0);
  t.same(syncs(), [1, 1], 'and once');
  sled.wrote(locationOf(0, MIB));
  sled.carried(locationOf(0, MIB));
  t.equal(await sync(), 0);
  t.equal(await syncDevices(), 0);
  t.same(syncs(), [2, 1], 'one sync covers both');
});

t.test('a write that is reported while a sync is under way is left for the next one', async t => {
  const { loop, sled, files, sync } = await sledOf(1);
  sled.wrote(locationOf(0, MIB));
  files[0].hold.add('sync');
  const first = sync();
  await new Promise(resolve => setImmediate(resolve));
  sled.wrote(locationOf(0, MIB));
  files[0].letGo();
  t.equal(await first, 0);
  const before = files[0].counts.sync;
  t.equal(await sync(), 0);
  t.equal(files[0].counts.sync, before + 1);
  t.equal(loop.turn(), false);
});

t.test('a sync that is asked for while another is under way does not end before what it covers is durable', async t => {
  const { loop, sled, files } = await sledOf(1);
  sled.wrote(locationOf(0, MIB));
  files[0].hold.add('sync');
  const ended: string[] = [];
  sled.syncData({ ioCompleted: result => void ended.push(`first ${result}`) });
  loop.turn();
  sled.syncData({ ioCompleted: result => void ended.push(`second ${result}`) });
  for (let i = 0; i < 3; i++) {
    loop.turn();
    await new Promise(resolve => setImmediate(resolve));
  }
  t.same(ended, [], 'the write that the first one syncs is not durable yet');
  files[0].letGo();
  for (let i = 0; i < 3; i++) {
    loop.turn();
    await new Promise(resolve => setImmediate(resolve));
  }
  t.same(ended, ['first 0', 'second 0']);
});

t.test('what a record will name is synced beforehand where a sync has taken long lately', async t => {
  const { loop, sled, files, sync } = await sledOf(2);
  const written = [{ location: locationOf(0, MIB) }, { location: locationOf(1, MIB) }];
  const results: number[] = [];
  const secure = () => sled.secure(written, { ioCompleted: result => void results.push(result) });
  const settle = async () => {
    for (let i = 0; i < 3; i++) {
      loop.turn();
      await new Promise(resolve => setImmediate(resolve));
    }
  };
  const before = files.map(file => file.counts.sync);
  const syncs = () => files.map((file, i) => file.counts.sync - before[i]);
  t.notOk(secure(), 'all are quick');

  const slowSync = async () => {
    sled.wrote(locationOf(0, MIB));
    files[0].hold.add('sync');
    const synced = sync();
    await settle();
    loop.advance(2 * laggingSyncMs);
    files[0].letGo();
    t.equal(await synced, 0);
  };
  await slowSync();
  t.same(syncs(), [1, 0]);
  files[0].hold.add('sync');
  t.ok(secure());
  await settle();
  t.same(results, [], 'not before the sync has ended');
  files[0].letGo();
  await settle();
  t.same(results, [0]);
  t.same(syncs(), [2, 0], 'the quick one is left to whoever flushes');
  t.equal(await sync(), 0);
  t.same(syncs(), [2, 1], 'who does not wait for the slow one any more');

  t.ok(secure(), 'one quick sync does not make it a quick device');
  await settle();
  t.ok(secure());
  await settle();
  t.notOk(secure(), 'some do');

  await slowSync();
  files[0].failing.set('sync', -EIO);
  t.ok(secure());
  await settle();
  t.equal(results.at(-1), -EIO);
  t.match(sled.device(0).failure, /sync/);
});

t.test('after a failed sync a device stays failed, and so do all syncs', async t => {
  const { sled, files, sync } = await sledOf(2);
  sled.wrote(locationOf(0, MIB));
  files[0].failing.set('sync', -EIO);
  t.equal(await sync(), -EIO);
  files[0].failing.clear();
  t.equal(await sync(), -EIO);
  t.equal(await sync(), -EIO);
  t.equal(sled.device(0).errors.write, 1);
  t.match(sled.device(0).failure, /sync/);
  t.equal(sled.device(1).failure, undefined);
});

t.test('who does not rely on a device that failed a sync does not hear of it', async t => {
  const { sled, files, sync, syncDevices } = await sledOf(2);
  sled.carried(locationOf(0, MIB));
  files[0].failing.set('sync', -EIO);
  t.equal(await syncDevices(), -EIO);
  files[0].failing.clear();
  t.equal(await sync(), 0, 'the log holds what was carried there');
  t.equal(await syncDevices(), -EIO);
  sled.wrote(locationOf(0, MIB));
  t.equal(await sync(), -EIO);
  t.equal(await sync(), -EIO, 'and it is not forgotten');
});

t.test('a device is aside while it is ill and another one is well', async t => {
  const { loop, sled, files, sync } = await sledOf(2);
  const aside = () => [...sled.devices()].map(device => device.isAside);
  const place = (number: number) => locationOf(number, MIB);
  t.same([aside(), sled.hasAside], [[false, false], false]);
  sled.writeFailed(place(1));
  t.same([aside(), sled.hasAside], [[false, true], true]);
  sled.writeFailed(place(0));
  t.same([aside(), sled.hasAside], [[false, false], false], 'when all are ill nobody can be spared');
  sled.writeSucceeded(sled.device(0));
  t.same(aside(), [false, true]);
  sled.writeSucceeded(sled.device(1));
  t.same(aside(), [false, false]);

  sled.wrote(place(0));
  files[0].hold.add('sync');
  const synced = sync();
  for (let i = 0; i < 3; i++) {
    loop.turn();
    await new Promise(resolve => setImmediate(resolve));
  }
  loop.advance(2 * laggingSyncMs);
  files[0].letGo();
  t.equal(await synced, 0);
  t.same(aside(), [true, false], 'it took long');
  for (let i = 0; i < 3; i++) {
    t.same(aside(), [true, false]);
    sled.wrote(place(0));
    t.equal(await sync(), 0);
  }
  t.same(aside(), [false, false], 'it has been quick for a while');
  sled.holdsUpOthers([...sled.devices()]);
  t.same(aside(), [false, false], 'all of them hold up nobody else');
  sled.holdsUpOthers([sled.device(1)]);
  t.same(aside(), [false, true]);

  const begunMs = sled.carryBegins(sled.device(1));
  t.ok(sled.judgeStalled([sled.device(1)]));
  t.notOk(sled.judgeStalled([]), 'nothing is waited for');
  t.notOk(sled.judgeStalled([...sled.devices()]));
  sled.carryEnded(sled.device(1), begunMs);

  files[1].failing.set('sync', -EIO);
  sled.wrote(place(1));
  t.equal(await sync(), -EIO);
  t.same(aside(), [false, true], 'for good');
  sled.holdsUpOthers([sled.device(0)]);
  t.same([aside(), sled.device(0).illness], [[false, true], undefined], 'there are no others that are well');
  sled.writeFailed(place(0));
  t.same(aside(), [false, true], 'beside one that is ill in another way, too');
});

t.test('a device that ends nothing for a while is slow, and so is one whose writes take long', async t => {
  const { loop, sled } = await sledOf(3);
  const [first, second] = [...sled.devices()];
  const begun = [sled.carryBegins(first), sled.carryBegins(second)];
  loop.advance(3 * laggingSyncMs);
  t.notOk(sled.judgeStalled([first, second]));
  sled.carryEnded(first, begun[0]);
  sled.carryBegins(first);
  loop.advance(2 * laggingSyncMs);
  t.notOk(sled.judgeStalled([first, second]), 'one of them goes on');
  t.same([first.isAside, second.isAside], [false, true]);
  t.ok(sled.judgeStalled([second]));
  sled.carryEnded(first, begun[0]);
  t.ok(first.isAside, 'that write took long');
});
