/**
 * Measures Sledge and its peers in one run, interleaved, and prints one table. Started by `scripts/bench/nbd`, which
 * builds and holds the lock that keeps two measurements apart.
 *
 * How it stays fair: all servers get the same load from the same client (nbdload.c) on volumes filled beforehand, on one
 * disk; a server is started anew for each measurement; dirty pages of one measurement are on disk before the next
 * begins; each repeat visits the engines in another order, and the medians of the repeats are compared. The machine is
 * assumed to be shared: the spread stands beside each rate, and a gap below about 30 % that does not repeat means nothing.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { parseBytes } from '../../src/base/units.ts';
import { findProgram, projectDirectory } from '../../test/support/nbd-programs.ts';
import {
  type EngineSpec,
  engines,
  isInstalled,
  type StartedEngine,
  startEngine,
  type Workplace,
} from './nbd-engines.ts';
import { formatTable, type Result, ratios, type Sample, summarize } from './nbd-report.ts';
import { type Row, rows, selectRows } from './nbd-rows.ts';

const USAGE = `Usage: scripts/bench/nbd [OPTION]...

Measures Sledge and other NBD servers on this machine and prints one table.

  --quick            fewer rows and shorter runs: about 5 minutes in all
  --rows LIST        rows or groups of them: ${[...new Set(rows.map(row => row.name.replace(/-.*/, '')))].join(',')},
                     or single ones such as read-16x4
  --engines LIST     of: ${engines.map(engine => engine.name).join(',')},raw
  --seconds N        of each measurement (5; quick 0.5)
  --repeat N         measurements of which the median counts (3)
  --transport T      unix or tcp (unix)
  --size SIZE        of the volume (4GiB)
  --directory DIR    where the volumes go (the system's temporary directory)
  --json FILE        also write everything measured to a file
`;

interface Options {
  readonly rows: readonly Row[];
  readonly engines: readonly EngineSpec[];
  readonly raw: boolean;
  readonly seconds: number;
  readonly rampSeconds: number;
  readonly repeat: number;
  readonly place: Workplace;
  readonly json: string | undefined;
}

interface Percentiles {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

interface LoadReport {
  readonly iops: number;
  readonly mibs: number;
  readonly lat_us: Percentiles;
  readonly flush?: Percentiles;
  readonly server_cpu_us_per_op?: number;
  readonly errors: number;
}

interface FioSide {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioJob {
  readonly read: FioSide;
  readonly write: FioSide;
  readonly sync: { readonly lat_ns: FioSide['clat_ns'] };
}

const nbdload = process.env['SLEDGE_NBDLOAD'] ?? join(projectDirectory, 'dist', 'bench', 'nbdload');
const execute = promisify(execFile);

/** What runs now, so that an interrupted measurement leaves nothing behind. */
let running: StartedEngine | undefined;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      rows: { type: 'string' },
      engines: { type: 'string' },
      seconds: { type: 'string' },
      repeat: { type: 'string', default: '3' },
      transport: { type: 'string', default: 'unix' },
      size: { type: 'string', default: '4GiB' },
      directory: { type: 'string', default: tmpdir() },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  const sizeBytes = parseBytes(values.size);
  if (sizeBytes === undefined || sizeBytes < 2 ** 28) throw new Error('--size: give at least 256MiB');
  if (values.transport !== 'unix' && values.transport !== 'tcp') throw new Error('--transport: unix or tcp');
  const repeat = Number(values.repeat);
  const seconds = Number(values.seconds ?? (values.quick ? 0.5 : 5));
  if (!(repeat >= 1) || !(seconds > 0)) throw new Error('--repeat and --seconds: numbers above 0');
  const directory = mkdtempSync(join(values.directory, 'sledge-bench-'));
  const clean = (): void => rmSync(directory, { recursive: true, force: true });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void (running?.stop() ?? Promise.resolve()).finally(() => {
        clean();
        process.exit(1);
      });
    });
  }
  const names = values.engines?.split(',');
  try {
    await measure({
      rows: values.rows === undefined ? rows.filter(row => row.quick || !values.quick) : selectRows(values.rows),
      engines: chosenEngines(names),
      raw: (names === undefined || names.includes('raw')) && findProgram('fio') !== undefined,
      seconds,
      rampSeconds: Math.min(0.5, seconds / 3),
      repeat,
      place: { directory, file: join(directory, 'volume'), sizeBytes, transport: values.transport },
      json: values.json,
    });
  } finally {
    await running?.stop();
    clean();
  }
}

function chosenEngines(names: readonly string[] | undefined): EngineSpec[] {
  const unknown = names?.find(name => name !== 'raw' && !engines.some(engine => engine.name === name));
  if (unknown !== undefined) throw new Error(`--engines: no engine ${unknown}`);
  const chosen = engines.filter(engine => names === undefined || names.includes(engine.name));
  return chosen.filter(engine => {
    const installed = isInstalled(engine);
    if (!installed) say(`${engine.name} is not installed: skipped`);
    return installed;
  });
}

async function measure(options: Options): Promise<void> {
  const { place } = options;
  say(`filling ${options.engines.length > 0 ? 'the volumes' : 'the file'}, ${place.sizeBytes / 2 ** 20} MiB each`);
  await fillFile(place.file, place.sizeBytes);
  const present: EngineSpec[] = [];
  for (const engine of options.engines) if (await prepare(engine, place)) present.push(engine);

  const samples = new Map<string, Sample[]>();
  const add = (row: Row, engine: string, sample: Sample): void => {
    const key = `${row.name} ${engine}`;
    samples.set(key, [...(samples.get(key) ?? []), sample]);
  };
  const failed = new Set<string>();
  // Reads first, all repeats of them: what a write row leaves in a server's log or cache would speed them up.
  for (const { row, turn } of inOrder(options)) {
    say(`repeat ${turn + 1} of ${options.repeat}: ${row.name}`);
    const able = present.filter(engine => row.classes?.includes(engine.class) ?? true);
    // Another one goes first each time, so that none always follows the same neighbour.
    for (let i = 0; i < able.length; i++) {
      const engine = able[(i + turn) % able.length];
      try {
        add(row, engine.name, await measureEngine(engine, row, options));
      } catch (error) {
        failed.add(`${row.name}, ${engine.name}: ${error instanceof Error ? error.message : String(error)}`);
      }
      if (row.writes) await execute('sync', ['-f', place.directory]);
    }
    if (options.raw && row.fio !== undefined && (row.classes?.includes('direct') ?? true)) {
      add(row, 'raw', await measureRaw(row, row.fio, options));
    }
  }

  const results: Result[] = [];
  for (const row of options.rows) {
    for (const engine of [...present, undefined]) {
      const found = samples.get(`${row.name} ${engine?.name ?? 'raw'}`);
      if (found !== undefined) results.push(summarize(row, engine?.name ?? 'raw', engine?.class ?? 'raw', found));
    }
  }
  process.stdout.write(`${machine(options)}\n${formatTable(options.rows, results)}\n`);
  for (const failure of failed) say(`failed: ${failure}`);
  if (options.json !== undefined) writeJson(options.json, options, results, [...failed]);
  if (failed.size > 0) process.exitCode = 1;
}

function* inOrder(options: Options): Iterable<{ readonly row: Row; readonly turn: number }> {
  for (const writes of [false, true]) {
    for (let turn = 0; turn < options.repeat; turn++) {
      for (const row of options.rows) if (row.writes === writes) yield { row, turn };
    }
  }
}

/** Data in every block, so that a read has to read. */
async function fillFile(path: string, sizeBytes: number): Promise<void> {
  const piece = new Uint32Array(2 ** 18);
  for (let i = 0, state = 1; i < piece.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    piece[i] = state;
  }
  const file = await open(path, 'w');
  try {
    for (let position = 0; position < sizeBytes; position += piece.byteLength) {
      // A stamp in each 4 KiB, so that no two blocks are the same.
      for (let i = 0; i < piece.length; i += 1024) piece[i] = position / 4096 + i;
      await file.write(new Uint8Array(piece.buffer), 0, Math.min(piece.byteLength, sizeBytes - position), position);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Fills a volume that is not the peers' file; false where the server does not come up. */
async function prepare(engine: EngineSpec, place: Workplace): Promise<boolean> {
  if (engine.name !== 'sledge') return true;
  try {
    running = await startEngine(engine, place, []);
    await execute(nbdload, ['-w', 'write', '-b', '1m', '-q', '8', '--once', running.uri]);
    return true;
  } catch (error) {
    say(`${engine.name}: skipped, ${error instanceof Error ? error.message : String(error)}`);
    return false;
  } finally {
    await stopRunning();
  }
}

async function measureEngine(engine: EngineSpec, row: Row, options: Options): Promise<Sample> {
  running = await startEngine(engine, options.place, row.sledgeArguments ?? []);
  const { pid, uri } = running;
  try {
    if (row.warmBytes !== undefined) {
      await execute(nbdload, ['-w', 'read', '-b', '1m', '-q', '4', '--once', '-s', String(row.warmBytes), uri]);
    }
    const time = ['-t', String(options.seconds), '-r', String(options.rampSeconds)];
    let rssBytes = 0;
    // Towards the end, but while the clients are still connected.
    const timer = setTimeout(
      () => {
        rssBytes = residentBytes(pid);
      },
      (options.rampSeconds + options.seconds * 0.8) * 1000,
    );
    const args = ['-j', ...row.load, ...time, '-p', String(pid), uri];
    try {
      const { stdout } = await execute(nbdload, args, { timeout: (options.seconds + 60) * 1000 });
      const report = JSON.parse(stdout) as LoadReport;
      const latency = (row.latencyOf === 'flush' ? report.flush : undefined) ?? report.lat_us;
      return {
        rate: row.unit === 'IOPS' ? report.iops : report.mibs,
        p50Us: latency.p50,
        p99Us: latency.p99,
        p999Us: latency.p999,
        serverCpuUsPerOp: report.server_cpu_us_per_op ?? 0,
        serverRssBytes: rssBytes,
        errors: report.errors,
      };
    } finally {
      clearTimeout(timer);
    }
  } finally {
    await stopRunning();
  }
}

/** What the disk gives without a server in front of it. */
async function measureRaw(row: Row, load: readonly string[], options: Options): Promise<Sample> {
  // fio takes no fractions of a second.
  const milliseconds = (seconds: number): string => `${Math.round(seconds * 1000)}ms`;
  const time = [
    '--time_based',
    `--runtime=${milliseconds(options.seconds)}`,
    `--ramp_time=${milliseconds(options.rampSeconds)}`,
  ];
  const target = [`--filename=${options.place.file}`, '--ioengine=io_uring', '--direct=1', '--norandommap'];
  const output = ['--output-format=json', '--group_reporting', '--percentile_list=50:99:99.9'];
  const { stdout } = await execute('fio', ['--name=raw', ...target, ...time, ...load, ...output], {
    timeout: (options.seconds + 60) * 1000,
  });
  const [job] = (JSON.parse(stdout.slice(stdout.indexOf('{'))) as { jobs: FioJob[] }).jobs;
  const main = job.read.total_ios > job.write.total_ios ? job.read : job.write;
  const latencies = row.latencyOf === 'flush' ? job.sync.lat_ns : main.clat_ns;
  const percentile = (name: string): number => (latencies.percentile?.[name] ?? 0) / 1000;
  return {
    rate: row.unit === 'IOPS' ? job.read.iops + job.write.iops : (job.read.bw_bytes + job.write.bw_bytes) / 2 ** 20,
    p50Us: percentile('50.000000'),
    p99Us: percentile('99.000000'),
    p999Us: percentile('99.900000'),
    errors: 0,
  };
}

async function stopRunning(): Promise<void> {
  const engine = running;
  running = undefined;
  await engine?.stop();
}

/** Of a process and its children. */
function residentBytes(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const own = Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
    return children.reduce((sum, child) => sum + residentBytes(Number(child)), own);
  } catch {
    // It has just ended, or the kernel does not list children.
    return 0;
  }
}

function machine(options: Options): string {
  const [cpu] = cpus();
  return (
    `${cpus().length} × ${cpu?.model.trim()}, Linux ${release()}, Node ${process.version}; ${options.place.transport}, ` +
    `${options.place.sizeBytes / 2 ** 30} GiB, ${options.seconds} s × ${options.repeat}; * best peer of its class`
  );
}

function writeJson(path: string, options: Options, results: readonly Result[], failed: readonly string[]): void {
  const settings = {
    transport: options.place.transport,
    sizeBytes: options.place.sizeBytes,
    seconds: options.seconds,
    repeat: options.repeat,
  };
  const host = { cpu: cpus()[0]?.model.trim(), cores: cpus().length, kernel: release(), node: process.version };
  const all = { measuredAt: new Date().toISOString(), host, settings, results, ratios: ratios(results), failed };
  writeFileSync(path, `${JSON.stringify(all, undefined, 2)}\n`);
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

try {
  await main();
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
