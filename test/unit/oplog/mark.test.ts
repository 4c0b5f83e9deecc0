/** Marks: that a log at rest says how far it is durable, and that one at work does not have to. */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import type { BlockFile } from '../../../src/base/io.ts';
import type { LogPosition } from '../../../src/base/units.ts';
import { KIB } from '../../../src/base/units.ts';
import { RECORD_HEADER_BYTES, writeRecordBytes } from '../../../src/oplog/record.ts';
import { identifySegments, scanLog } from '../../../src/oplog/scan.ts';
import { checksums, LogRig, regions } from './log-rig.ts';

// The scan takes windows of half a segment, in which the longest record fits.
const SEGMENT = 2048 * KIB;
const RECORD = writeRecordBytes(1);
const QUIET_MS = 50;

async function startedRig(segmentBytes = SEGMENT): Promise<LogRig> {
  const rig = new LogRig({ segmentBytes });
  await rig.settle();
  return rig;
}

function started(rig: LogRig, command: 'write' | 'writeDurable' | 'sync'): number {
  return rig.files.reduce((sum, file) => sum + file.counts[command], 0);
}

/** Time passes, and what is due then comes to its end. */
async function pass(rig: LogRig, milliseconds: number): Promise<void> {
  rig.loop.advance(milliseconds);
  await rig.settle();
}

async function scanned(rig: LogRig) {
  const files: BlockFile[] = [...rig.files];
  const ports = { regions, checksums };
  const identified = identifySegments(files, SEGMENT, ports);
  await rig.settle();
  const { live } = await identified;
  let operations = 0;
  const scan = scanLog(live, SEGMENT, 0 as LogPosition, Number.POSITIVE_INFINITY, ports, () => void operations++);
  await rig.settle();
  return { ...(await scan), operations };
}

t.test('after a flush, when nothing follows, a record says that all is durable', async t => {
  const rig = await startedRig();
  rig.write(1, 1);
  await rig.settle();
  rig.log.flush(rig.owner('flush'));
  await rig.settle();
  t.equal((await scanned(rig)).durable, 0, 'so far no record says it');
  await pass(rig, QUIET_MS);
  const scan = await scanned(rig);
  t.match(scan, { durable: RECORD, end: RECORD + RECORD_HEADER_BYTES, records: 1, operations: 1 });
  t.equal(started(rig, 'writeDurable'), 1, 'and it is durable itself');
  t.notOk(rig.log.lacksMark);
  await pass(rig, 10 * QUIET_MS);
  t.equal((await scanned(rig)).end, scan.end, 'once');
  t.equal(rig.seen.length, 1, 'nobody else hears of it');
});

t.test('after a durable write it is the same', async t => {
  const rig = await startedRig();
  rig.write(1, 1, 'a', true);
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'a 0', 'batch']);
  await pass(rig, QUIET_MS);
  t.match(await scanned(rig), { durable: RECORD, operations: 1 });
});

t.test('what follows says it as well: no mark while the log goes on', async t => {
  const rig = await startedRig();
  for (let i = 0; i < 20; i++) {
    rig.write(1, i, 'a', true);
    await rig.settle();
    await pass(rig, QUIET_MS / 3);
  }
  t.match(await scanned(rig), { end: 20 * RECORD, durable: 19 * RECORD });
  await pass(rig, 2 * QUIET_MS);
  t.match(await scanned(rig), { durable: 20 * RECORD, operations: 20 });
  t.equal(rig.loop.timerCount, 0);
});

t.test('a mark that is not durable does not have to be for a flush', async t => {
  const rig = await startedRig();
  rig.write(1, 1);
  await rig.settle();
  for (const file of rig.files) file.hold.add('sync');
  rig.log.flush(rig.owner('flush'));
  await rig.settle();
  rig.write(1, 2);
  await rig.settle();
  for (const file of rig.files) for (const held of file.held.splice(0)) held.finish();
  for (const file of rig.files) file.hold.clear();
  await rig.settle();
  t.equal(rig.log.durable, RECORD, 'the second write came behind the flush');
  await pass(rig, QUIET_MS);
  t.match(await scanned(rig), { durable: RECORD, operations: 2 });
  t.equal(started(rig, 'writeDurable'), 0, 'by the page cache, since what lies before it is there, too');
  rig.log.flush(rig.owner('second'));
  await rig.settle();
  const syncs = started(rig, 'sync');
  await pass(rig, 2 * QUIET_MS);
  t.equal((await scanned(rig)).durable, 2 * RECORD + RECORD_HEADER_BYTES, 'the mark of the second flush');
  rig.log.flush(rig.owner('third'));
  await rig.settle();
  t.equal(started(rig, 'sync'), syncs, 'the third flush has nothing to do');
});

t.test('nothing was made durable, or it has been destaged: no mark', async t => {
  const rig = await startedRig();
  rig.write(1, 1);
  await rig.settle();
  await pass(rig, 10 * QUIET_MS);
  t.equal(rig.log.appendedEnd, RECORD);
  rig.log.flush(rig.owner('flush'));
  await rig.settle();
  rig.log.trim(rig.log.committedEnd);
  await pass(rig, 10 * QUIET_MS);
  t.equal(rig.log.appendedEnd, RECORD);
  t.equal(rig.loop.timerCount, 0);
});

t.test('a log that is closed has its mark', async t => {
  const rig = await startedRig();
  rig.write(1, 1, 'a', true);
  await rig.settle();
  const closed = rig.log.close();
  await rig.settle();
  await closed;
  t.match(await scanned(rig), { durable: RECORD, operations: 1 });
  t.equal(rig.loop.timerCount, 0);
});

t.test('a log that has failed closes without one', async t => {
  const rig = await startedRig();
  rig.write(1, 1, 'a', true);
  await rig.settle();
  for (const file of rig.files) file.failing.set('write', -EIO);
  rig.write(1, 2);
  await rig.settle();
  t.ok(rig.take().includes(`failed ${EIO}`));
  await pass(rig, 2 * QUIET_MS);
  const closed = rig.log.close();
  await rig.settle();
  await closed;
  t.equal(rig.log.committedEnd, RECORD);
  t.equal(rig.loop.timerCount, 0);
});

t.test('a mark that fails ends the log, and the close of it', async t => {
  const rig = await startedRig();
  rig.write(1, 1, 'a', true);
  await rig.settle();
  for (const file of rig.files) file.failing.set('writeDurable', -EIO);
  const closed = rig.log.close();
  await rig.settle();
  await closed;
  t.equal(rig.log.failure, EIO);
});

t.test('a full log has no room for a mark: it is tried again until there is some', async t => {
  const segmentBytes = 64 * KIB;
  const rig = await startedRig(segmentBytes);
  const perSegment = Math.floor(segmentBytes / RECORD);
  for (let segment = 0; segment < 4; segment++) {
    for (let i = 0; i < perSegment; i++) t.ok(rig.write(1, i, `${i}`, true), `write ${i} of segment ${segment}`);
    await rig.settle();
  }
  // So that less than a record is left.
  while (rig.zero()) await rig.settle();
  rig.log.flush(rig.owner('flush'));
  await rig.settle();
  const full = rig.log.appendedEnd;
  await pass(rig, 5 * QUIET_MS);
  t.equal(rig.log.appendedEnd, full);
  t.ok(rig.log.lacksMark);
  rig.log.trim(segmentBytes as LogPosition);
  await pass(rig, 2 * QUIET_MS);
  t.notOk(rig.log.lacksMark);
});
