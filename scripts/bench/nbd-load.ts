/** Runs of nbdload (nbdload.c), the client that all servers are measured with. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { projectDirectory } from '../../test/support/nbd-programs.ts';
import { LOWEST_WINDOW_MS, lowestShare } from './nbd-gates.ts';
import type { Sample } from './nbd-results.ts';
import type { Row } from './nbd-rows.ts';

interface Percentiles {
  readonly ops: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

/** What nbdload prints with `-j`, as far as it is used here. */
interface LoadReport {
  readonly secs: number;
  readonly iops: number;
  readonly mibs: number;
  readonly lat_us: Percentiles;
  readonly flush?: Percentiles;
  readonly intervals?: readonly number[];
  readonly server_cpu_us_per_op?: number;
  readonly foreign_cores: number;
  readonly errors: number;
}

export const loadProgram = process.env['SLEDGE_NBDLOAD'] ?? join(projectDirectory, 'dist', 'bench', 'nbdload');
const execute = promisify(execFile);

/** A stall shows in any window of the full length that begins at a multiple of this. */
const INTERVAL_MS = 20;

/** Each shorter than half of a cache that holds the volume. */
const CACHE_FILL_PARTS = 8;
const CACHE_FILL_SECONDS = 2;
export const WARM_UP_SECONDS = 3;

/** Connecting, and what is in flight at the end. */
const CLIENT_GRACE_MS = 60_000;

/** By then a client has ended, or hangs; whole milliseconds. */
export function clientTimeoutMs(row: Row, rampSeconds: number): number {
  return Math.ceil((rampSeconds + row.seconds) * 1000) + CLIENT_GRACE_MS;
}

export async function fillOverNbd(uri: string): Promise<void> {
  await execute(loadProgram, ['-w', 'write', '-b', '1m', '-q', '8', '--once', uri]);
}

/** Writes that go through a log, until it has its full length: the first round of a log makes its files, too. */
export async function fillLog(uri: string, seconds: number): Promise<void> {
  await loadUnmeasured(['-w', 'randwrite', '-b', '32k', '-q', '16'], seconds, uri);
}

/** Reads the beginning of the volume once. */
export async function warm(row: Row, bytes: number, uri: string): Promise<void> {
  const engine = row.tls ? ['-e', 'libnbd'] : [];
  await execute(loadProgram, ['-w', 'read', '-b', '1m', '-q', '4', '--once', '-s', String(bytes), ...engine, uri]);
}

/** The load that a row wants before, so that the server's code is compiled. */
export async function warmUp(load: readonly string[], uri: string): Promise<void> {
  await loadUnmeasured(load, WARM_UP_SECONDS, uri);
}

async function loadUnmeasured(load: readonly string[], seconds: number, uri: string): Promise<void> {
  await execute(loadProgram, [...load, '-t', String(seconds), '-r', '0', uri]);
}

/**
 * Fills Sledge's own cache: with the volume, as far as it goes, and then with what reads at random want. A long stream
 * would be kept out of it, so the parts are read in no order that looks like one.
 */
export async function fillCache(uri: string, volumeBytes: number): Promise<void> {
  const partBytes = Math.floor(volumeBytes / CACHE_FILL_PARTS / 2 ** 20) * 2 ** 20;
  for (let part = CACHE_FILL_PARTS - 1; part >= 0; part--) {
    const range = ['-o', String(part * partBytes), '-s', String(partBytes)];
    await execute(loadProgram, ['-w', 'read', '-b', '1m', '-q', '8', '--once', ...range, uri]);
  }
  await loadUnmeasured(['-w', 'randread', '-b', '4k', '-q', '16'], CACHE_FILL_SECONDS, uri);
}

export async function loadRun(row: Row, rampSeconds: number, uri: string, serverPid: number): Promise<Sample> {
  const time = ['-t', String(row.seconds), '-r', String(rampSeconds)];
  const intervals = row.watchesRate ? ['--interval', String(INTERVAL_MS)] : [];
  const { stdout } = await execute(
    loadProgram,
    ['-j', ...row.load, ...time, ...intervals, '-p', String(serverPid), uri],
    {
      timeout: clientTimeoutMs(row, rampSeconds),
      killSignal: 'SIGKILL',
    },
  );
  return sampleOf(row, JSON.parse(stdout) as LoadReport);
}

function sampleOf(row: Row, report: LoadReport): Sample {
  const latency = (row.unit === 'pairs/s' ? report.flush : undefined) ?? report.lat_us;
  const share = lowestShare(report.intervals ?? [], LOWEST_WINDOW_MS / INTERVAL_MS);
  return {
    rate: rateOf(row, report),
    p50Us: latency.p50,
    p99Us: latency.p99,
    p999Us: latency.p999,
    ...(report.server_cpu_us_per_op !== undefined && { serverCpuUsPerOp: report.server_cpu_us_per_op }),
    ...(share !== undefined && { lowestShare: share }),
    foreignCores: report.foreign_cores,
    errors: report.errors,
  };
}

function rateOf(row: Row, report: LoadReport): number {
  switch (row.unit) {
    case 'IOPS':
      return report.iops;
    case 'MiB/s':
      return report.mibs;
    case 'pairs/s':
      // A pair is one when its flush is answered.
      return (report.flush?.ops ?? 0) / report.secs;
  }
}

/** Whether rows over TLS can be measured: only libnbd speaks it, and nbdload is built with it where it is installed. */
export async function loadHasTls(): Promise<boolean> {
  const { stdout } = await execute(loadProgram, ['--help']);
  return !stdout.includes('without libnbd');
}
