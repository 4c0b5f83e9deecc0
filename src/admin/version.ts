/** The version of this Sledge, as its package says: for `sledge --version` and the status of a node. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

let version: string | undefined;

export function sledgeVersion(): string {
  version ??= (JSON.parse(readFileSync(packageFile(), 'utf8')) as { version: string }).version;
  return version;
}

/** The nearest one above: how deep compiled files lie below it is for the compiler's settings to say. */
function packageFile(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json')) && directory !== '/') directory = dirname(directory);
  return join(directory, 'package.json');
}
