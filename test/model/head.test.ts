/**
 * The whole head against an oracle: runs of `test/support/sim-run.ts`, which says what happens in them. A seed replays a
 * run exactly: `SLEDGE_TEST_SEED=n node dist/test/model/head.test.js`, or `scripts/sim --seed n` for one run and its story;
 * SLEDGE_TEST_RUNS sets how many runs follow from it, and SLEDGE_TEST_TROUBLE what goes wrong in all of them.
 */
import t from 'tap';
import type { Crash } from '../support/oracle.ts';
import { seedOfRun } from '../support/sim-random.ts';
import { SimCounts, SimRun, TROUBLES } from '../support/sim-run.ts';

const FIRST_SEED = seedOfRun();
const RUNS = Number(process.env['SLEDGE_TEST_RUNS'] ?? 150);
const ONLY = process.env['SLEDGE_TEST_CRASH'];
const CRASHES = (['process', 'power'] as const).filter(crash => ONLY === undefined || ONLY === crash);

const TROUBLE = TROUBLES.find(trouble => trouble === process.env['SLEDGE_TEST_TROUBLE']);

const PROMISES: Readonly<Record<Crash, string>> = {
  process: 'what was answered survives a crash',
  power: 'what was flushed survives a loss of power',
};

t.setTimeout(340_000);

/** A broken invariant behind a promise ends the test wherever it is: then this is the seed to look at. */
let running: number | undefined;
process.once('exit', () => {
  if (running !== undefined) console.log(`# it ended in the run of seed ${running}`);
});

for (const crash of CRASHES) {
  t.test(PROMISES[crash], { timeout: 170_000 }, async t => {
    const counts = new SimCounts();
    const started = performance.now();
    let failures = 0;
    for (let i = 0; i < RUNS && failures < 5; i++) {
      const seed = FIRST_SEED + i;
      running = seed;
      const problems = await new SimRun(seed, counts, { crash, trouble: TROUBLE }).judged();
      if (problems.length > 0) {
        failures++;
        t.fail(`seed ${seed}\n  ${problems.slice(0, 5).join('\n  ')}`);
      }
    }
    running = undefined;
    t.equal(failures, 0, `${RUNS} runs from seed ${FIRST_SEED}`);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const { requests, crashes, audits, scrubs, turns } = counts;
    t.ok(scrubs > RUNS / 10, 'scrubs have come to their end');
    t.comment(
      `${requests} requests, ${crashes} crashes, ${audits} audits, ${scrubs} scrubs, ${turns} turns in ${seconds} s`,
    );
  });
}
