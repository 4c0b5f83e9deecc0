/** How much memory there is for this process. */
import { totalmem } from 'node:os';

/** Of the machine, or what the process's control group may take where that is less. */
export function memoryBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}
