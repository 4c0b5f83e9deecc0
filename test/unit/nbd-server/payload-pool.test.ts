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

/** A block for somebody who has none yet. */
function take(pool: PayloadPool, bytes: number): number {
  return pool.take(pool.shareOf({}), bytes);
}

t.test('POOL-1: blocks are powers of two, aligned to their size, and exhaust the region exactly', async t => {
  const pool = new PayloadPool(regions, 2 * MIB);
  const blocks = [1, 64 * KIB, 64 * KIB + 1, 1 * MIB].map(bytes => take(pool, bytes));
  t.ok(blocks.every(block => block >= 0));
  t.ok(blocks[2] % (128 * KIB) === 0 && blocks[3] % MIB === 0);
  t.equal(pool.freeBytes, 2 * MIB - (64 + 64 + 128 + 1024) * KIB);
  t.equal(take(pool, 1 * MIB), -1);
  t.not(take(pool, 512 * KIB), -1);
  for (const block of blocks) pool.release(block);
});

t.test('POOL-2: waiters of a share are served in order, and none of it overtakes', async t => {
  const pool = new PayloadPool(regions, 1 * MIB);
  const [first, second] = [take(pool, 512 * KIB), take(pool, 512 * KIB)];
  const [large, small] = [new Waiter(), new Waiter()];
  const share = pool.shareOf({});
  pool.wait(share, large, 1 * MIB);
  pool.wait(share, small, 1);
  pool.release(first);
  t.equal(pool.take(share, 1), -1, 'there is room, but others wait');
  t.same([large.granted, small.granted], [[], []]);
  pool.release(second);
  t.same([large.granted, small.granted], [[0], []]);
  pool.release(0);
  t.equal(small.granted.length, 1);
  t.equal(pool.waiterCount, 0);
});

t.test('POOL-3: a waiter that leaves makes way for those behind it', async t => {
  const pool = new PayloadPool(regions, 1 * MIB);
  const block = take(pool, 512 * KIB);
  const [large, small] = [new Waiter(), new Waiter()];
  const share = pool.shareOf({});
  pool.wait(share, large, 1 * MIB);
  pool.wait(share, small, 1);
  pool.cancel(share, large);
  pool.cancel(share, large);
  t.equal(small.granted.length, 1);
  pool.release(block);
  t.equal(large.granted.length, 0);
});

t.test('POOL-4: a block is released once', async t => {
  const pool = new PayloadPool(regions, 1 * MIB);
  const block = take(pool, 1);
  pool.release(block);
  t.throws(() => pool.release(block), { name: 'AssertionError' });
});

t.test('POOL-5: any sequence of takes and releases keeps blocks apart and gives everything back', async t => {
  const seed = 20;
  t.comment(`seed ${seed}`);
  const random = randomSource(seed);
  const bytes = 8 * MIB;
  const pool = new PayloadPool(regions, bytes);
  const shares = Array.from({ length: 3 }, () => pool.shareOf({}));
  const owner = new Int32Array(bytes / POOL_BLOCK_BYTES_MIN).fill(-1);
  const out: { offset: number; units: number; id: number }[] = [];
  for (let step = 0; step < 20_000; step += 1) {
    const wanted = Math.ceil(2 ** (random() * 23));
    const offset = random() < 0.55 ? pool.take(shares[step % shares.length], wanted) : -1;
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
  t.same(
    shares.map(share => share.heldBytes),
    [0, 0, 0],
  );
  t.equal(take(pool, bytes), 0, 'all has grown together again');
});

t.test('POOL-6: a volume whose requests hang leaves a part of the pool to the others', async t => {
  const pool = new PayloadPool(regions, 8 * MIB);
  const [hanging, other, third] = [{}, {}, {}].map(volume => pool.shareOf(volume));
  let count = 0;
  while (pool.take(hanging, MIB) >= 0) count++;
  t.equal(count, 4, 'as much as is free then is enough');
  const waiter = new Waiter();
  pool.wait(hanging, waiter, MIB);
  const block = pool.take(other, MIB);
  t.not(block, -1, 'who waits for more does not hold up the others');
  pool.release(block);
  t.same(waiter.granted, [], 'and does not get what they gave back');
  while (pool.take(other, MIB) >= 0) count++;
  t.not(pool.take(third, MIB), -1);
});

t.test('POOL-7: a wish for which there is no block is overtaken by other volumes, but not for ever', async t => {
  const pool = new PayloadPool(regions, 2 * MIB);
  const small = pool.shareOf({});
  let held = pool.take(small, 1);
  const large = new Waiter();
  pool.wait(pool.shareOf({}), large, 2 * MIB);
  let overtakes = 0;
  for (let block = 0; block >= 0 && overtakes < 100_000; overtakes++) {
    block = pool.take(small, 1);
    if (block < 0) break;
    pool.release(held);
    held = block;
  }
  t.ok(overtakes > 100 && overtakes < 100_000, `${overtakes} blocks went to another volume meanwhile`);
  pool.release(held);
  t.same(large.granted, [0]);
});
