/**
 * Whether the devices of a node are there and are what the node has on record: the check reads both copies of each
 * superblock and writes nothing. What it returns tells the checks of log and index which places exist.
 */
import type { Checksums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import type { BlockFile } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import { columnBytes } from '../base/limits.ts';
import type { RegionSource } from '../base/memory.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import { columnsThatFit } from '../sled/device.ts';
import type { Superblock, SuperblockVerdict } from '../sled/superblock.ts';
import { decodeSuperblock, FIRST_COLUMN_POSITION, judgeCopies, SUPERBLOCK_POSITIONS } from '../sled/superblock.ts';
import type { Findings } from './finding.ts';

/** A device as node.json has it, with its file where that could be opened. */
export interface RecordedDevice {
  readonly number: number;
  readonly identity: string;
  readonly path: string;
  readonly file: BlockFile | undefined;
}

/** With its file and superblock only where both are sound. */
export interface CheckedDevice {
  readonly number: number;
  readonly path: string;
  readonly sound: { readonly file: BlockFile; readonly superblock: Superblock } | undefined;
}

export interface DeviceCheckPorts {
  /** Identity of the node. */
  readonly node: string;
  readonly regions: RegionSource;
  readonly checksums: Checksums;
  readonly findings: Findings;
}

export async function checkDevice(device: RecordedDevice, ports: DeviceCheckPorts): Promise<CheckedDevice> {
  const { number, path, file } = device;
  // Why there is no file, whoever tried to open it has said.
  const superblock = file === undefined ? undefined : await readSuperblock(path, file, ports);
  const isSound = superblock !== undefined && agrees(device, superblock, ports);
  return { number, path, sound: isSound ? { file: file!, superblock } : undefined };
}

async function readSuperblock(path: string, file: BlockFile, ports: DeviceCheckPorts): Promise<Superblock | undefined> {
  const { findings } = ports;
  const region = ports.regions.allocate(BLOCK_BYTES);
  const copies: SuperblockVerdict[] = [];
  for (const position of SUPERBLOCK_POSITIONS) {
    if (file.sizeBytes < position + BLOCK_BYTES) {
      copies.push({ kind: 'blank' });
      continue;
    }
    const result = await completion(request => file.read(position, region, 0, BLOCK_BYTES, request));
    if (result < 0) {
      const what = `Device ${path} gives ${errnoName(result)} where its superblock is, at byte ${position}.`;
      findings.add('device-unusable', what, { file: path, offsetBytes: position });
      return undefined;
    }
    copies.push(decodeSuperblock(region.bytes, ports.checksums));
  }
  const verdict = judgeCopies(copies);
  switch (verdict.kind) {
    case 'valid':
      for (const [i, copy] of copies.entries()) {
        if (copy.kind === 'valid') continue;
        const offsetBytes = SUPERBLOCK_POSITIONS[i];
        const what = `A copy of the superblock of ${path} is ${DAMAGE[copy.kind]}, at byte ${offsetBytes}.`;
        findings.add('superblock-copy', what, { file: path, offsetBytes });
      }
      return verdict.superblock;
    case 'blank':
      findings.add('device-blank', `Device ${path} is blank: its data is gone.`, { file: path, offsetBytes: 0 });
      return undefined;
    case 'version':
      findings.add('device-version', `Device ${path} has format ${verdict.version}.`, { file: path, offsetBytes: 0 });
      return undefined;
    case 'damaged':
      for (const offsetBytes of SUPERBLOCK_POSITIONS) {
        const what = `The superblock of ${path} is damaged, at byte ${offsetBytes}, and there is no other copy.`;
        findings.add('superblock-damaged', what, { file: path, offsetBytes });
      }
      return undefined;
    default:
      findings.add('device-foreign', `${path} holds other data.`, { file: path, offsetBytes: 0 });
      return undefined;
  }
}

const DAMAGE = { blank: 'blank', foreign: 'overwritten', damaged: 'damaged', version: 'of another version' } as const;

function agrees(device: RecordedDevice, superblock: Superblock, { node, findings }: DeviceCheckPorts): boolean {
  const { number, path, file } = device;
  const place = { file: path, offsetBytes: 0 };
  if (superblock.node !== node) {
    findings.add('device-foreign', `${path} belongs to another node (${superblock.node}).`, place);
    return false;
  }
  if (superblock.device !== device.identity) {
    findings.add('device-foreign', `${path} is another device than the one on record.`, place);
    return false;
  }
  if (superblock.number !== number) {
    const what = `${path} is device ${number} by node.json and device ${superblock.number} by its superblock.`;
    findings.add('device-geometry', what, place);
    return false;
  }
  if (superblock.columnBytes !== columnBytes || superblock.firstColumn !== FIRST_COLUMN_POSITION) {
    const what = `${path} has columns of ${superblock.columnBytes} bytes from byte ${superblock.firstColumn} on.`;
    findings.add('device-geometry', what, place);
    return false;
  }
  const fit = columnsThatFit(file!.sizeBytes);
  if (fit < superblock.columnCount) {
    const what = `${path} has shrunk: ${superblock.columnCount} columns are on record, and ${fit} fit.`;
    findings.add('device-shrunk', what, { file: path, offsetBytes: file!.sizeBytes });
  }
  return true;
}
