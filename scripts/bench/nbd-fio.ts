/** Runs of fio: on the bare file, for what the disk gives without a server in front of it, and over NBD. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { clientTimeoutMs } from './nbd-load.ts';
import type { Sample } from './nbd-results.ts';
import type { Row, Together } from './nbd-rows.ts';

interface Latencies {
  readonly percentile?: Readonly<Record<string, number>>;
}

interface Side {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
  readonly clat_ns: Latencies;
}

/** What fio prints as JSON, as far as it is used here. */
interface FioReport {
  readonly jobs: readonly {
    readonly read: Side;
    readonly write: Side;
    readonly sync: { readonly lat_ns: Latencies };
    readonly error: number;
  }[];
}

const execute = promisify(execFile);

/** Whether fio has its engine for NBD, which not every build does. */
export async function fioHasNbd(): Promise<boolean> {
  const { stdout } = await execute('fio', ['--enghelp']);
  return /^\s*nbd$/m.test(stdout);
}

export function fioOnFile(row: Row, rampSeconds: number, path: string): Promise<Sample> {
  return fioRun(row, rampSeconds, onFile(path), row.fio ?? []);
}

/** Latencies are of one call, the rate is of the requests that it stands for. */
export async function fioTogether(
  row: Row,
  { count, fio }: Together,
  rampSeconds: number,
  path: string,
): Promise<Sample> {
  const sample = await fioRun({ ...row, unit: 'IOPS' }, rampSeconds, onFile(path), fio);
  return { ...sample, rate: sample.rate * count };
}

function onFile(path: string): string[] {
  return [`--filename=${path}`, '--ioengine=io_uring', '--direct=1'];
}

export function fioOverNbd(row: Row, rampSeconds: number, uri: string): Promise<Sample> {
  return fioRun(row, rampSeconds, ['--ioengine=nbd', `--uri=${uri}`], row.fio ?? []);
}

async function fioRun(
  row: Row,
  rampSeconds: number,
  target: readonly string[],
  load: readonly string[],
): Promise<Sample> {
  const time = ['--time_based', `--runtime=${milliseconds(row.seconds)}`, `--ramp_time=${milliseconds(rampSeconds)}`];
  const output = ['--output-format=json', '--group_reporting', '--percentile_list=50:99:99.9'];
  const options = ['--name=bench', ...target, '--norandommap', ...time, ...load, ...output];
  const { stdout } = await execute('fio', options, {
    timeout: clientTimeoutMs(row, rampSeconds),
    // On anything milder it waits for a server that does not answer.
    killSignal: 'SIGKILL',
  });
  return sampleOf(row, JSON.parse(stdout.slice(stdout.indexOf('{'))) as FioReport);
}

/** fio takes no fractions of a second. */
function milliseconds(seconds: number): string {
  return `${Math.round(seconds * 1000)}ms`;
}

function sampleOf(row: Row, report: FioReport): Sample {
  const [job] = report.jobs;
  const main = job.read.total_ios > job.write.total_ios ? job.read : job.write;
  const latencies = row.unit === 'pairs/s' ? job.sync.lat_ns : main.clat_ns;
  const microseconds = (name: string): number => (latencies.percentile?.[name] ?? 0) / 1000;
  const perSecond = job.read.iops + job.write.iops;
  return {
    rate: row.unit === 'MiB/s' ? (job.read.bw_bytes + job.write.bw_bytes) / 2 ** 20 : perSecond,
    p50Us: microseconds('50.000000'),
    p99Us: microseconds('99.000000'),
    p999Us: microseconds('99.900000'),
    errors: job.error === 0 ? 0 : 1,
  };
}
