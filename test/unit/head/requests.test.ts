/** Requests to a volume of a whole head: what they change, what races with what, and what fails how. */
import t from 'tap';
import { EIO, ENOSPC } from '../../../src/base/errno.ts';
import type { TurnTask } from '../../../src/base/io.ts';
import { bounceBufferBytes } from '../../../src/base/limits.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';
import { lentBytes } from '../../support/gathered.ts';
import { HeadRig, isAll, pump, type TestRequest } from './head-rig.ts';

const CHUNK = 64 * KIB;

/** Makes a head that has to go to log and device for everything: the cache holds next to nothing of what is read. */
async function withoutCache(rig: HeadRig): Promise<void> {
  const blocks = rig.head.cache.capacity;
  for (let i = 0; i < 2 * blocks; i += 8) {
    rig.submit('write', 32 * MIB + i * 4096, new Uint8Array(32 * KIB).fill(0xcc));
  }
  await rig.settle();
}

t.test('what was never written reads as zeroes, as holes where they are wanted', async t => {
  const rig = await HeadRig.start();
  t.ok(isAll(await rig.read(100, 5000), 0));
  t.ok(isAll(await rig.read(0, 2 * MIB), 0));
  await rig.write(8192, 4096, 1);
  for (const length of [16 * KIB, 256 * KIB]) {
    const request = await rig.do('read', 0, length, { holesWanted: true });
    t.same(request.errno, 0);
    if (request.holes.length > 0) {
      t.same(request.holes, [
        [0, 8192],
        [12288, length - 12288],
      ]);
    }
    t.ok(isAll(request.bytes.subarray(8192, 12288), 1));
    t.ok(isAll(request.bytes.subarray(0, 8192), 0));
  }
});

t.test('writes of any offset and length change these bytes and no others', async t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const size = 2 * MIB;
  const rig = await HeadRig.start({ volumeBytes: size, columns: 8 });
  const model = new Uint8Array(size);
  for (let round = 0; round < 250; round++) {
    const offset = random(3) === 0 ? random(32) * CHUNK : random(3) === 0 ? random(512) * 4096 : random(size);
    const wanted = [random(5000), random(8) * 4096, random(5) * CHUNK, 40 * KIB + random(4096)][random(4)] + 1;
    const length = Math.min(wanted, size - offset);
    const kind = random(6);
    if (kind === 0) {
      const noHole = random(2) === 0;
      t.equal((await rig.do('writeZeroes', offset, length, { noHole })).errno, 0);
      model.fill(0, offset, offset + length);
    } else if (kind === 1) {
      await rig.do('trim', offset, length);
      // A trim is a hint about whole blocks.
      const from = Math.min(Math.ceil(offset / 4096) * 4096, offset + length);
      const to = Math.max(Math.floor((offset + length) / 4096) * 4096, from);
      model.fill(0, from, to);
    } else {
      const fill = 1 + random(255);
      if ((await rig.write(offset, length, fill)) !== 0) t.fail('a write failed');
      model.fill(fill, offset, offset + length);
    }
    if (round % 50 === 49) await pump(rig.loop, rig.destage.all());
    const from = Math.max(0, offset - 5000);
    const span = Math.min(length + 10_000, size - from);
    const seen = await rig.read(from, span);
    if (!Buffer.from(seen).equals(model.subarray(from, from + span))) t.fail(`round ${round}: ${offset}+${length}`);
  }
  t.ok(Buffer.from(await rig.read(0, size)).equals(model));
  const again = await HeadRig.start({ columns: 8 }, rig.store);
  t.ok(Buffer.from(await again.read(0, size)).equals(model), 'and after a restart');
});

t.test('partial writes of one block at the same time all take effect', async t => {
  const rig = await HeadRig.start();
  const requests: TestRequest[] = [];
  for (let i = 0; i < 64; i++) requests.push(rig.submit('write', i * 64, new Uint8Array(64).fill(i + 1)));
  await rig.settle();
  t.ok(requests.every(request => request.errno === 0));
  const bytes = await rig.read(0, 4096);
  for (let i = 0; i < 64; i++) if (!isAll(bytes.subarray(i * 64, i * 64 + 64), i + 1)) t.fail(`write ${i} was lost`);
});

t.test('a partial write beside bulk and whole-block writes of the same block loses no update', async t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  for (let round = 0; round < 60; round++) {
    const rig = round % 20 === 0 ? await HeadRig.start({ columns: 8 }) : last!;
    last = rig;
    const base = (round % 20) * CHUNK;
    // Completed one after the other, each of them touching bytes of its own beside what they share.
    const block = random(16);
    const shared = base + block * 4096;
    const requests: TestRequest[] = [];
    const submit = [
      () => requests.push(rig.submit('write', base, new Uint8Array(CHUNK).fill(1))),
      () => requests.push(rig.submit('write', shared + 100, new Uint8Array(50).fill(2))),
      () => requests.push(rig.submit('write', shared + 200, new Uint8Array(50).fill(3))),
      () => requests.push(rig.submit('write', shared, new Uint8Array(4096).fill(4))),
    ];
    for (let i = submit.length - 1; i > 0; i--) {
      const j = random(i + 1);
      [submit[i], submit[j]] = [submit[j], submit[i]];
    }
    for (const start of submit) {
      start();
      for (let turns = random(4); turns > 0; turns--) rig.loop.turn();
    }
    await rig.settle();
    if (!requests.every(request => request.errno === 0)) t.fail('a write failed');
    const bytes = await rig.read(base, CHUNK);
    const whole = [1, 4];
    const inBlock = bytes.subarray(block * 4096, block * 4096 + 4096);
    // Each byte is of one of the requests that cover it, and the pieces of one request are not torn within the block.
    const around = inBlock[0];
    if (!whole.includes(around)) t.fail(`byte 0 is ${around}`);
    for (const [at, value] of [
      [100, 2],
      [200, 3],
    ]) {
      const piece = inBlock.subarray(at, at + 50);
      if (!isAll(piece, value) && !whole.some(fill => isAll(piece, fill))) t.fail(`round ${round}: torn piece`);
    }
    const rest = Array.from(inBlock).filter((_, i) => !(i >= 100 && i < 150) && !(i >= 200 && i < 250));
    if (!rest.every(byte => byte === around)) t.fail(`round ${round}: bytes that no request wrote`);
    const outside = Array.from(bytes).filter((_, i) => i < block * 4096 || i >= block * 4096 + 4096);
    if (!outside.every(byte => byte === 1)) t.fail(`round ${round}: the bulk write was lost`);
  }
  t.pass('60 rounds');
});
let last: HeadRig | undefined;

t.test('a partial write that begins after a write was answered keeps that write', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  rig.store.device.hold.add('write');
  const bulk = rig.submit('write', 0, new Uint8Array(CHUNK).fill(2));
  const partial = rig.submit('write', 4096 + 10, new Uint8Array(10).fill(3));
  await rig.settle();
  t.equal(partial.errno, undefined, 'it waits for the bulk write that holds its block');
  t.ok(isAll(await rig.read(0, CHUNK), 1), 'reads do not wait');
  rig.store.device.letGo();
  await rig.settle();
  t.same([bulk.errno, partial.errno], [0, 0]);
  const bytes = await rig.read(0, CHUNK);
  t.ok(isAll(bytes.subarray(4106, 4116), 3));
  t.ok(isAll(bytes.subarray(4116), 2));
});

t.test('a write of a whole block waits for the partial write that holds it, and comes after it', async t => {
  const rig = await HeadRig.start({ cacheBytes: 4096 });
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await rig.write(8 * CHUNK, 4096, 9);
  await rig.read(8 * CHUNK, 4096);
  rig.store.device.hold.add('read');
  const partial = rig.submit('write', 100, new Uint8Array(50).fill(2));
  await rig.settle();
  t.equal(rig.store.device.held.length, 1, 'the partial write reads its block');
  const whole = rig.submit('write', 0, new Uint8Array(4096).fill(3));
  await rig.settle();
  t.same([partial.errno, whole.errno], [undefined, undefined]);
  rig.store.device.hold.clear();
  for (const held of rig.store.device.held.splice(0)) held.finish();
  await rig.settle();
  t.same([partial.errno, whole.errno], [0, 0]);
  t.ok(isAll(await rig.read(0, 4096), 3));
});

t.test('a partial write is not put off for ever by a stream of other writes', async t => {
  const rig = await HeadRig.start();
  let partial: TestRequest | undefined;
  for (let turn = 0; turn < 50; turn++) {
    // Appended before the batch of the turn before is committed: something is always under way.
    rig.submit('write', turn * 4096, new Uint8Array(4096).fill(1));
    if (turn === 3) partial = rig.submit('write', 40 * MIB + 5, new Uint8Array(10).fill(2));
    rig.loop.turn();
  }
  t.equal(partial?.errno, 0);
});

t.test('a block that is moved while it is read is read again where it is by then', async t => {
  const rig = await HeadRig.start({ columns: 8, cacheBytes: MIB });
  for (let i = 0; i < 16; i++) await rig.write(i * 4096, 4096, 10 + i);
  await pump(rig.loop, rig.destage.all());
  await withoutCache(rig);
  const { device } = rig.store;
  device.hold.add('read');
  const read = rig.submit('read', 0, CHUNK);
  await rig.settle();
  t.ok(device.held.length > 0);
  // The chunk goes to a fresh slot; the old one comes free with the cut, and is used by somebody else.
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  for (let i = 1; i < 257; i++) rig.submit('write', i * CHUNK, new Uint8Array(CHUNK).fill(2));
  await rig.settle();
  device.letGo();
  await rig.settle();
  t.equal(read.errno, 0);
  const bytes = read.bytes;
  const old = bytes.every((byte, i) => byte === 10 + (i >> 12));
  t.ok(old || isAll(bytes, 1), 'a committed state of the block, of then or of now');
  t.same(rig.events, [], 'and no talk of corruption');
});

t.test('a block of the log that is recycled while it is read is read again from its slot', async t => {
  const rig = await HeadRig.start({ columns: 8, cacheBytes: MIB });
  await rig.write(4096, 4096, 1);
  await withoutCache(rig);
  const segment = rig.store.segments.find(file => file.counts.write > 0)!;
  for (const file of rig.store.segments) file.hold.add('read');
  const read = rig.submit('read', 4096, 4096);
  await rig.settle();
  const held = rig.store.segments.filter(file => file.held.length > 0);
  t.same(held, [segment], 'it is read from the log');
  segment.hold.clear();
  for (const file of rig.store.segments) file.hold.clear();
  const waiting = segment.held.splice(0);
  await pump(rig.loop, rig.destage.all());
  for (let i = 0; i < 500; i++) await rig.write(16 * MIB + i * CHUNK * 0.5, 28 * KIB, 5);
  await pump(rig.loop, rig.destage.all());
  segment.poke(0, new Uint8Array(8192).fill(9));
  for (const io of waiting) io.finish();
  await rig.settle();
  t.equal(read.errno, 0);
  t.ok(isAll(read.bytes, 1));
});

t.test('a large read that is in the cache is lent its bytes, which later writes and trims leave alone', async t => {
  const rig = await HeadRig.start({ columns: 8 });
  for (let i = 0; i < 32; i++) await rig.write(i * 4096, 4096, 10 + i);
  await pump(rig.loop, rig.destage.all());
  const isAsWritten = (bytes: Uint8Array, first: number) =>
    bytes.every((byte, i) => byte === 10 + Math.floor((first + i) / 4096));
  const lent: TestRequest[] = [];
  for (const [offset, length] of [
    [0, 2 * CHUNK],
    [100, 40_000],
  ]) {
    const missed = await rig.do('read', offset, length, { keepsLoan: true });
    if (offset === 0) t.equal(missed.loan, undefined, 'not what has to be read');
    const hit = await rig.do('read', offset, length, { keepsLoan: true });
    t.ok(hit.loan !== undefined && isAsWritten(hit.bytes, offset));
    lent.push(hit);
  }
  t.equal((await rig.do('read', 0, 32 * KIB, { keepsLoan: true })).loan, undefined, 'nor a small one');
  await rig.write(0, CHUNK, 1);
  await rig.write(CHUNK + 100, 50, 2);
  await rig.do('trim', CHUNK + 4096, 4096);
  const expected = new Uint8Array(2 * CHUNK).map((_, i) => 10 + (i >> 12));
  expected.fill(1, 0, CHUNK);
  expected.fill(2, CHUNK + 100, CHUNK + 150);
  expected.fill(0, CHUNK + 4096, CHUNK + 8192);
  for (let round = 0; round < 3; round++) {
    t.same(await rig.read(0, 2 * CHUNK), expected, 'who reads now sees what is there now');
    for (const { loan, offsetBytes, bytes } of lent) {
      t.same(lentBytes(loan!), bytes);
      t.ok(isAsWritten(bytes, offsetBytes));
    }
    if (round === 1) for (const { loan } of lent.splice(0)) loan!.returned();
  }
});

t.test('what a read brings does not come into the cache when the block has changed meanwhile', async t => {
  const rig = await HeadRig.start({ columns: 8, cacheBytes: MIB });
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await withoutCache(rig);
  rig.store.device.hold.add('read');
  const read = rig.submit('read', 0, 4096);
  await rig.settle();
  await rig.write(0, 4096, 2);
  rig.store.device.letGo();
  await rig.settle();
  t.equal(read.errno, 0);
  t.ok(isAll(await rig.read(0, 4096), 2));
});

t.test(
  'a block that does not match its checksum gives EIO, is counted and named, and others stay readable',
  async t => {
    const rig = await HeadRig.start({ columns: 8 });
    for (let i = 0; i < 16; i++) await rig.write(i * 4096, 4096, 1);
    await pump(rig.loop, rig.destage.all());
    await withoutCache(rig);
    const entry = rig.index.chunk(rig.volume().number, 0)!;
    rig.store.device.flip(entry.location * 4096 + 3 * 4096 + 100);
    const reads = rig.store.device.counts.read;
    t.equal((await rig.do('read', 3 * 4096, 4096)).errno, EIO);
    t.equal(rig.store.device.counts.read - reads, 1, 'the same place with the same checksum is not read again');
    t.equal((await rig.do('read', 0, CHUNK)).errno, EIO);
    t.same(rig.events[0], `corrupt vol1 3 location ${entry.location + 3}`);
    t.equal([...rig.head.sled.devices()][0].errors.checksum, 2);
    t.ok(isAll(await rig.read(4 * 4096, 4096), 1));
    t.equal((await rig.do('write', 3 * 4096 + 5, new Uint8Array(5))).errno, EIO, 'it is not merged with anything');
    t.equal(await rig.write(3 * 4096, 4096, 2), 0, 'but can be written as a whole');
    t.ok(isAll(await rig.read(3 * 4096, 4096), 2));
  },
);

t.test('a device that cannot be read gives EIO and is counted', async t => {
  const rig = await HeadRig.start({ columns: 8, cacheBytes: MIB });
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await withoutCache(rig);
  rig.store.device.failing.set('read', -EIO);
  t.equal((await rig.do('read', 0, 4096)).errno, EIO);
  t.equal([...rig.head.sled.devices()][0].errors.read, 1);
  rig.store.device.failing.clear();
  t.ok(isAll(await rig.read(0, 4096), 1));
});

t.test('a bulk write that the device refuses gives EIO, and leaves the old chunk and no slot behind', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  rig.store.device.failing.set('write', -EIO);
  t.equal(await rig.write(0, 4 * CHUNK, 2), EIO);
  rig.store.device.failing.clear();
  t.ok(isAll(await rig.read(0, CHUNK), 1));
  t.equal(rig.head.slots.usedBytes(rig.volume().number), CHUNK);
  t.equal(await rig.write(0, CHUNK, 3), 0, 'the range is not locked');
});

t.test('a flush syncs the device that a bulk write went to, once', async t => {
  const rig = await HeadRig.start();
  // The first one syncs what an earlier process may have left.
  await rig.write(8 * CHUNK, 4096, 1);
  await rig.do('flush');
  const { counts } = rig.store.device;
  await rig.write(0, CHUNK, 1);
  const before = counts.sync;
  await rig.do('flush');
  t.equal(counts.sync, before + 1);
  await rig.write(8 * CHUNK, 4096, 2);
  await rig.do('flush');
  t.equal(counts.sync, before + 1, 'not for what lies in the log');
});

t.test('F2.35: a full device gives ENOSPC to bulk writes, keeps what it has, and takes more after a trim', async t => {
  const rig = await HeadRig.start({ columns: 1, volumeBytes: 64 * MIB });
  const chunks = (16 * MIB) / CHUNK;
  for (let i = 0; i < chunks; i += 16) t.equal(await rig.write(i * CHUNK, MIB, 1 + i / 16), 0);
  t.equal(await rig.write(20 * MIB, CHUNK, 9), ENOSPC);
  t.equal(await rig.write(4096, 4096, 77), 0, 'what has its slot can be written');
  await pump(rig.loop, rig.destage.all());
  t.ok(isAll(await rig.read(4096, 4096), 77));
  for (let i = 16; i < chunks; i += 16) t.ok(isAll(await rig.read(i * CHUNK, MIB), 1 + i / 16));
  await rig.do('trim', 0, 2 * MIB);
  await pump(rig.loop, rig.destage.all());
  await rig.settle();
  t.equal(await rig.write(30 * MIB, CHUNK, 8), 0);
  t.ok(isAll(await rig.read(30 * MIB, CHUNK), 8));
});

t.test('a chunk that finds no slot stays in the log, readable, until a trim makes room for it', async t => {
  const rig = await HeadRig.start({ columns: 1, volumeBytes: 64 * MIB });
  for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 1), 0);
  // Records of the log name these slots until the cut has passed them.
  await pump(rig.loop, rig.destage.all());
  t.equal(await rig.write(20 * MIB, 4096, 9), 0);
  await rig.advance(31_000);
  t.same(rig.events, ['stuck: all devices are full']);
  t.ok(isAll(await rig.read(20 * MIB, 4096), 9));
  const again = await HeadRig.start({ columns: 1 }, rig.store);
  t.ok(isAll(await again.read(20 * MIB, 4096), 9));
  await again.advance(31_000);
  t.same(again.events, ['stuck: all devices are full'], 'nor is there room after a restart');
  await again.do('trim', 2 * MIB, MIB);
  await again.advance(35_000);
  t.equal(again.log.cut, again.log.committedEnd, 'the destage goes on');
  t.equal(again.index.chunk(again.volume().number, (20 * MIB) / CHUNK)?.sums[0] === 0, false);
  t.ok(isAll(await again.read(20 * MIB, 4096), 9));
  t.ok(isAll(await again.read(2 * MIB, MIB), 0));
  t.equal(await again.write(30 * MIB, CHUNK, 8), 0);
});

t.test('a chunk that finds no slot does not keep those from coming free that wait for the cut behind it', async t => {
  const rig = await HeadRig.start({ columns: 1, volumeBytes: 64 * MIB });
  t.equal(await rig.write(40 * MIB, 4096, 9), 0);
  for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 1), 0);
  await rig.advance(31_000);
  t.same(rig.events, ['stuck: all devices are full']);
  t.equal((await rig.do('trim', 0, 2 * MIB)).errno, 0);
  await rig.advance(60_000);
  t.equal(rig.events.at(-1), 'recovered');
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.log.cut, rig.log.committedEnd);
  t.ok(isAll(await rig.read(40 * MIB, 4096), 9));
  t.ok(isAll(await rig.read(2 * MIB, MIB), 1));
  t.ok(isAll(await rig.read(0, 2 * MIB), 0));
  t.equal(await rig.write(50 * MIB, MIB, 7), 0);
});

t.test('what finds no slot does not keep from mass storage what has one', async t => {
  const rig = await HeadRig.start({ columns: 1, volumeBytes: 64 * MIB });
  for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 1), 0);
  await pump(rig.loop, rig.destage.all());
  // As many of these as of the others, and neither all in front of the others nor all behind.
  for (let i = 0; i < 100; i++) {
    t.equal(await rig.write(20 * MIB + i * CHUNK, 4096, 9), 0);
    t.equal(await rig.write(i * CHUNK, 4096, 2 + (i % 200)), 0);
    t.equal(await rig.write(i * CHUNK + 8192, 4096, 2 + (i % 200)), 0);
  }
  await rig.advance(60_000);
  t.same(rig.events, ['stuck: all devices are full']);
  t.ok(rig.head.overlay.usedRows <= 200, `${rig.head.overlay.usedRows} rows: 100 blocks and their chunks`);
  const cut = rig.log.cut;
  await rig.advance(60_000);
  t.equal(rig.log.cut, cut, 'nothing is carried forward for its own sake');
  for (let i = 0; i < 100; i++) {
    t.ok(isAll(await rig.read(20 * MIB + i * CHUNK, 4096), 9));
    t.ok(isAll(await rig.read(i * CHUNK + 8192, 4096), 2 + (i % 200)));
  }
});

t.test('trims that the index has no room for are carried over when it has some', async t => {
  const rig = await HeadRig.start({ columns: 4 });
  await rig.write(0, 4 * CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  rig.index.hasRoom = () => false;
  await rig.do('trim', 0, CHUNK);
  await rig.advance(3000);
  t.same(rig.events, ['stuck: the file system of the index has no space left']);
  await rig.do('writeZeroes', CHUNK, CHUNK);
  await rig.advance(3000);
  t.equal(await rig.write(0, 4096, 7), 0, 'into what was trimmed');
  rig.index.hasRoom = () => true;
  await rig.advance(40_000);
  t.equal(rig.events.at(-1), 'recovered');
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.log.cut, rig.log.committedEnd);
  const check = async (each: HeadRig) => {
    t.ok(isAll(await each.read(0, 4096), 7));
    t.ok(isAll(await each.read(4096, 2 * CHUNK - 4096), 0));
    t.ok(isAll(await each.read(2 * CHUNK, 2 * CHUNK), 1));
  };
  await check(rig);
  await check(await HeadRig.start({ columns: 4 }, rig.store));
});

t.test('with all devices full whole chunks that have their slots can be overwritten', async t => {
  const rig = await HeadRig.start({ columns: 1, volumeBytes: 64 * MIB });
  for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 1), 0);
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 10 + i + round), 0, `round ${round}, ${i}`);
    t.equal(await rig.write(20 * MIB, MIB, 9), ENOSPC, 'others find no room');
    await rig.advance(31_000);
  }
  for (let i = 0; i < 16; i++) t.ok(isAll(await rig.read(i * MIB, MIB), 13 + i));
});

t.test('what was trimmed can be written elsewhere at once, before its space is free', async t => {
  const rig = await HeadRig.start({ columns: 1, volumeBytes: 64 * MIB });
  for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 1), 0);
  await pump(rig.loop, rig.destage.all());
  t.equal(await rig.write(20 * MIB, MIB, 2), ENOSPC);
  await rig.do('trim', 0, 4 * MIB);
  for (let i = 0; i < 4; i++) t.equal(await rig.write((20 + i) * MIB, MIB, 3), 0);
  await rig.advance(90_000);
  await pump(rig.loop, rig.destage.all());
  for (let i = 0; i < 4; i++) t.ok(isAll(await rig.read((20 + i) * MIB, MIB), 3));
  t.equal(rig.log.cut, rig.log.committedEnd);
});

t.test('a small read is completed before another is placed', async t => {
  const rig = await HeadRig.start({ columns: 8, cacheBytes: 4096 });
  await rig.write(0, 16 * MIB, 1);
  await pump(rig.loop, rig.destage.all());
  await withoutCache(rig);
  let placed: TestRequest | undefined;
  const requests: TestRequest[] = [];
  for (let i = 0; i < 100; i++) {
    // More than there are buffers, and every other one finds the zeroes of nothing, which takes no I/O.
    const request = rig.submit('read', (i % 2 === 0 ? 0 : 20 * MIB) + i * 8 * KIB, 8 * KIB);
    const place = request.place.bind(request);
    request.place = () => {
      if (placed !== undefined && placed.errno === undefined) t.fail('two are open at a time');
      placed = request;
      place();
    };
    requests.push(request);
  }
  await rig.settle();
  for (const request of requests) t.equal(request.errno, 0);
});

t.test('F2.35: with device and log full small writes get ENOSPC until a trim makes room', async t => {
  const rig = await HeadRig.start({ columns: 1, volumeBytes: 128 * MIB });
  for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 1), 0);
  await pump(rig.loop, rig.destage.all());
  // As many chunks as a trim of the whole device will make room for.
  const places = 500;
  const values = new Map<number, number>();
  let errno = 0;
  for (let i = 0; errno === 0 && i < 10_000; i++) {
    const at = 32 * MIB + (i % places) * 32 * KIB;
    const request = rig.submit('write', at, new Uint8Array(32 * KIB).fill(1 + (i % 250)));
    await rig.settle();
    if (request.errno === undefined) await rig.advance(5000);
    errno = request.errno ?? -1;
    if (errno === 0) values.set(at, 1 + (i % 250));
  }
  const check = async () => {
    for (const [at, value] of [...values].filter((_, i) => i % 50 === 0)) {
      t.ok(isAll(await rig.read(at, 32 * KIB), value), 'what was accepted is there');
    }
  };
  t.equal(errno, ENOSPC);
  t.equal(rig.events[0], 'stuck: all devices are full');
  t.ok(rig.log.usedBytes > 0.85 * rig.log.limitBytes, 'the log took what it could');
  t.equal(await rig.write(100 * MIB + 1, 10, 5), ENOSPC, 'part of a block');
  t.equal(await rig.write(100 * MIB, CHUNK / 2, 5), ENOSPC);
  await check();
  t.equal((await rig.do('trim', 0, 16 * MIB)).errno, 0);
  await rig.advance(60_000);
  t.equal(await rig.write(100 * MIB, 4096, 7), 0, 'it heals');
  t.equal(rig.events.at(-1), 'recovered');
  await check();
});

t.test(
  'F2.35: with everything full nobody waits for room that does not come, and trims of chunks still make some',
  async t => {
    const rig = await HeadRig.start({ columns: 1, volumeBytes: 128 * MIB, overlayRows: 1000 });
    for (let i = 0; i < 16; i++) t.equal(await rig.write(i * MIB, MIB, 1), 0);
    await pump(rig.loop, rig.destage.all());
    const untilRefused = async (command: 'write' | 'writeZeroes' | 'trim') => {
      const fill = rig.destage.fill;
      for (let i = 0; i < 4000; i++) {
        // Half of a chunk each: no chunk is dropped as a whole, its blocks are entered one by one.
        const at = 32 * MIB + (i * CHUNK) / 2;
        const request = rig.submit(command, at, command === 'write' ? new Uint8Array(CHUNK / 2).fill(3) : CHUNK / 2);
        await rig.settle();
        if (request.errno === undefined) await rig.advance(5000);
        if (request.errno !== 0) return { errno: request.errno, more: rig.destage.fill - fill };
      }
      return { errno: 0, more: rig.destage.fill - fill };
    };
    t.match(await untilRefused('write'), { errno: ENOSPC });
    const zeroes = await untilRefused('writeZeroes');
    const trims = await untilRefused('trim');
    t.same([zeroes.errno, trims.errno], [ENOSPC, ENOSPC]);
    t.ok(zeroes.more > 0.03 && trims.more > 0.02, `zeroes took ${zeroes.more} of the overlay, trims ${trims.more}`);
    const grown = rig.head.resize(rig.volume(), 256 * MIB);
    const many = Array.from({ length: 20 }, (_, i) => rig.submit('write', 64 * MIB + i * 4096 + 1, new Uint8Array(10)));
    await rig.advance(5000);
    t.equal(rig.head.waitingWrites, 0);
    t.same(new Set(many.map(({ errno }) => errno)), new Set([ENOSPC]));
    t.equal(await pump(rig.loop, grown), 0, 'what needs no row has room in the log');
    t.equal((await rig.do('trim', 0, 8 * MIB)).errno, 0, 'nor does a trim of whole chunks');
    await rig.advance(60_000);
    t.equal(rig.events.at(-1), 'recovered');
    t.equal(await rig.write(100 * MIB, 4096, 7), 0);
  },
);

t.test('zeroes that must not make a hole keep or take their space; others give it back', async t => {
  const rig = await HeadRig.start();
  const number = rig.volume().number;
  await rig.do('writeZeroes', 0, 4 * CHUNK, { noHole: true });
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.head.slots.usedBytes(number), 4 * CHUNK);
  t.ok(isAll(await rig.read(0, 4 * CHUNK), 0));
  const status = await rig.do('blockStatus', 0, 4 * CHUNK);
  t.same(status.extents, [{ lengthBytes: 4 * CHUNK, flags: 2 }], 'zeroes, but no hole');
  await rig.do('writeZeroes', CHUNK, 2 * CHUNK);
  await pump(rig.loop, rig.destage.all());
  await rig.settle();
  t.equal(rig.head.slots.usedBytes(number), 2 * CHUNK);
  const holes = await rig.do('blockStatus', 0, 4 * CHUNK);
  t.same(
    holes.extents.map(extent => extent.flags),
    [2, 3, 2],
  );
});

t.test('zeroes that must not make a hole are handed on piece by piece, however many there are', async t => {
  const rig = await HeadRig.start({ chunkBytes: 16 * KIB, volumeBytes: 2 ** 40 });
  t.equal((await rig.do('writeZeroes', 0, 40 * MIB, { noHole: true })).errno, 0);
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.head.slots.usedBytes(rig.volume().number), 40 * MIB);
  t.ok(isAll(await rig.read(39 * MIB, MIB), 0));
  const began = performance.now();
  t.equal((await rig.do('writeZeroes', 0, 2 ** 40, { noHole: true })).errno, ENOSPC, 'the device is smaller');
  t.ok(performance.now() - began < 5000, 'and that is found out soon');
  t.equal(await rig.write(0, 4096, 7), 0);
});

t.test('a trim gives slots back, at once on the books and with the cut on the device', async t => {
  const rig = await HeadRig.start();
  const number = rig.volume().number;
  await rig.write(0, 16 * MIB, 1);
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.head.slots.freeColumns, 3);
  await rig.do('trim', 0, 16 * MIB);
  t.ok(isAll(await rig.read(0, MIB), 0));
  await rig.advance(10_000);
  t.equal(rig.head.slots.usedBytes(number), 0);
  await pump(rig.loop, rig.destage.all());
  await rig.settle();
  t.equal(rig.head.slots.freeColumns, 4);
  t.ok(rig.store.device.counts.discard > 0);
  t.ok(isAll(rig.store.device.peek(MIB, MIB), 0), 'the space is gone from the device');
  t.equal([...rig.index.chunks(number, 0, 10_000, 10_000)].length, 0);
  t.ok(
    [...rig.index.columns()].every(column => column.slots.every(word => word === 0)),
    'no column refers to it any more',
  );
});

t.test('FUA and `ack: durable` answer after a sync, plain writes before', async t => {
  const rig = await HeadRig.start();
  for (const file of rig.store.segments) file.hold.add('sync');
  const plain = await rig.do('write', 0, new Uint8Array(4096).fill(1));
  t.equal(plain.errno, 0);
  const fua = rig.submit('write', 4096, new Uint8Array(4096).fill(2), { fua: true });
  const unaligned = rig.submit('write', 9000, new Uint8Array(10).fill(3), { fua: true });
  const flush = rig.submit('flush', 0, 0);
  await rig.settle();
  t.same([fua.errno, unaligned.errno, flush.errno], [undefined, undefined, undefined]);
  for (const file of rig.store.segments) file.letGo();
  await rig.settle();
  t.same([fua.errno, unaligned.errno, flush.errno], [0, 0, 0]);
});

t.test(
  'the reply to a small write is hurried before it takes effect, unless it waits for a sync or has steps',
  async t => {
    const rig = await HeadRig.start();
    for (const file of rig.store.segments) file.hold.add('sync');
    const small = rig.submit('write', 0, new Uint8Array(8192).fill(1));
    const fua = rig.submit('write', 8192, new Uint8Array(4096).fill(2), { fua: true });
    const unaligned = rig.submit('write', 16_000, new Uint8Array(10).fill(3));
    const zeroes = rig.submit('writeZeroes', 20_480, 4096);
    const bulk = rig.submit('write', MIB, new Uint8Array(MIB).fill(4));
    await rig.settle();
    for (const file of rig.store.segments) file.letGo();
    await rig.settle();
    const requests = [small, fua, unaligned, zeroes, bulk];
    t.same(
      requests.map(({ errno }) => errno),
      [0, 0, 0, 0, 0],
    );
    t.same(
      requests.map(({ hurries }) => hurries),
      [1, 0, 0, 0, 0],
    );
  },
);

t.test('when the log has failed writes and flushes give EIO, and what was committed stays readable', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, 4096, 1);
  for (const file of rig.store.segments) file.failing.set('write', -EIO);
  const requests = [
    rig.submit('write', 4096, new Uint8Array(4096)),
    rig.submit('write', 10, new Uint8Array(10)),
    rig.submit('write', CHUNK, new Uint8Array(2 * CHUNK)),
    rig.submit('writeZeroes', 0, CHUNK),
    rig.submit('trim', 0, CHUNK),
  ];
  await rig.settle();
  t.same(
    requests.map(request => request.errno),
    [EIO, EIO, EIO, EIO, EIO],
  );
  t.same(rig.events, [`log failed ${EIO}`]);
  for (const file of rig.store.segments) file.failing.clear();
  t.equal(await rig.write(0, 4096, 2), EIO, 'and they stay so');
  t.equal((await rig.do('flush')).errno, EIO);
  t.ok(isAll(await rig.read(0, 4096), 1));
});

t.test('CACHE brings a range into the cache', async t => {
  const rig = await HeadRig.start({ columns: 8, cacheBytes: 4 * MIB });
  await rig.write(0, 8 * CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await withoutCache(rig);
  t.equal((await rig.do('cache', 0, 8 * CHUNK)).errno, 0);
  const reads = rig.store.device.counts.read;
  t.ok(isAll(await rig.read(0, 8 * CHUNK), 1));
  t.equal(rig.store.device.counts.read, reads);
});

t.test('CACHE of a range that has nothing to be read does one span a turn, so that others are served', async t => {
  const rig = await HeadRig.start({ columns: 8, cacheBytes: 4 * MIB });
  const asked: TurnTask[] = [];
  rig.loop.atEndOfTurn = task => void asked.push(task);
  const request = rig.submit('cache', 0, MIB);
  for (let span = 0; span < MIB / bounceBufferBytes; span++) {
    t.equal(asked.length, 1);
    t.equal(request.errno, undefined);
    asked.shift()!.runAtEndOfTurn();
  }
  asked.shift()!.runAtEndOfTurn();
  t.equal(request.errno, 0);
  t.same(asked, []);
});

t.test('volumes of one head do not see each other', async t => {
  const rig = await HeadRig.start({ volumes: 3 });
  for (const volume of [1, 2, 3]) await rig.write(0, CHUNK, volume, {}, volume);
  for (const volume of [1, 2, 3]) await rig.write(4096, 4096, volume * 10, {}, volume);
  await rig.do('trim', 0, CHUNK, {}, 2);
  await pump(rig.loop, rig.destage.all());
  for (const volume of [1, 3]) {
    t.ok(isAll(await rig.read(0, 4096, volume), volume));
    t.ok(isAll(await rig.read(4096, 4096, volume), volume * 10));
  }
  t.ok(isAll(await rig.read(0, CHUNK, 2), 0));
});
