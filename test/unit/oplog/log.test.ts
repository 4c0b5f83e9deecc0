/** The op log over files in memory: batches, segments, group commit, failures, room. */
import t from 'tap';
import { EIO, ENOSPC } from '../../../src/base/errno.ts';
import { plainRegion } from '../../../src/base/memory.ts';
import type { Epoch, LogPosition } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import {
  emptyHeader,
  parseRecord,
  RECORD_HEADER_BYTES,
  RecordKind,
  writeDataOffset,
  writeRecordBytes,
} from '../../../src/oplog/record.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from './controlled-file.ts';
import { checksums, LogRig } from './log-rig.ts';

/** The shortest segment there can be, for tests of its edges. */
const SEGMENT = 4 * KIB;
/** Files that are made ahead of need. */
const AHEAD = 16;

/** The kinds and lengths of the records of a segment, as they lie in its file. */
function recordsOf(file: ControlledFile, segment: number, from = 0): string[] {
  const bytes = file.peek(0, file.sizeBytes);
  const view = new DataView(bytes.buffer);
  const header = emptyHeader();
  const found: string[] = [];
  for (let at = from; at < bytes.length; at += header.recordBytes) {
    const position = segment * bytes.length + at;
    const verdict = parseRecord(view, bytes, at, bytes.length - at, position, bytes.length - at, header, checksums);
    if (verdict !== 'valid') break;
    found.push(`${Object.keys(RecordKind)[header.kind]} ${header.recordBytes}`);
  }
  return found;
}

t.test('operations of one turn become one write, and are committed in order before they are answered', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  for (const name of ['a', 'b', 'c']) t.ok(rig.write(1, 1, name));
  t.same(rig.take(), [], 'nothing is committed inside of an append');
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'a 0', 'commit 2', 'b 0', 'commit 3', 'c 0', 'batch']);
  t.equal(
    rig.files.reduce((writes, file) => writes + file.counts.write, 0),
    1,
  );
  t.equal(rig.log.committedEnd, 3 * writeRecordBytes(1));
  t.equal(rig.log.durable, 0, 'nobody has asked for durability');
});

t.test('clients are answered before their operations take effect, unless they wait for a sync', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  rig.write(1, 1, 'client a');
  rig.write(1, 1, 'client b', true);
  rig.write(1, 1, 'inner');
  rig.write(1, 1, 'client c');
  await rig.settle();
  const answers = ['client a 0', 'client c 0', 'client a leaves', 'client c leaves'];
  const effects = ['commit 1', 'commit 2', 'commit 3', 'inner 0', 'commit 4', 'batch'];
  t.same(rig.take(), [...answers, ...effects, 'client b 0']);
  t.equal(rig.loop.hurries, 1);
});

t.test('what was written can be read back while it is in the log', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  rig.write(2, 0x5a);
  await rig.settle();
  const region = plainRegion(8192);
  let result = 0;
  const done = {
    ioCompleted: (length: number) => {
      result = length;
    },
  };
  rig.log.read(rig.seen[0].position + writeDataOffset(2), region, 0, 8192, done);
  await rig.settle();
  t.equal(result, 8192);
  t.ok(region.bytes.every(byte => byte === 0x5a));
  t.same(rig.seen[0].data, region.bytes);
});

t.test('a later batch that is written first waits for the one before it', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  rig.holdNew = ['write'];
  await rig.settle();
  rig.write(1, 1, 'a');
  await rig.settle();
  rig.write(1, 2, 'b');
  await rig.settle();
  const file = rig.files.find(candidate => candidate.held.length > 0)!;
  t.equal(file.held.length, 2);
  file.held[1].finish();
  await rig.settle();
  t.same(rig.take(), []);
  t.equal(rig.log.committedEnd, 0);
  file.held[0].finish();
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'a 0', 'batch', 'commit 2', 'b 0', 'batch']);
});

t.test('what is under way is what was appended and is not committed, in order', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  const underWay = () => {
    const ops: number[] = [];
    rig.log.forUncommitted(({ op }) => void ops.push(op));
    return ops;
  };
  rig.holdNew = ['write'];
  await rig.settle();
  t.same(underWay(), []);
  rig.write(1, 1);
  await rig.settle();
  rig.write(1, 2);
  rig.zero();
  const [first] = underWay();
  t.same(underWay(), [first, first + 1, first + 2], 'of the batch that is being written, and of the one that fills');
  rig.files.find(candidate => candidate.held.length > 0)!.held[0].finish();
  await rig.settle();
  t.same(underWay(), [first + 1, first + 2]);
  for (const file of rig.files) file.letGo();
  await rig.settle();
  t.same(underWay(), []);
});

t.test('a segment is closed wherever the next record does not fit, and no record crosses its end', async t => {
  for (let remaining = 0; remaining <= 128; remaining += 16) {
    const rig = new LogRig({ segmentBytes: SEGMENT });
    await rig.settle();
    let filled = 0;
    for (let left = SEGMENT - remaining; left > 0; filled++) {
      const odd = left % 64 !== 0;
      if (odd) rig.bulk(80);
      else rig.zero();
      left -= odd ? 80 : 64;
    }
    t.equal(rig.log.appendedEnd, SEGMENT - remaining, `filled up to ${remaining} bytes`);
    t.ok(rig.bulk(144, 'next'));
    await rig.settle();
    const next = rig.seen.at(-1)!;
    t.equal(next.position, SEGMENT, `${remaining} bytes remain`);
    t.ok(rig.take().includes('next 0'));
    const first = rig.files.find(file => recordsOf(file, 0).length > 0)!;
    const records = recordsOf(first, 0);
    t.equal(records.length, filled + (remaining >= RECORD_HEADER_BYTES ? 1 : 0));
    t.equal(records.at(-1)!.startsWith('end'), remaining >= RECORD_HEADER_BYTES, 'an end record wherever it fits');
    const second = rig.files.find(file => recordsOf(file, 1).length > 0)!;
    t.same(recordsOf(second, 1), ['bulk 144']);
  }
});

t.test('all that was appended is committed, though a segment was closed for a record that did not come', async t => {
  for (const remaining of [48, 64]) {
    const rig = new LogRig({ segmentBytes: SEGMENT });
    await rig.settle();
    while (rig.log.nextPosition < SEGMENT - remaining) {
      if ((SEGMENT - remaining - rig.log.nextPosition) % 64 !== 0) rig.bulk(80);
      else rig.zero();
    }
    t.ok(rig.log.hasRoom(144));
    t.equal(rig.log.nextPosition, SEGMENT);
    await rig.settle();
    t.equal(rig.log.committedEnd, rig.log.appendedEnd, `${remaining} bytes remained`);
    t.ok(rig.bulk(144));
    await rig.settle();
    t.equal(rig.seen.at(-1)!.position, SEGMENT);
    t.equal(rig.log.committedEnd, rig.log.appendedEnd);
  }
});

t.test('a record that just fits goes into the segment', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let left = SEGMENT - 80; left > 0; left -= left % 64 === 0 ? 64 : 80) {
    if (left % 64 === 0) rig.zero();
    else rig.bulk(80);
  }
  t.ok(rig.bulk(80));
  t.equal(rig.log.appendedEnd, SEGMENT);
  t.ok(rig.zero());
  await rig.settle();
  t.equal(rig.seen.at(-1)!.position, SEGMENT);
});

t.test('a record that fills its segment to the last byte is followed by one in the next, in the same turn', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let i = 0; i < SEGMENT / 64; i++) t.ok(rig.zero());
  t.ok(rig.zero('behind'));
  await rig.settle();
  t.equal(rig.seen.at(-1)!.position, SEGMENT);
  t.equal(rig.files.filter(file => file.counts.write === 1).length, 2);
  t.ok(rig.take().includes('behind 0'));
});

t.test('a batch begins with what its page holds already', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  const all: string[] = [];
  for (let turn = 0; turn < 100; turn++) {
    if (turn % 10 === 9) rig.write(1, turn);
    else rig.zero();
    all.push(turn % 10 === 9 ? `write ${writeRecordBytes(1)}` : 'zero 64');
    await rig.settle();
    const file = rig.files.find(candidate => candidate.counts.write > 0)!;
    t.same(recordsOf(file, 0), all);
  }
});

t.test('the committed end passes the rest of a closed segment with its end record', async t => {
  // A cut that is taken at this moment has to lead recovery to the next segment, not to the unused rest of this one.
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let i = 0; i < 59; i++) rig.zero();
  await rig.settle();
  for (const file of rig.files) file.hold.add('write');
  rig.zero();
  rig.bulk(272, 'next');
  await rig.settle();
  t.equal(rig.files.flatMap(file => file.held).length, 2, 'the closed segment and the next one are written at once');
  rig.files.find(file => file.counts.write === 2)!.letGo();
  await rig.settle();
  t.equal(rig.seen.length, 60, 'the first segment is committed, the record in the next one is not');
  t.equal(rig.log.committedEnd, SEGMENT);
  for (const file of rig.files) file.letGo();
  await rig.settle();
  t.equal(rig.log.committedEnd, SEGMENT + 272);
  t.equal(rig.log.committedEnd, rig.log.appendedEnd);
});

t.test('one sync covers all who wait', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  rig.write(1, 1, 'plain');
  for (const name of ['a', 'b', 'c']) rig.write(1, 1, name, true);
  await rig.settle();
  const commits = ['commit 1', 'plain 0', 'commit 2', 'commit 3', 'commit 4', 'batch'];
  t.same(rig.take(), [...commits, 'a 0', 'b 0', 'c 0']);
  t.equal(
    rig.files.reduce((sum, file) => sum + file.counts.sync, 0),
    1,
  );
  t.equal(rig.dataSyncs, 1, 'the data that bulk records name is synced with the log');
  t.equal(rig.log.syncCount, 1);
  t.equal(rig.log.durable, rig.log.committedEnd);
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('d'));
  t.same(rig.take(), ['d 0'], 'what is durable already is answered at once');
});

t.test('a write that is under way when a sync begins is not covered by it', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  rig.holdNew = ['write', 'sync'];
  await rig.settle();
  rig.write(1, 1);
  await rig.settle();
  const file = rig.files.find(candidate => candidate.held.length > 0)!;
  file.held[0].finish();
  await rig.settle();
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('a'));
  await rig.settle();
  t.equal(file.held[0].command, 'sync', 'the first sync has begun');
  rig.write(1, 2);
  await rig.settle();
  const write = file.held.find(io => io.command === 'write')!;
  write.finish();
  await rig.settle();
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('b'));
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'batch', 'commit 2', 'batch']);
  file.held[0].finish();
  await rig.settle();
  t.same(rig.take(), ['a 0'], 'only what was committed when it began');
  t.equal(rig.log.durable, writeRecordBytes(1));
  t.same(
    file.held.map(io => io.command),
    ['sync'],
    'the next sync follows by itself',
  );
  file.held[0].finish();
  await rig.settle();
  t.same(rig.take(), ['b 0']);
  t.equal(file.counts.sync, 2);
});

t.test('a sync that begins beside a write in flight leaves the file to the next sync', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  rig.write(1, 1, 'a');
  await rig.settle();
  for (const file of rig.files) file.hold.add('write');
  rig.write(1, 2, 'b');
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('flush'));
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'a 0', 'batch', 'flush 0']);
  t.equal(rig.log.durable, writeRecordBytes(1), 'the second write is not durable');
  for (const file of rig.files) file.letGo();
  await rig.settle();
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('later'));
  await rig.settle();
  t.same(rig.take(), ['commit 2', 'b 0', 'batch', 'later 0']);
  t.equal(
    rig.files.reduce((sum, file) => sum + file.counts.sync, 0),
    2,
  );
});

t.test('records say up to where the log was durable when they were written', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  rig.zero('a', true);
  await rig.settle();
  rig.zero();
  await rig.settle();
  const file = rig.files.find(candidate => candidate.counts.write > 0)!;
  const bytes = file.peek(0, 128);
  const header = emptyHeader();
  parseRecord(new DataView(bytes.buffer), bytes, 0, 128, 0, 64 * KIB, header, checksums);
  t.equal(header.durable, 0);
  parseRecord(new DataView(bytes.buffer), bytes, 64, 64, 64, 64 * KIB - 64, header, checksums);
  t.equal(header.durable, 64);
});

t.test('a write that fails ends the log: everybody gets EIO, and nothing is tried again', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  rig.holdNew = ['write'];
  await rig.settle();
  rig.write(1, 1, 'a');
  await rig.settle();
  rig.write(1, 2, 'b', true);
  await rig.settle();
  rig.write(1, 3, 'c');
  const file = rig.files.find(candidate => candidate.held.length > 0)!;
  file.held[0].finish(-ENOSPC);
  rig.loop.turn();
  t.same(rig.take(), [`failed ${ENOSPC}`, `a ${EIO}`, `b ${EIO}`, `c ${EIO}`]);
  t.equal(rig.log.failure, ENOSPC);
  t.notOk(rig.log.hasRoom(64));
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('flush'));
  t.same(rig.take(), [`flush ${EIO}`]);
  const writes = file.counts.write;
  file.letGo();
  await rig.settle();
  t.same(rig.take(), [], 'what the device says afterwards does not matter any more');
  t.equal(file.counts.write, writes);
});

t.test('a write that fails behind others that wait for a sync takes them along, each told once', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  rig.holdNew = ['sync'];
  await rig.settle();
  rig.write(1, 1);
  await rig.settle();
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('a'));
  await rig.settle();
  for (const file of rig.files) file.failing.set('write', -EIO);
  rig.write(1, 2, 'b');
  await rig.settle();
  t.same(rig.take(), ['commit 1', 'batch', `failed ${EIO}`, `b ${EIO}`, `a ${EIO}`]);
  for (const file of rig.files) file.letGo();
  await rig.settle();
  t.same(rig.take(), [], 'the sync that was under way acknowledges nothing any more');
});

for (const what of ['the log', 'mass storage'] as const) {
  t.test(`a failed sync of ${what} ends the log, and what waited for it is not acknowledged`, async t => {
    const rig = new LogRig({ segmentBytes: 64 * KIB });
    if (what === 'mass storage') rig.dataHeld = [];
    await rig.settle();
    if (what === 'the log') for (const file of rig.files) file.failing.set('sync', -EIO);
    rig.write(1, 1, 'plain');
    rig.write(1, 2, 'fua', true);
    await rig.settle();
    rig.dataHeld?.[0].ioCompleted(-EIO);
    t.same(rig.take(), ['commit 1', 'plain 0', 'commit 2', 'batch', `failed ${EIO}`, `fua ${EIO}`]);
    t.equal(rig.log.durable, 0);
    for (const file of rig.files) file.failing.clear();
    rig.log.waitDurable(rig.log.committedEnd, rig.owner('flush'));
    await rig.settle();
    t.same(rig.take(), [`flush ${EIO}`], 'a later sync is not taken for a proof of what the failed one lost');
  });
}

t.test('a full log refuses, tells when the cut has moved, and uses the segment again', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  let appended = 0;
  while (rig.zero()) {
    appended++;
    await rig.settle();
  }
  t.equal(appended, 256, 'four segments of 64 records');
  t.equal(rig.files.length, 4, 'never more files than the limit allows');
  t.equal(rig.log.usedBytes, rig.log.limitBytes);
  t.ok(rig.log.isFull);
  await rig.settle();
  rig.take();
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('flush'));
  await rig.settle();
  rig.log.trim(4000 as LogPosition);
  t.same(rig.take(), ['flush 0', 'room'], 'who was refused asks again with every cut');
  t.notOk(rig.zero(), 'a cut within the segment frees nothing');
  rig.log.trim(4096 as LogPosition);
  t.same(rig.take(), ['room']);
  t.ok(rig.zero('again'));
  await rig.settle();
  t.same(rig.take(), ['commit 257', 'again 0', 'batch']);
  t.equal(rig.seen.at(-1)!.position, 4 * SEGMENT);
  t.equal(rig.files.length, 4);
  t.equal(rig.log.segmentCount, 4);
});

t.test('when all batches are under way, room comes with the first that is committed', async t => {
  const rig = new LogRig({ segmentBytes: 16 * MIB });
  rig.holdNew = ['write'];
  await rig.settle();
  for (let i = 0; i < 3; i++) {
    t.ok(rig.write(1, i, `w${i}`));
    await rig.settle();
  }
  t.notOk(rig.write(1, 3));
  t.notOk(rig.log.isFull, 'it takes no cut');
  const file = rig.files.find(candidate => candidate.held.length > 0)!;
  t.equal(file.held.length, 3);
  let admitted = false;
  rig.onRoom = () => {
    admitted = rig.write(1, 3, 'w3');
  };
  file.held[0].finish();
  await rig.settle();
  t.ok(admitted);
  t.same(rig.take(), ['commit 1', 'w0 0', 'batch', 'room']);
  file.letGo();
  await rig.settle();
  t.same(rig.take(), ['commit 2', 'w1 0', 'batch', 'commit 3', 'w2 0', 'batch', 'commit 4', 'w3 0', 'batch']);
});

t.test('a batch that is full is written before its turn is over', async t => {
  const rig = new LogRig({ segmentBytes: 16 * MIB });
  await rig.settle();
  let appended = 0;
  while (rig.write(64, appended % 256)) appended++;
  t.equal(appended, 3 * Math.floor((4 * MIB) / writeRecordBytes(64)), 'three batches, each as full as records allow');
  await rig.settle();
  t.equal(rig.seen.length, appended);
  t.same(
    rig.seen.map(op => op.op),
    rig.seen.map((_, i) => i + 1),
  );
});

t.test('while files are made, what fits in those that are there is known', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT, segments: 2 * AHEAD });
  t.equal(rig.log.madeBytes, 0, 'the first ones are being made');
  await rig.settle();
  t.equal(rig.log.madeBytes, Number.POSITIVE_INFINITY, 'as many are there as shall be');
  t.ok(rig.zero());
  t.equal(rig.log.madeBytes, AHEAD * SEGMENT - RECORD_HEADER_BYTES, 'one is in use, and made up for');
  await rig.settle();
  t.equal(rig.log.madeBytes, Number.POSITIVE_INFINITY);
});

t.test('where no further segment can be made the log goes round in those that it has', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT, segments: 2 * AHEAD });
  await rig.settle();
  t.equal(rig.files.length, AHEAD, 'so many are made ahead');
  rig.createFails = true;
  let appended = 0;
  while (rig.zero()) {
    appended++;
    await rig.settle();
  }
  t.equal(appended, AHEAD * 64);
  await rig.settle();
  const tries = rig.creations;
  rig.createFails = false;
  rig.take();
  t.notOk(rig.zero(), 'the need is what makes it try again');
  t.equal(rig.creations, tries + 2);
  t.ok(rig.log.isFull, 'whether it helps is not known: a cut certainly does');
  await rig.settle();
  t.same(rig.take(), ['room']);
  t.ok(rig.zero());
  await rig.settle();
  t.equal(rig.seen.at(-1)!.position, AHEAD * SEGMENT);
});

t.test('who waits for a segment that is being made is told when that fails, and that it takes a cut now', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT, segments: 2 * AHEAD });
  await rig.settle();
  rig.createFails = true;
  let appended = 0;
  while (rig.zero()) {
    appended++;
    // One turn at a time, so that the last segment is full before the making of the next one has failed.
    if (appended < AHEAD * 64) rig.loop.turn();
  }
  t.notOk(rig.log.isFull, 'one is being made');
  t.equal(rig.log.madeBytes, 0);
  await rig.settle();
  t.equal(rig.take().filter(event => event === 'room').length, 1);
  t.notOk(rig.zero());
  t.ok(rig.log.isFull);
  await rig.settle();
  t.equal(rig.log.madeBytes, Number.POSITIVE_INFINITY, 'none is being made');
  t.same(rig.take(), [], 'the next failure calls nobody: it would be asked for over and over');
});

t.test('what recovery found is durable only after a sync of every file it was found in', async t => {
  const loop = new MemoryLoop();
  const file = new ControlledFile(loop, SEGMENT);
  const state = {
    epoch: 2 as Epoch,
    cut: 0 as LogPosition,
    end: 640 as LogPosition,
    live: new Map([[0, file]]),
    tail: new Uint8Array(640),
  };
  const rig = new LogRig({ segmentBytes: SEGMENT, loop, state });
  t.equal(rig.log.durable, 0);
  rig.log.waitDurable(640 as LogPosition, rig.owner('flush'));
  t.same(rig.take(), []);
  await rig.settle();
  t.same(rig.take(), ['flush 0']);
  t.equal(file.counts.sync, 1);
  t.ok(rig.zero());
  await rig.settle();
  t.equal(rig.seen[0].position, 640, 'it goes on behind what was there');
  t.ok(recordsOf(file, 0, 640).length === 1);
});

t.test('a closed log makes no further segment', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.log.close();
  const made = rig.files.length;
  await rig.settle();
  while (rig.zero()) await rig.settle();
  t.equal(rig.files.length, made);
});
