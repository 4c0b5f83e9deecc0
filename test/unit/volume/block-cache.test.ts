/** The block cache: hits are the newest content, memory is bounded, a scan does not push out what is used. */
import t from 'tap';
import { plainRegion } from '../../../src/base/memory.ts';
import type { BlockNumber, VolumeNumber } from '../../../src/base/units.ts';
import { BLOCK_BYTES } from '../../../src/base/units.ts';
import { BlockCache } from '../../../src/volume/block-cache.ts';
import type { CacheLoan } from '../../../src/volume/cache-loan.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';
import { lentBytes } from '../../support/gathered.ts';

const V1 = 1 as VolumeNumber;
const V2 = 2 as VolumeNumber;
const block = (number: number) => number as BlockNumber;

function cacheOf(blocks: number): BlockCache {
  return new BlockCache({ allocate: plainRegion }, blocks * 4096);
}

/** A block whose first eight bytes say what it is. */
function content(key: number, version: number): Uint8Array {
  const bytes = new Uint8Array(4096);
  new DataView(bytes.buffer).setFloat64(0, key * 1e6 + version);
  return bytes;
}

function read(cache: BlockCache, volume: VolumeNumber, number: number): number | undefined {
  const slot = cache.find(volume, block(number));
  if (slot < 0) return undefined;
  const bytes = new Uint8Array(4096);
  cache.copyOut(slot, 0, 4096, bytes, 0);
  return new DataView(bytes.buffer).getFloat64(0);
}

t.test('memory comes slab by slab, from the second on before it is needed', t => {
  const slab = 16_384;
  const asked: [number, boolean | undefined][] = [];
  const allocate = (bytes: number, soon?: boolean) => {
    asked.push([bytes / BLOCK_BYTES, soon]);
    return plainRegion(bytes);
  };
  const cache = new BlockCache({ allocate }, 2 * slab * BLOCK_BYTES + 40_960);
  t.same(asked, []);
  const bytes = new Uint8Array(BLOCK_BYTES);
  const fillTo = (count: number) => {
    for (let i = cache.count; i < count; i++) cache.put(V1, block(i), 1, bytes, 0);
  };
  fillTo(slab / 2);
  t.same(asked, [[slab, false]]);
  fillTo(slab / 2 + 1);
  t.same(asked.slice(1), [[slab, true]]);
  fillTo(2 * slab + 10);
  t.same(asked.slice(2), [[10, true]], 'the last one is as long as what is left');
  for (let i = 0; i < 2 * slab; i++) cache.put(V2, block(i), 1, bytes, 0);
  t.equal(asked.length, 3, 'slots that are used again take no memory');
  t.end();
});

t.test('what is found is what was put in last, never less, never something else', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const cache = cacheOf(64);
  const newest = new Map<number, number>();
  let hits = 0;
  for (let round = 0; round < 30_000; round++) {
    const volume = random(2) === 0 ? V1 : V2;
    const number = random(2) === 0 ? random(40) : 2 ** 33 + random(100);
    const key = number * 4 + volume;
    const what = random(10);
    if (what < 5) {
      const found = read(cache, volume, number);
      if (found === undefined) continue;
      hits++;
      if (found !== key * 1e6 + (newest.get(key) ?? Number.NaN)) t.fail(`round ${round}: an old block`);
    } else if (what < 9) {
      newest.set(key, round % 1e6);
      cache.put(volume, block(number), 1, content(key, round % 1e6), 0);
      if (read(cache, volume, number) === undefined) t.fail('what was just put in is not found');
    } else {
      const count = random(2) === 0 ? 1 + random(8) : 2 ** 35;
      cache.invalidate(volume, number, count);
      for (let i = 0; i < Math.min(count, 100); i++) newest.delete((number + i) * 4 + volume);
      for (const known of newest.keys()) {
        const other = Math.floor(known / 4);
        if (known % 4 === volume && other >= number && other < number + count) newest.delete(known);
      }
      if (cache.peek(volume, block(number)) >= 0) t.fail('an invalid block is found');
    }
    if (cache.count > cache.capacity) t.fail('the bound is broken');
  }
  t.ok(hits > 500, `${hits} hits`);
  t.end();
});

t.test('parts of a block can be copied', t => {
  const cache = cacheOf(4);
  cache.put(
    V1,
    block(5),
    1,
    Uint8Array.from({ length: 8192 }, (_, i) => i % 251),
    100,
  );
  const target = new Uint8Array(20);
  cache.copyOut(cache.find(V1, block(5)), 10, 6, target, 3);
  t.same([...target.subarray(0, 10)], [0, 0, 0, 110, 111, 112, 113, 114, 115, 0]);
  t.end();
});

t.test('a slot that was invalidated is used again, and the queues stay whole', t => {
  const cache = cacheOf(16);
  for (let round = 0; round < 200; round++) {
    for (let i = 0; i < 16; i++) cache.put(V1, block(round * 3 + i), 1, content(i, round), 0);
    cache.invalidate(V1, round * 3, 8);
    t.ok(cache.count <= 16);
  }
  cache.invalidate(V1, 0, 1e9);
  for (let i = 0; i < 16; i++) {
    cache.put(V2, block(i), 1, content(i, 1), 0);
    t.equal(read(cache, V2, i), i * 1e6 + 1);
  }
  t.end();
});

t.test('a scan of ten times its size leaves most of what is used in the cache', t => {
  const cache = cacheOf(1000);
  const touch = (number: number) => {
    if (read(cache, V1, number) === undefined) cache.put(V1, block(number), 1, content(number, 0), 0);
  };
  // A working set of half the cache, used a few times.
  for (let round = 0; round < 4; round++) for (let i = 0; i < 500; i++) touch(i);
  for (let i = 0; i < 10_000; i++) touch(1_000_000 + i);
  let kept = 0;
  for (let i = 0; i < 500; i++) if (cache.peek(V1, block(i)) >= 0) kept++;
  t.comment(`${kept} of 500 used blocks were kept (LRU: 0)`);
  t.ok(kept >= 450, `${kept} of 500`);
  t.end();
});

t.test('a skewed load is served better than by least-recently-used', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const cache = cacheOf(500);
  const lru = new Map<number, true>();
  let hits = 0;
  let lruHits = 0;
  const accesses = 60_000;
  for (let i = 0; i < accesses; i++) {
    // Zipf-like over 20,000 blocks, with a scan running through it.
    const u = (random(1e6) + 1) / 1e6;
    const number = i % 3 === 0 ? 1e6 + i : Math.floor(20_000 ** u) - 1;
    if (read(cache, V1, number) !== undefined) hits++;
    else cache.put(V1, block(number), 1, content(number, 0), 0);
    if (lru.delete(number)) lruHits++;
    else if (lru.size >= 500) lru.delete(lru.keys().next().value!);
    lru.set(number, true);
  }
  const percent = (count: number) => ((100 * count) / accesses).toFixed(1);
  t.comment(`hit rate ${percent(hits)} %, of LRU ${percent(lruHits)} %`);
  t.ok(hits > lruHits, `${hits} against ${lruHits}`);
  t.end();
});

t.test('several blocks at once are what one by one would be, over slabs and evictions, too', t => {
  const capacity = 300;
  const cache = new BlockCache({ allocate: plainRegion }, capacity * BLOCK_BYTES);
  const source = new Uint8Array(64 * BLOCK_BYTES);
  let state = 1;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % below;
  };
  const written = new Map<number, number>();
  const copy = new Uint8Array(BLOCK_BYTES);
  for (let round = 1; round < 400; round++) {
    const first = random(500);
    const count = 1 + random(64);
    for (let i = 0; i < count; i++) {
      source.fill((first + i + round) & 255, i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
      written.set(first + i, (first + i + round) & 255);
    }
    cache.put(V1, block(first), count, source, 0);
    for (const [number, value] of written) {
      const slot = cache.peek(V1, block(number));
      if (slot < 0) continue;
      cache.copyOut(slot, 0, BLOCK_BYTES, copy, 0);
      if (!copy.every(byte => byte === value)) t.fail(`block ${number} in round ${round}`);
    }
  }
  t.ok(cache.count <= capacity);
  t.end();
});

t.test('a block that is not there is not replaced, one that is there is', t => {
  const cache = new BlockCache({ allocate: plainRegion }, 16 * BLOCK_BYTES);
  cache.replace(V1, block(1), new Uint8Array(BLOCK_BYTES).fill(1), 0);
  t.equal(cache.find(V1, block(1)), -1);
  cache.put(V1, block(1), 1, new Uint8Array(BLOCK_BYTES).fill(2), 0);
  cache.invalidate(V1, 1, 1);
  cache.replace(V1, block(1), new Uint8Array(BLOCK_BYTES).fill(3), 0);
  const copy = new Uint8Array(BLOCK_BYTES);
  cache.copyOut(cache.find(V1, block(1)), 0, BLOCK_BYTES, copy, 0);
  t.ok(
    copy.every(byte => byte === 3),
    'also what was invalid',
  );
  t.end();
});

t.test('a range is lent where all of its blocks are there, in pieces that lie one behind another in memory', t => {
  const cache = cacheOf(64);
  const source = Uint8Array.from({ length: 16 * BLOCK_BYTES }, (_, i) => (i * 7 + (i >> 12)) & 255);
  // Slots 0 … 5 and, with others between them, 8 … 9.
  cache.put(V1, block(10), 6, source, 0);
  cache.put(V2, block(0), 2, source, 0);
  cache.put(V1, block(16), 2, source, 6 * BLOCK_BYTES);
  for (const [start, length, pieces] of [
    [10 * BLOCK_BYTES, 6 * BLOCK_BYTES, 1],
    [10 * BLOCK_BYTES, 8 * BLOCK_BYTES, 2],
    [10 * BLOCK_BYTES + 17, 8 * BLOCK_BYTES - 100, 2],
    [16 * BLOCK_BYTES + 5, 1, 1],
  ]) {
    const loan = cache.lend(V1, start, length)!;
    t.equal(loan.pieceCount, pieces);
    t.same(lentBytes(loan), source.subarray(start - 10 * BLOCK_BYTES, start - 10 * BLOCK_BYTES + length));
    loan.returned();
    t.throws(() => loan.returned(), /once/);
  }
  t.equal(cache.lend(V1, 9 * BLOCK_BYTES, 2 * BLOCK_BYTES), undefined, 'the first is not there');
  t.equal(cache.lend(V1, 17 * BLOCK_BYTES, BLOCK_BYTES + 1), undefined, 'the last is not there');
  cache.invalidate(V1, 12, 1);
  t.equal(cache.lend(V1, 10 * BLOCK_BYTES, 6 * BLOCK_BYTES), undefined, 'one between is not valid');
  t.end();
});

t.test('no more than a quarter of the cache is lent', t => {
  const cache = cacheOf(64);
  cache.put(V1, block(0), 32, new Uint8Array(32 * BLOCK_BYTES), 0);
  const loans = [0, 1].map(() => cache.lend(V1, 0, 8 * BLOCK_BYTES)!);
  t.equal(cache.lend(V1, 0, BLOCK_BYTES), undefined);
  loans[0].returned();
  t.equal(cache.lend(V1, 0, 9 * BLOCK_BYTES), undefined);
  t.ok(cache.lend(V1, 0, 8 * BLOCK_BYTES));
  t.equal(cacheOf(3).lend(V1, 0, 1), undefined, 'of a tiny one nothing');
  t.end();
});

t.test('what is lent stays as it is, whatever becomes of its blocks, and a look-up finds the newest or nothing', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const cache = cacheOf(80);
  const newest = new Map<number, number>();
  const loans: { loan: CacheLoan; bytes: Uint8Array }[] = [];
  let made = 0;
  for (let round = 0; round < 40_000; round++) {
    const number = random(120);
    const what = random(10);
    if (what < 3) {
      const count = 1 + random(10);
      const source = new Uint8Array(count * BLOCK_BYTES);
      for (let i = 0; i < count; i++) {
        // What was read is what was committed last.
        const version = newest.get(number + i) ?? round;
        newest.set(number + i, version);
        source.set(content(number + i, version), i * BLOCK_BYTES);
      }
      cache.put(V1, block(number), count, source, 0);
    } else if (what < 5) {
      newest.set(number, round);
      cache.replace(V1, block(number), content(number, round), 0);
    } else if (what === 5) {
      const count = 1 + random(4);
      for (let i = 0; i < count; i++) newest.delete(number + i);
      cache.invalidate(V1, number, count);
    } else if (what < 8) {
      const count = 1 + random(6);
      const loan = cache.lend(V1, number * BLOCK_BYTES, count * BLOCK_BYTES);
      if (loan === undefined) continue;
      made++;
      const bytes = lentBytes(loan);
      for (let i = 0; i < count; i++) {
        const found = new DataView(bytes.buffer, i * BLOCK_BYTES).getFloat64(0);
        if (found !== (number + i) * 1e6 + newest.get(number + i)!) t.fail(`round ${round}: an old block was lent`);
      }
      loans.push({ loan, bytes });
    } else if (loans.length > 0) {
      const [{ loan, bytes }] = loans.splice(random(loans.length), 1);
      if (Buffer.compare(lentBytes(loan), bytes) !== 0) t.fail(`round ${round}: lent bytes have changed`);
      loan.returned();
    }
    const found = read(cache, V1, number);
    if (found !== undefined && found !== number * 1e6 + newest.get(number)!) t.fail(`round ${round}: an old block`);
    if (cache.count > cache.capacity) t.fail('the bound is broken');
  }
  t.ok(made > 1000, `${made} loans`);
  for (const { loan } of loans) loan.returned();
  // With nothing out, as much can be lent as ever.
  cache.put(V2, block(0), 5, new Uint8Array(5 * BLOCK_BYTES), 0);
  for (let i = 0; i < 4; i++) t.ok(cache.lend(V2, 0, 5 * BLOCK_BYTES));
  t.equal(cache.lend(V2, 0, 1), undefined);
  t.end();
});
