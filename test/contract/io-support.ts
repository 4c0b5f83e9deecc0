/** What the suites of files, streams and platforms share: awaiting one I/O, a seeded random source, temporary folders. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { IoRequest } from '../../src/base/io.ts';
import type { IoKind } from '../../src/platform/io-platform.ts';

export const IO_KINDS: readonly IoKind[] = ['io_uring', 'threads'];

/** Starts an I/O; resolves with its result. Rejects if it completes from inside of the call that started it. */
export function io(start: (request: IoRequest) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    let started = false;
    start({
      ioCompleted(result) {
        if (started) resolve(result);
        else reject(new Error('completed from inside of the call'));
      },
    });
    started = true;
  });
}

/** Numbers of 0 to `below` − 1, the same for the same seed (xorshift32). */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed | 1;
  return below => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** SLEDGE_TEST_SEED replays a run; else each run has its own. */
export function testSeed(): number {
  return Number(process.env['SLEDGE_TEST_SEED'] ?? Date.now() % 2 ** 31);
}

export interface TemporaryFolder {
  readonly path: string;
  join(name: string): string;
  remove(): void;
}

export function temporaryFolder(): TemporaryFolder {
  const path = mkdtempSync(join(tmpdir(), 'sledge-test-'));
  return { path, join: name => join(path, name), remove: () => rmSync(path, { recursive: true, force: true }) };
}

export function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}
