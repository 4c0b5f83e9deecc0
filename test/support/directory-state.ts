/** Tells whether anything in a data directory has been changed. Used by the tests of `sledge check` and its repair. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Everything that a check could have changed, but for the table of LMDB's readers, which every reader enters. */
export function look(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter(name => !name.endsWith('.lmdb-lock'))
    .sort()
    .map(name => [name, statSync(join(directory, name))] as const)
    .map(([name, { size, mtimeMs }]) => `${name} ${size} ${mtimeMs}`);
}
