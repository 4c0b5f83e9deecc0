/**
 * `scripts/profile ROW`: shows where the server's time goes under a row of the benchmark. Started by the script of that
 * name, which builds what this needs and holds the lock that keeps two measurements apart.
 *
 * The load runs twice, each time on a server that was just started: once with nobody looking, for the rate and the CPU
 * time that the row really has, and once while samples are taken, which costs something itself.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatBytes, GIB, MIB, parseBytes } from '../src/base/units.ts';
import { projectDirectory } from '../test/support/nbd-programs.ts';
import { stopProcesses } from './bench/nbd-process.ts';
import { type Row, rows } from './bench/nbd-rows.ts';
import { CpuProfSampler } from './profiling/cpu-prof-sampler.ts';
import { flameGraph } from './profiling/flame-graph.ts';
import { findPerf } from './profiling/perf-sampler.ts';
import { type Profile, reportText } from './profiling/report.ts';
import type { Sample } from './profiling/sample.ts';
import type { Sampler } from './profiling/sampler.ts';
import { ServedVolume } from './profiling/served-volume.ts';
import { SourcePlaces } from './profiling/source-places.ts';
import { summarize } from './profiling/summary.ts';

const USAGE = `Usage: scripts/profile ROW [OPTION]...

Starts a server of this checkout on a temporary volume, loads it as scripts/bench/nbd does in the row ROW, and shows where
the server's time goes: by category, by thread, and the functions that take most of it.

Samples come from Linux's perf where it is installed and allowed, and else from Node's own profiler, which sees the
JavaScript of the main thread only. What is not seen is said.

  --seconds N      of sampling; the load runs twice that long [5]
  --sampler S      perf or cpu-prof [perf if it can be had]
  --flame FILE     also draw a flame graph (SVG, for a browser)
  --json           print everything as one JSON object, all functions included
  --size SIZE      of the volume [4GiB, or what the row reads of it]
  --directory DIR  where the volume is made, and removed [the system's temporary directory]
  --help           print this

Rows: ${rows.map(row => row.name).join(', ')}
`;

interface Options {
  readonly row: Row;
  readonly seconds: number;
  readonly sampler: Sampler['name'] | undefined;
  readonly flame: string | undefined;
  readonly json: boolean;
  readonly sizeBytes: number;
  readonly parentDirectory: string;
}

/** The command line makes no sense; the message says why. */
class UsageError extends Error {}

const SIZE_BYTES_MIN = 64 * MIB;
/** What the server does in its first second is compiled while it is done. */
const RAMP_SECONDS = 1;

/** What runs or lies about now, so that an interrupted profile leaves nothing behind. */
let sampler: Sampler | undefined;
let directory: string | undefined;

async function main(): Promise<void> {
  const options = parseOptions();
  if (options === undefined) {
    process.stdout.write(USAGE);
    return;
  }
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    process.once(signal, () => void clean().finally(() => process.exit(code)));
  }
  try {
    directory = mkdtempSync(join(options.parentDirectory, 'sledge-profile-'));
    const { profile, samples } = await measure(options, directory);
    if (options.flame !== undefined) {
      writeFileSync(options.flame, flameGraph(samples, `${options.row.name}: ${profile.sampler}`));
    }
    process.stdout.write(options.json ? `${JSON.stringify(profile)}\n` : reportText(profile));
  } finally {
    await clean();
  }
}

async function measure(options: Options, directory: string): Promise<{ profile: Profile; samples: Sample[] }> {
  const { row, seconds, sizeBytes } = options;
  sampler = chooseSampler(options.sampler, directory);
  const volume = new ServedVolume(directory, row, sizeBytes);
  say(`filling a volume of ${formatBytes(sizeBytes)}`);
  await volume.fill();
  say(`${row.title}, for ${seconds} s`);
  const run = { rampSeconds: RAMP_SECONDS, seconds };
  const unwatched = await volume.run({ ...run, nodeOptions: [], settles: true });
  say(`and once more, sampled by ${sampler.name}`);
  const watching = { nodeOptions: sampler.nodeOptions, watcher: sampler, settles: false };
  const watched = await volume.run({ ...run, ...watching });
  const samples = await sampler.samples();
  const summary = summarize(samples, seconds);
  const profile = {
    row,
    setting: settingOf(sizeBytes),
    sampler: `${summary.sampleCount} samples by ${sampler.name} in ${seconds} s`,
    blindSpots: sampler.blindSpots,
    unwatched,
    watched,
    summary,
  };
  return { profile, samples };
}

function chooseSampler(wanted: Options['sampler'], directory: string): Sampler {
  const places = new SourcePlaces(projectDirectory);
  if (wanted !== 'cpu-prof') {
    const perf = findPerf(directory, places.find);
    if (perf !== undefined) return perf;
    if (wanted === 'perf') throw new Error('perf is not installed, or not allowed: see perf_event_paranoid in proc(5)');
    say('perf is not installed, or not allowed: Node’s own profiler it is');
  }
  return new CpuProfSampler(directory, places.find);
}

function parseOptions(): Options | undefined {
  const { values, positionals } = parse();
  if (values.help) return undefined;
  if (positionals.length !== 1) throw new UsageError('name one row');
  const row = rows.find(({ name }) => name === positionals[0]);
  if (row === undefined) throw new UsageError(`there is no row ${positionals[0]}: see --help`);
  const seconds = Number(values.seconds);
  if (!(seconds >= 0.1 && seconds <= 3600)) throw new UsageError('--seconds: from 0.1 to 3600');
  const sizeBytes = values.size === undefined ? (row.warmBytes ?? 4 * GIB) : parseBytes(values.size);
  if (sizeBytes === undefined || sizeBytes < Math.max(SIZE_BYTES_MIN, row.warmBytes ?? 0)) {
    throw new UsageError('--size: at least 64MiB, and what the row reads of it');
  }
  const { sampler } = values;
  if (sampler !== undefined && sampler !== 'perf' && sampler !== 'cpu-prof') {
    throw new UsageError('--sampler is perf or cpu-prof');
  }
  return {
    row,
    seconds,
    sampler,
    flame: values.flame,
    json: values.json,
    sizeBytes,
    parentDirectory: values.directory,
  };
}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        seconds: { type: 'string', default: '5' },
        sampler: { type: 'string' },
        flame: { type: 'string' },
        json: { type: 'boolean', default: false },
        size: { type: 'string' },
        directory: { type: 'string', default: tmpdir() },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function settingOf(sizeBytes: number): string {
  const [cpu] = cpus();
  const machine = `${cpus().length} × ${cpu?.model.trim()}, Linux ${release()}, Node ${process.version}`;
  return `${machine}; a volume of ${formatBytes(sizeBytes)}, Unix socket`;
}

async function clean(): Promise<void> {
  await stopProcesses();
  sampler?.clean();
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
}

function say(text: string): void {
  process.stderr.write(`profile: ${text}\n`);
}

try {
  await main();
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
