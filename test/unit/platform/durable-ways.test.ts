/** The choice between the two ways of a durable write: what takes less time lately, and the other one now and then. */
import t from 'tap';
import { BY_WORKER, DIRECT, type DurableWay, DurableWays } from '../../../src/platform/durable-ways.ts';

/** Of `count` writes, how many went directly, where a write takes so long by each way. */
function directOf(ways: DurableWays, count: number, ms: Readonly<Record<DurableWay, number>>): number {
  let direct = 0;
  for (let i = 0; i < count; i++) {
    const way = ways.next();
    if (way === DIRECT) direct++;
    ways.took(way, ms[way]);
  }
  return direct;
}

const IDLE = { [DIRECT]: 0.25, [BY_WORKER]: 0.4 };
const BUSY = { [DIRECT]: 4, [BY_WORKER]: 0.9 };

t.test('both are tried, and then the quicker one is taken but for trials', async t => {
  t.ok(directOf(new DurableWays(), 1280, IDLE) >= 1255);
  t.ok(directOf(new DurableWays(), 1280, BUSY) <= 25);
});

t.test('the choice follows when times change', async t => {
  const ways = new DurableWays();
  directOf(ways, 1000, IDLE);
  t.ok(directOf(ways, 256, BUSY) <= 16, 'at once to where it is quicker');
  t.ok(directOf(ways, 256, BUSY) <= 4);
  directOf(ways, 1024, IDLE);
  t.ok(directOf(ways, 256, IDLE) >= 252, 'and back, with the trials');
});

t.test('a write that takes long is no reason, and one at the beginning is soon forgotten', async t => {
  const ways = new DurableWays();
  directOf(ways, 1000, IDLE);
  t.equal(ways.next(), DIRECT);
  ways.took(DIRECT, 30);
  t.equal(ways.next(), DIRECT);

  const late = new DurableWays();
  for (let i = 0; i < 5; i++) late.took(late.next(), i === 4 ? 30 : 0.4);
  directOf(late, 1024, IDLE);
  t.ok(directOf(late, 256, IDLE) >= 252);
});
