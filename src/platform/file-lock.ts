/** flock(2), by way of fs-ext: locks that the kernel drops with the process, whatever it dies of. */
import { fstatSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

interface FsExt {
  flockSync(fd: number, flags: 'exnb' | 'shnb'): void;
}

/** Takes the exclusive lock of an open file, held until `fd` is closed. Throws EWOULDBLOCK when another one holds it. */
export function lockFile(fd: number): void {
  takeLock(fd, 'exnb');
}

/** Takes a lock that keeps out whoever asks for the exclusive one; in exchange for that where `fd` has it. */
export function lockFileShared(fd: number): void {
  takeLock(fd, 'shnb');
}

function takeLock(fd: number, flags: 'exnb' | 'shnb'): void {
  const { flockSync } = createRequire(import.meta.url)('fs-ext') as FsExt;
  flockSync(fd, flags);
}

/**
 * The process that holds the lock of an open file, as the kernel tells it in proc_locks(5). Undefined where it does not
 * tell: of a process in another container, and on file systems such as btrfs, whose files do not have the number of
 * their device.
 */
export function lockHolder(fd: number): number | undefined {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  let locks: string;
  try {
    locks = readFileSync('/proc/locks', 'utf8');
  } catch {
    return undefined;
  }
  return holderIn(locks, dev, ino);
}

/** Finds the holder in the text of /proc/locks; `dev` and `ino` as stat(2) gives them. */
export function holderIn(locks: string, dev: bigint, ino: bigint): number | undefined {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  const file = `${twoDigits(major)}:${twoDigits(minor)}:${ino}`;
  for (const line of locks.split('\n')) {
    // `1: FLOCK  ADVISORY  WRITE 4242 fe:00:1311 0 EOF`; who waits for it has `->` behind the number.
    const [, kind, , , pid, place] = line.split(/\s+/);
    if (kind === 'FLOCK' && place === file && Number(pid) > 0) return Number(pid);
  }
  return undefined;
}

function twoDigits(number: bigint): string {
  return number.toString(16).padStart(2, '0');
}
