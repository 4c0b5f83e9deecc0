/**
 * Measures what checksums cost. Started by `scripts/bench/checksums`, which builds and holds the lock that keeps two
 * measurements apart; the measuring is that of the benchmark (nbd.ts), between two servers that are the same program.
 *
 * "On" is the product. "Off" is the product with checksums-off.ts loaded in front of it, which says what it takes out.
 * Each has a volume of its own, filled alike by itself, since data that was summed does not verify where nothing is.
 * `sledge check`, which sums, has to find the one whole and the other damaged, or the two would not be what they are to be.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { formatBytes } from '../../src/base/units.ts';
import { run } from '../../test/support/nbd-programs.ts';
import { sledgeProgram } from '../../test/support/server-process.ts';
import { type ChecksumOptions, parseChecksumOptions, USAGE } from './checksums-options.ts';
import { type Cost, costOf, formatCosts } from './checksums-report.ts';
import { dataDirectory, type EngineSpec, type Workplace } from './nbd-engines.ts';
import { measureServer } from './nbd-measurement.ts';
import { UsageError } from './nbd-options.ts';
import { stopProcesses } from './nbd-process.ts';
import { type Sample, summarize } from './nbd-results.ts';
import type { Row } from './nbd-rows.ts';
import { inTurn, turnsOf } from './nbd-turns.ts';
import { fillVolume } from './nbd-volumes.ts';

interface Side {
  readonly engine: EngineSpec;
  readonly place: Workplace;
  readonly samples: Map<Row, Sample[]>;
}

const CHECK_MS = 60_000;

async function main(): Promise<void> {
  const options = parseChecksumOptions(process.argv.slice(2));
  if (options === undefined) {
    process.stdout.write(USAGE);
    return;
  }
  const directory = mkdtempSync(join(options.parentDirectory, 'sledge-checksums-'));
  const clean = async (): Promise<void> => {
    await stopProcesses();
    rmSync(directory, { recursive: true, force: true });
  };
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    process.once(signal, () => void clean().finally(() => process.exit(code)));
  }
  try {
    const costs = await measure(options, directory);
    const { rows, repeat, sizeBytes } = options;
    const setting = settingOf(options);
    if (options.json) {
      const seconds = rows[0].seconds;
      const report = { measuredAt: new Date().toISOString(), setting, seconds, repeat, sizeBytes, costs };
      process.stdout.write(`${JSON.stringify(report)}\n`);
    } else {
      process.stdout.write(`${setting}\n${formatCosts(costs)}`);
    }
  } finally {
    await clean();
  }
}

async function measure(options: ChecksumOptions, directory: string): Promise<Cost[]> {
  const { rows, repeat, sizeBytes } = options;
  const on = sideOf('on', {}, directory, sizeBytes);
  const preload = new URL('./checksums-off.js', import.meta.url).href;
  const nodeOptions = [process.env['NODE_OPTIONS'] ?? '', `--import=${preload}`].join(' ').trim();
  const off = sideOf('off', { NODE_OPTIONS: nodeOptions }, directory, sizeBytes);
  say(`filling two volumes of ${formatBytes(sizeBytes)}`);
  for (const { engine, place } of [on, off]) await fillVolume(engine, place, rows);
  if ((await errorsIn(on)) > 0) throw new Error('the volume with checksums is damaged');
  if ((await errorsIn(off)) === 0) throw new Error('the server without checksums has them');

  for (const { row, turn } of turnsOf(rows, repeat)) {
    say(`repeat ${turn + 1} of ${repeat}: ${row.title}`);
    for (const { engine, place, samples } of inTurn([on, off], turn)) {
      const sample = await measureServer(engine, row, place);
      if (sample.errors > 0) throw new Error(`${row.name}, ${engine.name}: ${sample.errors} requests failed`);
      samples.set(row, [...(samples.get(row) ?? []), sample]);
    }
  }
  const resultOf = ({ engine, samples }: Side, row: Row) =>
    summarize(row, engine.name, 'sledge', samples.get(row) ?? []);
  return rows.map(row => costOf(row, resultOf(on, row), resultOf(off, row)));
}

function sideOf(name: string, environment: Readonly<Record<string, string>>, parent: string, sizeBytes: number): Side {
  const directory = join(parent, name);
  mkdirSync(directory);
  return {
    engine: { name, class: 'sledge', program: sledgeProgram, tls: false, quick: true, environment },
    place: { directory, file: join(directory, 'volume'), sizeBytes, transport: 'unix' },
    samples: new Map(),
  };
}

/** What the product as it is finds wrong with what a server has left behind. */
async function errorsIn({ place }: Side): Promise<number> {
  const result = await run(sledgeProgram, ['check', dataDirectory(place), '--json'], { timeoutMs: CHECK_MS });
  const report = JSON.parse(result.stdout) as { readonly errors?: number };
  if (report.errors === undefined) throw new Error(`sledge check says nothing: ${result.stdout}`);
  return report.errors;
}

function settingOf({ repeat, rows, sizeBytes }: ChecksumOptions): string {
  const [cpu] = cpus();
  const machine = `${cpus().length} × ${cpu?.model.trim()}, Linux ${release()}, Node ${process.version}`;
  return `${machine}; Unix socket, ${formatBytes(sizeBytes)}, medians of ${repeat} × ${rows[0].seconds} s`;
}

function say(text: string): void {
  process.stderr.write(`checksums: ${text}\n`);
}

try {
  await main();
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  if (error instanceof UsageError) process.stderr.write('  See: scripts/bench/checksums --help\n');
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
