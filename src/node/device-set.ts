/**
 * Opens the devices of a node: those on record, those that are new, and a file of its own when there are none.
 *
 * Invariants:
 * - A device is known by the identity in its superblock, not by its path; one that turns up under a new path, be it that of
 *   another one, is recorded there.
 * - Nothing is written to a device that holds somebody else's data, and no blank one is taken before all others have been
 *   found to be what they should be. One that was taken is on record before the next one is.
 * - A number stands for one device: what locations say depends on it.
 */
import { existsSync, statfsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Checksums } from '../base/checksum.ts';
import { SledgeError } from '../base/errors.ts';
import { columnBytes } from '../base/limits.ts';
import { BLOCK_BYTES, GIB, roundDown } from '../base/units.ts';
import type { IoPlatform, PlatformFile } from '../platform/io-platform.ts';
import type { Device, DeviceTools } from '../sled/device.ts';
import { examineDevice, openDevice, refuseTooSmall, takeDevice } from '../sled/device.ts';
import type { Superblock } from '../sled/superblock.ts';
import { FIRST_COLUMN_POSITION, SUPERBLOCK_POSITIONS } from '../sled/superblock.ts';
import { openClaimed } from './claimed-file.ts';
import type { DataDirectory, DeviceRecord } from './data-directory.ts';
import { newIdentity } from './data-directory.ts';
import type { DeviceOption } from './options.ts';

/** Share of the file system's free space that the device made by default may grow to. */
const DEFAULT_SHARE = 0.9;
const SUPERBLOCKS_END = Math.max(...SUPERBLOCK_POSITIONS) + BLOCK_BYTES;

export interface OpenDevices {
  readonly devices: readonly Device[];
  close(): Promise<void>;
}

interface Wanted {
  readonly path: string;
  readonly sizeBytes: number | undefined;
  /** The one that had this path last. */
  readonly record: DeviceRecord | undefined;
  readonly isGiven: boolean;
}

/** A device that is open and has been looked at; without a superblock it is blank. */
interface Found {
  readonly path: string;
  readonly file: PlatformFile;
  /** What it should have at least, if it is a file. */
  readonly sizeBytes: number;
  readonly superblock: Superblock | undefined;
}

export async function openDevices(
  platform: IoPlatform & Checksums,
  directory: DataDirectory,
  options: readonly DeviceOption[],
): Promise<OpenDevices> {
  const files: PlatformFile[] = [];
  const close = async () => {
    for (const file of files.splice(0)) await file.close();
  };
  const tools = { regions: platform, checksums: platform };
  try {
    const found = await findAll(directory, listWanted(directory, options), async wanted => {
      const file = await openWanted(platform, wanted);
      files.push(file);
      return await examine(directory, wanted, file, tools);
    });
    const devices: Device[] = [];
    for (const { path, file, sizeBytes, superblock } of found) {
      if (superblock === undefined) continue;
      await grow(file, sizeBytes);
      devices.push(await openDevice(path, file, superblock, tools));
    }
    const blank = found.filter(({ superblock }) => superblock === undefined);
    for (const { path, file, sizeBytes } of blank) refuseTooSmall(path, sizeToTake(file, sizeBytes));
    for (const { path, file, sizeBytes } of blank) {
      await grow(file, sizeBytes);
      const number = Math.max(-1, ...devices.map(device => device.number)) + 1;
      const identity = { node: directory.node.node, device: newIdentity(), number };
      devices.push(await takeDevice(path, file, identity, tools));
      directory.recordDevices(recordsOf(devices));
    }
    const records = recordsOf(devices);
    if (JSON.stringify(records) !== JSON.stringify(directory.node.devices)) directory.recordDevices(records);
    return { devices, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function recordsOf(devices: readonly Device[]): DeviceRecord[] {
  return devices.map(({ number, identity, path }) => ({ number, identity, path }));
}

/** Opens and examines what is wanted. Rejects unless that is all that is on record, each once. */
async function findAll(
  directory: DataDirectory,
  list: readonly Wanted[],
  open: (wanted: Wanted) => Promise<Found>,
): Promise<Found[]> {
  const { devices: records } = directory.node;
  const found: Found[] = [];
  const isFound = ({ identity }: DeviceRecord) => found.some(({ superblock }) => superblock?.device === identity);
  const left: Wanted[] = [];
  for (const wanted of list) {
    // What was found elsewhere need not be looked for under its old path.
    if (!wanted.isGiven && wanted.record !== undefined && isFound(wanted.record)) left.push(wanted);
    else found.push(await open(wanted));
  }
  // But where devices have changed names among themselves another one is there.
  for (const wanted of left) if (!records.every(isFound)) found.push(await open(wanted));
  const lost = records.find(record => !isFound(record));
  if (lost !== undefined) throw new SledgeError('device-missing', `device ${lost.path} is not there`);
  refuseDoubles(found, records);
  return found;
}

function refuseDoubles(found: readonly Found[], records: readonly DeviceRecord[]): void {
  const seen: { path: string; superblock: Superblock }[] = [];
  for (const { path, superblock } of found) {
    if (superblock === undefined) continue;
    const copy = seen.find(other => other.superblock.device === superblock.device);
    if (copy !== undefined) {
      const hint = 'Give the one that was in use last, and not the other one.';
      throw new SledgeError('device-foreign', `${path} is a copy of ${copy.path}`, { hint });
    }
    const same = seen.find(other => other.superblock.number === superblock.number);
    if (same !== undefined) {
      const isKnown = records.some(({ identity }) => identity === superblock.device);
      const [stray, other] = isKnown ? [same, { path }] : [{ path }, same];
      const message = `${stray.path} has the same number as ${other.path}, and is not on record`;
      throw new SledgeError('device-foreign', message, { hint: wipeHint(stray.path) });
    }
    seen.push({ path, superblock });
  }
}

/** Superblocks are no signature that wipefs knows, and of others it leaves all but the signature. */
function wipeHint(path: string): string {
  const blocks = SUPERBLOCKS_END / BLOCK_BYTES;
  const command = `dd if=/dev/zero of=${path} bs=${BLOCK_BYTES} count=${blocks} conv=notrunc,fsync`;
  return `Give another one, or have this one lose all that is on it: ${command}`;
}

/** Those given first, so that one that has moved is found before it is missed under its old path. */
function listWanted(directory: DataDirectory, options: readonly DeviceOption[]): Wanted[] {
  const paths = options.map(option => resolve(option.path));
  const twice = paths.find((path, i) => paths.indexOf(path) < i);
  if (twice !== undefined) throw new SledgeError('device-in-use', `device ${twice} is given twice`);
  const given = options.map((option, i) => {
    const path = paths[i];
    const record = directory.node.devices.find(known => known.path === path);
    return { path, sizeBytes: option.sizeBytes, record, isGiven: true };
  });
  const known = directory.node.devices
    .filter(record => !given.some(wanted => wanted.path === record.path))
    .filter(record => given.length === 0 || existsSync(record.path))
    .map(record => ({ path: record.path, sizeBytes: undefined, record, isGiven: false }));
  const double = known.find(({ path }, i) => known.findIndex(other => other.path === path) < i);
  if (double !== undefined) {
    const hint = 'Bring node.json back from a backup.';
    throw new SledgeError('corrupt', `node.json names ${double.path} as two devices`, { hint });
  }
  if (given.length + directory.node.devices.length > 0) return [...given, ...known];
  const path = join(directory.devicesPath, 'main');
  // An empty one was not finished when its maker died.
  const isMade = (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0;
  return [
    { path, sizeBytes: isMade ? undefined : defaultSize(directory.devicesPath), record: undefined, isGiven: false },
  ];
}

function defaultSize(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  const columns = Math.max(roundDown(bavail * bsize * DEFAULT_SHARE, columnBytes), 1 * GIB);
  return FIRST_COLUMN_POSITION + columns;
}

async function openWanted(platform: IoPlatform, { path, sizeBytes, record }: Wanted): Promise<PlatformFile> {
  if (!existsSync(path) && sizeBytes === undefined) {
    throw new SledgeError('device-missing', `device ${path} does not exist`, {
      ...(record === undefined ? { hint: 'Give it a size to have a file made: --device PATH:SIZE.' } : {}),
    });
  }
  return await openClaimed(platform, { path, mode: 'direct', create: sizeBytes !== undefined });
}

/** Rejects unless the device is of this node, or blank where none is on record. Nothing is changed. */
async function examine(
  directory: DataDirectory,
  { path, sizeBytes = 0, record }: Wanted,
  file: PlatformFile,
  tools: DeviceTools,
): Promise<Found> {
  const verdict = await examineDevice(path, file, tools);
  const foreign = (what: string) =>
    record === undefined
      ? new SledgeError('device-foreign', `${path} ${what}`, { hint: wipeHint(path) })
      : new SledgeError('device-missing', `${path} ${what}: it is not the device on record`);
  switch (verdict.kind) {
    case 'valid': {
      const { superblock } = verdict;
      if (superblock.node !== directory.node.node) throw foreign(`belongs to another node (${superblock.node})`);
      return { path, file, sizeBytes, superblock };
    }
    case 'blank':
      if (record !== undefined) throw new SledgeError('device-missing', `${path} is blank: its data is gone`);
      // What is shorter than what was looked for may have anything in it.
      if (file.sizeBytes > 0 && file.sizeBytes < SUPERBLOCKS_END) throw foreign('is a file with something else in it');
      return { path, file, sizeBytes, superblock: undefined };
    case 'version':
      throw new SledgeError('bad-format', `${path} has device format ${verdict.version}`);
    case 'damaged':
      throw new SledgeError('corrupt', `${path}: both copies of its superblock are damaged`);
    default:
      throw foreign('holds other data');
  }
}

function sizeToTake(file: PlatformFile, sizeBytes: number): number {
  return file.kind === 'file' ? Math.max(sizeBytes, file.sizeBytes) : file.sizeBytes;
}

async function grow(file: PlatformFile, sizeBytes: number): Promise<void> {
  if (sizeToTake(file, sizeBytes) > file.sizeBytes) await file.resize(sizeBytes);
}
