/**
 * Opens files and block devices: flags, claim, kind, size and alignment. The control plane calls it; each way to fail
 * has its code of the table.
 */
import { close, constants, fstat, open, readSync, type Stats, stat } from 'node:fs';
import { promisify } from 'node:util';
import { type ErrorCode, SledgeError } from '../base/errors.ts';
import { addon } from './addon.ts';
import { lockFile, lockFileShared, lockHolder } from './file-lock.ts';
import { allocateRegion } from './io-memory.ts';
import type { OpenFileOptions } from './io-platform.ts';
import type { RingFileProperties } from './ring-file.ts';
import { errnoOf, systemError } from './system-error.ts';

const openDescriptor = promisify(open);
const closeDescriptor = promisify(close);
const statPath = promisify(stat);
const statDescriptor = promisify(fstat);

/** Regions are page-aligned, and blocks are 4 KiB: a device that asks for more cannot be used. */
const ALIGNMENT_MAX = 4096;
const ALIGNMENT_MIN = 512;

const OPEN_CODES = new Map<number, ErrorCode>([
  [1, 'device-unusable'], // EPERM
  [2, 'device-missing'], // ENOENT
  [6, 'device-missing'], // ENXIO
  [13, 'device-unusable'], // EACCES
  [16, 'device-in-use'], // EBUSY
  [17, 'device-foreign'], // EEXIST
  [19, 'device-missing'], // ENODEV
  [20, 'device-missing'], // ENOTDIR
  [21, 'device-unusable'], // EISDIR
  [22, 'device-unusable'], // EINVAL: the file system has no O_DIRECT
  [28, 'no-space'], // ENOSPC
  [30, 'device-unusable'], // EROFS
  [123, 'device-missing'], // ENOMEDIUM
]);

/** Everything `RingFile` needs. The descriptor is the caller's then; after a rejection nothing is left open. */
export async function openForRing(options: OpenFileOptions): Promise<RingFileProperties> {
  const { path } = options;
  const isDevice = await isBlockDevice(path);
  let fd: number;
  try {
    fd = await openDescriptor(path, openFlags(options, isDevice), 0o600);
  } catch (error) {
    const errno = errnoOf(error);
    throw systemError(OPEN_CODES.get(errno) ?? 'io', `cannot open ${path}`, errno, error);
  }
  let durableFd: number | undefined;
  try {
    const stats = await statDescriptor(fd);
    if (stats.isBlockDevice() !== isDevice || stats.isFile() === isDevice) {
      throw new SledgeError('device-unusable', `${path} changed while it was opened`);
    }
    if (options.durableWrites === true) durableFd = await openForDurableWrites(path);
    if (options.claim === true && !isDevice) claimFile(fd, durableFd, path);
    const sizeBytes = isDevice ? blockDevice(fd, path).sizeBytes : stats.size;
    return {
      fd,
      durableFd,
      path,
      kind: isDevice ? 'block device' : 'file',
      mode: options.mode,
      readOnly: options.readOnly === true,
      sizeBytes,
      alignmentBytes: options.mode === 'buffered' ? 1 : directAlignment(fd, path, isDevice, sizeBytes),
    };
  } catch (error) {
    await closeDescriptor(fd);
    if (durableFd !== undefined) await closeDescriptor(durableFd);
    throw error;
  }
}

/** Past the page cache where the file system can do that: a write and a flush of the disk, without a pass over pages. */
async function openForDurableWrites(path: string): Promise<number> {
  const flags = constants.O_RDWR | constants.O_DSYNC;
  try {
    return await openDescriptor(path, flags | constants.O_DIRECT);
  } catch (error) {
    if (errnoOf(error) !== 22) throw systemError('io', `cannot open ${path} for durable writes`, errnoOf(error), error);
  }
  return await openDescriptor(path, flags);
}

async function isBlockDevice(path: string): Promise<boolean> {
  let stats: Stats;
  try {
    stats = await statPath(path);
  } catch {
    return false; // `open` says what is wrong, where something is.
  }
  // Looked at before the open, which would wait for the other end of a FIFO.
  if (!stats.isBlockDevice() && !stats.isFile()) {
    throw new SledgeError('device-unusable', `${path} is neither a regular file nor a block device`);
  }
  return stats.isBlockDevice();
}

function openFlags(options: OpenFileOptions, isDevice: boolean): number {
  let flags = options.readOnly === true ? constants.O_RDONLY : constants.O_RDWR;
  if (options.mode === 'direct') flags |= constants.O_DIRECT;
  if (isDevice) {
    // Without O_CREAT this is a claim: the kernel refuses it to whoever comes second, and while it is mounted.
    return options.claim === true ? flags | constants.O_EXCL : flags;
  }
  if (options.create !== undefined && options.create !== false) flags |= constants.O_CREAT;
  if (options.create === 'exclusive') flags |= constants.O_EXCL;
  return flags;
}

/**
 * The kernel drops a claim when all I/O on the open file that has it has ended. So a second one has to have a part of it:
 * both locks are shared ones then, which still refuse whoever comes for a claim.
 */
function claimFile(fd: number, durableFd: number | undefined, path: string): void {
  try {
    lockFile(fd);
    if (durableFd !== undefined) for (const each of [fd, durableFd]) lockFileShared(each);
  } catch (error) {
    const holder = lockHolder(fd);
    const who = holder === undefined ? 'another process' : `process ${holder}`;
    throw new SledgeError('device-in-use', `${path} is claimed by ${who}`, { cause: error });
  }
}

function blockDevice(fd: number, path: string) {
  const device = addon.blockDevice(fd);
  if (typeof device === 'number') throw systemError('device-unusable', `cannot ask ${path} for its size`, device);
  return device;
}

function directAlignment(fd: number, path: string, isDevice: boolean, sizeBytes: number): number {
  let alignment = addon.directAlignment(fd);
  if (alignment === 0) alignment = isDevice ? blockDevice(fd, path).sectorBytes : probedAlignment(fd, path, sizeBytes);
  if (alignment > ALIGNMENT_MAX) {
    throw new SledgeError('device-unusable', `${path} asks for an alignment of ${alignment} bytes`);
  }
  return Math.max(alignment, ALIGNMENT_MIN);
}

/** Where the kernel does not tell: a read of one sector says whether sectors are enough. An empty file cannot be asked. */
function probedAlignment(fd: number, path: string, sizeBytes: number): number {
  if (sizeBytes < 2 * ALIGNMENT_MIN) return ALIGNMENT_MAX;
  const { bytes } = allocateRegion(ALIGNMENT_MAX);
  try {
    readSync(fd, bytes, ALIGNMENT_MIN, ALIGNMENT_MIN, ALIGNMENT_MIN);
    return ALIGNMENT_MIN;
  } catch (error) {
    if (errnoOf(error) === 22) return ALIGNMENT_MAX;
    throw systemError('io', `cannot read ${path}`, errnoOf(error), error);
  }
}
