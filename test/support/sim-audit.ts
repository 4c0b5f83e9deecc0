/** Compares what the parts of a node know of each other, when everything is answered and destaged. */
import { columnBytes } from '../../src/base/limits.ts';
import { locationOf } from '../../src/base/location.ts';
import type { Head } from '../../src/head/head.ts';
import { FIRST_COLUMN_POSITION } from '../../src/sled/superblock.ts';
import type { IndexContents } from './memory-index.ts';

/** Says what does not agree. */
export function compareParts(
  head: Head,
  contents: IndexContents,
  options: { readonly devices: number; readonly columnsPerDevice: number },
): string[] {
  const wrong: string[] = [];
  if (head.overlay.blockCount + head.overlay.chunkCount > 0) {
    wrong.push(`the overlay holds ${head.overlay.blockCount} blocks, ${head.overlay.chunkCount} chunks`);
  }
  if (head.overlay.fill > 0) wrong.push(`rows of the overlay stay reserved: ${head.overlay.fill}`);
  if (head.slots.retiredCount > 0) wrong.push(`${head.slots.retiredCount} slots are retired still`);
  const named = new Set<number>();
  for (const [number, chunks] of contents.chunks) {
    const volume = head.volume(number);
    if (volume === undefined) {
      if (chunks.size > 0) wrong.push(`${chunks.size} chunks of a volume that is gone`);
      continue;
    }
    for (const [chunk, entry] of chunks) {
      if (named.has(entry.location)) wrong.push(`location ${entry.location} is of two chunks (${chunk})`);
      named.add(entry.location);
      if (chunk * volume.chunkBytes >= volume.sizeBytes) wrong.push(`chunk ${chunk} is beyond the end`);
    }
    const used = head.slots.usedBytes(number);
    if (used !== chunks.size * volume.chunkBytes) {
      wrong.push(`${volume.name} uses ${used} bytes for ${chunks.size} chunks of ${volume.chunkBytes}`);
    }
  }
  let marked = 0;
  for (const column of contents.columns.values()) {
    const device = head.sled.device(column.device);
    for (let slot = 0; slot < columnBytes / column.chunkBytes; slot++) {
      if ((column.slots[slot >>> 5] & (1 << (slot & 31))) === 0) continue;
      marked++;
      const location = locationOf(column.device, device.columnPosition(column.column) + slot * column.chunkBytes);
      if (!named.has(location)) wrong.push(`slot ${location} is marked, but no chunk is there`);
    }
  }
  if (marked !== named.size) wrong.push(`${marked} slots are marked for ${named.size} chunks`);
  const columns = new Set(
    [...named].map(location => Math.floor((location * 4096 - FIRST_COLUMN_POSITION) / columnBytes)),
  );
  const total = options.devices * options.columnsPerDevice;
  // Locations of other devices are far apart, so columns are told apart by this too.
  if (head.slots.freeColumns !== total - columns.size) {
    wrong.push(`${head.slots.freeColumns} of ${total} columns are free; ${columns.size} are in use`);
  }
  return wrong;
}
