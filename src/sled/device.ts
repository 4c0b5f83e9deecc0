/**
 * One mass storage device: a file or block device that holds columns. The sled opens it, the head reads and writes
 * slots of it. A device knows its own superblock and counts its own errors; it does not know what its columns hold.
 *
 * Invariants:
 * - Nothing outside of the columns and the superblock is ever written, and nothing at all before the superblock was
 *   read and found to be this node's, or blank.
 * - A device that failed a sync stays failed: what it claimed to have written may be gone.
 */
import { assert } from '../base/assert.ts';
import type { Checksums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { BlockFile } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import { columnBytes, laggingSyncMs } from '../base/limits.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import { BLOCK_BYTES, formatBytes } from '../base/units.ts';
import type { Superblock } from './superblock.ts';
import {
  decodeSuperblock,
  encodeSuperblock,
  FIRST_COLUMN_POSITION,
  judgeCopies,
  SUPERBLOCK_POSITIONS,
} from './superblock.ts';

/** A file as a device needs it. */
export interface DeviceFile extends BlockFile {
  readonly kind: 'file' | 'block device';
}

export interface DeviceErrors {
  read: number;
  write: number;
  checksum: number;
}

export interface DeviceIdentity {
  readonly node: string;
  readonly device: string;
  readonly number: number;
}

export class Device {
  readonly number: number;
  readonly identity: string;
  readonly path: string;
  readonly file: DeviceFile;
  readonly errors: DeviceErrors = { read: 0, write: 0, checksum: 0 };
  /** Set by the first failed sync or by who finds the device unusable: the sentence says why. */
  failure: string | undefined;
  /** A write to it failed lately, and none has succeeded since. */
  isFailing = false;
  /** It is slow or failing while another device is well: nothing of other volumes waits for it (see sled.ts). */
  isAside = false;
  /** Called when a sync fails for the first time, before anybody else hears of it. */
  syncFailed: () => void = () => {};
  /**
   * Writes that have completed, and how many of them a sync that has ended covers. They differ at first: what an earlier
   * process wrote may be in no one's sync.
   */
  writeCount = 1;
  syncedCount = 0;
  /** `writeCount` at the last write that the log relies on. */
  reliedCount = 1;
  /** What the longest of its latest syncs took, or as much as a long write counts for. */
  slownessMs = 0;
  /** Writes of the destage and syncs that are under way, and when the last one ended or the first one began. */
  pendingCount = 0;
  progressMs = 0;
  readonly #superblock: Superblock;

  constructor(path: string, file: DeviceFile, superblock: Superblock) {
    this.path = path;
    this.file = file;
    this.number = superblock.number;
    this.identity = superblock.device;
    this.#superblock = superblock;
  }

  /** Why nobody who has nothing on it should have to wait for it; undefined where it is well. */
  get illness(): string | undefined {
    if (this.failure !== undefined) return this.failure;
    if (this.isFailing) return 'it cannot be written';
    if (this.slownessMs <= laggingSyncMs) return undefined;
    return 'it has taken long to write or sync lately';
  }

  get kind(): 'file' | 'block device' {
    return this.file.kind;
  }

  get columnBytes(): number {
    return this.#superblock.columnBytes;
  }

  get columnCount(): number {
    return this.#superblock.columnCount;
  }

  /** Position of a column's first byte. */
  columnPosition(column: number): number {
    assert(column >= 0 && column < this.columnCount, 'the column is on the device');
    return this.#superblock.firstColumn + column * this.#superblock.columnBytes;
  }

  /** Column of a position, which is not before the first one. */
  columnAt(position: number): number {
    const column = Math.floor((position - this.#superblock.firstColumn) / this.#superblock.columnBytes);
    assert(column >= 0 && column < this.columnCount, 'the position is in a column');
    return column;
  }
}

/** How many columns a device of this length has. */
export function columnsThatFit(sizeBytes: number): number {
  return Math.max(0, Math.floor((sizeBytes - FIRST_COLUMN_POSITION) / columnBytes));
}

export interface DeviceTools {
  readonly regions: RegionSource;
  readonly checksums: Checksums;
}

/** What is on a device now, without changing it. Rejects with `io`. */
export async function examineDevice(path: string, file: BlockFile, tools: DeviceTools) {
  const region = tools.regions.allocate(BLOCK_BYTES);
  const copies = [];
  for (const position of SUPERBLOCK_POSITIONS) {
    if (file.sizeBytes < position + BLOCK_BYTES) continue;
    await transfer(path, 'read', file, position, region);
    copies.push(decodeSuperblock(region.bytes, tools.checksums));
  }
  return judgeCopies(copies);
}

/** Throws `no-space`. */
export function refuseTooSmall(path: string, sizeBytes: number): void {
  if (columnsThatFit(sizeBytes) >= 1) return;
  throw new SledgeError('no-space', `${path} has ${formatBytes(sizeBytes)}: too small for a device`, {
    hint: `Give it at least ${formatBytes(FIRST_COLUMN_POSITION + columnBytes)}.`,
  });
}

/** Makes a blank device one of this node. Rejects with `no-space` when it is too small, or `io`. */
export async function takeDevice(
  path: string,
  file: DeviceFile,
  identity: DeviceIdentity,
  tools: DeviceTools,
): Promise<Device> {
  refuseTooSmall(path, file.sizeBytes);
  const columnCount = columnsThatFit(file.sizeBytes);
  const superblock: Superblock = {
    ...identity,
    columnBytes,
    firstColumn: FIRST_COLUMN_POSITION,
    columnCount,
    serial: 1,
  };
  await writeSuperblock(path, file, superblock, tools);
  return new Device(path, file, superblock);
}

/** Opens a device whose superblock was examined, and takes the room in that it has grown by. */
export async function openDevice(
  path: string,
  file: DeviceFile,
  superblock: Superblock,
  tools: DeviceTools,
): Promise<Device> {
  const columnCount = columnsThatFit(file.sizeBytes);
  if (columnCount < superblock.columnCount) {
    throw new SledgeError(
      'device-unusable',
      `${path} has shrunk: ${superblock.columnCount} columns are on record, ` + `and ${columnCount} fit`,
      { hint: 'Bring it back to its former size: its data lies there.' },
    );
  }
  if (columnCount === superblock.columnCount) return new Device(path, file, superblock);
  const grown = { ...superblock, columnCount, serial: superblock.serial + 1 };
  await writeSuperblock(path, file, grown, tools);
  return new Device(path, file, grown);
}

async function writeSuperblock(path: string, file: DeviceFile, superblock: Superblock, tools: DeviceTools) {
  const region = tools.regions.allocate(BLOCK_BYTES);
  encodeSuperblock(superblock, region.bytes, tools.checksums);
  // One copy is whole and durable before the other one is touched.
  for (const position of SUPERBLOCK_POSITIONS) {
    await transfer(path, 'write', file, position, region);
    const result = await completion(request => file.sync(request));
    if (result < 0) throw new SledgeError('io', `${path}: sync failed: ${errnoName(result)}`);
  }
}

async function transfer(path: string, way: 'read' | 'write', file: BlockFile, position: number, region: Region) {
  const result = await completion(request => file[way](position, region, 0, BLOCK_BYTES, request));
  if (result < 0) throw new SledgeError('io', `${path}: ${way} at ${position} failed: ${errnoName(result)}`);
}
