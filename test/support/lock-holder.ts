/**
 * A process that holds the lock of a file until it is told to let go, or killed: a server that is slow to end, or another
 * program. `holdLock` starts it; as a program it takes the file's path.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { lockFile } from '../../src/platform/file-lock.ts';
import type { Cleaner } from './nbd-programs.ts';

export interface LockHolder {
  readonly pid: number;
  /** It lets go of the lock, and ends. */
  release(): Promise<void>;
}

/** Resolves when the lock is held. */
export async function holdLock(test: Cleaner, path: string): Promise<LockHolder> {
  const child: ChildProcess = spawn(process.execPath, [fileURLToPath(import.meta.url), path], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit');
  test.teardown(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const [said] = await once(child.stdout!, 'data');
  if (String(said) !== 'held') throw new Error(`the lock of ${path} is not held: ${said}`);
  return {
    pid: child.pid!,
    async release() {
      child.stdin!.end();
      await ended;
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const fd = openSync(process.argv[2], 'r');
  lockFile(fd);
  writeSync(1, 'held');
  process.stdin.resume().once('end', () => closeSync(fd));
}
