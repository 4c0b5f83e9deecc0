/**
 * Rounds of: a server under load over several connections, SIGKILL at a random moment, a new server on the same data,
 * and the oracle's verdict on every cell; `sledge check` has no fault to find in between. Run by the integration test and,
 * for as long as one likes, by `scripts/crash-loop`.
 */
import { join } from 'node:path';
import { ControlClient } from '../../src/admin/control-client.ts';
import { GIB } from '../../src/base/units.ts';
import { checkDirectory } from '../../src/node/check-directory.ts';
import { Oracle, OracleClock } from './oracle.ts';
import { OracleClient } from './oracle-client.ts';
import { type RunningServer, type ServerOptions, startServer } from './server-process.ts';
import { SimRandom } from './sim-random.ts';

export interface CrashRoundsOptions {
  readonly directory: string;
  readonly seed: number;
  readonly rounds: number;
  readonly volumeBytes: number;
  /** Writes to a volume of `ballastBytes` beside it until the log, of the default length, is full: before each kill. */
  readonly fillLog?: (uri: string) => Promise<void>;
  /** Rounds end early when this is over. */
  readonly budgetMs: number;
  report(line: string): void;
}

export interface CrashRoundsResult {
  readonly rounds: number;
  readonly answered: number;
  readonly problems: readonly string[];
  readonly restartMs: readonly number[];
  readonly recoveryMs: readonly number[];
}

interface Cleaner {
  teardown(action: () => unknown): unknown;
}

const CONNECTIONS = 3;
const ballastBytes = 4 * GIB;

export async function runCrashRounds(test: Cleaner, options: CrashRoundsOptions): Promise<CrashRoundsResult> {
  const random = new SimRandom(options.seed);
  const oracle = new Oracle(512, options.seed, 'process', new OracleClock());
  const dataDirectory = join(options.directory, 'data');
  const socketPath = join(options.directory, 'nbd.sock');
  const { fillLog } = options;
  const device = join(options.directory, 'device');
  const serverOptions: ServerOptions = {
    engine: 'sledge',
    dataDirectory,
    volumes: [
      { name: 'vol', sizeBytes: options.volumeBytes },
      ...(fillLog === undefined ? [] : [{ name: 'ballast', sizeBytes: ballastBytes }]),
    ],
    unix: socketPath,
    sledgeArguments: [
      ...['--cache', '16MiB'],
      ...(fillLog === undefined ? ['--log', '64MiB', '--device', `${device}:512MiB`] : ['--device', `${device}:8GiB`]),
    ],
  };
  const restartMs: number[] = [];
  const recoveryMs: number[] = [];
  let answered = 0;
  let rounds = 0;
  let problems: string[] = [];
  let server = await startServer(test, serverOptions);
  const startedAt = performance.now();
  let lastOp = 0;
  // For all rounds: memory that is touched for the first time is dear on a virtual machine. Filled before each of them,
  // so that what was not read does not look like what was read before.
  const bytes = new Uint8Array(options.volumeBytes);
  while (rounds < options.rounds && problems.length === 0 && performance.now() - startedAt < options.budgetMs) {
    rounds++;
    const clients = await openClients(oracle, random, socketPath);
    for (const client of clients) client.run();
    const loadMs = random.oneOf([30, 200, 600, 1200]) + random.below(300);
    await sleep(loadMs);
    await fillLog?.(server.uriOf('ballast'));
    // A graceful stop now and then, so that what it leaves behind is tried too.
    if (random.chance(6)) await server.stop();
    else await server.kill();
    for (const client of clients) await client.close();
    answered += clients.reduce((sum, client) => sum + client.answered, 0);
    problems = clients.flatMap(client => client.problems);
    const changes = clients.reduce((sum, client) => sum + client.changesAnswered, 0);
    oracle.crashed();
    const report = await checkDirectory(dataDirectory, { readProgress: () => {} });
    for (const { severity, what } of report.findings) {
      if (severity !== 'note') problems.push(`sledge check before start ${rounds + 1}: ${what}`);
    }

    const restartedAt = performance.now();
    server = await startServer(test, serverOptions);
    restartMs.push(performance.now() - restartedAt);
    recoveryMs.push(recoveryTime(server));
    const { lastOp: shown } = await new ControlClient(dataDirectory).volume('vol');
    // Each change that was answered took at least one operation, and none of them may be gone.
    if (shown < lastOp + changes) problems.push(`op ${shown} after ${lastOp} and ${changes} answered changes`);
    lastOp = shown;
    const [judge] = await openClients(oracle, random, socketPath, 1);
    await judge.readAll(bytes.fill(0xff));
    problems.push(...judge.problems, ...oracle.recovered('process', bytes, oracle.newestOf(bytes)));
    await judge.close();
    const up = `up after ${Math.round(restartMs[restartMs.length - 1])} ms (recovery ${recoveryMs[recoveryMs.length - 1]} ms)`;
    options.report(`round ${rounds}: ${changes} changes in ${loadMs} ms, op ${shown}, ${up}`);
  }
  if ((await server.stop()) !== 0) problems.push(`the last server did not stop in order\n${server.output()}`);
  return { rounds, answered, problems, restartMs, recoveryMs };
}

async function openClients(oracle: Oracle, random: SimRandom, socketPath: string, count = CONNECTIONS) {
  const clients: OracleClient[] = [];
  for (let i = 0; i < count; i++) {
    clients.push(
      await OracleClient.open(oracle, random, {
        socketPath,
        exportName: 'vol',
        structuredReplies: i % 2 === 0,
        depth: i === 0 ? 32 : random.oneOf([1, 8, 32]),
        lengthMax: 1024 * 1024,
      }),
    );
  }
  return clients;
}

/** What the server's own log says of its recovery. */
function recoveryTime(server: RunningServer): number {
  const line = server
    .output()
    .split('\n')
    .find(text => text.includes('recovered: '));
  return Number(/"milliseconds":(\d+)/.exec(line ?? '')?.[1] ?? Number.NaN);
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}

/** Of some durations, in words. */
export function spread(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => Math.round(sorted[Math.ceil(share * sorted.length) - 1]);
  return `median ${at(0.5)}, p99 ${at(0.99)}, longest ${at(1)}`;
}
