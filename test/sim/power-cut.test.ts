/**
 * The power is cut at the boundaries of every write, sync, discard and index commit of a run of more than two thousand
 * operations: see `test/support/power-cuts.ts`. The seed chooses one boundary in ten; SLEDGE_TEST_LONG=1 takes all of them,
 * as `scripts/sim --power-cuts --seed N` does. SLEDGE_TEST_SEED=n gives the seed.
 */
import t from 'tap';
import { cutPowerEverywhere, describeCuts, powerCutOperations } from '../support/power-cuts.ts';
import { SimRandom, seedOfRun } from '../support/sim-random.ts';

const SEED = seedOfRun();
const ALL = process.env['SLEDGE_TEST_LONG'] === '1';

t.setTimeout(ALL ? 3_600_000 : 175_000);

let cutting: string | undefined;
process.once('exit', () => {
  if (cutting !== undefined) console.log(`# a broken invariant ended it: ${cutting}`);
});

t.test('what was flushed is there after a power cut at any boundary', { timeout: 0 }, async t => {
  t.comment(`seed ${SEED}`);
  const random = new SimRandom(SEED);
  const result = await cutPowerEverywhere({
    seed: SEED,
    operations: powerCutOperations,
    chosen: () => ALL || random.below(10) === 0,
    tell: line => t.comment(line),
    cutting: (boundary, cut) => {
      cutting = `seed ${SEED}, cut ${boundary} (${cut})`;
    },
  });
  cutting = undefined;
  t.comment(describeCuts(result));
  t.same(result.problems, [], `scripts/sim --power-cuts --seed ${SEED} --cut K shows one of them again`);
  t.ok(result.operations >= 2000 && result.cutBoundaries >= 300, 'enough was done');
  t.ok(result.logRounds > 2 && result.destageSteps > 10, 'the log went round and the destage ran');
});

for (const lies of ['buffered', 'direct'] as const) {
  t.test(`a sync of ${lies} files that does nothing is found`, async t => {
    const options = { seed: SEED, operations: 300, lies, chosen: (boundary: number) => boundary % 20 === 0 };
    const result = await cutPowerEverywhere(options);
    t.comment(describeCuts(result));
    t.comment(result.problems[0]?.slice(0, 300));
    t.ok(result.violations > result.cuts / 10, 'at many boundaries');
  });
}
