/** Recovery: the table decides every case by exactly one row, and a head comes back with what it had. */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import { locationPosition } from '../../../src/base/location.ts';
import type { ChunkNumber, Epoch, LogPosition } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { describeRow, judge } from '../../../src/head/recovery.ts';
import {
  bulkRecordBytes,
  emptyHeader,
  RECORD_HEADER_BYTES,
  RecordKind,
  sealRecord,
  writeDataOffset,
  writeRecordBytes,
} from '../../../src/oplog/record.ts';
import { addon } from '../../../src/platform/addon.ts';
import { HeadRig, isAll, pump, SEGMENT, type Store } from './head-rig.ts';

const CHUNK = 64 * KIB;
const at = (position: number | undefined) => position as LogPosition | undefined;

/** The rows of the table in the header of `head/recovery.ts`, each as a condition of its own. */
const ROWS = {
  empty: (scan: Scan) => scan.continuesBeyond === undefined && scan.records === 0,
  clean: (scan: Scan) => scan.continuesBeyond === undefined && scan.records > 0 && scan.damagedData === undefined,
  torn: (scan: Scan) =>
    scan.continuesBeyond === undefined &&
    scan.records > 0 &&
    scan.damagedData !== undefined &&
    scan.damagedData >= scan.durable,
  rotten: (scan: Scan) =>
    scan.continuesBeyond === undefined &&
    scan.records > 0 &&
    scan.damagedData !== undefined &&
    scan.damagedData < scan.durable,
  broken: (scan: Scan) => scan.continuesBeyond !== undefined,
};

type Scan = Parameters<typeof judge>[0];

t.test('exactly one row of the recovery table matches each case, and it is the one that is chosen', async t => {
  const met = new Set<string>();
  for (const records of [0, 1, 5]) {
    for (const durable of [0, 100, 200]) {
      for (const damagedData of [undefined, 0, 99, 100, 101, 300]) {
        for (const continuesBeyond of [undefined, 400]) {
          if (records === 0 && damagedData !== undefined) continue;
          const scan = {
            records,
            durable: durable as LogPosition,
            damagedData: at(damagedData),
            continuesBeyond: at(continuesBeyond),
          };
          const matching = Object.entries(ROWS).filter(([, matches]) => matches(scan));
          t.equal(matching.length, 1, JSON.stringify(scan));
          t.equal(judge(scan), matching[0][0]);
          met.add(matching[0][0]);
        }
      }
    }
  }
  t.same([...met].sort(), Object.keys(ROWS).sort(), 'every row was met');
  for (const row of Object.keys(ROWS)) t.ok(describeRow(row as ReturnType<typeof judge>).length > 10);
});

/** The segment file that holds the first record of the log. */
function firstSegment(store: Store) {
  return store.segments.find(
    file => file.peek(0, 4).some(byte => byte !== 0) && file.peek(16, 8).every(byte => !byte),
  )!;
}

t.test('row empty: a new head begins', async t => {
  const rig = await HeadRig.start();
  t.equal(rig.row, 'empty');
  t.equal(rig.log.committedEnd, 0);
});

t.test('row clean: everything that was written is there, whatever had been destaged', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, 2 * CHUNK, 1);
  await rig.write(4096, 4096, 2);
  await rig.write(10 * CHUNK + 100, 50, 3);
  await pump(rig.loop, rig.destage.all());
  await rig.write(8192, 4096, 4);
  await rig.do('trim', CHUNK, CHUNK);
  await rig.do('writeZeroes', 12288, 4096);
  await rig.write(5 * CHUNK, CHUNK, 5);
  const lastOp = rig.volume().lastOp;
  let store = rig.store;
  for (let restart = 0; restart < 3; restart++) {
    const again = await HeadRig.start({}, store);
    store = again.store;
    t.equal(again.row, 'clean');
    t.equal(again.volume().lastOp, lastOp, 'op numbers go on');
    const expected = new Uint8Array(CHUNK).fill(1);
    expected.fill(2, 4096, 8192).fill(4, 8192, 12288).fill(0, 12288, 16384);
    t.same(Buffer.from(await again.read(0, CHUNK)), Buffer.from(expected));
    t.ok(isAll(await again.read(CHUNK, CHUNK), 0));
    t.ok(isAll(await again.read(5 * CHUNK, CHUNK), 5));
    t.ok(isAll(await again.read(10 * CHUNK + 100, 50), 3));
    t.ok(isAll(await again.read(10 * CHUNK, 100), 0));
  }
});

t.test('row torn: a write of the unsynced tail whose data is not whole is dropped, with all behind it', async t => {
  const rig = await HeadRig.start();
  for (const fill of [1, 2, 3, 4]) await rig.write(fill * 8192, 4096, fill);
  const third = 2 * writeRecordBytes(1);
  firstSegment(rig.store).flip(third + writeDataOffset(1) + 77);
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'torn');
  t.equal(again.log.appendedEnd, third);
  t.ok(isAll(await again.read(8192, 4096), 1));
  t.ok(isAll(await again.read(2 * 8192, 4096), 2));
  t.ok(isAll(await again.read(3 * 8192, 4096), 0), 'neither the damaged operation');
  t.ok(isAll(await again.read(4 * 8192, 4096), 0), 'nor the one behind it: the longest run without a hole');
  t.equal(again.volume().lastOp, 2);
  await again.write(8192, 4096, 9);
  t.equal(again.volume().lastOp, 3, 'their numbers are given again, in a new epoch');
  const third2 = await HeadRig.start({}, again.store);
  t.equal(third2.row, 'clean');
  t.ok(isAll(await third2.read(8192, 4096), 9));
  t.ok(isAll(await third2.read(4 * 8192, 4096), 0), 'what was dropped does not come back');
});

t.test('what was dropped does not come back, though it lies right behind what was written in its place', async t => {
  const rig = await HeadRig.start();
  const records = 4096 / RECORD_HEADER_BYTES;
  for (let i = 0; i < records; i++) await rig.do('writeZeroes', i * 4096, 4096);
  const behind = records * 4096;
  await rig.write(behind, 4096, 7);
  firstSegment(rig.store).flip(4096 - RECORD_HEADER_BYTES + 9);
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.volume().lastOp, records - 1);
  await again.do('writeZeroes', 0, 4096);
  t.equal(again.log.appendedEnd, 4096, 'its page ends where the next record of the process before begins');
  const third = await HeadRig.start({}, again.store);
  t.equal(third.volume().lastOp, records, 'which is of an older epoch');
  t.ok(isAll(await third.read(behind, 4096), 0));
});

t.test(
  'what was dropped does not come back either when what was written in its place is lost after a kill',
  async t => {
    const rig = await HeadRig.start();
    await rig.write(8192, 4096, 1);
    const segment = firstSegment(rig.store);
    segment.flip(writeDataOffset(1) + 77);
    const dropped = segment.peek(0, writeRecordBytes(1));
    const again = await HeadRig.start({}, rig.store);
    t.equal(again.row, 'torn');
    for (const fill of [2, 3]) await again.write(fill * 8192, 4096, fill);
    // The process is killed. What it wrote may be in the page cache alone: it is a sync that makes a loss of power harmless.
    const syncs = segment.counts.sync;
    const third = await HeadRig.start({}, again.store);
    t.equal(third.row, 'clean');
    if (segment.counts.sync === syncs) segment.poke(0, dropped);
    await third.write(4 * 8192, 4096, 4);
    const fourth = await HeadRig.start({}, third.store);
    t.equal(fourth.volume().lastOp, 3);
    t.ok(isAll(await fourth.read(8192, 4096), 0));
    for (const fill of [2, 3, 4]) t.ok(isAll(await fourth.read(fill * 8192, 4096), fill));
  },
);

t.test('a start that cannot sync what it has read of the log is refused, and has changed nothing', async t => {
  const rig = await HeadRig.start();
  await rig.write(8192, 4096, 1);
  const segment = firstSegment(rig.store);
  const { state } = rig.store.contents;
  segment.failing.set('sync', -EIO);
  await t.rejects(HeadRig.start({}, rig.store), { code: 'io', message: /cannot be synced/ });
  t.same(rig.store.contents.state, state);
  segment.failing.clear();
  t.ok(isAll(await (await HeadRig.start({}, rig.store)).read(8192, 4096), 1));
});

t.test('row rotten: damage in front of what was durable is kept, and its block gives EIO', async t => {
  const rig = await HeadRig.start();
  for (const fill of [1, 2, 3]) await rig.write(fill * 8192, 4096, fill);
  await rig.do('flush');
  await rig.write(4 * 8192, 4096, 4);
  firstSegment(rig.store).flip(writeRecordBytes(1) + writeDataOffset(1) + 5);
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'rotten');
  for (const fill of [1, 3, 4]) t.ok(isAll(await again.read(fill * 8192, 4096), fill));
  t.equal((await again.do('read', 2 * 8192, 4096)).errno, 5);
  t.match(again.events, [/^corrupt vol1 4 log position/]);
  await pump(again.loop, again.destage.all());
  t.equal(again.log.cut, again.log.committedEnd, 'one bad block does not hold up the destage of all others');
  t.equal((await again.do('read', 2 * 8192, 4096)).errno, 5, 'and is not taken for good by it');
  for (const fill of [1, 3, 4]) t.ok(isAll(await again.read(fill * 8192, 4096), fill));
  await again.write(2 * 8192, 4096, 7);
  t.ok(isAll(await again.read(2 * 8192, 4096), 7), 'until it is written again');
});

t.test('damage in the log costs nothing where a step has carried the block before the crash', async t => {
  for (const firstBytes of [CHUNK, 8192]) {
    const rig = await HeadRig.start();
    await rig.write(0, firstBytes, 1);
    const position = rig.log.committedEnd;
    await rig.write(4096, 4096, 2);
    await rig.write(8 * CHUNK, 4096, 3);
    await rig.do('flush');
    const state = { ...rig.store.contents.state!, durable: rig.log.durable };
    await pump(rig.loop, rig.destage.all());
    // The crash comes in front of the last transaction of the step.
    rig.store.contents.state = state;
    firstSegment(rig.store).flip(position + writeDataOffset(1) + 5);
    const again = await HeadRig.start({}, rig.store);
    t.equal(again.row, 'rotten');
    t.equal((await again.do('read', 4096, 4096)).errno, 5, 'what the log says is newest');
    await pump(again.loop, again.destage.all());
    t.ok(isAll(await again.read(4096, 4096), 2), 'until it has let go of it');
    for (const sight of [again, await HeadRig.start({}, again.store)]) {
      t.ok(isAll(await sight.read(0, 4096), 1));
      t.ok(isAll(await sight.read(4096, 4096), 2));
      t.ok(isAll(await sight.read(8 * CHUNK, 4096), 3));
    }
  }
});

t.test('rows torn and rotten at once: the tail is dropped, and what it was written over stays as it was', async t => {
  const rig = await HeadRig.start();
  for (const fill of [1, 2, 3]) await rig.write(fill * 8192, 4096, fill);
  await rig.do('flush');
  const torn = rig.log.committedEnd;
  await rig.write(8192, 4096, 4);
  const file = firstSegment(rig.store);
  for (const position of [writeRecordBytes(1), torn]) file.flip(position + writeDataOffset(1) + 5);
  rig.store.contents.state = { ...rig.store.contents.state!, durable: torn };
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'rotten');
  t.equal(again.log.appendedEnd, torn);
  t.ok(isAll(await again.read(8192, 4096), 1), 'a write that was torn does not hide the one before it');
  t.equal((await again.do('read', 2 * 8192, 4096)).errno, 5);
  t.ok(isAll(await again.read(3 * 8192, 4096), 3));
});

t.test('row broken: a hole in front of what was durable is refused', async t => {
  const rig = await HeadRig.start();
  for (const fill of [1, 2, 3]) await rig.write(fill * 8192, 4096, fill);
  await rig.do('flush');
  await rig.write(4 * 8192, 4096, 4);
  const file = firstSegment(rig.store);
  const before = file.peek(0, 64 * KIB);
  file.flip(writeRecordBytes(1) + 33);
  await t.rejects(HeadRig.start({}, rig.store), { code: 'corrupt', message: new RegExp(`${writeRecordBytes(1)}`) });
  file.flip(writeRecordBytes(1) + 33);
  t.ok(Buffer.from(file.peek(0, 64 * KIB)).equals(before), 'and nothing was changed by the attempt');
  t.equal((await HeadRig.start({}, rig.store)).row, 'clean');
});

t.test('a header of the unsynced tail that is not whole ends the log there', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, 4096, 1);
  await rig.do('flush');
  for (const fill of [2, 3]) await rig.write(fill * 8192, 4096, fill);
  firstSegment(rig.store).poke(writeRecordBytes(1), new Uint8Array(RECORD_HEADER_BYTES));
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'clean');
  t.ok(isAll(await again.read(0, 4096), 1));
  t.ok(isAll(await again.read(3 * 8192, 4096), 0));
});

t.test('bulk data that never reached its slot drops the unsynced tail from its record on', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await rig.do('flush');
  await rig.write(0, CHUNK, 2);
  await rig.write(2 * CHUNK, 4096, 3);
  rig.store.device.poke(MIB + CHUNK, new Uint8Array(4096));
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'torn');
  t.ok(isAll(await again.read(0, CHUNK), 1), 'the old chunk was not overwritten');
  t.ok(isAll(await again.read(2 * CHUNK, 4096), 0));
  await again.write(0, CHUNK, 4);
  await pump(again.loop, again.destage.all());
  t.ok(isAll(await again.read(0, CHUNK), 4));
  t.equal(again.head.slots.usedBytes(again.volume().number), CHUNK, 'no slot has leaked');
});

t.test('damage in what was flushed last costs its block alone, once the log has said that it is durable', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await rig.write(2 * CHUNK, 4096, 2);
  await rig.do('flush');
  await rig.advance(100);
  rig.store.device.poke(MIB, new Uint8Array(4096));
  firstSegment(rig.store).flip(bulkRecordBytes(1, CHUNK / 4096) + writeDataOffset(1) + 5);
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'rotten');
  t.equal(again.volume().lastOp, 2);
  t.equal((await again.do('read', 0, 4096)).errno, 5);
  t.equal((await again.do('read', 2 * CHUNK, 4096)).errno, 5);
  t.ok(isAll(await again.read(4096, CHUNK - 4096), 1));
});

t.test('a torn tail that is dropped does not take along what only it says was durable', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await rig.do('flush');
  await rig.write(2 * CHUNK, CHUNK, 2);
  for (const chunk of [0, 1]) rig.store.device.poke(MIB + chunk * CHUNK, new Uint8Array(4096));
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'torn');
  t.equal(again.volume().lastOp, 1, 'the second write was not durable');
  t.ok(isAll(await again.read(2 * CHUNK, CHUNK), 0));
  t.equal((await again.do('read', 0, 4096)).errno, 5, 'the first one was, and has a damaged block');
  t.ok(isAll(await again.read(4096, CHUNK - 4096), 1));
});

t.test('what the index knows to have been durable is damaged or lost, and no torn tail', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await rig.write(2 * CHUNK, 4096, 2);
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.store.contents.state?.durable, rig.log.committedEnd, 'the destage puts it on record');
  const from = rig.log.committedEnd;
  await rig.write(0, CHUNK, 3);
  await rig.write(2 * CHUNK, 4096, 4);
  await rig.do('flush');
  const state = rig.store.contents.state!;
  rig.store.contents.state = { ...state, durable: rig.log.durable };
  const slot = rig.head.overlay.entryOf(rig.head.overlay.findChunk(rig.volume().number, 0 as ChunkNumber))!.location;
  rig.store.device.poke(locationPosition(slot), new Uint8Array(4096));
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'clean');
  t.equal((await again.do('read', 0, 4096)).errno, 5);
  t.ok(isAll(await again.read(2 * CHUNK, 4096), 4), 'what follows the damaged operation is there');
  await again.write(0, CHUNK, 5);
  t.ok(isAll(await again.read(0, CHUNK), 5), 'and so are the numbers that go on');
  const end = from + bulkRecordBytes(1, CHUNK / 4096);
  firstSegment(again.store).poke(end % SEGMENT, new Uint8Array(RECORD_HEADER_BYTES));
  again.store.contents.state = { ...again.store.contents.state!, durable: (end + writeRecordBytes(1)) as LogPosition };
  await t.rejects(HeadRig.start({}, again.store), { code: 'corrupt', message: new RegExp(`position ${end}`) });
});

t.test('what a start has found to be durable stays on record', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await rig.write(2 * CHUNK, 4096, 2);
  await rig.do('flush');
  const durable = rig.log.committedEnd;
  await rig.write(3 * CHUNK, 4096, 3);
  t.ok(rig.store.contents.state!.durable! < durable, 'only a record says it');
  const again = await HeadRig.start({}, rig.store);
  const onRecord = () => again.store.contents.state?.durable;
  t.equal(onRecord(), durable);
  const volume = again.volume();
  await pump(
    again.loop,
    again.destage.exclusively(() => again.destage.removeIndexed(volume, 0, 1)),
  );
  t.equal(onRecord(), durable, 'though the log has not been synced since');
});

t.test('data of clients behind the end does not pass for records, where these have a seed', async t => {
  for (const logSeed of [0, 0xfedcba98]) {
    const rig = await HeadRig.start({ logSeed });
    for (const fill of [1, 2]) await rig.write(fill * 8192, 4096, fill);
    const position = (rig.log.committedEnd + 64 * KIB) as LogPosition;
    const forged = new Uint8Array(RECORD_HEADER_BYTES);
    const header = { ...emptyHeader(), kind: RecordKind.zero, recordBytes: RECORD_HEADER_BYTES, position };
    const claims = { ...header, epoch: 1000 as Epoch, durable: position };
    sealRecord(new DataView(forged.buffer), forged, 0, claims, addon);
    firstSegment(rig.store).poke(position, forged);
    const starting = HeadRig.start({ logSeed }, rig.store);
    if (logSeed === 0) {
      await t.rejects(starting, { code: 'corrupt' });
      continue;
    }
    const again = await starting;
    t.equal(again.row, 'clean');
    for (const fill of [1, 2]) t.ok(isAll(await again.read(fill * 8192, 4096), fill));
  }
});

t.test('bulk data that is missing only where newer operations cover it drops nothing', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 2);
  await rig.write(4096, 4096, 3);
  rig.store.device.poke(MIB + 4096, new Uint8Array(4096));
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'clean');
  t.ok(isAll(await again.read(4096, 4096), 3));
  t.ok(isAll(await again.read(0, 4096), 2));
});

t.test('after a sync that failed, log and slots behind what was durable are written again, and only then', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, 2 * CHUNK, 1);
  await rig.write(8 * CHUNK, 4096, 2);
  const { store } = rig;
  const writes = () => [
    store.segments.reduce((sum, file) => sum + file.counts.write, 0),
    store.device.counts.write,
    store.segments.reduce((sum, file) => sum + file.counts.sync, 0),
  ];
  const before = writes();
  await HeadRig.start({}, store);
  const after = writes();
  t.same(after, [before[0], before[1], before[2] + 1], 'else the log is only synced');
  const again = await HeadRig.start({ syncHasFailed: true }, store);
  const [log, device, syncs] = writes().map((count, i) => count - after[i]);
  t.same([log, device], [1, 2], 'the tail of the log in one piece, and both chunks');
  t.ok(syncs > 0 && again.log.durable === again.log.committedEnd, 'and then all is durable');
  t.equal((await again.do('flush')).errno, 0);
  t.ok(isAll(await again.read(0, 2 * CHUNK), 1));
  t.ok(isAll(await again.read(8 * CHUNK, 4096), 2));
});

t.test('a start is refused where the log is not what was played when it was written again', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, 4096, 1);
  await rig.write(8192, 4096, 2);
  const { store } = rig;
  const file = firstSegment(store);
  const write = file.write;
  // Of a record's data, and of its header.
  for (const at of [writeDataOffset(1) + 7, 9]) {
    file.write = (position, region, offset, ...rest) => {
      region.bytes[offset + writeRecordBytes(1) + at] ^= 1;
      write.call(file, position, region, offset, ...rest);
    };
    await t.rejects(HeadRig.start({ syncHasFailed: true }, store), { code: 'io', message: /has changed/ });
    file.write = write;
    file.flip(writeRecordBytes(1) + at);
  }
  t.equal((await HeadRig.start({ syncHasFailed: true }, store)).volume().lastOp, 2);
});

t.test('slots that only the log names are not given to others after a restart', async t => {
  const rig = await HeadRig.start();
  for (let i = 0; i < 10; i++) await rig.write(i * CHUNK, CHUNK, i + 1);
  const again = await HeadRig.start({}, rig.store);
  for (let i = 10; i < 20; i++) await again.write(i * CHUNK, CHUNK, i + 1);
  for (let i = 0; i < 20; i++) t.ok(isAll(await again.read(i * CHUNK, CHUNK), i + 1), `chunk ${i}`);
  await pump(again.loop, again.destage.all());
  t.equal(again.head.slots.usedBytes(again.volume().number), 20 * CHUNK);
  const third = await HeadRig.start({}, again.store);
  for (let i = 0; i < 20; i++) t.ok(isAll(await third.read(i * CHUNK, CHUNK), i + 1));
  t.equal(third.head.slots.usedBytes(third.volume().number), 20 * CHUNK);
});

t.test('a size that a volume has grown to is there after a restart, before and after it was destaged', async t => {
  const rig = await HeadRig.start({ volumeBytes: 4 * MIB });
  t.equal(await pump(rig.loop, rig.head.resize(rig.volume(), 16 * MIB)), 0);
  t.equal(rig.log.durable, rig.log.committedEnd, 'it is durable when it is answered');
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.volume().sizeBytes, 16 * MIB);
  await pump(again.loop, again.destage.all());
  t.equal((await HeadRig.start({}, again.store)).volume().sizeBytes, 16 * MIB);
});

t.test('a log that goes over several segments comes back, and goes on', async t => {
  const rig = await HeadRig.start();
  for (let i = 0; i < 300; i++) await rig.write(i * CHUNK, 60 * KIB, i);
  t.ok(rig.log.committedEnd > 2 * SEGMENT);
  const again = await HeadRig.start({}, rig.store);
  t.equal(again.row, 'clean');
  for (let i = 0; i < 200; i++) await again.write(i * CHUNK, 60 * KIB, i + 7);
  const third = await HeadRig.start({}, again.store);
  for (let i = 0; i < 300; i++) {
    const value = (i < 200 ? i + 7 : i) % 256;
    if (!isAll(await third.read(i * CHUNK, 60 * KIB), value)) t.fail(`write ${i}`);
  }
});
