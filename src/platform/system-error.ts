/** Turns what the system says (an errno, or an exception of node:fs) into an error of the table, naming what was done. */
import { constants } from 'node:os';
import { type ErrorCode, SledgeError } from '../base/errors.ts';

const NAMES = new Map<number, string>();
for (const [name, value] of Object.entries(constants.errno)) if (!NAMES.has(value)) NAMES.set(value, name);

/** The errno of an exception of node:fs, positive; 0 where it carries none. */
export function errnoOf(error: unknown): number {
  if (!(error instanceof Error) || !('errno' in error) || typeof error.errno !== 'number') return 0;
  return Math.abs(error.errno);
}

/** `13` → `EACCES`. */
export function systemErrorName(errno: number): string {
  return NAMES.get(Math.abs(errno)) ?? `errno ${Math.abs(errno)}`;
}

/** `what` reads as the beginning of a sentence: `cannot open /dev/sdb`. */
export function systemError(code: ErrorCode, what: string, errno: number, cause?: unknown): SledgeError {
  return new SledgeError(code, `${what}: ${systemErrorName(errno)}`, cause === undefined ? undefined : { cause });
}
