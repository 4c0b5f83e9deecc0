/**
 * `scripts/crash-loop [--rounds N] [--seed N] [--size SIZE] [--full-log] [--io KIND] [--directory DIR]`: the rounds of
 * `test/integration/crash.test.ts` for as long as one likes. Ends with 0 when every block was what it may be; else it
 * says what was not, and leaves the data where it is.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseBytes } from '../src/base/units.ts';
import { runCrashRounds, spread } from '../test/support/crash-rounds.ts';
import { sledgeJson } from '../test/support/server-process.ts';
import { fillLog } from './bench/nbd-load.ts';

const HELP = `Usage: scripts/crash-loop [OPTION]...

Starts a server, loads it over three connections, kills it with SIGKILL at a random moment, starts it
again and checks every block against what may be there. Once more, and again.

  --rounds N        how many times (default 100)
  --seed N          the choices of an earlier run; the kernel's timing is not part of them
  --size SIZE       of the volume (default 64MiB)
  --full-log        a log of the default length, and full before each kill: how long does recovery take?
  --io KIND         io_uring or threads (default: what the server takes by itself)
  --directory DIR   where the data lies (default: a new directory, removed when all went well)
`;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '100' },
    seed: { type: 'string' },
    size: { type: 'string', default: '64MiB' },
    'full-log': { type: 'boolean' },
    io: { type: 'string' },
    directory: { type: 'string' },
    help: { type: 'boolean', short: 'h' },
  },
});

/** Near the most that a log holds. */
const FULL_SHARE = 0.7;
const FILL_SECONDS = 3;
const TRIES_MAX = 5;

process.exitCode = await main();

async function main(): Promise<number> {
  const rounds = Number(values.rounds);
  const seed = Number(values.seed ?? Date.now() % 2 ** 31);
  const volumeBytes = parseBytes(values.size) ?? 0;
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (!(rounds > 0) || !Number.isSafeInteger(seed) || volumeBytes < 2 ** 20) {
    process.stderr.write(HELP);
    return 2;
  }
  if (values.io !== undefined) process.env['SLEDGE_IO'] = values.io;
  if (values.directory !== undefined) mkdirSync(values.directory, { recursive: true });
  const directory = values.directory ?? mkdtempSync(join(tmpdir(), 'sledge-crash-'));
  console.log(`seed ${seed}, in ${directory}`);
  const cleanups: (() => unknown)[] = [];
  const test = { teardown: (action: () => unknown) => cleanups.push(action) };
  try {
    const result = await runCrashRounds(test, {
      directory,
      seed,
      rounds,
      volumeBytes,
      budgetMs: Number.POSITIVE_INFINITY,
      ...(values['full-log'] && { fillLog: uri => fillToTheBrim(join(directory, 'data'), uri) }),
      report: line => console.log(line),
    });
    for (const problem of result.problems) console.log(`WRONG: ${problem}`);
    console.log(`recovery: ${spread(result.recoveryMs)} ms`);
    console.log(`${result.rounds} rounds, ${result.answered} requests answered, ${result.problems.length} problems`);
    if (result.problems.length === 0 && values.directory === undefined) rmSync(directory, { recursive: true });
    return result.problems.length === 0 ? 0 : 1;
  } finally {
    for (const cleanup of cleanups) await cleanup();
  }
}

/** Until the log holds as much as it ever does: writers are slowed down so that it is never quite full. */
async function fillToTheBrim(dataDirectory: string, uri: string): Promise<void> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    await fillLog(uri, FILL_SECONDS);
    const { log } = (await sledgeJson(dataDirectory, 'status')) as { log: { usedBytes: number; limitBytes: number } };
    const share = log.usedBytes / log.limitBytes;
    console.log(`log ${Math.round(100 * share)} % full`);
    if (share >= FULL_SHARE) return;
  }
}
