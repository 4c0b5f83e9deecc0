/** The pool of payload buffers. POOL-n are our own ids. */
import t from 'tap';
import { KIB, MIB } from '../../../src/base/units.ts';
import { PayloadPool, POOL_BLOCK_BYTES_MIN, type PoolWaiter } from '../../../src/nbd-server/payload-pool.ts';
import { randomSource, regions } from './harness.ts';

class Waiter implements PoolWaiter {
  readonly granted: number[] = [];
  poolGranted(offset: number): void {
    this.granted.push(offset);
  }
}

t.test('POOL-1: blocks are powers of two, aligned to their size, and exhaust the region exactly', async t => {
  const pool = new PayloadPool(regions, 2 * MIB);
  const blocks = [pool.take(1), pool.take(64 * KIB), pool.take(64 * KIB + 1), pool.take(1 * MIB)];
  t.ok(blocks.every(block => block >= 0));
  t.ok(blocks[2] % (128 * KIB) === 0 && blocks[3] % MIB === 0);
  t.equal(pool.freeBytes, 2 * MIB - (64 + 64 + 128 + 1024) * KIB);
  t.equal(pool.take(1 * MIB), -1);
  t.not(pool.take(512 * KIB), -1);
  for (const block of blocks) pool.release(block);
});

t.test('POOL-2: waiters are served in order, and nobody overtakes', async t => {
  const pool = new PayloadPool(regions, 1 * MIB);
  const [first, second] = [pool.take(512 * KIB), pool.take(512 * KIB)];
  const [large, small] = [new Waiter(), new Waiter()];
  pool.wait(large, 1 * MIB);
  pool.wait(small, 1);
  pool.release(first);
  t.equal(pool.take(1), -1, 'there is room, but others wait');
  t.same([large.granted, small.granted], [[], []]);
  pool.release(second);
  t.same([large.granted, small.granted], [[0], []]);
  pool.release(0);
  t.equal(small.granted.length, 1);
  t.equal(pool.waiterCount, 0);
});

t.test('POOL-3: a waiter that leaves makes way for those behind it', async t => {
  const pool = new PayloadPool(regions, 1 * MIB);
  const block = pool.take(512 * KIB);
  const [large, small] = [new Waiter(), new Waiter()];
  pool.wait(large, 1 * MIB);
  pool.wait(small, 1);
  pool.cancel(large);
  pool.cancel(large);
  t.equal(small.granted.length, 1);
  pool.release(block);
  t.equal(large.granted.length, 0);
});

t.test('POOL-4: a block is released once', async t => {
  const pool = new PayloadPool(regions, 1 * MIB);
  const block = pool.take(1);
  pool.release(block);
  t.throws(() => pool.release(block), { name: 'AssertionError' });
});

t.test('POOL-5: any sequence of takes and releases keeps blocks apart and gives everything back', async t => {
  const seed = 20;
  t.comment(`seed ${seed}`);
  const random = randomSource(seed);
  const bytes = 8 * MIB;
  const pool = new PayloadPool(regions, bytes);
  const owner = new Int32Array(bytes / POOL_BLOCK_BYTES_MIN).fill(-1);
  const out: { offset: number; units: number; id: number }[] = [];
  for (let step = 0; step < 20_000; step += 1) {
    const wanted = Math.ceil(2 ** (random() * 23));
    const offset = random() < 0.55 ? pool.take(wanted) : -1;
    if (offset >= 0) {
      const units = Math.ceil(wanted / POOL_BLOCK_BYTES_MIN);
      const start = offset / POOL_BLOCK_BYTES_MIN;
      for (let unit = start; unit < start + units; unit += 1) {
        if (owner[unit] !== -1) t.fail(`step ${step}: overlap`);
        owner[unit] = step;
      }
      out.push({ offset, units, id: step });
    } else if (out.length > 0) {
      const [block] = out.splice(Math.floor(random() * out.length), 1);
      owner.fill(-1, block.offset / POOL_BLOCK_BYTES_MIN, block.offset / POOL_BLOCK_BYTES_MIN + block.units);
      pool.release(block.offset);
    }
  }
  for (const block of out) pool.release(block.offset);
  t.equal(pool.freeBytes, bytes);
  t.equal(pool.take(bytes), 0, 'all has grown together again');
});
