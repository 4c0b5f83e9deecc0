/**
 * Checksums of the pages of a stopped server's index. LMDB has none of its own: a bit that the disk has changed in a page
 * could make chunks read as zeroes or as other data, or end the process. A stop leaves the sums beside the index, a start
 * and `sledge check` compare them with it before LMDB opens it.
 *
 *  offset  bytes  field of index.sums (little-endian; 64-bit values low half first)
 *       0      8  magic "SLSUMS\r\n"
 *       8      4  format version, 1
 *      12      4  CRC32C of the file with this field 0: damage to the sums is told apart from damage to the index
 *      16      4  length of a page, 4096
 *      20      4  zero
 *      24      8  length of the index file in bytes
 *      32    4·n  CRC32C of each page; the last one is filled up with zeroes where the file ends within it
 *
 * Invariants:
 * - Where there is an index.sums, nobody has written to the index since: the start that finds it takes it away, durably,
 *   before LMDB opens the index, and LMDB has closed the index before it is written.
 * - It is whole or not there: it gets its name when it is on stable storage. What it speaks of is there before it.
 * - None is no error: the server was killed, or is older than this file.
 * - A start that is refused leaves one as well, if it found the index whole.
 *
 * Cost: the index is read once at a stop and once at a start, in pieces of 1 MiB: 100 MiB take about 60 ms from the page
 * cache, otherwise what the disk needs. The sums take a thousandth of the index. LMDB's file is as long as what was ever
 * written to it, so there are no holes to speak of; they would be read as zeroes.
 */
import { existsSync, rmSync } from 'node:fs';
import { type FileHandle, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Checksums } from '../base/checksum.ts';
import { SledgeError } from '../base/errors.ts';
import { getUint64, putUint64 } from '../base/little-endian.ts';
import { MIB, roundUp } from '../base/units.ts';
import { INDEX_FILE } from '../platform/lmdb-index.ts';
import { syncDirectory } from './data-directory.ts';
import type { NodeLog } from './options.ts';

export const SUMS_FILE = 'index.sums';
export const SUMS_VERSION = 1;
/** Of LMDB it may be a part or a multiple: no page of ours is half in another file. */
export const SUMS_PAGE_BYTES = 4096;
export const SUMS_HEADER_BYTES = 32;

const MAGIC = Uint8Array.from([0x53, 0x4c, 0x53, 0x55, 0x4d, 0x53, 0x0d, 0x0a]);
const PIECE_BYTES = 1 * MIB;
/** Damaged pages that are named; the others are counted. */
const NAMED_MAX = 4;

/** What a file of pages is to be like. */
export interface PageSums {
  readonly fileBytes: number;
  readonly sums: Uint32Array;
}

export type SumsVerdict =
  /** There are no sums, and nothing is known. */
  | { readonly kind: 'none' }
  | { readonly kind: 'whole' }
  /** The sums themselves cannot be used, and nothing is known of the index. */
  | { readonly kind: 'unusable'; readonly file: string; readonly why: string }
  /** The index is not what was left; `what` is a clause that says where. */
  | { readonly kind: 'damaged'; readonly file: string; readonly offsetBytes: number; readonly what: string };

export function encodeSums({ fileBytes, sums }: PageSums, checksums: Checksums): Uint8Array {
  const bytes = new Uint8Array(SUMS_HEADER_BYTES + 4 * sums.length);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC, 0);
  view.setUint32(8, SUMS_VERSION, true);
  view.setUint32(16, SUMS_PAGE_BYTES, true);
  putUint64(view, 24, fileBytes);
  for (let i = 0; i < sums.length; i++) view.setUint32(SUMS_HEADER_BYTES + 4 * i, sums[i], true);
  view.setUint32(12, checksums.checksum(bytes, 0, bytes.length, 0), true);
  return bytes;
}

/** Decodes what `encodeSums` made; else a clause that says what is wrong with it. */
export function decodeSums(encoded: Uint8Array, checksums: Checksums): PageSums | string {
  const bytes = new Uint8Array(encoded);
  if (bytes.length < SUMS_HEADER_BYTES) return 'it is too short';
  if (MAGIC.some((byte, i) => bytes[i] !== byte)) return 'it does not begin as it should';
  const view = new DataView(bytes.buffer);
  const stored = view.getUint32(12, true);
  view.setUint32(12, 0, true);
  if (checksums.checksum(bytes, 0, bytes.length, 0) !== stored) return 'it does not match its own checksum';
  const version = view.getUint32(8, true);
  if (version !== SUMS_VERSION) return `it has version ${version}; this is version ${SUMS_VERSION}`;
  const fileBytes = getUint64(view, 24);
  const count = pageCount(fileBytes);
  const shaped = view.getUint32(16, true) === SUMS_PAGE_BYTES && bytes.length === SUMS_HEADER_BYTES + 4 * count;
  if (!shaped) return 'it has not the length that it speaks of';
  const sums = new Uint32Array(count);
  for (let i = 0; i < count; i++) sums[i] = view.getUint32(SUMS_HEADER_BYTES + 4 * i, true);
  return { fileBytes, sums };
}

/**
 * Compares the index in `directory` with its sums, changing nothing. Rejects with `io` where the index cannot be read:
 * LMDB would be ended by a signal there.
 */
export async function verifyIndex(directory: string, checksums: Checksums): Promise<SumsVerdict> {
  const sumsFile = join(directory, SUMS_FILE);
  if (!existsSync(sumsFile)) return { kind: 'none' };
  const expected = await readSums(sumsFile, checksums);
  if (typeof expected === 'string') return { kind: 'unusable', file: sumsFile, why: expected };
  const file = join(directory, INDEX_FILE);
  if (!existsSync(file)) return { kind: 'damaged', file, offsetBytes: 0, what: 'it is missing' };
  return compare(file, expected, await sumPages(file, checksums));
}

/**
 * For a start, before LMDB opens the index: refuses with `corrupt` or `io` one that is not what the last stop has left;
 * else takes the sums away, durably.
 */
export async function takeIndexSums(
  directory: string,
  checksums: Checksums,
  log: Pick<NodeLog, 'warn'>,
): Promise<void> {
  const verdict = await verifyIndex(directory, checksums);
  if (verdict.kind === 'damaged') {
    const hint =
      `Restore the data directory from a backup, and check the disk. Where there is none: without ${SUMS_FILE} a server ` +
      'starts on the index as it is, but may give wrong data or end; try that on a copy of the directory.';
    throw new SledgeError('corrupt', `${verdict.file} is not what the last stop has left: ${verdict.what}`, { hint });
  }
  if (verdict.kind === 'none') return;
  if (verdict.kind === 'unusable') log.warn({ file: verdict.file }, unusableText(verdict));
  try {
    rmSync(join(directory, SUMS_FILE));
    syncDirectory(directory);
  } catch (cause) {
    throw new SledgeError('io', `${join(directory, SUMS_FILE)} cannot be taken away: ${textOf(cause)}`, { cause });
  }
}

/** For a stop, once LMDB has closed the index. Best effort: the index is whole without it, and nobody would know. */
export async function leaveIndexSums(
  directory: string,
  checksums: Checksums,
  log: Pick<NodeLog, 'warn'>,
): Promise<void> {
  const file = join(directory, INDEX_FILE);
  if (!existsSync(file)) return;
  const fresh = join(directory, `${SUMS_FILE}.new`);
  try {
    await syncFile(file);
    await writeDurably(fresh, encodeSums(await sumPages(file, checksums), checksums));
    await rename(fresh, join(directory, SUMS_FILE));
    syncDirectory(directory);
  } catch (error) {
    rmSync(fresh, { force: true });
    log.warn({ error: textOf(error) }, 'the checksums of the index were not stored: damage to it may go unnoticed');
  }
}

export function unusableText({ file, why }: { readonly file: string; readonly why: string }): string {
  return `${file} is not used: ${why}`;
}

async function readSums(file: string, checksums: Checksums): Promise<PageSums | string> {
  try {
    const handle = await open(file, 'r');
    try {
      return decodeSums(await handle.readFile(), checksums);
    } finally {
      await handle.close();
    }
  } catch (error) {
    return `it cannot be read: ${textOf(error)}`;
  }
}

async function writeDurably(file: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(file, 'w', 0o600);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncFile(file: string): Promise<void> {
  const handle = await open(file, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function sumPages(file: string, checksums: Checksums): Promise<PageSums> {
  let handle: FileHandle | undefined;
  let at = 0;
  try {
    handle = await open(file, 'r');
    const { size: fileBytes } = await handle.stat();
    const sums = new Uint32Array(pageCount(fileBytes));
    const piece = new Uint8Array(Math.min(PIECE_BYTES, roundUp(fileBytes, SUMS_PAGE_BYTES)));
    for (; at < fileBytes; at += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, fileBytes - at);
      await readWhole(handle, piece, length, at);
      const pages = pageCount(length);
      piece.fill(0, length, pages * SUMS_PAGE_BYTES);
      checksums.checksumBlocks(piece, 0, pages, sums, at / SUMS_PAGE_BYTES);
    }
    return { fileBytes, sums };
  } catch (cause) {
    throw new SledgeError('io', `${file} cannot be read at byte ${at}: ${textOf(cause)}`, { cause });
  } finally {
    await handle?.close();
  }
}

async function readWhole(handle: FileHandle, into: Uint8Array, length: number, position: number): Promise<void> {
  for (let done = 0; done < length; ) {
    const { bytesRead } = await handle.read(into, done, length - done, position + done);
    if (bytesRead === 0) throw new Error('it has become shorter');
    done += bytesRead;
  }
}

function compare(file: string, expected: PageSums, found: PageSums): SumsVerdict {
  const damaged: number[] = [];
  let count = 0;
  for (let i = 0; i < Math.min(expected.sums.length, found.sums.length); i++) {
    if (expected.sums[i] === found.sums[i]) continue;
    if (count++ < NAMED_MAX) damaged.push(i * SUMS_PAGE_BYTES);
  }
  const sameLength = expected.fileBytes === found.fileBytes;
  if (count === 0 && sameLength) return { kind: 'whole' };
  const length = sameLength ? [] : [`it has ${found.fileBytes} bytes of ${expected.fileBytes}`];
  const more = count > damaged.length ? ` and ${count - damaged.length} more` : '';
  const pages = count === 0 ? [] : [`page at byte ${damaged.join(', ')}${more} does not match its checksum`];
  const offsetBytes = damaged[0] ?? Math.min(found.fileBytes, expected.fileBytes);
  return { kind: 'damaged', file, offsetBytes, what: [...length, ...pages].join('; ') };
}

function pageCount(bytes: number): number {
  return Math.ceil(bytes / SUMS_PAGE_BYTES);
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
