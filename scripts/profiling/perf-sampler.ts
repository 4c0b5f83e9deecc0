/**
 * Samples with Linux's `perf`, which sees everything that the server does: JavaScript, V8, the addon, LMDB, the kernel,
 * all threads. Names of compiled JavaScript come from a map that Node writes (`--perf-basic-prof`), and functions that
 * the interpreter runs get frames of their own.
 *
 * It looks at all processors and drops what is not the server's. Watching the one process would be the obvious way, but
 * then the kernel sets the timer up anew each time that a thread goes to sleep or wakes, which a server does all the
 * time: measured at 4999 Hz on cached reads, that doubled the server's CPU time an operation, where watching everything
 * added 10 to 20 %. Where only the first is allowed, it is done.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { findProgram } from '../../test/support/nbd-programs.ts';
import { PerfScript } from './perf-script.ts';
import type { Sample } from './sample.ts';
import type { Sampler } from './sampler.ts';
import type { PlaceFinder } from './source-places.ts';

type Scope = 'machine' | 'process';

/** Not a divisor of what else happens a whole number of times a second. */
const FREQUENCY_HZ = 4999;
const PROBE_MS = 10_000;

const execute = promisify(execFile);

/** Undefined where perf is missing or not allowed. */
export async function findPerf(directory: string, placeOf: PlaceFinder): Promise<PerfSampler | undefined> {
  const program = findProgram('perf');
  if (program === undefined) return undefined;
  for (const scope of ['machine', 'process'] as const) {
    const file = join(directory, 'perf-probe.data');
    try {
      await execute(program, [...recordArguments(scope, process.pid, file), '--', 'true'], { timeout: PROBE_MS });
      return new PerfSampler(program, scope, directory, placeOf);
    } catch {
      // Not allowed, most often: see /proc/sys/kernel/perf_event_paranoid.
    } finally {
      rmSync(file, { force: true });
    }
  }
  return undefined;
}

function recordArguments(scope: Scope, pid: number, file: string): string[] {
  // I: nothing is recorded of a processor that is idle.
  const event = scope === 'machine' ? 'cpu-clock:I' : 'cpu-clock';
  const target = scope === 'machine' ? ['--all-cpus'] : ['--pid', String(pid)];
  return ['record', '--quiet', '--event', event, '--freq', String(FREQUENCY_HZ), '-g', ...target, '--output', file];
}

export class PerfSampler implements Sampler {
  readonly name = 'perf';
  readonly nodeOptions: readonly string[];
  readonly blindSpots = [
    'A JavaScript function that V8 inlined counts as the one it was inlined into.',
    'Threads of the kernel that work for the server (block I/O, writing back) are not in it.',
  ];
  readonly #program: string;
  readonly #scope: Scope;
  readonly #file: string;
  readonly #placeOf: PlaceFinder;
  #running: ChildProcess | undefined;
  #pid = 0;
  /** Of Node's; perf looks for it there. */
  #map: string | undefined;

  constructor(program: string, scope: Scope, directory: string, placeOf: PlaceFinder) {
    this.#program = program;
    this.#scope = scope;
    this.#file = join(directory, 'perf.data');
    this.#placeOf = placeOf;
    // The last is for V8's log, which comes with the interpreter's frames whether one wants it or not.
    const log = `--logfile=${join(directory, 'v8.log')}`;
    this.nodeOptions = ['--perf-basic-prof', '--interpreted-frames-native-stack', log];
  }

  attach(pid: number): void {
    this.#pid = pid;
    this.#map = `/tmp/perf-${pid}.map`;
  }

  async watch(seconds: number): Promise<void> {
    const args = [...recordArguments(this.#scope, this.#pid, this.#file), '--', 'sleep', String(seconds)];
    await this.#run(args, () => {});
  }

  async samples(): Promise<Sample[]> {
    const pid = this.#pid;
    const script = new PerfScript(pid, this.#placeOf);
    const fields = 'comm,pid,tid,time,period,ip,sym,dso';
    // Looking up what the C++ compiler inlined takes minutes.
    const args = ['script', '--input', this.#file, '--no-inline', '--pid', String(pid), '--fields', fields];
    await this.#run(args, line => script.line(line));
    return script.end();
  }

  clean(): void {
    // It ends in order, and with it the program that it was to run.
    this.#running?.kill('SIGINT');
    if (this.#map !== undefined) rmSync(this.#map, { force: true });
  }

  async #run(args: readonly string[], line: (text: string) => void): Promise<void> {
    const child = spawn(this.#program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#running = child;
    let errors = '';
    child.stderr.on('data', (data: Buffer) => {
      errors = (errors + data.toString()).slice(-2000);
    });
    createInterface({ input: child.stdout }).on('line', line);
    const [code] = (await once(child, 'close')) as [number | null];
    this.#running = undefined;
    if (code !== 0) throw new Error(`perf ${args[0]} failed: ${errors.trim()}`);
  }
}
