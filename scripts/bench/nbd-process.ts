/** Processes that the benchmark started: what they use, and their end. Only pids that were started here come in. */
import { readdirSync, readFileSync } from 'node:fs';
import type { ServerProcess } from '../../test/support/server-process.ts';

/**
 * A server may have gigabytes to put in order before it ends, and after being killed in that it would start into a
 * recovery that the next measurement pays for.
 */
const END_MS = 120_000;

export interface StartedProcess {
  readonly pid: number;
  /** Ends it and waits for that; safe to call again. */
  stop(): Promise<void>;
}

/** What runs now, so that an interrupted benchmark leaves nothing behind. */
const running = new Set<StartedProcess>();

export async function stopProcesses(): Promise<void> {
  await Promise.all([...running].map(started => started.stop()));
}

function track(pid: number, end: () => Promise<void>): StartedProcess {
  let ending: Promise<void> | undefined;
  const started = {
    pid,
    stop() {
      ending ??= end().finally(() => running.delete(started));
      return ending;
    },
  };
  running.add(started);
  return started;
}

/** A child, with the pid that it gave for itself. */
export function childProcess(started: ServerProcess, pid: number): StartedProcess {
  return track(pid, () => endChild(started, pid));
}

/** One that is no child of this process any more, and can only be looked at. */
export function detachedProcess(pid: number): StartedProcess {
  return track(pid, () => endDetached(pid));
}

async function endChild(started: ServerProcess, pid: number): Promise<void> {
  if (started.exit !== undefined) return;
  signal(pid, 'SIGTERM');
  if ((await started.ended(END_MS)) === undefined) {
    signal(pid, 'SIGKILL');
    await started.ended(5_000);
  }
}

async function endDetached(pid: number): Promise<void> {
  signal(pid, 'SIGTERM');
  const end = performance.now() + END_MS;
  while (isAlive(pid) && performance.now() < end) await sleep(20);
  if (isAlive(pid)) signal(pid, 'SIGKILL');
}

function signal(pid: number, name: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(pid, name);
  } catch {
    // It is gone already.
  }
}

/** A process that ended but that nobody has waited for yet counts as gone: its sockets and files are closed. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** Of a process and its children. */
export function residentBytes(pid: number): number {
  return sumOfTree(pid, member => {
    const status = readFileSync(`/proc/${member}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  });
}

/** On a processor so far, of a process and its children: all threads that still run. */
export function cpuSeconds(pid: number): number {
  return sumOfTree(pid, member => {
    let nanoseconds = 0;
    for (const thread of readdirSync(`/proc/${member}/task`)) {
      nanoseconds += Number(readFileSync(`/proc/${member}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
    }
    return nanoseconds / 1e9;
  });
}

function sumOfTree(pid: number, measure: (pid: number) => number): number {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
    return children.reduce((sum, child) => sum + sumOfTree(Number(child), measure), measure(pid));
  } catch {
    // It has just ended, or the kernel does not tell.
    return 0;
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}
