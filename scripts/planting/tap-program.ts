/**
 * Runs one compiled test file to its end, or to the first thing that it finds wrong: then it has said what it is asked
 * for, and is ended. It is a process group of its own, which is gone when the call has returned.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { TapCounter } from '../tap-count.ts';

export interface TapResult {
  readonly outcome: 'passed' | 'failed' | 'timed out';
  /** Of the first failure: its path of test names, and what else it said. */
  readonly name: string;
  readonly details: readonly string[];
  /** Comments at the top level, which is where a test says what no assertion is about. */
  readonly comments: readonly string[];
}

/** Enough for the lines that explain a failure to arrive behind it; and for a line that is waited for. */
const LINGER_MS = 100;
const AWAITED_MS = 5000;

let running: ChildProcess | undefined;

/** Ends the program that is running, if one is: for whoever is told to stop. */
export function endRunning(): void {
  if (running !== undefined) endGroup(running);
}

function endGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // Nothing of the group is left.
  }
}

/** After a failure the program goes on until it has said a line that is `awaited`, or for some seconds. */
export async function runTap(
  file: string,
  directory: string,
  environment: Readonly<Record<string, string>>,
  timeoutMs: number,
  awaited?: RegExp,
): Promise<TapResult> {
  const child = spawn(process.execPath, ['--enable-source-maps', file], {
    cwd: directory,
    env: { ...process.env, ...environment, TAP_TIMEOUT: '0' },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running = child;
  const counter = new TapCounter();
  const comments: string[] = [];
  const errorLines: string[] = [];
  let timedOut = false;
  const timeout = setTimeout(() => {
    timedOut = true;
    endGroup(child);
  }, timeoutMs);
  let ending: NodeJS.Timeout | undefined;
  let isSaid = awaited === undefined;
  const endIn = (milliseconds: number) => {
    clearTimeout(ending);
    ending = setTimeout(() => endGroup(child), milliseconds);
  };
  createInterface({ input: child.stdout }).on('line', line => {
    if (line.startsWith('# ')) comments.push(line.slice(2));
    counter.line(line);
    if (counter.counts.failed === 0) return;
    const isAwaited = !isSaid && awaited?.test(line) === true;
    if (isAwaited || ending === undefined) endIn(isSaid || isAwaited ? LINGER_MS : AWAITED_MS);
    isSaid ||= isAwaited;
  });
  createInterface({ input: child.stderr }).on('line', line => {
    if (errorLines.length < 40) errorLines.push(line);
  });
  const code = await new Promise<number | null>(resolve => {
    child.once('error', () => resolve(-1));
    child.once('close', resolve);
  });
  clearTimeout(timeout);
  clearTimeout(ending);
  endGroup(child);
  running = undefined;
  const failed = counter.notices.find(notice => notice.kind === 'failed');
  if (failed !== undefined) return { outcome: 'failed', name: failed.name, details: failed.details, comments };
  if (timedOut) return { outcome: 'timed out', name: '', details: [], comments };
  counter.end(code === 0, `exit code ${code}`);
  if (counter.counts.failed === 0) return { outcome: 'passed', name: '', details: [], comments };
  return { outcome: 'failed', name: `exit code ${code}`, details: errorLines, comments };
}
