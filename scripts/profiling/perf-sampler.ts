/**
 * Samples with Linux's `perf`, which sees everything that the server does: JavaScript, V8, the addon, LMDB, the kernel,
 * all threads. Names of compiled JavaScript come from a map that Node writes (`--perf-basic-prof`), and functions that
 * the interpreter runs get frames of their own.
 *
 * It looks at all processors and drops what is not the server's. Watching the one process would be the obvious way, but
 * then the kernel sets the timer up anew each time that a thread goes to sleep or wakes, which a server does all the
 * time. Measured on cached reads in a virtual machine, where timers are dear: watching the process at 4999 Hz doubles
 * the server's CPU time an operation; watching everything adds 50 % to it, and at 1999 Hz 20 %. Where only the process
 * may be watched, it is.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { findProgram } from '../../test/support/nbd-programs.ts';
import { CompiledCode, type Mark } from './compiled-code.ts';
import { PerfScript } from './perf-script.ts';
import type { Sample } from './sample.ts';
import type { Sampler } from './sampler.ts';
import type { PlaceFinder } from './source-places.ts';

type Scope = 'machine' | 'process';

/** A prime, so that it does not run in step with what else happens so many times a second. */
const FREQUENCY_HZ = 1999;
const PROBE_MS = 10_000;
/** How often the length of the map of compiled code is noted. */
const MARK_MS = 20;

/** Undefined where perf is missing or not allowed: see perf_event_paranoid in proc(5). */
export function findPerf(directory: string, placeOf: PlaceFinder): PerfSampler | undefined {
  const program = findProgram('perf');
  if (program === undefined) return undefined;
  for (const scope of ['machine', 'process'] as const) {
    const file = join(directory, 'perf-probe.data');
    const args = [...recordArguments(scope, process.pid, file), '--', 'true'];
    const { status } = spawnSync(program, args, { timeout: PROBE_MS, stdio: 'ignore' });
    if (status === 0) return new PerfSampler(program, scope, directory, placeOf);
  }
  return undefined;
}

function recordArguments(scope: Scope, pid: number, file: string): string[] {
  // I: nothing is recorded of a processor that is idle.
  const event = scope === 'machine' ? 'cpu-clock:I' : 'cpu-clock';
  const target = scope === 'machine' ? ['--all-cpus'] : ['--pid', String(pid)];
  const when = ['--freq', String(FREQUENCY_HZ), '--clockid', 'CLOCK_MONOTONIC'];
  return ['record', '--quiet', '--event', event, ...when, '-g', ...target, '--output', file];
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
  /** Where Node writes its map of compiled code. */
  #mapPath: string | undefined;
  readonly #marks: Mark[] = [];

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
    this.#mapPath = `/tmp/perf-${pid}.map`;
  }

  async watch(seconds: number): Promise<void> {
    const args = [...recordArguments(this.#scope, this.#pid, this.#file), '--', 'sleep', String(seconds)];
    this.#mark();
    const timer = setInterval(() => this.#mark(), MARK_MS);
    try {
      await this.#run(args, () => {});
    } finally {
      clearInterval(timer);
    }
    this.#mark();
  }

  async samples(): Promise<Sample[]> {
    const pid = this.#pid;
    const map = readFileSync(this.#mapPath!);
    // perf would take it for true for all time.
    rmSync(this.#mapPath!);
    const script = new PerfScript(pid, new CompiledCode(map, this.#marks, this.#placeOf));
    const fields = 'comm,pid,tid,time,period,ip,sym,dso';
    // Looking up what the C++ compiler inlined takes minutes.
    const args = ['script', '--input', this.#file, '--no-inline', '--pid', String(pid), '--fields', fields];
    await this.#run(args, line => script.line(line));
    return script.end();
  }

  clean(): void {
    // It ends in order, and with it the program that it was to run.
    this.#running?.kill('SIGINT');
    if (this.#mapPath !== undefined) rmSync(this.#mapPath, { force: true });
  }

  #mark(): void {
    const atSeconds = Number(process.hrtime.bigint()) / 1e9;
    this.#marks.push({ atSeconds, bytes: statSync(this.#mapPath!).size });
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
