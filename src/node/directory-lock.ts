/**
 * The lock of a data directory, which one process at a time holds until it closes the descriptor or ends. A server
 * writes its pid into the file when it has the lock; what only reads the directory holds it without a word. So the pid
 * that stands there may be that of a server that is gone: who holds the lock now, only the kernel knows.
 */
import { closeSync, existsSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { SledgeError } from '../base/errors.ts';
import { lockFile, lockHolder } from '../platform/file-lock.ts';

/** For a server. Throws `not-a-data-directory` or `data-in-use`. */
export function lockForServing(path: string): number {
  const file = join(path, 'lock');
  let lock: number;
  try {
    lock = openSync(file, 'a+', 0o600);
  } catch (cause) {
    throw new SledgeError('not-a-data-directory', `${file} cannot be opened: ${textOf(cause)}`, { cause });
  }
  lockOrClose(path, file, lock);
  ftruncateSync(lock);
  writeSync(lock, `${process.pid}\n`);
  return lock;
}

/**
 * Locks a directory that is there, without changing anything in it, until the descriptor is closed; undefined when there
 * is no lock file. Throws `not-a-data-directory` or `data-in-use`.
 */
export function lockForReading(path: string): number | undefined {
  if (!existsSync(join(path, 'node.json'))) {
    const hint = 'Name a directory that `sledge serve` has made.';
    throw new SledgeError('not-a-data-directory', `${path} has no node.json`, { hint });
  }
  const file = join(path, 'lock');
  let lock: number;
  try {
    lock = openSync(file, 'r');
  } catch (cause) {
    if (!existsSync(file)) return undefined;
    throw new SledgeError('not-a-data-directory', `${file} cannot be opened: ${textOf(cause)}`, { cause });
  }
  lockOrClose(path, file, lock);
  return lock;
}

/**
 * Locks a directory that is there, as a server would, for changes of what is in it. Makes the lock file where it is
 * missing: whoever starts meanwhile has to find it. Throws as `lockForReading` does.
 */
export function lockForRepair(path: string): { readonly lock: number; readonly made: boolean } {
  const found = lockForReading(path);
  return found === undefined ? { lock: lockForServing(path), made: true } : { lock: found, made: false };
}

function lockOrClose(path: string, file: string, lock: number): void {
  try {
    lockFile(lock);
  } catch (cause) {
    const text = readFileSync(file, 'utf8').trim();
    const recorded = /^\d+$/.test(text) ? Number(text) : undefined;
    const user = userOf(lockHolder(lock), recorded, recorded !== undefined && isAlive(recorded));
    closeSync(lock);
    const options = user.isServer ? { cause } : { cause, hint: PROCESS_HINT };
    throw new SledgeError('data-in-use', `${path} is in use by ${user.name}`, options);
  }
}

const PROCESS_HINT = 'Stop that process or wait until it has ended, or give another --data directory.';

/** Who uses the directory, told by who holds the lock now, where that is known, and by the pid on record. */
export function userOf(holder: number | undefined, recorded: number | undefined, isRecordedAlive: boolean) {
  if (holder !== undefined) {
    if (holder === recorded) return { name: `the server with pid ${holder}`, isServer: true };
    // A check, or a server that has not come to writing its pid.
    return { name: `process ${holder}`, isServer: false };
  }
  // One that is alive may have that pid by chance: only that it stands there is sure.
  return { name: `another process${isRecordedAlive ? ` (the lock file names ${recorded})` : ''}`, isServer: false };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
