/** Locks, range sets, entry cache and commit versions, against what they stand for. */
import t from 'tap';
import type { Location } from '../../../src/base/location.ts';
import type { BlockNumber, ChunkNumber, OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import type { ChunkEntry } from '../../../src/index/chunk-entry.ts';
import { CommitVersions } from '../../../src/volume/commit-versions.ts';
import { EntryBudget, EntryCache } from '../../../src/volume/entry-cache.ts';
import { RangeLocks } from '../../../src/volume/range-locks.ts';
import { RangeSet } from '../../../src/volume/range-set.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';

t.test('a range set is a set of numbers, held as few ranges as there can be', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  for (let round = 0; round < 300; round++) {
    const set = new RangeSet();
    const model = new Set<number>();
    t.ok(set.isEmpty);
    for (let i = 0; i < 12; i++) {
      const start = random(60);
      const end = start + random(12);
      set.add(start, end);
      for (let value = start; value < end; value++) model.add(value);
      const ranges = [...set.ranges()];
      const flat = ranges.flatMap(([from, to]) => Array.from({ length: to - from }, (_, k) => from + k));
      if (flat.join() !== [...model].sort((a, b) => a - b).join()) t.fail(`seed ${seed}: ${JSON.stringify(ranges)}`);
      for (let k = 1; k < ranges.length; k++) if (ranges[k][0] <= ranges[k - 1][1]) t.fail('neighbours are not joined');
      if (set.rangeCount !== ranges.length || set.isEmpty !== (model.size === 0)) t.fail('counts');
      for (let value = 0; value < 75; value++) {
        if (set.has(value) !== model.has(value)) t.fail(`has ${value}`);
        const next = [...model].filter(other => other >= value).sort((a, b) => a - b)[0] ?? Number.POSITIVE_INFINITY;
        if (set.nextIn(value) !== next) t.fail(`nextIn ${value}`);
        let out = value;
        while (model.has(out)) out++;
        if (set.nextOut(value) !== out) t.fail(`nextOut ${value}`);
      }
    }
  }
  t.end();
});

t.test('locks: what overlaps is held off, and those who wait try again in order', t => {
  const locks = new RangeLocks();
  t.ok(locks.isEmpty);
  locks.hold(10, 20);
  for (const [first, end, expected] of [
    [0, 10, false],
    [20, 30, false],
    [9, 11, true],
    [19, 21, true],
    [0, 100, true],
    [12, 13, true],
  ] as const) {
    t.equal(locks.overlaps(first, end), expected, `${first} to ${end}`);
  }
  locks.hold(20, 25);
  const freed: string[] = [];
  locks.wait({ lockFreed: () => void freed.push('a') });
  locks.wait({ lockFreed: () => void freed.push('b') });
  t.throws(() => locks.hold(24, 30), /held once/);
  t.throws(() => locks.free(10, 19), /only what is held/);
  locks.free(10, 20);
  t.same(freed, ['a', 'b']);
  locks.free(20, 25);
  t.same(freed, ['a', 'b'], 'who does not wait any more is not told');
  t.throws(() => locks.wait({ lockFreed: () => {} }), /a lock to wait for/);
  t.end();
});

t.test('a waiter that finds another lock in its way waits again, and none is forgotten', t => {
  const locks = new RangeLocks();
  locks.hold(0, 1);
  locks.hold(1, 2);
  let done = false;
  const waiter = {
    lockFreed: () => {
      if (locks.overlaps(0, 2)) locks.wait(waiter);
      else done = true;
    },
  };
  locks.wait(waiter);
  locks.free(0, 1);
  t.notOk(done);
  locks.free(1, 2);
  t.ok(done);
  t.end();
});

const BLOCKS = 4;
const entry = (op: number): ChunkEntry => ({
  op: op as OpNumber,
  location: (op * 1000) as Location,
  sums: Uint32Array.from({ length: BLOCKS }, (_, i) => 2 ** 31 + op * BLOCKS + i),
});
const chunk = (number: number) => number as ChunkNumber;
/** As it is found, to keep; null and undefined as the cache says it. */
function entryIn(cache: EntryCache, number: ChunkNumber): ChunkEntry | null | undefined {
  const view = cache.view(number);
  return view == null ? view : view.toEntry();
}
const textOf = (entry: unknown) => JSON.stringify(entry);
/** What so many entries take. */
const bytesOf = (entries: number) => entries * new EntryCache(new EntryBudget(1), BLOCKS).entryBytes;

t.test('an entry cache tells "not there" from "not known", and keeps what is used', t => {
  const cache = new EntryCache(new EntryBudget(bytesOf(100)), BLOCKS);
  t.equal(entryIn(cache, chunk(1)), undefined);
  t.equal(cache.view(chunk(1)), undefined);
  cache.set(chunk(1), null);
  t.equal(entryIn(cache, chunk(1)), null);
  t.equal(cache.view(chunk(1)), null);
  cache.set(chunk(1), entry(5));
  t.same(entryIn(cache, chunk(1)), entry(5));
  for (let i = 100; i < 1000; i++) {
    cache.set(chunk(i), entry(i));
    entryIn(cache, chunk(1));
  }
  t.same(entryIn(cache, chunk(1)), entry(5), 'what is asked for again and again stays');
  let known = 0;
  for (let i = 100; i < 1000; i++) if (entryIn(cache, chunk(i)) !== undefined) known++;
  t.ok(known <= 100, `${known} of 900 others are known still`);
  cache.set(chunk(1), null);
  t.equal(entryIn(cache, chunk(1)), null, 'the index has it no more');
  t.throws(() => cache.set(chunk(1), { ...entry(1), sums: new Uint32Array(BLOCKS + 1) }), /for each block/);
  cache.clear();
  t.equal(entryIn(cache, chunk(1)), undefined);
  t.end();
});

t.test('caches that share a budget stay within it together', t => {
  const budget = new EntryBudget(bytesOf(100));
  const caches = Array.from({ length: 20 }, () => new EntryCache(budget, BLOCKS));
  for (let i = 0; i < 2000; i++) caches[i % 20].set(chunk(i), entry(i));
  t.ok(budget.heldBytes <= bytesOf(100), `${budget.heldBytes} bytes are held`);
  for (let i = 0; i < 200; i++) caches[0].set(chunk(i), entry(i));
  t.equal(budget.heldBytes, bytesOf(caches[0].size), 'caches that nobody uses any more hold nothing');
  let known = 0;
  for (let i = 0; i < 2000; i++) {
    if (entryIn(caches[i % 20], chunk(i)) !== undefined) known++;
  }
  t.ok(known <= 200, `${known} entries are known`);
  t.end();
});

t.test('an entry is found as it was set last, in one piece, whichever way it is looked at', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  for (const budget of [16, 300]) {
    const cache = new EntryCache(new EntryBudget(bytesOf(budget)), BLOCKS);
    const newest = new Map<number, ChunkEntry | null>();
    let found = 0;
    for (let round = 0; round < 20_000; round++) {
      // Some of them with numbers of more than 32 bits.
      const number = random(budget * 2) * (random(2) === 0 ? 1 : 2 ** 31);
      if (random(3) === 0) {
        const set = random(8) === 0 ? null : entry(round);
        newest.set(number, set);
        cache.set(chunk(number), set);
      } else if (random(2) === 0) {
        const got = entryIn(cache, chunk(number));
        if (got === undefined) continue;
        found++;
        if (textOf(got) !== textOf(newest.get(number))) t.fail(`${number} is ${textOf(got)}`);
      } else {
        const view = cache.view(chunk(number));
        if (view === undefined) continue;
        const expected = newest.get(number);
        found++;
        const sums = Uint32Array.from({ length: BLOCKS }, (_, i) => view?.sum(i) ?? 0);
        const seen = view === null || expected == null ? view : { ...expected, location: view.location, sums };
        if (textOf(seen) !== textOf(expected)) t.fail(`${number} looks like ${textOf(seen)}`);
      }
      if (cache.size > budget) t.fail(`${cache.size} entries are held`);
    }
    t.ok(found > 1000, `${found} were found`);
  }
  t.end();
});

t.test('commit versions never say "nothing has changed" of blocks that have', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  let alarms = 0;
  for (let round = 0; round < 5000; round++) {
    const versions = new CommitVersions();
    const volume = (1 + random(3)) as VolumeNumber;
    const scale = random(2) === 0 ? 1 : 2 ** 30;
    const first = random(200) * scale;
    const count = 1 + random(64);
    const before = versions.of(volume, first, count);
    const from = Math.max(0, first + random(300) - 150);
    const length = random(20) === 0 ? 100_000 : 1 + random(64);
    versions.committed(volume, from as BlockNumber, length);
    const changed = versions.of(volume, first, count) !== before;
    const overlaps = from < first + count && first < from + length;
    if (overlaps && !changed) t.fail(`${from}+${length} over ${first}+${count}`);
    if (changed && !overlaps) alarms++;
  }
  t.ok(alarms < 2500, `${alarms} false alarms, between neighbours mostly`);
  const versions = new CommitVersions();
  const before = versions.of(1 as VolumeNumber, 0, 16);
  versions.committed(2 as VolumeNumber, 0 as BlockNumber, 16);
  t.equal(versions.of(1 as VolumeNumber, 0, 16), before, 'another volume is another matter');
  t.end();
});
