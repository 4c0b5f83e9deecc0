/**
 * `scripts/soak`: a server at full load for minutes, every byte that is read compared with what was written. It is to keep
 * its memory, its descriptors and its pace: what grows slowly shows here, and so does what stalls now and then.
 *
 * The load comes in windows of some seconds, each a run of nbdload; between them the server is asked for its status, and
 * beside them its memory and its descriptors are looked at each second.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { logBytesDefaultMax, logBytesMin, logSegmentBytes, logSegmentDescriptors } from '../src/base/limits.ts';
import { formatBytes, MIB, parseBytes } from '../src/base/units.ts';
import { SEGMENT_NAME } from '../src/node/segment-files.ts';
import { sledgeJson } from '../test/support/server-process.ts';
import { loadProgram } from './bench/nbd-load.ts';
import { residentBytes, stopProcesses } from './bench/nbd-process.ts';
import { startSledge } from './bench/nbd-sledge.ts';
import { judge, type Reading, type Window } from './soak-verdicts.ts';

const HELP = `Usage: scripts/soak [OPTION]...

Serves a volume and loads it for minutes: random reads and writes of 4 KiB over four connections, each byte checked. Says
whether memory and descriptors stay, and how late requests and the event loop were.

  --minutes N        of load [10]
  --size SIZE        of the volume [2GiB]
  --log SIZE         of the log [8GiB]
  --directory DIR    where a directory for the data is made [the system's temporary directory]
  --json             the result as one line of JSON
  --help             print this

The exit code is 0 when all is as it should be, 1 when something is not, 2 for wrong use.
`;

const WINDOW_SECONDS = 10;
const LOAD = ['-w', 'randrw', '-m', '50', '-b', '4k', '-q', '16', '-c', '4'];
const VOLUME = 'soak';

interface Status {
  readonly health: string;
  readonly log: { readonly usedBytes: number; readonly limitBytes: number };
  readonly eventLoopDelayMs: {
    readonly lastMinute: { readonly p99: number; readonly max: number };
    readonly sinceStart: { readonly p99: number };
  };
}

interface LoadReport {
  readonly iops: number;
  readonly lat_us: { readonly p999: number; readonly max: number };
  readonly errors: number;
  readonly bad_data: number;
}

const execute = promisify(execFile);

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    size: { type: 'string', default: '2GiB' },
    log: { type: 'string', default: String(logBytesDefaultMax) },
    directory: { type: 'string', default: tmpdir() },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h' },
  },
});

process.exitCode = await main();

async function main(): Promise<number> {
  const minutes = Number(values.minutes);
  const sizeBytes = parseBytes(values.size) ?? 0;
  const logBytes = parseBytes(values.log) ?? 0;
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (!(minutes > 0) || sizeBytes < 64 * MIB || logBytes < logBytesMin) {
    process.stderr.write(HELP);
    return 2;
  }
  const directory = mkdtempSync(join(values.directory, 'sledge-soak-'));
  process.once('SIGINT', () => void stopProcesses().then(() => process.exit(130)));
  try {
    return await soak(directory, minutes * 60, sizeBytes, logBytes);
  } finally {
    await stopProcesses();
    rmSync(directory, { recursive: true });
  }
}

async function soak(directory: string, seconds: number, sizeBytes: number, logBytes: number): Promise<number> {
  const dataDirectory = join(directory, 'data');
  const socket = join(directory, 'socket');
  const uri = `nbd+unix:///${VOLUME}?socket=${encodeURIComponent(socket)}`;
  const volumes = [`${VOLUME}:${sizeBytes}`];
  const options = { dataDirectory, listen: `unix:${socket}`, volumes, arguments: ['--log', String(logBytes)] };
  const server = await startSledge(options);
  progress(`filling ${formatBytes(sizeBytes)}`);
  await execute(loadProgram, ['-w', 'write', '-b', '1m', '-q', '8', '--once', '--verify', uri]);

  const readings: Reading[] = [];
  const windows: Window[] = [];
  const startedMs = performance.now();
  const secondsSoFar = () => (performance.now() - startedMs) / 1000;
  const watch = setInterval(() => {
    readings.push({
      seconds: secondsSoFar(),
      rssBytes: residentBytes(server.pid),
      ...descriptors(server.pid),
    });
  }, 1000);
  try {
    while (secondsSoFar() < seconds) {
      const window = await loadWindow(dataDirectory, uri, server.pid, secondsSoFar());
      windows.push(window);
      progress(
        `${Math.round(secondsSoFar())} of ${seconds} s: ${Math.round(window.iops)} IOPS, ` +
          `p99.9 ${(window.p999Us / 1000).toFixed(1)} ms, loop p99 ${window.loopP99Ms.toFixed(1)} ms, ` +
          `${formatBytes(readings.at(-1)?.rssBytes ?? 0)} resident, log ${Math.round(100 * window.logFill)} % full`,
      );
    }
  } finally {
    clearInterval(watch);
  }
  await server.stop();
  const verdicts = judge(readings, windows, (logSegmentDescriptors * logBytes) / logSegmentBytes);
  const isGood = verdicts.every(verdict => verdict.good);
  if (values.json) console.log(JSON.stringify({ seconds, isGood, verdicts, windows }));
  else for (const { good, text } of verdicts) console.log(`${good ? 'ok    ' : 'NOT OK'} ${text}`);
  return isGood ? 0 : 1;
}

async function loadWindow(dataDirectory: string, uri: string, pid: number, at: number): Promise<Window> {
  const before = await statusOf(dataDirectory);
  const time = ['-t', String(WINDOW_SECONDS), '-r', '0'];
  const { stdout } = await execute(loadProgram, [...LOAD, ...time, '--verify', '-j', '-p', String(pid), uri]);
  const report = JSON.parse(stdout) as LoadReport;
  const after = await statusOf(dataDirectory);
  const { lastMinute, sinceStart } = after.eventLoopDelayMs;
  return {
    seconds: at,
    iops: report.iops,
    p999Us: report.lat_us.p999,
    maxUs: report.lat_us.max,
    errors: report.errors,
    badData: report.bad_data,
    health: after.health,
    logFill: after.log.usedBytes / after.log.limitBytes,
    // It grew by less than was written where something was destaged.
    destaged: before.log.usedBytes / before.log.limitBytes > 0.5 || after.log.usedBytes < before.log.usedBytes,
    loopP99Ms: lastMinute.p99,
    loopMaxMs: lastMinute.max,
    loopP99MsSinceStart: sinceStart.p99,
  };
}

async function statusOf(dataDirectory: string): Promise<Status> {
  // The command reads status without changing what is measured: it is a process of its own.
  return (await sledgeJson(dataDirectory, 'status')) as unknown as Status;
}

function descriptors(pid: number): Pick<Reading, 'descriptors' | 'segmentDescriptors'> {
  const directory = `/proc/${pid}/fd`;
  let all = 0;
  let ofSegments = 0;
  try {
    for (const name of readdirSync(directory)) {
      all++;
      if (SEGMENT_NAME.test(basename(fileBehind(join(directory, name))))) ofSegments++;
    }
  } catch {
    // The server has ended, which the load tells.
  }
  return { descriptors: all - ofSegments, segmentDescriptors: ofSegments };
}

/** Of a link; empty where it has gone meanwhile. */
function fileBehind(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return '';
  }
}

function progress(line: string): void {
  if (!values.json) process.stderr.write(`soak: ${line}\n`);
}
