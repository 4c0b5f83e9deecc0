/**
 * `scripts/sim --seed N | --minutes M [--crash KIND] [--trouble KIND]`: the runs of `test/support/sim-run.ts`. One seed is
 * replayed exactly and tells its story; a hunt goes on with fresh seeds until the time is over. Ends with 1 when anything
 * was not as it has to be, and says how to see it again.
 */
import { parseArgs } from 'node:util';
import type { Crash } from '../test/support/oracle.ts';
import { SimCounts, SimRun, type SimRunOptions, TROUBLES, type Trouble } from '../test/support/sim-run.ts';

const HELP = `Usage: scripts/sim --seed N [OPTION]...
       scripts/sim --minutes M [OPTION]...

Runs the cores of the server on simulated files, index and clock: random requests, destage, crashes, losses
of power and recovery. An oracle judges every answer, and every block after each recovery.

  --seed N          replays this run and tells what happened
  --minutes M       goes on with fresh seeds until the time is over (a fraction will do)
  --crash KIND      what crashes do: power (some lose power) or process (none does);
                    default: power for one seed, each in turn for many
  --trouble KIND    what goes wrong beside crashes: ${TROUBLES.join(', ')}
                    (default: the seed decides)
  --help            this text

Ends with 0 when all was well, with 1 after a violation, with 2 when the arguments are wrong.
`;

const CRASHES: readonly Crash[] = ['power', 'process'];
const SHOWN_PROBLEMS = 10;

const counts = new SimCounts();
const startedAt = performance.now();
let violations = 0;
/** The run under way: a broken invariant behind a promise ends the process in the middle of it. */
let running: string | undefined;

process.exitCode = await main();

async function main(): Promise<number> {
  const asked = askedFor();
  if (asked === 'help') {
    process.stdout.write(HELP);
    return 0;
  }
  if (asked === undefined) {
    process.stderr.write(HELP);
    return 2;
  }
  process.once('exit', summarize);
  const { seed, minutes, crash, trouble } = asked;
  if (seed !== undefined) {
    await run(seed, { crash: crash ?? 'power', trouble, tell: line => console.log(`  ${line}`) });
  } else {
    const end = startedAt + minutes * 60_000;
    const first = Date.now() % 2 ** 31;
    for (let i = 0; performance.now() < end; i++) {
      await run((first + i) >>> 0, { crash: crash ?? CRASHES[i % CRASHES.length], trouble });
    }
  }
  return violations === 0 ? 0 : 1;
}

interface Asked {
  readonly seed: number | undefined;
  readonly minutes: number;
  readonly crash: Crash | undefined;
  readonly trouble: Trouble | undefined;
}

function askedFor(): Asked | 'help' | undefined {
  const values = argumentValues();
  if (values === undefined) return undefined;
  if (values.help) return 'help';
  const crash = CRASHES.find(kind => kind === values.crash);
  const trouble = TROUBLES.find(kind => kind === values.trouble);
  const seed = values.seed === undefined ? undefined : Number(values.seed);
  const minutes = Number(values.minutes ?? 0);
  if (crash === undefined && values.crash !== undefined) return undefined;
  if (trouble === undefined && values.trouble !== undefined) return undefined;
  if (seed === undefined ? !(minutes > 0) : !(Number.isSafeInteger(seed) && seed >= 0)) return undefined;
  if (seed !== undefined && values.minutes !== undefined) return undefined;
  return { seed, minutes, crash, trouble };
}

function argumentValues() {
  try {
    return parseArgs({
      options: {
        seed: { type: 'string' },
        minutes: { type: 'string' },
        crash: { type: 'string' },
        trouble: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
    return undefined;
  }
}

async function run(seed: number, options: SimRunOptions): Promise<void> {
  const { crash, trouble } = options;
  running = `scripts/sim --seed ${seed} --crash ${crash}${trouble === undefined ? '' : ` --trouble ${trouble}`}`;
  console.log(`seed ${seed}, crash ${crash}`);
  const problems = await new SimRun(seed, counts, options).judged();
  if (problems.length > 0) {
    violations++;
    console.log(`VIOLATION in seed ${seed}; to see it again: ${running}`);
    for (const problem of problems.slice(0, SHOWN_PROBLEMS)) console.log(`  ${problem}`);
  }
  running = undefined;
}

function summarize(): void {
  if (running !== undefined) {
    violations++;
    console.log(`VIOLATION: a broken invariant ended the run; to see it again: ${running}`);
  }
  const realMs = performance.now() - startedAt;
  console.log(
    `${counts.runs} runs, ${counts.requests} operations, ${counts.crashes} crashes, ${counts.powerLosses} power losses, ` +
      `${(counts.virtualMs / 1000).toFixed(1)} s virtual, ${(realMs / 1000).toFixed(1)} s real, ` +
      `virtual over real ${(counts.virtualMs / realMs).toFixed(2)}, ${violations} violations`,
  );
}
