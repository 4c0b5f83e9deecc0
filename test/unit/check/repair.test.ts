/** What is repaired without a guess, and that a head then runs on it with its data as before; and what is left alone. */
import t, { type Test } from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import type { Location } from '../../../src/base/location.ts';
import { locationPosition } from '../../../src/base/location.ts';
import type { Epoch, LogPosition, OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { check } from '../../../src/check/check.ts';
import { FINDINGS_PER_KIND_MAX, type FindingKind, Findings } from '../../../src/check/finding.ts';
import { planRepairs, type RepairPlan, storeRepairs } from '../../../src/check/repair.ts';
import { leftOf } from '../../../src/check/repair-decision.ts';
import type { ColumnEntry } from '../../../src/index/index-store.ts';
import { writeDataOffset } from '../../../src/oplog/record.ts';
import { addon } from '../../../src/platform/addon.ts';
import { MemoryIndex } from '../../support/memory-index.ts';
import { HeadRig, isAll, pump, regions, SEGMENT, type Store } from '../head/head-rig.ts';

const CHUNK = 64 * KIB;
const VOLUME = 1 as VolumeNumber;
const FIRST = (MIB / 4096) as Location;

async function look(store: Store, read = true) {
  const findings = new Findings();
  const result = await pump(
    store.loop,
    check({
      node: '0'.repeat(32),
      devices: [{ number: 0, identity: '1'.repeat(32), path: '/memory', file: store.device }],
      index: new MemoryIndex(store.contents),
      segments: store.segments.map((segment, i) => ({ path: `/log/${i}`, file: segment })),
      segmentBytes: SEGMENT,
      regions,
      checksums: addon,
      logChecksums: addon,
      findings,
      readProgress: read ? () => {} : undefined,
    }),
  );
  return { kinds: [...findings.kinds()], picture: result.picture };
}

/** As `sledge check --repair` does it, without the check afterwards. */
async function repair(store: Store): Promise<RepairPlan> {
  const { kinds, picture } = await look(store, false);
  if (picture === undefined || leftOf(kinds).refusedBy.length > 0) throw new Error(`refused: ${kinds.join(' ')}`);
  const plan = await pump(store.loop, planRepairs(picture, { regions, checksums: addon }));
  await storeRepairs(new MemoryIndex(store.contents), plan.changes);
  return plan;
}

/** Chunks 0, 1, 10 and 30 are in the index, in slots 0, 1, 2 and 3; chunk 5 is in slot 4, which the log alone names. */
async function lived(): Promise<Store> {
  const rig = await HeadRig.start({ volumes: 2 });
  await rig.write(0, 2 * CHUNK, 1);
  await rig.write(10 * CHUNK, 4096, 2);
  await pump(rig.loop, rig.destage.all());
  await rig.write(30 * CHUNK, CHUNK, 3);
  await pump(rig.loop, rig.destage.all());
  await rig.write(5 * CHUNK, CHUNK, 5);
  await rig.write(20 * CHUNK, 4096, 6);
  await rig.do('flush');
  return rig.store;
}

const CONTENT: readonly [number, number, number][] = [
  [0, 2 * CHUNK, 1],
  [10 * CHUNK, 4096, 2],
  [30 * CHUNK, CHUNK, 3],
  [5 * CHUNK, CHUNK, 5],
  [20 * CHUNK, 4096, 6],
];

/** Starts a head, fills all of the device that it takes for free, and finds the data as it was. */
async function runsOn(t: Test, store: Store, content: readonly [number, number, number][] = CONTENT): Promise<void> {
  const rig = await HeadRig.start({}, store);
  for (const [offset, length, fill] of content) t.ok(isAll(await rig.read(offset, length), fill), `${offset} at first`);
  await pump(rig.loop, rig.destage.all());
  for (let i = 0; i < 300; i++) await rig.write(40 * MIB + i * CHUNK, CHUNK, 9);
  await pump(rig.loop, rig.destage.all());
  for (const [offset, length, fill] of content) t.ok(isAll(await rig.read(offset, length), fill), `${offset} later on`);
  for (const [offset, length] of content) await rig.do('trim', offset, length);
  await pump(rig.loop, rig.destage.all());
  t.same(rig.events, []);
  t.same((await look(store)).kinds, [], 'clean after all was written and trimmed');
}

function columnsOf(store: Store): ColumnEntry[] {
  return [...store.contents.columns.values()];
}

function mark(store: Store, ...words: number[]): void {
  const slots = new Uint32Array(8);
  slots.set(words);
  store.contents.columns.set('0/0', { device: 0, column: 0, volume: VOLUME, chunkBytes: CHUNK, slots });
}

function putColumn(store: Store, column: number, volume: number, ...words: number[]): void {
  const slots = new Uint32Array(8);
  slots.set(words);
  const entry = { device: 0, column, volume: volume as VolumeNumber, chunkBytes: CHUNK, slots };
  store.contents.columns.set(`0/${column}`, entry);
}

function move(store: Store, chunk: number, slot: number): void {
  const chunks = store.contents.chunks.get(VOLUME)!;
  chunks.set(chunk, { ...chunks.get(chunk)!, location: (FIRST + slot * 16) as Location });
}

function logFileOf(store: Store) {
  return store.segments.find(file => file.peek(0, 4).some(byte => byte !== 0))!;
}

function words(store: Store, column = 0): number[] | undefined {
  const entry = store.contents.columns.get(`0/${column}`);
  return entry === undefined ? undefined : [...entry.slots];
}

const SOUND = [0b1111, 0, 0, 0, 0, 0, 0, 0];

t.test('the store that these tests spoil', async t => {
  const store = await lived();
  t.same((await look(store)).kinds, []);
  t.same(words(store), SOUND);
  t.same(await repair(store), { repairs: [], left: [], changes: [] }, 'nothing to repair');
  await runsOn(t, store);
});

t.test('what is repaired: afterwards it is clean, and a head runs on it', async t => {
  const cases: [string, FindingKind[], (store: Store) => void][] = [
    ['marks too many', ['slot-orphan'], s => mark(s, 0b11001111, 0, 1 << 31)],
    ['a mark of a slot that the log alone names', ['slot-orphan'], s => mark(s, 0b11111)],
    ['a mark too few', ['slot-unmarked'], s => mark(s, 0b1101)],
    ['no mark at all', ['slot-unmarked'], s => mark(s)],
    ['both, and each chunk is where it should be', ['slot-unmarked', 'slot-orphan'], s => mark(s, 0b1100111)],
    ['a column in which nothing is', ['slot-orphan'], s => putColumn(s, 2, 1, 7)],
    [
      'columns of a volume that was deleted',
      ['column-volume-unknown', 'column-left-over'],
      s => {
        s.contents.nextVolume = 9 as VolumeNumber;
        putColumn(s, 1, 5, 7);
        putColumn(s, 3, 6);
      },
    ],
  ];
  for (const [name, kinds, spoil] of cases) {
    await t.test(name, async t => {
      const store = await lived();
      spoil(store);
      t.same(new Set((await look(store)).kinds), new Set(kinds));
      const { repairs, left } = await repair(store);
      t.same(new Set(repairs.map(({ kind }) => kind)), new Set(kinds));
      for (const { what, file } of repairs) t.match([what, file], [/^[A-Z0-9].*\.$/, '/memory']);
      t.same(left, []);
      t.same((await look(store)).kinds, []);
      t.same(words(store), SOUND);
      t.equal(columnsOf(store).length, 1, 'columns in which nothing is are gone');
      await runsOn(t, store);
    });
  }
});

t.test(
  'a mark of a slot that the log names is no chunk of the index: with it the head would end in an assertion',
  async t => {
    for (const repaired of [false, true]) {
      const rig = await HeadRig.start();
      await rig.write(0, CHUNK, 1);
      await rig.write(0, CHUNK, 2);
      await rig.do('flush');
      const { store } = rig;
      putColumn(store, 0, 1, 0b01);
      if (repaired) {
        await repair(store);
        t.same(columnsOf(store), [], 'recovery takes the column for the log');
        await runsOn(t, store, [[0, CHUNK, 2]]);
      } else {
        const again = await HeadRig.start({}, store);
        await t.rejects(pump(again.loop, again.destage.all()), /a slot is freed once, and out of the index/);
      }
    }
  },
);

t.test('an index that is ahead of the cut: slots of its chunks are named by the log, too', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, CHUNK, 1);
  await rig.write(CHUNK, CHUNK, 2);
  await rig.do('flush');
  await pump(rig.loop, rig.destage.all());
  const { store } = rig;
  store.contents.state = { cut: 0 as LogPosition, epoch: 1 as Epoch, since: 0 as LogPosition };
  t.same((await look(store)).kinds, []);
  const { picture } = await look(store);
  t.equal(picture!.replay.named.size, 2, 'the log has the records');
  mark(store, 0b01);
  t.match(await repair(store), { repairs: [{ kind: 'slot-unmarked', offsetBytes: MIB + CHUNK }], left: [] });
  t.same(words(store)![0], 0b11);
  await runsOn(t, store, [
    [0, CHUNK, 1],
    [CHUNK, CHUNK, 2],
  ]);
});

t.test(
  'an unmarked slot whose chunk is in the log as a whole is marked, unless an orphan could be its place',
  async t => {
    for (const orphan of [false, true]) {
      const store = await lived();
      const rig = await HeadRig.start({}, store);
      for (let block = 0; block < 16; block++) await rig.write(30 * CHUNK + block * 4096, 4096, 7);
      await rig.do('flush');
      mark(store, orphan ? 0b100111 : 0b111);
      const { repairs, left } = await repair(store);
      const kinds = left.map(({ kind }) => kind);
      t.same([repairs.length, kinds], orphan ? [0, ['slot-unmarked', 'slot-orphan']] : [1, []]);
      t.same(words(store)![0], orphan ? 0b100111 : 0b1111);
      if (!orphan) await runsOn(t, store, [...CONTENT.filter(([at]) => at !== 30 * CHUNK), [30 * CHUNK, CHUNK, 7]]);
    }
  },
);

t.test('an unmarked slot whose chunk the log has replaced: its content still shows where it is', async t => {
  const cases: [damaged: boolean, marks: number, repairs: number, left: number][] = [
    [false, 0b100000111, 2, 0],
    [true, 0b100000111, 0, 2],
    // The log has it all: what the device says does not count, and no orphan can be its place.
    [true, 0b000000111, 1, 0],
  ];
  for (const [damaged, marks, ...counts] of cases) {
    const store = await lived();
    const rig = await HeadRig.start({}, store);
    await rig.write(30 * CHUNK, CHUNK, 8);
    await rig.do('flush');
    mark(store, marks);
    if (damaged) store.device.flip(locationPosition((FIRST + 3 * 16) as Location) + 9);
    const { repairs, left } = await repair(store);
    t.same([repairs.length, left.length], counts);
    t.same(words(store)![0], counts[0] === 0 ? marks : 0b1111);
    if (counts[0] === 0) continue;
    await runsOn(t, store, [...CONTENT.filter(([at]) => at !== 30 * CHUNK), [30 * CHUNK, CHUNK, 8]]);
  }
});

t.test('what is left alone, though nothing refuses the repair as a whole', async t => {
  const cases: [string, FindingKind[], (store: Store) => void | Promise<void>][] = [
    // The orphan is where the chunk really is: to clear one and mark the other would lose it.
    ['a chunk whose place is wrong', ['slot-unmarked', 'slot-orphan'], s => move(s, 30, 77)],
    [
      'a slot that holds something else',
      ['slot-unmarked'],
      s => {
        mark(s, 0b0111);
        s.device.flip(locationPosition((FIRST + 3 * 16) as Location) + 9);
      },
    ],
    [
      'a slot that the log has another chunk in, of the same content',
      ['slot-unmarked'],
      s => {
        mark(s, 0b0111);
        const sums = new Uint32Array(16);
        addon.checksumBlocks(new Uint8Array(CHUNK).fill(5), 0, 16, sums, 0);
        const chunks = s.contents.chunks.get(VOLUME)!;
        chunks.set(30, { ...chunks.get(30)!, location: (FIRST + 4 * 16) as Location, sums });
      },
    ],
    [
      'a slot that cannot be read',
      ['slot-unmarked'],
      s => {
        mark(s, 0b0111);
        const read = s.device.read.bind(s.device);
        const position = locationPosition((FIRST + 3 * 16) as Location);
        s.device.read = (at, region, offset, length, request) => {
          if (at > position || at + length <= position) read(at, region, offset, length, request);
          else s.loop.post(() => request.ioCompleted(-EIO));
        };
      },
    ],
    ['a column of a volume to come', ['column-volume-unknown'], s => putColumn(s, 2, 77, 1)],
    [
      'a column of a volume that the log still has records of',
      ['column-volume-unknown'],
      async s => {
        const rig = await HeadRig.start({}, s);
        await rig.write(0, 4096, 1, {}, 2);
        await rig.do('flush', 0, 0, {}, 2);
        s.contents.volumes.delete(2 as VolumeNumber);
        putColumn(s, 2, 2, 1);
      },
    ],
  ];
  for (const [name, kinds, spoil] of cases) {
    await t.test(name, async t => {
      const store = await lived();
      await spoil(store);
      const before = columnsOf(store);
      for (let round = 1; round <= 2; round++) {
        const { repairs, left, changes } = await repair(store);
        t.same([repairs, changes], [[], []]);
        t.same(new Set(left.map(({ kind }) => kind)), new Set(kinds));
        t.same(columnsOf(store), before, `round ${round}`);
      }
    });
  }
});

t.test('a column that the log has given to another volume keeps its chunks out of the repair', async t => {
  const rig = await HeadRig.start({ volumes: 2 });
  await rig.write(0, CHUNK, 1);
  await rig.do('flush');
  const { store } = rig;
  const sums = new Uint32Array(16);
  addon.checksumBlocks(new Uint8Array(4096), 0, 1, sums, 0);
  // Volume 2 has a chunk in the column in which the log has slot 0 for volume 1; nothing in it is marked.
  const entry = { op: 1 as OpNumber, location: (FIRST + 16) as Location, sums };
  store.contents.chunks.set(2 as VolumeNumber, new Map([[0, entry]]));
  store.contents.volumes.set(2 as VolumeNumber, {
    ...store.contents.volumes.get(2 as VolumeNumber)!,
    lastOp: 1 as OpNumber,
  });
  putColumn(store, 0, 2);
  t.same((await look(store)).kinds, ['slot-unmarked']);
  const { repairs, left } = await repair(store);
  t.same(repairs, []);
  t.match(left, [{ kind: 'slot-unmarked' }]);
});

t.test('findings of which what they refer to is unknown refuse every repair', async t => {
  const cases: [FindingKind, (store: Store) => void | Promise<void>][] = [
    [
      'log-broken',
      async s => {
        const bulk = s.contents.state!.cut;
        const rig = await HeadRig.start({}, s);
        await rig.write(20 * CHUNK, 4096, 7);
        await rig.do('flush');
        await rig.write(20 * CHUNK, 4096, 8);
        logFileOf(s).flip((bulk % SEGMENT) + 40);
      },
    ],
    ['slot-shared', s => move(s, 30, 2)],
    ['chunk-outside', s => move(s, 30, 100_000)],
    ['chunk-column', s => move(s, 30, 600)],
    ['chunk-volume-unknown', s => void s.contents.volumes.delete(VOLUME)],
    [
      'index-state',
      s => {
        s.contents.state = undefined;
      },
    ],
    ['device-blank', s => [0, 64 * KIB].forEach(at => void s.device.poke(at, new Uint8Array(4096)))],
    [
      'log-missing',
      s => {
        s.segments.length = 0;
      },
    ],
    [
      'log-unreadable',
      s => {
        s.segments[0]!.failing.set('read', -EIO);
      },
    ],
  ];
  for (const [kind, spoil] of cases) {
    const store = await lived();
    await spoil(store);
    mark(store, 0b1001111);
    const before = columnsOf(store);
    await t.rejects(repair(store), new RegExp(`refused:.* ?${kind}`), kind);
    t.same(columnsOf(store), before);
  }
});

t.test('a torn tail of the log is left to the next start, which drops it; slots are repaired beside it', async t => {
  const store = await lived();
  const rig = await HeadRig.start({}, store);
  const torn = rig.log.committedEnd;
  await rig.write(21 * CHUNK, 4096, 7);
  await rig.write(22 * CHUNK, 4096, 8);
  logFileOf(store).flip((torn % SEGMENT) + writeDataOffset(1));
  mark(store, 0b1001111);
  const logs = store.segments.map(file => file.peek(0, SEGMENT));
  t.same(new Set((await look(store)).kinds), new Set(['slot-orphan', 'log-torn']));
  t.match(await repair(store), { repairs: [{ kind: 'slot-orphan' }], left: [] });
  t.same((await look(store)).kinds, ['log-torn']);
  t.ok(store.segments.every((file, i) => Buffer.compare(file.peek(0, SEGMENT), logs[i]!) === 0));
  const again = await HeadRig.start({}, store);
  t.equal(again.row, 'torn');
  t.ok(isAll(await again.read(22 * CHUNK, 4096), 0));
  t.match(store.contents.state, { since: torn }, 'on record: nothing from there on comes back');
});

t.test('of kinds, those that are left are named with the reason, and those that refuse besides', t => {
  const kinds: FindingKind[] = ['slot-orphan', 'log-torn', 'block-damaged', 'log-broken', 'index-missing'];
  const { left, refusedBy } = leftOf(kinds);
  t.same(
    left.map(({ kind }) => kind),
    ['log-torn', 'block-damaged', 'log-broken', 'index-missing'],
  );
  t.same(refusedBy, ['log-broken', 'index-missing']);
  for (const { why } of left) t.match(why, /^[A-Z].*\.$/);
  t.match(leftOf(['log-torn']), { left: [{ why: /next start/ }], refusedBy: [] });
  t.end();
});

t.test('the changes are one transaction: one that fails leaves all as it was', async t => {
  const store = await lived();
  mark(store, 0b1100111);
  putColumn(store, 2, 1, 7);
  const before = columnsOf(store);
  const { picture } = await look(store, false);
  const { changes } = await pump(store.loop, planRepairs(picture!, { regions, checksums: addon }));
  t.equal(changes.length, 2);
  const commits: (() => void)[] = [];
  const index = new MemoryIndex(store.contents, (apply, request) => {
    commits.push(apply);
    queueMicrotask(() => request.ioCompleted(-EIO));
  });
  await t.rejects(storeRepairs(index, changes), { code: 'io', message: /the index cannot be written: EIO/ });
  t.same(columnsOf(store), before, 'before');
  t.equal(commits.length, 1, 'it is one');
  commits[0]!();
  t.same((await look(store)).kinds, [], 'after');
});

t.test('of very many repairs some are listed, and all are made and counted', async t => {
  const rig = await HeadRig.start({ columns: FINDINGS_PER_KIND_MAX + 10 });
  const { store } = rig;
  for (let column = 0; column < FINDINGS_PER_KIND_MAX + 7; column++) putColumn(store, column, 1, 1);
  const { repairs, changes } = await repair(store);
  t.equal(changes.length, FINDINGS_PER_KIND_MAX + 7);
  t.equal(repairs.length, FINDINGS_PER_KIND_MAX + 1);
  t.match(repairs.at(-1), { kind: 'slot-orphan', what: /^7 more/ });
  t.same(columnsOf(store), []);
});
