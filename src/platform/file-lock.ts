/** flock(2), by way of fs-ext: locks that the kernel drops with the process, whatever it dies of. */
import { createRequire } from 'node:module';

interface FsExt {
  flockSync(fd: number, flags: 'exnb'): void;
}

/** Takes the exclusive lock of an open file, held until `fd` is closed. Throws EWOULDBLOCK when another one holds it. */
export function lockFile(fd: number): void {
  const { flockSync } = createRequire(import.meta.url)('fs-ext') as FsExt;
  flockSync(fd, 'exnb');
}
