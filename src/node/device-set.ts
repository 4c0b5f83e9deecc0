/**
 * Opens the devices of a node: those on record, those that are new, and a file of its own when there are none.
 *
 * A device is known by the identity in its superblock, not by its path; one that turns up under a new path is recorded
 * there. Nothing is written to a device that holds somebody else's data.
 */
import { existsSync, statfsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Checksums } from '../base/checksum.ts';
import { SledgeError } from '../base/errors.ts';
import { columnBytes } from '../base/limits.ts';
import { GIB, roundDown } from '../base/units.ts';
import type { IoPlatform, PlatformFile } from '../platform/io-platform.ts';
import type { Device } from '../sled/device.ts';
import { examineDevice, openDevice, takeDevice } from '../sled/device.ts';
import { FIRST_COLUMN_POSITION } from '../sled/superblock.ts';
import { openClaimed } from './claimed-file.ts';
import type { DataDirectory, DeviceRecord } from './data-directory.ts';
import { newIdentity } from './data-directory.ts';
import type { DeviceOption } from './options.ts';

/** Share of the file system's free space that the device made by default may grow to. */
const DEFAULT_SHARE = 0.9;

export interface OpenDevices {
  readonly devices: readonly Device[];
  close(): Promise<void>;
}

interface Wanted {
  readonly path: string;
  readonly sizeBytes: number | undefined;
  readonly record: DeviceRecord | undefined;
}

export async function openDevices(
  platform: IoPlatform & Checksums,
  directory: DataDirectory,
  options: readonly DeviceOption[],
): Promise<OpenDevices> {
  const files: PlatformFile[] = [];
  const devices: Device[] = [];
  const close = async () => {
    for (const file of files.splice(0)) await file.close();
  };
  try {
    for (const wanted of listWanted(directory, options)) {
      if (wanted.record !== undefined && devices.some(device => device.identity === wanted.record?.identity)) continue;
      devices.push(await openOne(platform, directory, wanted, devices, files));
    }
    const lost = directory.node.devices.find(record => !devices.some(device => device.identity === record.identity));
    if (lost !== undefined) throw new SledgeError('device-missing', `device ${lost.path} is not there`);
    const records = devices.map(({ number, identity, path }) => ({ number, identity, path }));
    if (JSON.stringify(records) !== JSON.stringify(directory.node.devices)) directory.recordDevices(records);
    return { devices, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Those given first, so that one that has moved is found before it is missed under its old path. */
function listWanted(directory: DataDirectory, options: readonly DeviceOption[]): Wanted[] {
  const given = options.map(option => {
    const path = resolve(option.path);
    const record = directory.node.devices.find(known => known.path === path);
    return { path, sizeBytes: option.sizeBytes, record };
  });
  const known = directory.node.devices
    .filter(record => !given.some(wanted => wanted.path === record.path))
    .filter(record => given.length === 0 || existsSync(record.path))
    .map(record => ({ path: record.path, sizeBytes: undefined, record }));
  if (given.length + directory.node.devices.length > 0) return [...given, ...known];
  const path = join(directory.devicesPath, 'main');
  // An empty one was not finished when its maker died.
  const isMade = (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0;
  return [{ path, sizeBytes: isMade ? undefined : defaultSize(directory.devicesPath), record: undefined }];
}

function defaultSize(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  const columns = Math.max(roundDown(bavail * bsize * DEFAULT_SHARE, columnBytes), 1 * GIB);
  return FIRST_COLUMN_POSITION + columns;
}

async function openOne(
  platform: IoPlatform & Checksums,
  directory: DataDirectory,
  wanted: Wanted,
  others: readonly Device[],
  files: PlatformFile[],
): Promise<Device> {
  const { path, sizeBytes, record } = wanted;
  if (!existsSync(path) && sizeBytes === undefined) {
    throw new SledgeError('device-missing', `device ${path} does not exist`, {
      ...(record === undefined ? { hint: 'Give it a size to have a file made: --device PATH:SIZE.' } : {}),
    });
  }
  if (others.some(other => other.path === path)) {
    if (record === undefined) throw new SledgeError('device-in-use', `device ${path} is given twice`);
    const hint = 'Bring node.json back from a backup.';
    throw new SledgeError('corrupt', `node.json names ${path} as two devices`, { hint });
  }
  const file = await openClaimed(platform, { path, mode: 'direct', create: sizeBytes !== undefined });
  files.push(file);
  if (sizeBytes !== undefined && file.kind === 'file' && sizeBytes > file.sizeBytes) await file.resize(sizeBytes);
  const tools = { regions: platform, checksums: platform };
  const verdict = await examineDevice(path, file, tools);
  switch (verdict.kind) {
    case 'valid':
      if (verdict.superblock.node !== directory.node.node) {
        throw new SledgeError('device-foreign', `${path} belongs to another node (${verdict.superblock.node})`);
      }
      if (record !== undefined && record.identity !== verdict.superblock.device) {
        throw new SledgeError('device-foreign', `${path} is another device than the one on record`);
      }
      return openDevice(path, file, verdict.superblock, tools);
    case 'blank': {
      if (record !== undefined) throw new SledgeError('device-missing', `${path} is blank: its data is gone`);
      const taken = [...directory.node.devices, ...others].map(device => device.number);
      const number = Math.max(-1, ...taken) + 1;
      return takeDevice(path, file, { node: directory.node.node, device: newIdentity(), number }, tools);
    }
    case 'version':
      throw new SledgeError('bad-format', `${path} has device format ${verdict.version}`);
    case 'damaged':
      throw new SledgeError('corrupt', `${path}: both copies of its superblock are damaged`);
    default:
      throw new SledgeError('device-foreign', `${path} holds other data`);
  }
}
