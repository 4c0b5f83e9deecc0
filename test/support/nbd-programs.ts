/**
 * Running other people's programs in tests: which are there, running one to its end with a limit on its time, and small
 * inputs that several tests share. Called by test/interop and test/kernel.
 *
 * Invariants: every program that is started is a child of this process, ends with the test (killed by its handle when it
 * outlives its limit), and leaves files only inside of the test's own temporary directory.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, createReadStream, existsSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** The system's own directories come first: nbdsh needs the Python that its module was packaged for. */
export const programPath = `/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:${process.env['PATH'] ?? ''}`;

/** Where the project lies: compiled tests run from `dist`, data beside the tests stays in `test`. */
export const projectDirectory = findProjectDirectory();

/** True on a build machine: there a missing program fails a test, elsewhere it skips it. */
export const everythingRequired = process.env['CI'] === 'true';

export interface RunOptions {
  readonly timeoutMs?: number;
  /** Given to the program on its standard input. */
  readonly input?: string | Uint8Array;
  readonly directory?: string;
  readonly environment?: Readonly<Record<string, string>>;
}

export interface RunResult {
  /** The exit code; 128 + the signal's number where a signal ended it, as a shell reports it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** It ran into its time limit and was killed. */
  readonly timedOut: boolean;
}

/** What a test holds for cleaning up; tap's `t` is one. */
export interface Cleaner {
  teardown(callback: () => void | Promise<void>): void;
}

function findProjectDirectory(): string {
  for (let directory = import.meta.dirname; directory !== '/'; directory = dirname(directory)) {
    const manifest = join(directory, 'package.json');
    if (existsSync(manifest)) return dirname(realpathSync(manifest));
  }
  throw new Error('the tests do not lie inside of the project');
}

/** The full path of a program, or undefined. */
export function findProgram(name: string): string | undefined {
  for (const directory of programPath.split(':')) {
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this directory.
    }
  }
  return undefined;
}

/** For tap's `skip`: device files that a test reads and writes. */
export function skipUnlessUsable(...paths: readonly string[]): string | false {
  for (const path of paths) {
    try {
      accessSync(path, constants.R_OK | constants.W_OK);
    } catch {
      return skipUnless(false, `no ${path}`);
    }
  }
  return false;
}

/** For tap's `skip`: a sentence naming what is missing, or false. Never skips where everything is required. */
export function skipUnlessInstalled(...programs: readonly string[]): string | false {
  const missing = programs.filter(name => findProgram(name) === undefined);
  return skipUnless(missing.length === 0, `not installed: ${missing.join(', ')}`);
}

/** For tap's `skip`, about anything else that a machine may lack. */
export function skipUnless(condition: boolean, reason: string): string | false {
  return condition || everythingRequired ? false : reason;
}

/** A directory of the test's own, removed with all that it holds when the test ends. */
export function temporaryDirectory(test: Cleaner): string {
  const path = mkdtempSync(join(tmpdir(), 'sledge-test-'));
  test.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export function startProgram(program: string, args: readonly string[], options: RunOptions = {}): ChildProcess {
  return spawn(program, args, {
    cwd: options.directory,
    env: { ...process.env, PATH: programPath, LC_ALL: 'C.UTF-8', ...options.environment },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
}

/** Runs a program to its end and gives its outputs, whatever its exit code. Rejects only when it cannot be started. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return new Promise((resolve, reject) => {
    const child = startProgram(program, args, options);
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, options.timeoutMs ?? 30_000);
    child.stdout!.on('data', (data: Buffer) => stdout.push(data));
    child.stderr!.on('data', (data: Buffer) => stderr.push(data));
    // A program that does not read its input to the end is no failure of the test.
    child.stdin!.on('error', () => {});
    child.stdin!.end(options.input ?? '');
    child.once('error', error => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      resolve({
        code: code ?? 128 + (signal === 'SIGKILL' ? 9 : 15),
        stdout: Buffer.concat(stdout).toString(),
        stderr: Buffer.concat(stderr).toString(),
        timedOut,
      });
    });
  });
}

/** Runs a program that has to succeed, and gives its standard output. */
export async function runOk(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await run(program, args, options);
  if (result.code !== 0) throw new Error(describeFailure(program, args, result));
  return result.stdout;
}

export function describeFailure(program: string, args: readonly string[], result: RunResult): string {
  const end = result.timedOut ? 'ran into its time limit' : `ended with ${result.code}`;
  return [`${program} ${args.join(' ')} ${end}`, tail(result.stderr), tail(result.stdout)].join('\n');
}

function tail(text: string): string {
  return text.slice(-4000).trimEnd();
}

/**
 * Runs Python in nbdsh, with `h` a fresh libnbd handle and `emit(value)` printing one JSON line; gives what was emitted.
 * `attempt(function, *args)` calls it and gives "ok", or the name of the errno that it failed with.
 */
export async function nbdsh(script: string, options: RunOptions = {}): Promise<unknown[]> {
  const prelude = `
import json, errno
def emit(value):
    print(json.dumps(value), flush=True)
def attempt(function, *args, **named):
    try:
        function(*args, **named)
        return "ok"
    except nbd.Error as failure:
        return failure.errno or "no errno: " + failure.string
`;
  const output = await runOk('nbdsh', ['-c', '-'], { ...options, input: prelude + script });
  return output
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line) as unknown);
}

/**
 * Content that is cheap to make, different in each 4 KiB block, and the same for the same seed. `holes` leaves every
 * block out for which it says so, so that the file is sparse there.
 */
export async function writePatternFile(
  path: string,
  sizeBytes: number,
  seed: number,
  isHole: (block: number) => boolean = () => false,
): Promise<void> {
  const file: FileHandle = await open(path, 'w');
  try {
    await file.truncate(sizeBytes);
    const block = new Uint32Array(1024);
    for (let number = 0; number * 4096 < sizeBytes; number++) {
      if (isHole(number)) continue;
      fillPattern(block, seed, number);
      const length = Math.min(4096, sizeBytes - number * 4096);
      await file.write(new Uint8Array(block.buffer, 0, length), 0, length, number * 4096);
    }
  } finally {
    await file.close();
  }
}

function fillPattern(words: Uint32Array, seed: number, blockNumber: number): void {
  // xorshift32: any state but 0 will do, and neighbouring blocks are to start far from each other.
  let state = (Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(blockNumber + 1, 0x85ebca6b)) | 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
}

export function checksumFile(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const hash = createHash('sha256');
    createReadStream(path)
      .on('data', data => hash.update(data))
      .on('error', reject)
      .on('end', () => resolve(hash.digest('hex')));
  });
}

/** Waits until `condition` holds, looking every 20 ms. */
export async function waitUntil(condition: () => boolean, timeoutMs: number, what: string): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}
