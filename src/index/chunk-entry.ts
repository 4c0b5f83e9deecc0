/**
 * What the index knows of one chunk: where it lies, the op number of its last write, and the checksum of each block.
 * The index stores it, the volume reads by it, the destage replaces it.
 *
 *  offset  bytes  field of the stored form (little-endian; 64-bit values low half first)
 *       0      8  op number of the last operation on the chunk that mass storage has
 *       8      8  location of its slot
 *      16    4·n  checksum of each of the n blocks; 0 where a block was never written and reads as zeroes
 */
import { assert } from '../base/assert.ts';
import { NO_SUM } from '../base/checksum.ts';
import { getUint64, putUint64 } from '../base/little-endian.ts';
import type { Location } from '../base/location.ts';
import type { OpNumber } from '../base/units.ts';

/** One chunk that has a slot. Never changed once it is in use: a new state is a new entry. */
export interface ChunkEntry {
  readonly op: OpNumber;
  readonly location: Location;
  readonly sums: Uint32Array;
}

export function entryBytes(blocksPerChunk: number): number {
  return 16 + 4 * blocksPerChunk;
}

export function encodeEntry(entry: ChunkEntry): Uint8Array {
  const bytes = new Uint8Array(entryBytes(entry.sums.length));
  const view = new DataView(bytes.buffer);
  putUint64(view, 0, entry.op);
  putUint64(view, 8, entry.location);
  for (let i = 0; i < entry.sums.length; i++) view.setUint32(16 + 4 * i, entry.sums[i], true);
  return bytes;
}

/** Decodes what `encodeEntry` made; `bytes` may be of memory that is used again afterwards. */
export function decodeEntry(bytes: Uint8Array): ChunkEntry {
  assert(bytes.length >= 16 && bytes.length % 4 === 0, 'an index entry has its length');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const sums = new Uint32Array((bytes.length - 16) / 4);
  for (let i = 0; i < sums.length; i++) sums[i] = view.getUint32(16 + 4 * i, true);
  return { op: getUint64(view, 0) as OpNumber, location: getUint64(view, 8) as Location, sums };
}

/** Whether no block of the chunk holds data. */
export function isEmpty(sums: Uint32Array): boolean {
  for (let i = 0; i < sums.length; i++) if (sums[i] !== NO_SUM) return false;
  return true;
}
