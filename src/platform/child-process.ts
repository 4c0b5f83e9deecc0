/** Starting programs: the background supervisor of a device, and small tools of the system whose failure is no failure. */
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, fstatSync, openSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { EACCES, EPERM } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import { errnoOf, systemError } from './system-error.ts';

/** The child writes one line to this descriptor when it is ready, or cannot become so. */
export const READY_DESCRIPTOR = 3;
/** A log that is longer is begun anew. */
const LOG_BYTES_MAX = 1024 * 1024;

/**
 * Starts a process that outlives this one, away from any directory that may be unmounted, with its outputs appended to a
 * log. Gives the first line that it writes to READY_DESCRIPTOR; rejects with `io` where it ends without one. To a service
 * manager it says nothing: where there is one, it waits for this process.
 */
export async function startInBackground(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  logPath: string,
): Promise<string> {
  const log = openLog(logPath);
  const { NOTIFY_SOCKET: _, ...inherited } = env;
  const child = spawn(program, args, {
    detached: true,
    stdio: ['ignore', log, log, 'pipe'],
    env: inherited,
    cwd: '/',
  });
  closeSync(log);
  const ended = new Promise<string>(resolve => {
    child.once('error', error => resolve(error.message));
    child.once('exit', (code, signal) => resolve(`it ended with ${signal ?? code}`));
  });
  const pipe = child.stdio[READY_DESCRIPTOR] as Readable;
  let text = '';
  for await (const piece of pipe) {
    text += (piece as Buffer).toString();
    if (text.includes('\n')) break;
  }
  if (!text.includes('\n')) {
    throw new SledgeError('io', `the supervisor did not start: ${await ended}`, { hint: `Its log is ${logPath}.` });
  }
  pipe.destroy();
  child.unref();
  return text.slice(0, text.indexOf('\n'));
}

/** Runs a program to its end; false where it is missing or fails. */
export function runTool(program: string, ...args: string[]): boolean {
  return spawnSync(program, args, { stdio: 'ignore', timeout: 20_000 }).status === 0;
}

/** Appended to, and begun anew once it is long. */
function openLog(path: string): number {
  try {
    const fd = openSync(path, 'a', 0o644);
    if (fstatSync(fd).size < LOG_BYTES_MAX) return fd;
    closeSync(fd);
    return openSync(path, 'w', 0o644);
  } catch (error) {
    const errno = errnoOf(error);
    const code = errno === EPERM || errno === EACCES ? 'not-permitted' : 'io';
    throw systemError(code, `the log ${path} cannot be written`, errno, error);
  }
}
