/**
 * Gives back all that a deleted volume has. The node calls it once nobody can reach the volume any more and `deleting` is on
 * record: after a crash or a stop the next start calls it again.
 *
 * Invariants:
 * - The overlay forgets the volume first, so that no destage brings anything of it into the index again.
 * - Between two batches the destage has its turn: no writer waits for a large volume to be gone.
 * - The volume's own entry goes last, when no chunk is left that it would be needed for.
 */
import { errnoName } from '../base/errno.ts';
import { completion } from '../base/io-wait.ts';
import { indexRemovalGrowthBytes } from '../base/limits.ts';
import type { Volume } from '../volume/volume.ts';
import type { Destage } from './destage.ts';
import { DestageStuck, DevicesFull } from './destage-store.ts';
import type { Head } from './head.ts';

/**
 * Its slots come free with the log's next cut. Rejects with `DestageStuck`, or with `shutting-down` when the destage stops
 * meanwhile.
 */
export async function purge(head: Head, destage: Destage, volume: Volume): Promise<void> {
  await destage.exclusively(async () => head.forgetOverlay(volume));
  const end = Math.ceil(volume.sizeBytes / volume.chunkBytes);
  for (let from = 0; from < end; ) {
    from = await destage.exclusively(() => destage.removeIndexed(volume, from, end));
  }
  await destage.exclusively(async () => {
    if (!head.index.hasRoom(indexRemovalGrowthBytes)) throw new DevicesFull('the file system of the index is full');
    const transaction = head.index.begin();
    transaction.removeVolume(volume.number);
    const result = await completion(request => transaction.commit(request));
    if (result < 0) throw new DestageStuck(`the index cannot be written: ${errnoName(result)}`, 'for good');
    head.removeVolume(volume);
  });
}
