/**
 * Reading a log back: recovery stops at the right record or reports the damage, and never invents data (F2.5). What
 * counts as right comes from the list of what was appended, not from the scan.
 */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import type { BlockFile } from '../../../src/base/io.ts';
import type { Epoch, LogPosition } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { RecordKind, writeDataOffset, writeRecordBytes } from '../../../src/oplog/record.ts';
import type { EpochFloor, ScanResult } from '../../../src/oplog/scan.ts';
import { identifySegments, scanLog } from '../../../src/oplog/scan.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from './controlled-file.ts';
import { checksums, LogRig, regions } from './log-rig.ts';

const SEGMENT = 8 * MIB;

interface Found {
  readonly kind: RecordKind;
  readonly op: number;
  readonly position: number;
  readonly end: number;
  readonly durable: number;
  readonly count: number;
  readonly data: Uint8Array;
}

interface Scanned extends ScanResult {
  readonly found: readonly Found[];
}

/** Runs a promise that waits for I/O of files on this loop. */
async function pump<T>(loop: MemoryLoop, work: Promise<T>): Promise<T> {
  let done = false;
  const settled = work.finally(() => {
    done = true;
  });
  settled.catch(() => {});
  while (!done) {
    loop.turn();
    await new Promise(resolve => setImmediate(resolve));
  }
  return settled;
}

async function scan(
  loop: MemoryLoop,
  files: readonly BlockFile[],
  options: { segmentBytes?: number; cut?: number; limit?: number; floor?: EpochFloor } = {},
): Promise<Scanned> {
  const { segmentBytes = SEGMENT, cut = 0, limit = Number.POSITIVE_INFINITY } = options;
  const ports = { regions, checksums, floor: options.floor };
  const { live } = await pump(loop, identifySegments(files, segmentBytes, ports));
  const found: Found[] = [];
  const result = await pump(
    loop,
    scanLog(live, segmentBytes, cut as LogPosition, limit, ports, record => {
      const { kind, op, position, recordBytes, durable, count } = record.header;
      const at = record.offset + writeDataOffset(count);
      const data = kind === RecordKind.write ? record.bytes.slice(at, at + count * 4096) : new Uint8Array();
      found.push({ kind, op, position, end: position + recordBytes, durable, count, data });
    }),
  );
  return { ...result, found };
}

/** The file that holds a segment of the rig's log. */
function fileOf(rig: LogRig, segment: number): ControlledFile {
  const found = rig.files.find(file => {
    const view = new DataView(file.peek(0, 64).buffer);
    const position = view.getUint32(16, true) + view.getUint32(20, true) * 2 ** 32;
    return view.getUint32(0, true) !== 0 && position === segment * SEGMENT;
  });
  if (found === undefined) throw new Error(`no file holds segment ${segment}`);
  return found;
}

function positions(records: readonly { position: number; op: number }[]): string[] {
  return records.map(record => `${record.op}@${record.position}`);
}

t.test('an empty log ends where it begins', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  const result = await scan(rig.loop, rig.files);
  t.match(result, { end: 0, durable: 0, epoch: 0, records: 0, found: [] });
  t.equal(result.damagedData, undefined);
  t.equal(result.continuesBeyond, undefined);
});

t.test('what was appended is found again, each operation once, in order', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let i = 0; i < 60; i++) {
    if (i % 3 === 0) rig.zero('a', i === 30);
    else if (i % 3 === 1) rig.write(1 + (i % 5), i);
    else rig.bulk(144);
    if (i % 7 === 0) await rig.settle();
  }
  await rig.settle();
  const result = await scan(rig.loop, rig.files);
  t.same(positions(result.found), positions(rig.seen));
  for (const [i, record] of result.found.entries()) t.ok(Buffer.from(record.data).equals(rig.seen[i].data));
  t.equal(result.end, rig.log.committedEnd);
  t.equal(result.durable, result.found.at(-1)!.durable, 'as far as the last records say');
  t.ok(result.durable > 0);
  t.equal(result.epoch, 1);
});

t.test('a scan with a limit ends there, and one from a cut begins there', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let i = 0; i < 20; i++) rig.zero();
  await rig.settle();
  const part = await scan(rig.loop, rig.files, { cut: 5 * 64, limit: 12 * 64 });
  t.same(
    part.found.map(record => record.op),
    [6, 7, 8, 9, 10, 11, 12],
  );
  t.equal(part.end, 12 * 64);
  t.equal(part.continuesBeyond, undefined, 'what lies behind a limit is no damage');
});

/** Fills the first segment up to `remaining` bytes. */
async function fillSegment(rig: LogRig, remaining: number): Promise<void> {
  let left = SEGMENT - remaining;
  for (; left > 300 * KIB; left -= writeRecordBytes(64)) {
    rig.write(64, 1);
    await rig.settle();
  }
  for (; left > 20 * KIB; left -= writeRecordBytes(1)) rig.write(1, 1);
  await rig.settle();
  for (; left % 64 !== 0; left -= 80) rig.bulk(80);
  for (; left > 0; left -= 64) rig.zero();
  await rig.settle();
}

t.test('a scan goes on in the next segment wherever the last record ended', async t => {
  for (const remaining of [0, 16, 32, 48, 64, 80, 4096]) {
    const rig = new LogRig({ segmentBytes: SEGMENT });
    await rig.settle();
    await fillSegment(rig, remaining);
    t.equal(rig.log.committedEnd, SEGMENT - remaining);
    const before = await scan(rig.loop, rig.files);
    t.equal(before.end, SEGMENT - remaining, `the log ends ${remaining} bytes before the segment does`);
    rig.write(2, 0x77);
    rig.zero();
    await rig.settle();
    t.equal(rig.seen.at(-1)!.position, SEGMENT + writeRecordBytes(2));
    const after = await scan(rig.loop, rig.files);
    t.same(positions(after.found), positions(rig.seen), `${remaining} bytes remain`);
    t.equal(after.end, rig.log.committedEnd);
    // The cut of a destage lies where the first segment's last record ends, or at the segment's own end.
    for (const cut of new Set([SEGMENT - remaining, SEGMENT])) {
      if (cut < SEGMENT && remaining >= 64) continue;
      const rest = await scan(rig.loop, rig.files, { cut });
      t.same(positions(rest.found), positions(rig.seen.slice(-2)), `from a cut at ${cut - SEGMENT}`);
    }
    const alone = await scan(rig.loop, [fileOf(rig, 0)]);
    t.equal(alone.found.length, rig.seen.length - 2, 'without the second file the log ends with the first');
    t.equal(alone.continuesBeyond, undefined);
  }
});

t.test('a cut that is taken while only the end of a segment is committed leads to what follows', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  await fillSegment(rig, 2048);
  for (const file of rig.files) file.hold.add('write');
  rig.write(1, 3);
  await rig.settle();
  fileOf(rig, 0).letGo();
  await rig.settle();
  const cut = rig.log.committedEnd;
  for (const file of rig.files) file.letGo();
  await rig.settle();
  const result = await scan(rig.loop, rig.files, { cut });
  t.same(positions(result.found), positions(rig.seen.slice(-1)));
});

t.test('records that lie across the window in which a segment is read are found', async t => {
  const segmentBytes = 16 * MIB;
  const rig = new LogRig({ segmentBytes });
  await rig.settle();
  rig.zero();
  for (let i = 0; i < 40; i++) {
    rig.write(64, i);
    await rig.settle();
  }
  for (let i = 0; i < 100; i++) rig.zero();
  await rig.settle();
  t.ok(rig.log.committedEnd > 9 * MIB);
  const result = await scan(rig.loop, rig.files, { segmentBytes });
  t.same(positions(result.found), positions(rig.seen));
  t.equal(result.damagedData, undefined);
});

t.test('records of a recycled segment that the new ones have not reached are not taken for new', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let segment = 0; segment < 4; segment++) {
    for (let i = 0; i < 31; i++) {
      rig.write(64, segment);
      await rig.settle();
    }
  }
  rig.log.waitDurable(rig.log.committedEnd, rig.owner('flush'));
  await rig.settle();
  const cut = (3 * SEGMENT) as LogPosition;
  rig.log.trim(cut);
  for (let i = 0; i < 5; i++) {
    rig.write(64, 9);
    await rig.settle();
  }
  t.equal(rig.files.length, 4);
  t.equal(rig.seen.at(-1)!.position, 4 * SEGMENT + 4 * writeRecordBytes(64));
  const result = await scan(rig.loop, rig.files, { cut });
  t.same(positions(result.found), positions(rig.seen.slice(93)));
  t.equal(result.end, rig.log.committedEnd);
  t.equal(result.continuesBeyond, undefined);
});

t.test('what a dropped tail has left behind is not taken for a continuation of what was written after it', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let i = 0; i < 192; i++) rig.zero();
  await rig.settle();
  const file = fileOf(rig, 0);
  const end = 4096 as LogPosition;
  const state = { epoch: 2 as Epoch, end, live: new Map([[0, file]]), tail: new Uint8Array() };
  const next = new LogRig({ segmentBytes: SEGMENT, loop: rig.loop, state });
  for (let i = 0; i < 64; i++) next.zero();
  await next.settle();
  const result = await scan(rig.loop, [file]);
  t.equal(result.records, 128, 'the third page holds records of the first epoch still, at their right positions');
  t.equal(result.end, 8192);
  t.equal(result.epoch, 2);
  t.equal(result.continuesBeyond, undefined);
});

t.test('what an earlier recovery has dropped does not come back when nothing was written over it', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let i = 0; i < 10; i++) rig.zero('a', true);
  await rig.settle();
  rig.zero();
  await rig.settle();
  const file = fileOf(rig, 0);
  t.equal((await scan(rig.loop, [file])).records, 11);
  const floor = { position: (4 * 64) as LogPosition, epoch: 2 as Epoch };
  const result = await scan(rig.loop, [file], { floor });
  t.equal(result.records, 4);
  t.equal(result.end, 4 * 64);
  t.equal(result.continuesBeyond, undefined, 'nor does it count as a hole');
});

t.test('files that are no segments, or not whole ones, are spare', async t => {
  const loop = new MemoryLoop();
  const rig = new LogRig({ segmentBytes: SEGMENT, loop });
  await rig.settle();
  rig.zero();
  await rig.settle();
  const first = fileOf(rig, 0);
  const blank = new ControlledFile(loop, SEGMENT);
  const text = new ControlledFile(loop, SEGMENT);
  text.poke(0, new TextEncoder().encode('not a log at all'.repeat(64)));
  const broken = new ControlledFile(loop, SEGMENT);
  broken.poke(0, first.peek(0, 4096));
  broken.flip(20);
  const shifted = new ControlledFile(loop, SEGMENT);
  shifted.poke(64, first.peek(0, 64));
  const ports = { regions, checksums };
  const { live, spare } = await pump(loop, identifySegments([blank, text, first, broken, shifted], SEGMENT, ports));
  t.same([...live.keys()], [0]);
  t.equal(live.get(0), first);
  t.same(spare, [blank, text, broken, shifted]);
});

t.test('two files that claim the same segment are refused, and so is one that cannot be read', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  rig.zero();
  await rig.settle();
  const copy = new ControlledFile(rig.loop, SEGMENT);
  copy.poke(0, fileOf(rig, 0).peek(0, 4096));
  await t.rejects(scan(rig.loop, [...rig.files, copy]), { code: 'corrupt' });
  copy.failing.set('read', -EIO);
  await t.rejects(scan(rig.loop, [copy]), { code: 'io' });
});

t.test('a record cut off by a lost page ends the log in front of it', async t => {
  const rig = new LogRig({ segmentBytes: SEGMENT });
  await rig.settle();
  for (let i = 0; i < 6; i++) rig.write(3, i);
  await rig.settle();
  const file = fileOf(rig, 0);
  const last = rig.seen[5];
  // From the first page that the record has to itself: its header is there, its data is not.
  file.poke(Math.ceil(last.position / 4096) * 4096, new Uint8Array(5 * 4096));
  const result = await scan(rig.loop, [file]);
  t.equal(result.records, 6, 'its header is whole');
  t.equal(result.damagedData, last.position, 'and the scan says that its data is not');
  file.poke(Math.floor(last.position / 512) * 512, new Uint8Array(512));
  const without = await scan(rig.loop, [file]);
  t.equal(without.records, 5);
  t.equal(without.end, last.position);
});

t.test('any single damage ends the log at the right record or is reported, and no record is invented', async t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  let reported = 0;
  let shortened = 0;
  let broken = 0;
  for (let round = 0; round < 6; round++) {
    const rig = new LogRig({ segmentBytes: SEGMENT });
    await rig.settle();
    for (let i = 0; i < 40; i++) {
      const kind = random(4);
      const durable = random(4) === 0;
      if (kind === 0) rig.zero('', durable);
      else if (kind === 1) rig.bulk(80 + 16 * random(40));
      else rig.write(1 + random(6), random(256), '', durable);
      if (durable || random(3) === 0) await rig.settle();
    }
    await rig.settle();
    const file = fileOf(rig, 0);
    const truth = (await scan(rig.loop, [file])).found;
    t.same(positions(truth), positions(rig.seen));
    const end = rig.log.committedEnd;
    const length = Math.ceil(end / 4096) * 4096;
    const good = file.peek(0, length);
    for (let damage = 0; damage < 25; damage++) {
      const what = random(4);
      const at = what === 3 ? truth[random(truth.length)].position + random(64) : random(end);
      if (what === 0 || what === 3) file.flip(at, 1 << random(8));
      else if (what === 1) file.poke(at - (at % 512), new Uint8Array(512));
      else file.poke(at - (at % 512), new Uint8Array(length - (at - (at % 512))));
      const result = await scan(rig.loop, [file]);
      const label = `${['a flipped bit', 'a lost sector', 'a lost tail', 'a flipped bit of a header'][what]} at ${at}`;
      const now = file.peek(0, length);
      const firstChanged = good.findIndex((byte, i) => byte !== now[i]);
      file.poke(0, good);
      if (firstChanged < 0) continue;
      let lastChanged = end as number;
      while (now[lastChanged - 1] === good[lastChanged - 1]) lastChanged--;
      const touched = truth.filter(record => record.end > firstChanged && record.position < lastChanged);
      const isHeader = (record: Found) => {
        const covered = record.kind === RecordKind.write ? writeDataOffset(record.count) : record.end - record.position;
        for (let i = record.position; i < record.position + covered; i++) if (good[i] !== now[i]) return true;
        return false;
      };
      const stop = touched.find(isHeader);
      const expected = stop === undefined ? truth : truth.slice(0, truth.indexOf(stop));
      if (JSON.stringify(positions(result.found)) !== JSON.stringify(positions(expected))) {
        t.fail(`${label}: ${result.found.length} records instead of ${expected.length}`);
      }
      const damaged = touched.map(record => record.position).filter(position => position < (stop?.position ?? end));
      const damagedData = damaged.find(position => position >= result.durable) ?? damaged[0];
      if (result.damagedData !== damagedData) t.fail(`${label}: data ${result.damagedData}, not ${damagedData}`);
      for (const [i, record] of result.found.entries()) {
        if (touched.includes(truth[i])) continue;
        if (!Buffer.from(record.data).equals(truth[i].data)) t.fail(`${label}: data of ${record.op} was invented`);
      }
      const behind = stop === undefined ? [] : truth.slice(truth.indexOf(stop) + 1);
      const witness = behind.find(record => !isHeader(record) && record.durable > stop!.position);
      if (result.continuesBeyond !== witness?.position) {
        t.fail(`${label}: continues at ${result.continuesBeyond}, not ${witness?.position}`);
      }
      if (damagedData !== undefined) reported++;
      if (stop !== undefined) shortened++;
      if (witness !== undefined) broken++;
    }
  }
  t.ok(reported > 10, `${reported} times damaged data was reported`);
  t.ok(shortened > 10, `${shortened} times the log ended earlier`);
  t.ok(broken > 0, `${broken} times a later record showed that this was damage`);
});
