/**
 * A real server, killed with SIGKILL again and again under load: everything that was answered is there, on every block,
 * whatever destage and log were doing. `SLEDGE_TEST_SEED` repeats a run's choices (not the kernel's timing);
 * `scripts/crash-loop` runs as many rounds as one likes.
 */
import t from 'tap';
import { MIB } from '../../src/base/units.ts';
import { runCrashRounds, spread } from '../support/crash-rounds.ts';
import { skipOnStandIn } from '../support/server-process.ts';
import { seedOfRun } from '../support/sim-random.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const seed = seedOfRun();
const ROUNDS = 15;

t.setTimeout(170_000);

t.test(
  `what was answered survives SIGKILL, round after round (seed ${seed})`,
  { skip: skipOnStandIn(), timeout: 170_000 },
  async t => {
    const result = await runCrashRounds(t, {
      directory: temporaryDirectory(t),
      seed,
      rounds: ROUNDS,
      volumeBytes: 64 * MIB,
      budgetMs: 120_000,
      report: line => t.comment(line),
    });
    t.same(result.problems, [], `${result.rounds} rounds, ${result.answered} requests answered`);
    t.ok(result.rounds >= 5, 'it was killed at least five times');
    t.comment(`time to ready: ${spread(result.restartMs)} ms; of that recovery: ${spread(result.recoveryMs)} ms`);
  },
);
