/**
 * The program with which `index-store.test.ts` fills a disk: it commits new chunks until that fails, once more after that,
 * and prints what came of it.
 */
import { writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LmdbIndex } from '../../src/platform/lmdb-index.ts';
import { CHUNKS_PER_COMMIT, chunkEntry, volume } from './index-store-contract.ts';
import { io } from './io-support.ts';

export interface FillReport {
  readonly committed: number;
  readonly failedWith: number;
  readonly thenWith: number;
  readonly found: number;
}

async function fill(directory: string): Promise<void> {
  const index = new LmdbIndex(directory);
  const add = (round: number) => {
    const transaction = index.begin();
    for (let i = 0; i < CHUNKS_PER_COMMIT; i++) {
      transaction.putChunk(volume(1), round * CHUNKS_PER_COMMIT + i, chunkEntry(1, 16));
    }
    return io(request => transaction.commit(request));
  };
  let committed = 0;
  let failedWith = 0;
  for (; failedWith === 0; committed++) failedWith = await add(committed);
  committed--;
  const thenWith = await add(committed);
  const found = [...index.chunks(volume(1), 0, 2 ** 40, 2 ** 30)].length;
  writeSync(1, JSON.stringify({ committed, failedWith, thenWith, found } satisfies FillReport));
  // Not by an orderly end: LMDB has written beyond its memory by now (see lmdb-index.ts), which freeing it may notice.
  process.kill(process.pid, 'SIGKILL');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await fill(process.argv[2]);
