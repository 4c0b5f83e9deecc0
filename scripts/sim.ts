/**
 * `scripts/sim --seed N | --minutes M [--crash KIND] [--trouble KIND]`: the runs of `test/support/sim-run.ts`;
 * `scripts/sim --power-cuts`: those of `test/support/power-cuts.ts`. One seed is
 * replayed exactly and tells its story; a hunt goes on with fresh seeds until the time is over. Ends with 1 when anything
 * was not as it has to be, and says how to see it again.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import type { Crash } from '../test/support/oracle.ts';
import { cutPowerEverywhere, describeCuts, powerCutOperations } from '../test/support/power-cuts.ts';
import { SimCounts, SimRun, type SimRunOptions, TROUBLES, type Trouble } from '../test/support/sim-run.ts';

const HELP = `Usage: scripts/sim --seed N [OPTION]...
       scripts/sim --minutes M [OPTION]...
       scripts/sim --power-cuts [--seed N] [--cut K]

Runs the cores of the server on simulated files, index and clock: random requests, destage, crashes, losses
of power and recovery. An oracle judges every answer, and every block after each recovery.

  --seed N          replays this run and tells what happened
  --minutes M       goes on with fresh seeds until the time is over (a fraction will do)
  --crash KIND      what crashes do: power (some lose power) or process (none does);
                    default: power for one seed, each in turn for many
  --trouble KIND    what goes wrong beside crashes: ${TROUBLES.join(', ')}
                    (default: the seed decides)
  --power-cuts      records one run and cuts the power at every beginning and end of a write, sync, discard and
                    index commit, in several ways each; starts from what is left and judges every block
  --cut K           only at this one
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
  if (asked.powerCuts) return cutPower(asked.seed ?? freshSeed(), asked.cut);
  process.once('exit', summarize);
  const { seed, minutes, crash, trouble } = asked;
  if (seed !== undefined) {
    await run(seed, { crash: crash ?? 'power', trouble, tell: line => console.log(`  ${line}`) });
  } else {
    const end = startedAt + minutes * 60_000;
    const first = freshSeed();
    for (let i = 0; performance.now() < end; i++) {
      await run((first + i) >>> 0, { crash: crash ?? CRASHES[i % CRASHES.length], trouble });
    }
  }
  return violations === 0 ? 0 : 1;
}

function freshSeed(): number {
  return randomInt(2 ** 31);
}

interface Asked {
  readonly powerCuts: boolean;
  /** The one boundary to cut at. */
  readonly cut: number | undefined;
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
  const cut = values.cut === undefined ? undefined : Number(values.cut);
  const powerCuts = values['power-cuts'] === true;
  if (seed !== undefined && !isCount(seed)) return undefined;
  if (cut !== undefined && !(isCount(cut) && seed !== undefined && powerCuts)) return undefined;
  const modes = powerCuts ? [values.minutes, values.crash, values.trouble] : [];
  if (modes.some(value => value !== undefined)) return undefined;
  if (!powerCuts && (seed === undefined ? !(minutes > 0) : values.minutes !== undefined)) return undefined;
  return { powerCuts, cut, seed, minutes, crash, trouble };
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function argumentValues() {
  try {
    return parseArgs({
      options: {
        seed: { type: 'string' },
        minutes: { type: 'string' },
        crash: { type: 'string' },
        trouble: { type: 'string' },
        'power-cuts': { type: 'boolean' },
        cut: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
    return undefined;
  }
}

async function cutPower(seed: number, only: number | undefined): Promise<number> {
  console.log(`seed ${seed}`);
  let cutting: string | undefined;
  process.once('exit', () => {
    if (cutting !== undefined) console.log(`VIOLATION: a broken invariant ended it: ${cutting}`);
  });
  const result = await cutPowerEverywhere({
    seed,
    operations: powerCutOperations,
    chosen: boundary => only === undefined || boundary === only,
    tell: line => console.log(line),
    cutting: (boundary, cut) => {
      cutting = `scripts/sim --power-cuts --seed ${seed} --cut ${boundary} (${cut})`;
    },
  });
  cutting = undefined;
  for (const problem of result.problems) console.log(`VIOLATION: ${problem}`);
  console.log(describeCuts(result));
  return result.violations === 0 ? 0 : 1;
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
    `${counts.runs} runs, ${counts.requests} operations, ${counts.lentReads} reads lent, ${counts.faults} faults, ${counts.crashes} crashes, ${counts.powerLosses} power losses, ` +
      `${(counts.virtualMs / 1000).toFixed(1)} s virtual, ${(realMs / 1000).toFixed(1)} s real, ` +
      `virtual over real ${(counts.virtualMs / realMs).toFixed(2)}, ${violations} violations`,
  );
}
