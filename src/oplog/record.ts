/**
 * The record of one operation in the op log. The log appends records, recovery reads them back; nothing else knows
 * their bytes. Integers are little-endian; 64-bit ones are written as two halves, low first.
 *
 *  offset  bytes  field
 *       0      4  magic "SLRC"
 *       4      1  format version, 1
 *       5      1  kind (see RecordKind)
 *       6      2  flags, 0
 *       8      4  length of the record in bytes, header and padding included; a multiple of 16
 *      12      4  CRC32C of the header (with this field 0) and the descriptors, begun with a seed of the node: data that
 *                 clients write lies in recycled segments as well, and cannot pass for records
 *      16      8  position of the record in the log: a stale record of a recycled segment cannot pass for a new one
 *      24      4  epoch in which it was written: never falls along the log, so what a cut-off tail left behind cannot
 *                 be taken for a continuation of what was written after it
 *      28      4  volume number, 0 for records of the log itself
 *      32      8  op number
 *      40      8  position up to which the log (and bulk data it names) was durable when this record was written
 *      48      8  first block of the range (bulk: first chunk; resize: the new size in blocks)
 *      56      8  count of blocks (bulk: of chunks)
 *      64         descriptors
 *                   write: a checksum (4 bytes) for each block, zero-padded to 16
 *                   bulk:  for each chunk its location (8) and a checksum (4) for each of its blocks, padded to 16
 *              …  write: the data of the blocks
 *
 * The header's CRC covers the block checksums and those cover the data, so a record is verified without a pass of its
 * own over the data, and the same checksums travel on into the overlay and the index.
 */
import type { Checksums } from '../base/checksum.ts';
import { getUint64, putUint64 } from '../base/little-endian.ts';
import type { BlockNumber, Epoch, LogPosition, OpNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES, roundUp } from '../base/units.ts';

export const RECORD_MAGIC = 0x43524c53;
export const RECORD_VERSION = 1;
export const RECORD_HEADER_BYTES = 64;
export const RECORD_ALIGNMENT_BYTES = 16;

/** What an operation does. The numbers are on disk. */
export const RecordKind = {
  /** Fills the rest of a segment: the next record is at the start of the next one. */
  end: 0,
  write: 1,
  /** Whole chunks whose data went straight to fresh slots. */
  bulk: 2,
  zero: 3,
  trim: 4,
  /** The volume has a new size. */
  resize: 5,
  /** Of the log itself: says how far it was durable, and nothing else. */
  mark: 6,
} as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

/** A record's header, as parsed or as about to be written; a reused object. */
export interface RecordHeader {
  kind: RecordKind;
  recordBytes: number;
  position: LogPosition;
  epoch: Epoch;
  volume: VolumeNumber;
  op: OpNumber;
  durable: LogPosition;
  first: BlockNumber;
  count: number;
}

export function emptyHeader(): RecordHeader {
  return {
    kind: RecordKind.end,
    recordBytes: 0,
    position: 0 as LogPosition,
    epoch: 0 as Epoch,
    volume: 0 as VolumeNumber,
    op: 0 as OpNumber,
    durable: 0 as LogPosition,
    first: 0 as BlockNumber,
    count: 0,
  };
}

/** Where the data of a write record of `count` blocks begins, from the start of the record. */
export function writeDataOffset(count: number): number {
  return RECORD_HEADER_BYTES + roundUp(count * 4, RECORD_ALIGNMENT_BYTES);
}

/** Length of the record of a write of `count` blocks. */
export function writeRecordBytes(count: number): number {
  return writeDataOffset(count) + count * BLOCK_BYTES;
}

/** Length of the record of `count` chunks of `blocksPerChunk` blocks that went to fresh slots. */
export function bulkRecordBytes(count: number, blocksPerChunk: number): number {
  return RECORD_HEADER_BYTES + roundUp(count * (8 + 4 * blocksPerChunk), RECORD_ALIGNMENT_BYTES);
}

/** Bytes of the header and the descriptors: what the header's CRC covers. */
export function coveredBytes(header: RecordHeader): number {
  if (header.kind === RecordKind.write) return writeDataOffset(header.count);
  if (header.kind === RecordKind.bulk) return header.recordBytes;
  return RECORD_HEADER_BYTES;
}

/**
 * Writes the header at `offset` and seals header and descriptors with their CRC. The descriptors must be in place:
 * for a write, its checksums; for bulk, locations and checksums.
 */
export function sealRecord(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  header: RecordHeader,
  checksums: Checksums,
): void {
  view.setUint32(offset, RECORD_MAGIC, true);
  view.setUint32(offset + 4, RECORD_VERSION | (header.kind << 8), true);
  view.setUint32(offset + 8, header.recordBytes, true);
  view.setUint32(offset + 12, 0, true);
  putUint64(view, offset + 16, header.position);
  view.setUint32(offset + 24, header.epoch, true);
  view.setUint32(offset + 28, header.volume, true);
  putUint64(view, offset + 32, header.op);
  putUint64(view, offset + 40, header.durable);
  putUint64(view, offset + 48, header.first);
  putUint64(view, offset + 56, header.count);
  view.setUint32(offset + 12, checksums.checksum(bytes, offset, coveredBytes(header), 0), true);
}

export type ParsedRecord = 'valid' | 'incomplete' | 'invalid';

const KINDS: ReadonlySet<number> = new Set(Object.values(RecordKind));

/**
 * Parses the record at `offset`, of which at most `available` bytes are there and which is to be at `position` of the
 * log. `incomplete`: its header and descriptors reach beyond what is available (`header.recordBytes` says how far).
 * `invalid`: no record of this position stands here. The data of a write is not looked at.
 */
export function parseRecord(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  available: number,
  position: number,
  segmentRemaining: number,
  header: RecordHeader,
  checksums: Checksums,
): ParsedRecord {
  if (segmentRemaining < RECORD_HEADER_BYTES) return 'invalid';
  if (available < RECORD_HEADER_BYTES) {
    header.recordBytes = RECORD_HEADER_BYTES;
    return 'incomplete';
  }
  if (view.getUint32(offset, true) !== RECORD_MAGIC) return 'invalid';
  const versionAndKind = view.getUint32(offset + 4, true);
  const kind = (versionAndKind >>> 8) & 0xff;
  if ((versionAndKind & 0xffff00ff) !== RECORD_VERSION || !KINDS.has(kind)) return 'invalid';
  header.kind = kind as RecordKind;
  header.recordBytes = view.getUint32(offset + 8, true);
  header.position = getUint64(view, offset + 16) as LogPosition;
  header.epoch = view.getUint32(offset + 24, true) as Epoch;
  header.volume = view.getUint32(offset + 28, true) as VolumeNumber;
  header.op = getUint64(view, offset + 32) as OpNumber;
  header.durable = getUint64(view, offset + 40) as LogPosition;
  header.first = getUint64(view, offset + 48) as BlockNumber;
  header.count = getUint64(view, offset + 56);
  if (header.position !== position) return 'invalid';
  if (header.recordBytes < RECORD_HEADER_BYTES || header.recordBytes > segmentRemaining) return 'invalid';
  if (header.recordBytes % RECORD_ALIGNMENT_BYTES !== 0) return 'invalid';
  if (header.kind === RecordKind.write) {
    // The count is checked against the length before any arithmetic on it can run away.
    if (header.count === 0 || header.count > header.recordBytes / BLOCK_BYTES) return 'invalid';
    if (writeRecordBytes(header.count) !== header.recordBytes) return 'invalid';
  }
  const covered = coveredBytes(header);
  if (available < covered) return 'incomplete';
  const stored = view.getUint32(offset + 12, true);
  view.setUint32(offset + 12, 0, true);
  const actual = checksums.checksum(bytes, offset, covered, 0);
  view.setUint32(offset + 12, stored, true);
  return actual === stored ? 'valid' : 'invalid';
}

/** Bytes from one chunk's descriptor to the next within a bulk record. */
export function bulkStride(blocksPerChunk: number): number {
  return 8 + 4 * blocksPerChunk;
}

/** Writes the descriptor of the `index`-th chunk of a bulk record that starts at `offset`. */
export function putBulkDescriptor(
  view: DataView,
  offset: number,
  index: number,
  location: number,
  sums: Uint32Array,
): void {
  let at = offset + RECORD_HEADER_BYTES + index * bulkStride(sums.length);
  putUint64(view, at, location);
  at += 8;
  for (let i = 0; i < sums.length; i++) view.setUint32(at + i * 4, sums[i], true);
}

/** Reads the descriptor of the `index`-th chunk: fills `sums` and returns the location. */
export function getBulkDescriptor(view: DataView, offset: number, index: number, sums: Uint32Array): number {
  const at = offset + RECORD_HEADER_BYTES + index * bulkStride(sums.length);
  for (let i = 0; i < sums.length; i++) sums[i] = view.getUint32(at + 8 + i * 4, true);
  return getUint64(view, at);
}
