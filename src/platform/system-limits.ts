/** How much of what there is this process may have. */
import { readFileSync } from 'node:fs';
import { totalmem } from 'node:os';

/** Memory of the machine, or what the process's control group may take where that is less. */
export function memoryBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

/** Files, sockets included, that the process may have open at a time: RLIMIT_NOFILE, which Node raises as far as it may. */
export function openFilesMax(): number {
  const limit = /^Max open files +(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return limit === undefined || limit === 'unlimited' ? Number.MAX_SAFE_INTEGER : Number(limit);
}
