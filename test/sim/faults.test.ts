/**
 * Runs with one kind of fault each (`test/support/sim-run.ts` says what each of them allows), beside the share that they
 * have in `test/model/head.test.ts`. SLEDGE_TEST_SEED=n gives the first seed, SLEDGE_TEST_RUNS how many of each kind.
 */
import t from 'tap';
import { seedOfRun } from '../support/sim-random.ts';
import { SimCounts, SimRun, type Trouble } from '../support/sim-run.ts';

const FIRST_SEED = seedOfRun();
const RUNS = Number(process.env['SLEDGE_TEST_RUNS'] ?? 12);
const STORIES: readonly (readonly [Trouble, string])[] = [
  ['device', 'devices that fail give errors, and no wrong byte'],
  ['log', 'nothing is acknowledged after the log has failed'],
  ['forgetful', 'nothing is acknowledged after a failed sync, though later ones would succeed'],
  ['rot', 'a bit that flips costs its block, and no other'],
  ['stray', 'a write that goes astray costs the blocks of both places, and no other'],
  ['segment', 'without space for segments the log goes round in those that it has'],
  ['thin', 'without space behind its devices a node refuses writes, and goes on when there is some'],
  ['slow', 'slow disks are waited for'],
  ['lame', 'the log goes on beside one slow device of two, and what is on that one comes to its end'],
  ['broken', 'and beside one that refuses writes'],
];

t.setTimeout(175_000);

let running: string | undefined;
process.once('exit', () => {
  if (running !== undefined) console.log(`# a broken invariant ended it: ${running}`);
});

for (const [trouble, story] of STORIES) {
  t.test(story, { timeout: 0 }, async t => {
    const counts = new SimCounts();
    for (let i = 0; i < RUNS; i++) {
      const crash = i % 2 === 0 ? 'power' : 'process';
      running = `scripts/sim --seed ${FIRST_SEED + i} --crash ${crash} --trouble ${trouble}`;
      const problems = await new SimRun(FIRST_SEED + i, counts, { crash, trouble }).judged();
      if (problems.length > 0) t.fail(`${running}\n  ${problems.slice(0, 5).join('\n  ')}`);
    }
    running = undefined;
    t.ok(counts.faults > 0, 'faults took place');
    const { requests, crashes, powerLosses, faults, unreadable } = counts;
    t.comment(
      `${RUNS} runs from seed ${FIRST_SEED}: ${requests} requests, ${crashes} crashes, ${powerLosses} power losses, ` +
        `${faults} faults, ${unreadable} blocks unreadable`,
    );
  });
}
