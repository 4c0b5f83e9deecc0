/** A directory for one test, gone when the test ends. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export function temporaryDirectory(test: { teardown(callback: () => void): unknown }): string {
  const path = mkdtempSync(join(tmpdir(), 'sledge-test-'));
  test.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}
