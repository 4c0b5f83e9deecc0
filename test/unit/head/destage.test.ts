/** The destage: when it begins, in which order it does things, what races with it, and what it gives back. */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import { destageAgeMs, destageSliceLength, dropAgeMs } from '../../../src/base/limits.ts';
import { type ChunkNumber, KIB, MIB, type VolumeNumber } from '../../../src/base/units.ts';
import { writeDataOffset } from '../../../src/oplog/record.ts';
import { HeadRig, isAll, pump, SEGMENT } from './head-rig.ts';

const CHUNK = 64 * KIB;

t.test('F2.6: nothing is destaged while there is no reason to', async t => {
  const rig = await HeadRig.start();
  for (let i = 0; i < 100; i++) t.equal(await rig.write(i * CHUNK, 4096, 1), 0);
  await rig.advance(destageAgeMs - 1000);
  t.equal(rig.destage.steps, 0);
  t.equal(rig.store.device.counts.write, 2, 'of the superblock');
});

t.test('F2.6: the age of the oldest operation sets it off', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, 4096, 1);
  const end = rig.log.committedEnd;
  await rig.advance(destageAgeMs + 1000);
  t.ok(rig.destage.steps > 0);
  t.equal(rig.log.cut, end);
  t.equal(rig.head.overlay.blockCount, 0);
  t.ok(isAll(await rig.read(0, 4096), 1));
});

t.test('F2.6: the age counts for what was committed while a destage ran, too', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, 4096, 1);
  rig.gate.held = [];
  await rig.advance(destageAgeMs + 1000);
  t.ok(rig.gate.held.length > 0, 'a destage is under way');
  await rig.write(CHUNK, 4096, 2);
  const end = rig.log.committedEnd;
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await rig.advance(destageAgeMs + 1000);
  t.equal(rig.log.cut, end, 'and no later commit has to come first');
});

t.test('F2.6: a log that is full enough sets it off, and it rests again below', async t => {
  const rig = await HeadRig.start({ volumeBytes: 64 * MIB });
  let most = 0;
  for (let i = 0; i < 400; i++) {
    if ((await rig.write(i * CHUNK, 60 * KIB, i)) !== 0) t.fail(`write ${i}`);
    most = Math.max(most, rig.log.usedBytes);
  }
  t.ok(rig.destage.steps > 0, `${rig.destage.steps} steps`);
  t.ok(most > rig.log.limitBytes * 0.59, 'not before');
  t.ok(rig.log.usedBytes > 0, 'it does not go on for ever');
  t.ok(most <= rig.log.limitBytes);
});

t.test('F2.6: an overlay that is full enough sets it off', async t => {
  const rig = await HeadRig.start({ overlayRows: 1000 });
  for (let i = 0; i < 700; i++) await rig.write(i * 4096, 4096, 1);
  t.ok(rig.destage.steps > 0);
  t.ok(rig.head.overlay.fill < 0.7);
});

t.test('F2.6: forced, it carries all that was committed', async t => {
  const rig = await HeadRig.start();
  await rig.write(4096, 8192, 7);
  await rig.write(5 * CHUNK, 2 * CHUNK, 8);
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.log.cut, rig.log.committedEnd);
  t.equal(rig.head.overlay.blockCount, 0);
  t.equal(rig.head.overlay.chunkCount, 0);
  t.ok(isAll(await rig.read(4096, 8192), 7));
  t.ok(isAll(await rig.read(5 * CHUNK, 2 * CHUNK), 8));
  t.equal(rig.index.state()!.cut, rig.log.cut);
});

t.test('writers that found the overlay full go on when the destage has made room', async t => {
  const rig = await HeadRig.start({ overlayRows: 100 });
  rig.gate.held = [];
  const requests = Array.from({ length: 300 }, (_, i) => rig.submit('writeZeroes', i * 8192, 4096));
  await rig.settle();
  t.ok(
    requests.some(request => request.errno === undefined),
    'some wait',
  );
  t.ok(rig.head.waitingWrites > 0);
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await rig.settle();
  t.same(new Set(requests.map(request => request.errno)), new Set([0]), 'none of them for ever');
});

t.test('F2.6: a full log makes writers wait, without an error and without a loss', async t => {
  const rig = await HeadRig.start({ columns: 8, volumeBytes: 128 * MIB });
  rig.store.device.hold.add('write');
  const count = 700;
  const value = (i: number) => (i % 250) + 1;
  const requests = Array.from({ length: count }, (_, i) =>
    rig.submit('write', i * CHUNK, new Uint8Array(60 * KIB).fill(value(i))),
  );
  await rig.settle();
  const waiting = requests.filter(request => request.errno === undefined).length;
  t.ok(waiting > 0, `${waiting} writes wait`);
  t.ok(rig.log.usedBytes <= rig.log.limitBytes, 'the log never exceeds its limit');
  t.ok(rig.store.segments.length <= 4);
  t.ok(isAll(await rig.read(0, 60 * KIB), 1), 'reads are not held up by it');
  while (requests.some(request => request.errno === undefined)) {
    for (const io of [...rig.store.device.held]) io.finish();
    await rig.settle();
    t.ok(rig.log.usedBytes <= rig.log.limitBytes);
  }
  rig.store.device.letGo();
  await rig.settle();
  for (let i = 0; i < count; i++) {
    if (requests[i].errno !== 0) t.fail(`write ${i} failed`);
    if (!isAll(await rig.read(i * CHUNK, 60 * KIB), value(i))) t.fail(`write ${i} was lost`);
  }
});

t.test('a destage that is asked to hurry while drops are carried goes on afterwards', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await rig.do('trim', 0, CHUNK);
  rig.gate.held = [];
  await rig.advance(10_000);
  t.ok(rig.gate.held.length > 0, 'the drop is being carried');
  rig.destage.hurry();
  await rig.settle();
  const steps = rig.destage.steps;
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await rig.settle();
  t.ok(rig.destage.steps > steps);
});

t.test('F2.7: a slow device does not hold up small writes', async t => {
  const rig = await HeadRig.start();
  rig.store.device.hold.add('write');
  for (let i = 0; i < 200; i++) t.equal(await rig.write(i * 4096, 4096, i), 0);
});

t.test('F2.12: devices are synced before the index says so, and the index before the log is cut', async t => {
  const rig = await HeadRig.start();
  await rig.write(4096, 4096, 1);
  rig.store.device.hold.add('write').add('sync');
  rig.gate.held = [];
  const all = rig.destage.all();
  all.catch(() => {});
  await rig.settle();
  const { device, segments } = rig.store;
  t.equal(device.held.map(io => io.command).join(), 'sync', 'of what bulk records name, with that of the log');
  device.held[0].finish();
  await rig.settle();
  t.equal(device.held.map(io => io.command).join(), 'write');
  t.ok(
    segments.some(file => file.counts.sync > 0),
    'the log is durable before a slot is touched',
  );
  device.held[0].finish();
  await rig.settle();
  t.equal(device.held.map(io => io.command).join(), 'sync');
  t.equal(rig.gate.held.length, 0, 'the index waits for the device');
  t.ok(isAll(await rig.read(4096, 4096), 1), 'and reads are right all the while');
  device.held[0].finish();
  await rig.settle();
  t.equal(rig.gate.held.length, 1);
  t.equal(rig.log.cut, 0, 'the log waits for the index');
  t.ok(rig.head.overlay.blockCount > 0);
  device.letGo();
  for (let commits = 0; rig.log.cut === 0 && commits < 5; commits++) {
    for (const commit of rig.gate.held.splice(0)) commit();
    await rig.settle();
  }
  t.equal(rig.log.cut, rig.log.committedEnd);
});

t.test(
  'a block that is rewritten while it is destaged stays in the overlay, and both states survive a restart',
  async t => {
    const rig = await HeadRig.start();
    await rig.write(4096, 4096, 1);
    rig.store.device.hold.add('write');
    const all = rig.destage.all();
    await rig.settle();
    await rig.write(4096, 4096, 2);
    rig.store.device.letGo();
    await pump(rig.loop, all);
    t.equal(rig.head.overlay.blockCount, 1);
    t.ok(isAll(await rig.read(4096, 4096), 2));
    const again = await HeadRig.start({}, rig.store);
    t.ok(isAll(await again.read(4096, 4096), 2));
  },
);

t.test('what takes the place of a durable write during a destage is durable before the log is cut', async t => {
  const rig = await HeadRig.start();
  const { device } = rig.store;
  await rig.write(4096, 4096, 1);
  device.hold.add('sync');
  rig.gate.held = [];
  const all = rig.destage.all();
  await rig.settle();
  await rig.write(4096, 4096, 2);
  const end = rig.log.committedEnd;
  t.ok(rig.log.durable < end);
  device.letGo();
  await rig.settle();
  t.equal(rig.gate.held.length, 1, 'the cut is about to pass the first write, which nothing has carried over');
  t.equal(rig.log.durable, end);
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await pump(rig.loop, all);
  t.ok(isAll(await rig.read(4096, 4096), 2));
});

t.test('a trim is durable in the log before the index forgets the chunk', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await rig.do('trim', 0, CHUNK);
  const end = rig.log.committedEnd;
  t.ok(rig.log.durable < end);
  rig.gate.held = [];
  await rig.advance(dropAgeMs);
  t.equal(rig.gate.held.length, 1, 'it is about to');
  t.equal(rig.log.durable, end);
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await rig.settle();
  t.equal(rig.index.chunk(rig.volume().number, 0), undefined);
});

t.test('a chunk that is trimmed and written again while a destage begins is destaged once more', async t => {
  // Its block must not be forgotten: the cut would pass it, and the write would be lost with the log's segment.
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  await rig.write(5 * CHUNK, 4096, 5);
  await rig.do('trim', 0, CHUNK);
  await rig.write(4096, 4096, 6);
  rig.gate.held = [];
  const all = rig.destage.all();
  await rig.settle();
  t.equal(rig.gate.held.length, 1, 'the first trim is being carried into the index');
  await rig.do('trim', 0, CHUNK);
  await rig.write(8192, 4096, 9);
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await pump(rig.loop, all);
  for (let round = 0; round < 3; round++) {
    await pump(rig.loop, rig.destage.all());
    t.equal(rig.log.cut, rig.log.committedEnd);
    t.equal(rig.head.overlay.blockCount, 0, 'nothing is left that the log does not hold any more');
  }
  const again = await HeadRig.start({}, rig.store);
  t.ok(isAll(await again.read(8192, 4096), 9));
  t.ok(isAll(await again.read(0, 8192), 0));
  t.ok(isAll(await again.read(5 * CHUNK, 4096), 5));
});

t.test('a trim in the middle of a destage beats what is being stored', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await rig.write(4096, 4096, 2);
  rig.gate.held = [];
  const all = rig.destage.all();
  await rig.settle();
  await rig.do('trim', 0, CHUNK);
  t.ok(isAll(await rig.read(0, CHUNK), 0));
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await pump(rig.loop, all);
  t.ok(isAll(await rig.read(0, CHUNK), 0), 'also when the index has the old chunk');
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.index.chunk(rig.volume().number, 0), undefined);
  await rig.settle();
  t.equal(rig.head.slots.usedBytes(rig.volume().number), 0);
  t.equal(rig.head.slots.freeColumns, 4, 'and all space is back');
});

t.test('a bulk write in the middle of a destage beats what is being stored', async t => {
  const rig = await HeadRig.start();
  await rig.write(4096, 4096, 1);
  rig.gate.held = [];
  const all = rig.destage.all();
  await rig.settle();
  t.equal(await rig.write(0, CHUNK, 2), 0);
  const held = rig.gate.held;
  rig.gate.held = undefined;
  for (const commit of held) commit();
  await pump(rig.loop, all);
  t.ok(isAll(await rig.read(0, CHUNK), 2));
  await pump(rig.loop, rig.destage.all());
  t.ok(isAll(await rig.read(0, CHUNK), 2));
  t.equal(rig.head.slots.usedBytes(rig.volume().number), CHUNK, 'the slot that was replaced is given up');
  const again = await HeadRig.start({}, rig.store);
  t.ok(isAll(await again.read(0, CHUNK), 2));
});

t.test('a device that cannot be written stops the destage, loses nothing, and is tried again every second', async t => {
  const rig = await HeadRig.start();
  await rig.write(4096, 4096, 1);
  rig.store.device.failing.set('write', -EIO);
  await rig.advance(destageAgeMs + 3000);
  t.same(rig.events, ['stuck: a device cannot be written'], 'said once');
  t.equal(rig.log.cut, 0);
  t.ok(isAll(await rig.read(4096, 4096), 1));
  t.equal(rig.head.slots.freeColumns, 4, 'slots of the failed batches are free again');
  t.ok([...rig.head.sled.devices()][0].errors.write > 1);
  rig.store.device.failing.clear();
  await rig.advance(2000);
  t.same(rig.events, ['stuck: a device cannot be written', 'recovered']);
  t.equal(rig.log.cut, rig.log.committedEnd);
  t.ok(isAll(await rig.read(4096, 4096), 1));
});

t.test('after a failed sync of a device nothing more is taken for stored', async t => {
  const rig = await HeadRig.start();
  await rig.write(4096, 4096, 1);
  rig.store.device.failing.set('sync', -EIO);
  await rig.advance(destageAgeMs + 1000);
  rig.store.device.failing.clear();
  await rig.advance(5000);
  t.equal(rig.log.cut, 0, 'a later sync proves nothing about what the failed one lost');
  t.match([...rig.head.sled.devices()][0].failure, /sync/);
});

t.test('a step that failed is carried to its end later: every chunk of its list', async t => {
  const rig = await HeadRig.start({ columns: 8 });
  for (let i = 0; i < 3000; i++) {
    rig.submit('write', i * 20480, new Uint8Array(4096).fill(i % 255));
    if (i % 500 === 499) await rig.settle();
  }
  rig.store.device.failing.set('write', -EIO);
  await t.rejects(pump(rig.loop, rig.destage.all()));
  t.equal(rig.head.overlay.blockCount, 3000);
  rig.store.device.failing.clear();
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.head.overlay.blockCount, 0);
  t.equal(rig.log.cut, rig.log.committedEnd);
  for (let i = 0; i < 3000; i += 37) if (!isAll(await rig.read(i * 20480, 4096), i % 255)) t.fail(`write ${i}`);
});

t.test(
  'a block that the disk has damaged in the log is told of by the destage, and everything else goes on',
  async t => {
    const rig = await HeadRig.start();
    await rig.write(0, 4096, 1);
    await rig.write(8192, 4096, 2);
    const file = rig.store.segments.find(segment => segment.counts.write > 0)!;
    file.poke(writeDataOffset(1) + 100, new Uint8Array([9]));
    await pump(rig.loop, rig.destage.all());
    t.same(rig.events, [`corrupt vol1 0 log position ${writeDataOffset(1)}`]);
    t.equal(rig.log.cut, rig.log.committedEnd);
    t.equal((await rig.do('read', 0, 4096)).errno, EIO, 'never wrong bytes');
    t.ok(isAll(await rig.read(8192, 4096), 2));
  },
);

t.test('neighbouring blocks are written to their slot as one', async t => {
  const rig = await HeadRig.start();
  for (const block of [3, 1, 2, 9]) await rig.write(block * 4096, 4096, block);
  const before = rig.store.device.counts.write;
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.store.device.counts.write - before, 2);
});

t.test('chunks of many segments of the log are carried segment by segment', async t => {
  const rig = await HeadRig.start({ columns: 8, volumeBytes: 128 * MIB });
  for (let i = 0; i < 300; i++) await rig.write(i * CHUNK, 60 * KIB, i);
  t.ok(rig.log.committedEnd > 2 * SEGMENT);
  await pump(rig.loop, rig.destage.all());
  t.ok(rig.destage.steps >= 3);
  for (let i = 0; i < 300; i++) if (!isAll(await rig.read(i * CHUNK, 60 * KIB), i % 256)) t.fail(`write ${i}`);
});

t.test('of a chunk that was written as a whole only the entry is carried while its blocks are all newer', async t => {
  const rig = await HeadRig.start({ volumeBytes: 128 * MIB });
  await rig.write(0, 2 * CHUNK, 1);
  for (let i = 0; rig.log.committedEnd < SEGMENT; i++) await rig.write((8 + i) * CHUNK, 60 * KIB, 2);
  await rig.write(4096, 4096, 3);
  const deviceWrites = () => rig.store.device.counts.write;
  const before = deviceWrites();
  rig.gate.held = [];
  const all = rig.destage.all();
  await rig.settle();
  const inFirst = deviceWrites() - before;
  t.ok(inFirst > 0, `the small writes of the first segment are carried: ${inFirst}`);
  while (rig.log.cut < SEGMENT) {
    t.equal(rig.gate.held.length, 1, 'a transaction of the first step is about to end');
    rig.gate.held.shift()!();
    await rig.settle();
  }
  t.equal(rig.log.cut, SEGMENT);
  const chunk = rig.head.overlay.findChunk(1 as VolumeNumber, 0 as ChunkNumber);
  t.equal(rig.head.overlay.entryOf(chunk), undefined, 'the overlay has let go of the entry');
  t.ok(rig.head.overlay.firstBlock(chunk) >= 0, 'but not of the block');
  const inSecond = deviceWrites() - before - inFirst;
  t.ok(inSecond >= 1 && inSecond <= 3, 'which the next step carries');

  // The process ends before that step is known to anybody.
  rig.gate.held = undefined;
  all.catch(() => {});
  const after = await HeadRig.start({}, rig.store);
  t.ok(isAll(await after.read(0, 4096), 1));
  t.ok(isAll(await after.read(4096, 4096), 3));
  t.ok(isAll(await after.read(8192, 2 * CHUNK - 8192), 1));
  await pump(after.loop, after.destage.all());
  t.ok(isAll(await after.read(0, 4096), 1));
  t.ok(isAll(await after.read(4096, 4096), 3));
});

t.test('the loop serves others while a step looks at many chunks, and while it lets go of what is stored', async t => {
  const tasksOfDestage = async (chunks: number) => {
    const rig = await HeadRig.start({ volumeBytes: 128 * MIB });
    for (let i = 0; i < chunks; i++) await rig.do('writeZeroes', i * CHUNK, 4096);
    let tasks = 0;
    const atEndOfTurn = rig.loop.atEndOfTurn.bind(rig.loop);
    rig.loop.atEndOfTurn = task => {
      tasks++;
      atEndOfTurn(task);
    };
    await pump(rig.loop, rig.destage.all());
    t.equal(rig.destage.steps, 1);
    t.equal(rig.head.overlay.blockCount, 0);
    return tasks;
  };
  const few = await tasksOfDestage(2);
  const chunks = 3 * destageSliceLength;
  const slices = (await tasksOfDestage(chunks)) - few;
  // Each chunk and its one block are gone through twice.
  const expected = (4 * chunks) / destageSliceLength;
  t.ok(slices === expected || slices === expected - 1, `${slices} slices, ${expected} or one less expected`);
});
