/**
 * The first bytes of a device: whose it is and how it is cut into columns. Written once when the device is taken, and
 * again when it has grown; two copies, a block apart, so that a torn write leaves one that is whole.
 *
 *  offset  bytes  field (little-endian)
 *       0      8  magic "SLEDGE\r\n": a text-mode transfer or a wiped start is told apart from another file system
 *       8      4  format version, 1
 *      12      4  CRC32C of the block with this field 0
 *      16     16  identity of the node
 *      32     16  identity of the device
 *      48      4  number of the device within its node
 *      52      4  column length in MiB
 *      56      8  position of the first column in bytes
 *      64      8  count of columns
 *      72      8  serial number of this copy: the higher one of two valid copies counts
 *     …4096       zeroes
 */
import { assert } from '../base/assert.ts';
import type { Checksums } from '../base/checksum.ts';
import { identityBytes, identityText } from '../base/identity.ts';
import { getUint64, putUint64 } from '../base/little-endian.ts';
import { BLOCK_BYTES, MIB } from '../base/units.ts';

export const SUPERBLOCK_VERSION = 1;
/** Positions of the two copies; everything before the first column is kept free for the device's own tables. */
export const SUPERBLOCK_POSITIONS: readonly number[] = [0, 64 * 1024];
export const FIRST_COLUMN_POSITION = 1 * MIB;

const MAGIC = Uint8Array.from([0x53, 0x4c, 0x45, 0x44, 0x47, 0x45, 0x0d, 0x0a]);

export interface Superblock {
  /** 16 bytes each, as 32 hexadecimal digits. */
  readonly node: string;
  readonly device: string;
  readonly number: number;
  readonly columnBytes: number;
  readonly firstColumn: number;
  readonly columnCount: number;
  readonly serial: number;
}

export type SuperblockVerdict =
  | { readonly kind: 'valid'; readonly superblock: Superblock }
  | { readonly kind: 'blank' }
  | { readonly kind: 'foreign' }
  | { readonly kind: 'damaged' }
  | { readonly kind: 'version'; readonly version: number };

/** Fills the block at the start of `bytes`, 4096 long. */
export function encodeSuperblock(superblock: Superblock, bytes: Uint8Array, checksums: Checksums): void {
  assert(superblock.columnBytes % MIB === 0, 'columns are whole MiB');
  bytes.fill(0, 0, BLOCK_BYTES);
  bytes.set(MAGIC, 0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, BLOCK_BYTES);
  view.setUint32(8, SUPERBLOCK_VERSION, true);
  bytes.set(identityBytes(superblock.node), 16);
  bytes.set(identityBytes(superblock.device), 32);
  view.setUint32(48, superblock.number, true);
  view.setUint32(52, superblock.columnBytes / MIB, true);
  putUint64(view, 56, superblock.firstColumn);
  putUint64(view, 64, superblock.columnCount);
  putUint64(view, 72, superblock.serial);
  view.setUint32(12, checksums.checksum(bytes, 0, BLOCK_BYTES, 0), true);
}

/** Judges one copy; `blank` is all zeroes, `foreign` is somebody else's data. */
export function decodeSuperblock(bytes: Uint8Array, checksums: Checksums): SuperblockVerdict {
  const block = bytes.slice(0, BLOCK_BYTES);
  if (block.every(byte => byte === 0)) return { kind: 'blank' };
  if (MAGIC.some((byte, i) => block[i] !== byte)) return { kind: 'foreign' };
  const view = new DataView(block.buffer);
  const version = view.getUint32(8, true);
  const stored = view.getUint32(12, true);
  view.setUint32(12, 0, true);
  if (checksums.checksum(block, 0, BLOCK_BYTES, 0) !== stored) return { kind: 'damaged' };
  if (version !== SUPERBLOCK_VERSION) return { kind: 'version', version };
  return {
    kind: 'valid',
    superblock: {
      node: identityText(block.subarray(16, 32)),
      device: identityText(block.subarray(32, 48)),
      number: view.getUint32(48, true),
      columnBytes: view.getUint32(52, true) * MIB,
      firstColumn: getUint64(view, 56),
      columnCount: getUint64(view, 64),
      serial: getUint64(view, 72),
    },
  };
}

/** Of two judged copies, what the device is: the newest valid copy, else the verdict that calls for most care. */
export function judgeCopies(copies: readonly SuperblockVerdict[]): SuperblockVerdict {
  let best: Superblock | undefined;
  for (const copy of copies) {
    if (copy.kind === 'valid' && (best === undefined || copy.superblock.serial > best.serial)) best = copy.superblock;
  }
  if (best !== undefined) return { kind: 'valid', superblock: best };
  for (const kind of ['version', 'damaged', 'foreign'] as const) {
    const found = copies.find(copy => copy.kind === kind);
    if (found !== undefined) return found;
  }
  return { kind: 'blank' };
}
