/** Batches that go to stable storage by one durable write, and the habit of flushing that plain writes go that way for. */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import { plainRegion } from '../../../src/base/memory.ts';
import type { LogPosition } from '../../../src/base/units.ts';
import { KIB } from '../../../src/base/units.ts';
import { FlushHabit } from '../../../src/oplog/flush-habit.ts';
import { writeDataOffset, writeRecordBytes } from '../../../src/oplog/record.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile, type FileCommand } from './controlled-file.ts';
import { LogRig } from './log-rig.ts';

const SEGMENT = 64 * KIB;
const RECORD = writeRecordBytes(1);

async function startedRig(hold: readonly FileCommand[] = []): Promise<LogRig> {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (const file of rig.files) for (const command of hold) file.hold.add(command);
  return rig;
}

function started(rig: LogRig, command: FileCommand): number {
  return rig.files.reduce((sum, file) => sum + file.counts[command], 0);
}

function holding(rig: LogRig): ControlledFile {
  const file = rig.files.find(candidate => candidate.held.length > 0);
  if (file === undefined) throw new Error('no file holds an I/O');
  return file;
}

t.test('a batch in which all want to be durable takes one durable write and no sync', async t => {
  const rig = await startedRig();
  for (const name of ['a', 'b']) rig.write(1, 1, name, true);
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'a 0', 'commit 2', 'b 0', 'batch']);
  t.same([started(rig, 'writeDurable'), started(rig, 'write'), started(rig, 'sync')], [1, 0, 0]);
  t.equal(rig.log.durable, 2 * RECORD);
  rig.write(1, 7, 'c', true);
  await rig.settle();
  const region = plainRegion(4096);
  rig.log.read(rig.seen[0].position + writeDataOffset(1), region, 0, 4096, { ioCompleted() {} });
  await rig.settle();
  t.ok(
    region.bytes.every(byte => byte === 1),
    'the next one leaves what shares its first page as it was',
  );
});

t.test('clients of a durable write are answered when it has ended, before their operations take effect', async t => {
  const rig = await startedRig(['writeDurable']);
  for (const name of ['client a', 'client b']) rig.write(1, 1, name, true);
  await rig.settle();
  t.same(rig.take(), []);
  holding(rig).held[0].finish();
  await rig.settle();
  const answers = ['client a 0', 'client b 0', 'client a leaves', 'client b leaves'];
  t.same(rig.take(), [...answers, 'commit 1', 'commit 2', 'batch']);
  t.equal(rig.loop.hurries, 1);
});

t.test('what comes while a durable write is under way gathers, whatever it wants, and follows as one', async t => {
  const rig = await startedRig(['writeDurable']);
  rig.write(1, 1, 'a', true);
  await rig.settle();
  const file = holding(rig);
  rig.write(1, 2, 'b', true);
  await rig.settle();
  rig.write(1, 3, 'c', true);
  rig.zero('plain');
  await rig.settle();
  t.same([file.held.length, started(rig, 'write')], [1, 0], 'it may share a page with the one under way');
  t.same(rig.take(), []);
  file.held[0].finish();
  await rig.settle();
  t.same(
    rig.take(),
    ['commit 1', 'a 0', 'batch', 'commit 2', 'commit 3', 'commit 4', 'plain 0', 'batch', 'b 0', 'c 0'],
    'the mixed batch by the page cache and a sync',
  );
});

t.test('behind something that is not durable a batch goes through the page cache, and is synced with it', async t => {
  const rig = await startedRig();
  rig.write(1, 1, 'plain');
  await rig.settle();
  rig.write(1, 2, 'a', true);
  await rig.settle();
  t.same([started(rig, 'writeDurable'), started(rig, 'write'), started(rig, 'sync')], [0, 2, 1]);
  t.same(rig.take(), ['commit 1', 'plain 0', 'batch', 'commit 2', 'batch', 'a 0']);
  rig.write(1, 3, 'b', true);
  await rig.settle();
  t.equal(started(rig, 'writeDurable'), 1, 'all before it is durable now');
});

t.test('in a new segment, too, a batch waits for a sync of what the segment before still holds', async t => {
  const rig = await startedRig();
  const fits = Math.floor(SEGMENT / RECORD);
  for (let i = 0; i < fits; i++) t.ok(rig.write(1, i));
  await rig.settle();
  const [before] = rig.files.filter(file => file.counts.write > 0);
  rig.write(1, 99, 'a', true);
  await rig.settle();
  t.equal(rig.seen.at(-1)!.position, SEGMENT, 'the file that it goes to is clean');
  t.equal(started(rig, 'writeDurable'), 0);
  t.equal(before.counts.sync, 1);
  t.ok(rig.take().includes('a 0'));
  t.equal(rig.log.durable, SEGMENT + RECORD);
});

t.test('a batch that waits for a sync under way goes the short way afterwards', async t => {
  const rig = await startedRig(['sync']);
  rig.write(1, 1);
  await rig.settle();
  rig.log.flush(rig.owner('flush'));
  await rig.settle();
  rig.write(1, 2, 'a', true);
  await rig.settle();
  t.equal(started(rig, 'write'), 1, 'it would have had to wait for the next sync anyway');
  holding(rig).held[0].finish();
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'batch', 'flush 0', 'commit 2', 'a 0', 'batch']);
  t.same([started(rig, 'writeDurable'), started(rig, 'sync')], [1, 1]);
});

t.test('bulk records, whose data lies elsewhere, take a sync of that, too', async t => {
  const rig = await startedRig();
  rig.bulk(80);
  rig.zero('a', true);
  await rig.settle();
  t.same([started(rig, 'writeDurable'), rig.dataSyncs], [0, 1]);
});

t.test('a durable write that fails ends the log, for those who gathered behind it, too', async t => {
  const rig = await startedRig(['writeDurable']);
  rig.write(1, 1, 'a', true);
  await rig.settle();
  rig.write(1, 2, 'b', true);
  await rig.settle();
  holding(rig).held[0].finish(-EIO);
  await rig.settle();
  t.same(rig.take(), [`failed ${EIO}`, `a ${EIO}`, `b ${EIO}`]);
  t.equal(rig.log.durable, 0);
  t.equal(started(rig, 'writeDurable'), 1, 'nothing is tried again');
});

t.test('at the end of a segment a durable write is waited for, and the next record goes into the next one', async t => {
  const rig = await startedRig(['writeDurable']);
  const fits = Math.floor(SEGMENT / RECORD);
  for (let i = 0; i < fits; i++) t.ok(rig.write(1, i, undefined, true));
  await rig.settle();
  t.notOk(rig.write(1, 99, 'next', true), 'no room yet');
  t.notOk(rig.log.isFull, 'but nothing has to be destaged for it');
  let retried = false;
  rig.onRoom = () => {
    retried = rig.write(1, 99, 'next', true);
  };
  holding(rig).letGo();
  await rig.settle();
  t.ok(retried, 'room is told of');
  for (const file of rig.files) file.letGo();
  await rig.settle();
  t.equal(rig.seen.at(-1)!.position, SEGMENT);
  t.ok(rig.take().includes('next 0'));
});

t.test('writes that are each flushed come to be durable at once, and flushes find nothing to do', async t => {
  const rig = await startedRig();
  for (let i = 0; i < 20; i++) {
    rig.write(1, i);
    await rig.settle();
    rig.log.flush(rig.owner('flush'));
    await rig.settle();
  }
  t.ok(started(rig, 'writeDurable') > 5, `${started(rig, 'writeDurable')} durable writes`);
  const syncs = started(rig, 'sync');
  rig.write(1, 20);
  await rig.settle();
  t.equal(rig.log.durable, rig.log.committedEnd);
  rig.take();
  rig.log.flush(rig.owner('flush'));
  t.same(rig.take(), ['flush 0'], 'in the same call');
  t.equal(started(rig, 'sync'), syncs);
  for (let i = 0; i < 20; i++) {
    rig.write(1, i);
    await rig.settle();
  }
  t.ok(started(rig, 'write') > 15, 'when flushes stay away, writes wait for the disk no longer');
});

t.test('a habit takes several flushes to form and several batches without one to go', t => {
  const habit = new FlushHabit();
  const batches = (count: number, flushed: boolean) => {
    for (let i = 0; i < count; i++) {
      habit.batchBegan();
      if (flushed) habit.flushAsked();
    }
  };
  batches(3, true);
  t.notOk(habit.flushesEachBatch);
  batches(20, true);
  t.ok(habit.flushesEachBatch);
  batches(2, false);
  t.ok(habit.flushesEachBatch, 'one missing flush is no change of habit');
  batches(20, false);
  t.notOk(habit.flushesEachBatch);
  for (let i = 0; i < 50; i++) batches(1, i % 2 === 0);
  t.notOk(habit.flushesEachBatch, 'every other one is not enough');
  t.end();
});

t.test('what recovery found is not durable, so the first batch behind it takes a sync', async t => {
  const first = await startedRig();
  first.write(1, 1);
  await first.settle();
  const file = first.files.find(candidate => candidate.counts.write > 0)!;
  const end = first.log.committedEnd;
  const state = { end, live: new Map([[0, file]]), tail: file.peek(end - (end % 4096), end % 4096) };
  const rig = new LogRig({ segmentBytes: SEGMENT, loop: first.loop, state });
  await rig.settle();
  rig.write(1, 2, 'a', true);
  await rig.settle();
  t.same([file.counts.writeDurable, file.counts.sync], [0, 1]);
  t.equal(rig.log.durable, (end + RECORD) as LogPosition);
});

t.test(
  'a file that recovery took over, even with nothing in it that counts, is synced before it is written durably',
  async t => {
    for (const as of ['live', 'spare'] as const) {
      const loop = new MemoryLoop();
      const file = new ControlledFile(loop, SEGMENT);
      // It may hold writes of the process before, behind the end or dropped, that are in the page cache only.
      const others = [0, 1, 2].map(() => new ControlledFile(loop, SEGMENT));
      const state = as === 'live' ? { live: new Map([[0, file]]) } : { spare: [...others, file] };
      const rig = new LogRig({ segmentBytes: SEGMENT, loop, state });
      await rig.settle();
      rig.write(1, 1, 'a', true);
      await rig.settle();
      t.same([file.counts.write, file.counts.writeDurable, file.counts.sync], [1, 0, 1], as);
      rig.write(1, 2, 'b', true);
      await rig.settle();
      t.equal(file.counts.writeDurable, 1, 'and durably from then on');
      t.same(rig.take(), ['commit 1', 'batch', 'a 0', 'commit 2', 'b 0', 'batch']);
    }
  },
);
