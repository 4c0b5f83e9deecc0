/**
 * `scripts/planted-bugs [--only NAME,...] [--list] [--json]`: shows that the tests catch bugs. Each bug of
 * `planting/all-bugs.ts` is planted by itself in a copy of the checkout, and the simulator and the unit tests have to
 * notice it. Ends with 0 when all were caught, 1 when one was missed or nothing could be said, 2 on wrong use.
 */
import { setPriority } from 'node:os';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ALL_BUGS } from './planting/all-bugs.ts';
import { Hunt, type Verdict } from './planting/hunt.ts';
import type { PlantedBug } from './planting/planted-bug.ts';
import { endRunning } from './planting/tap-program.ts';
import { WorkCopy } from './planting/work-copy.ts';

const HELP = `Usage: scripts/planted-bugs [OPTION]...

Plants known bugs in a copy of the product, one at a time, and says which test catches each of them and
how soon. Everything is run without a bug first. All of it takes about twenty minutes.

  --only NAME,...   only these bugs
  --list            say what there is, and plant nothing
  --json            results as JSON
  --help

SLEDGE_TEST_SEED is the simulator's first seed (default 1).
`;

interface Result {
  readonly bug: PlantedBug;
  readonly verdict: Verdict;
  readonly seconds: number;
}

process.exitCode = await main();

async function main(): Promise<number> {
  const wish = parse();
  const firstSeed = Number(process.env['SLEDGE_TEST_SEED'] ?? 1);
  if (wish === undefined || !Number.isSafeInteger(firstSeed)) {
    process.stderr.write(HELP);
    return 2;
  }
  const { bugs, json } = wish;
  if (wish.help) {
    process.stdout.write(HELP);
  } else if (wish.list) {
    const lines = bugs.map(bug => `${bug.name}  ${bug.file}\n    ${bug.breaks}`);
    console.log(
      json ? JSON.stringify(bugs.map(({ name, breaks, file }) => ({ name, breaks, file }))) : lines.join('\n'),
    );
  } else {
    return plantAll(bugs, json, firstSeed);
  }
  return 0;
}

/** Undefined on wrong use. */
function parse() {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: 'string', multiple: true },
        list: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    const names = values.only?.flatMap(list => list.split(','));
    const unknown = names?.find(name => !ALL_BUGS.some(bug => bug.name === name));
    if (unknown !== undefined) throw new Error(`there is no bug ${unknown}: see --list`);
    return { ...values, bugs: names === undefined ? ALL_BUGS : ALL_BUGS.filter(bug => names.includes(bug.name)) };
  } catch (error) {
    process.stderr.write(`planted-bugs: ${error instanceof Error ? error.message : error}\n\n`);
    return undefined;
  }
}

async function plantAll(bugs: readonly PlantedBug[], json: boolean, firstSeed: number): Promise<number> {
  // It takes a while, and nobody waits for it at the screen.
  setPriority(19);
  const say = (line: string) => void (json ? process.stderr : process.stdout).write(`${line}\n`);
  const copy = new WorkCopy(resolve(dirname(fileURLToPath(import.meta.url)), '..', '..'));
  const stop = () => {
    endRunning();
    copy.remove();
    process.exit(1);
  };
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  try {
    const results = await hunt(copy, bugs, firstSeed, say);
    if (results === undefined) return 1;
    const missed = results.filter(result => result.verdict.kind === 'missed').length;
    const counts = { planted: results.length, caught: results.length - missed, missed };
    if (json) {
      const entries = results.map(({ bug, verdict, seconds }) => ({
        name: bug.name,
        file: bug.file,
        seconds,
        ...verdict,
      }));
      console.log(JSON.stringify({ ...counts, results: entries }, null, 2));
    } else {
      say(`${counts.planted} planted, ${counts.caught} caught, ${counts.missed} missed`);
    }
    return missed === 0 ? 0 : 1;
  } catch (error) {
    say(`planted-bugs: ${error instanceof Error ? error.message : error}`);
    return 1;
  } finally {
    copy.remove();
  }
}

/** Undefined when the tests fail without a bug: then they show nothing. */
async function hunt(copy: WorkCopy, bugs: readonly PlantedBug[], firstSeed: number, say: (line: string) => void) {
  const errors = copy.typeErrors(bugs);
  if (errors.length > 0) throw new Error(errors.join('\n'));
  copy.compileClean(new Set(bugs.map(bug => bug.file)));
  const hunter = new Hunt(copy.directory, firstSeed);
  const startedAt = Date.now();
  const control = await hunter.control(bugs);
  if (control.kind !== 'missed') {
    say(`without a bug: FAILS, ${describe(control)}`);
    return undefined;
  }
  say(`without a bug: passes (${secondsSince(startedAt)} s)`);
  const results: Result[] = [];
  for (const bug of bugs) {
    const plantedAt = Date.now();
    copy.plant(bug);
    const verdict = await hunter.run(bug);
    copy.uproot(bug);
    const result = { bug, verdict, seconds: secondsSince(plantedAt) };
    results.push(result);
    say(`${bug.name}: ${describe(verdict)} (${result.seconds} s)`);
    if (verdict.kind === 'missed') say(`    ${bug.breaks}`);
    else if (verdict.says !== '') say(`    ${verdict.says}`);
  }
  return results;
}

function secondsSince(startedAt: number): number {
  return Math.round((Date.now() - startedAt) / 100) / 10;
}

function describe(verdict: Verdict): string {
  switch (verdict.kind) {
    case 'simulator':
      return `caught by the simulator, seed ${verdict.seed}, after ${verdict.runs} runs`;
    case 'test':
      return `caught by ${verdict.file}, "${verdict.test}"`;
    default:
      return 'MISSED';
  }
}
