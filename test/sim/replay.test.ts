/** A seed replays a run exactly, whatever ran before in the same process. */
import t from 'tap';
import { seedOfRun } from '../support/sim-random.ts';
import { SimCounts, SimRun } from '../support/sim-run.ts';

async function story(seed: number): Promise<string[]> {
  const counts = new SimCounts();
  const lines: string[] = [];
  const problems = await new SimRun(seed, counts, { crash: 'power', tell: line => lines.push(line) }).judged();
  return [...lines, ...problems, JSON.stringify(counts)];
}

t.test('a seed tells the same story each time, another one a different story', async t => {
  const seed = seedOfRun();
  t.comment(`seed ${seed}`);
  const first = await story(seed);
  const other = await story(seed + 1);
  t.same(await story(seed), first);
  t.notSame(other, first);
  t.match(first.at(-1), /"runs":1,/);
});
