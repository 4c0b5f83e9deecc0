/**
 * The program that `index-store.test.ts` kills: commits transaction after transaction, each of which replaces the same
 * chunks, and prints a transaction's number once it is told that it is durable.
 */
import { writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Epoch, LogPosition } from '../../src/base/units.ts';
import { LmdbIndex } from '../../src/platform/lmdb-index.ts';
import { CHUNKS_PER_COMMIT, chunkEntry, commit, volume } from './index-store-contract.ts';

async function write(directory: string, first: number): Promise<void> {
  const index = new LmdbIndex(directory);
  for (let number = first; ; number++) {
    const transaction = index.begin();
    for (let chunk = 0; chunk < CHUNKS_PER_COMMIT; chunk++) {
      transaction.putChunk(volume(1), chunk * 2 ** 33, chunkEntry(number, 16 + (chunk % 3) * 100));
    }
    transaction.putState({ cut: (number * 16) as LogPosition, epoch: number as Epoch });
    transaction.putNextVolume(volume(number));
    await commit(transaction);
    writeSync(1, `${number}\n`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await write(process.argv[2], Number(process.argv[3]));
