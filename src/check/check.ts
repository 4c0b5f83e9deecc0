/**
 * Checks what a stopped node has left: devices, index, log, and where it is asked for all data, against one another. It
 * changes nothing and is handed its ports, so that it runs on real files as well as on simulated ones.
 *
 * What it takes for true is what a start would: superblocks and index as they are, the log as recovery reads it.
 */
import type { Checksums } from '../base/checksum.ts';
import type { RegionSource } from '../base/memory.ts';
import type { VolumeNumber } from '../base/units.ts';
import type { RecoveryRow } from '../head/recovery.ts';
import type { VolumeEntry } from '../index/index-store.ts';
import { checkData } from './check-data.ts';
import type { CheckedDevice, RecordedDevice } from './check-devices.ts';
import { checkDevice } from './check-devices.ts';
import type { ReadableIndex } from './check-index.ts';
import { checkChunks, checkVolumes, guarded, IndexUnreadable } from './check-index.ts';
import type { SegmentFile } from './check-log.ts';
import { checkLog } from './check-log.ts';
import { ColumnTable } from './column-table.ts';
import type { Findings } from './finding.ts';
import type { LogReplay } from './log-replay.ts';

export interface CheckPorts {
  /** Identity of the node. */
  readonly node: string;
  readonly devices: readonly RecordedDevice[];
  readonly index: ReadableIndex;
  readonly segments: readonly SegmentFile[];
  readonly segmentBytes: number;
  readonly regions: RegionSource;
  readonly checksums: Checksums;
  /** With the seed of the log's records. */
  readonly logChecksums: Checksums;
  readonly findings: Findings;
  /** With it all data is read; it is called now and then. */
  readonly readProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

/** What there is, besides the findings. */
export interface CheckSummary {
  readonly devices: number;
  readonly volumes: number;
  readonly columns: number;
  readonly chunks: number;
  /** Null where the log cannot be read. */
  readonly log: {
    readonly row: RecoveryRow;
    readonly cut: number;
    readonly end: number;
    readonly records: number;
  } | null;
  /** Null where it was not asked for, or could not be done. */
  readonly data: { readonly readBytes: number; readonly verifiedBlocks: number } | null;
}

/** What belongs to whom, as far as it could be read: what repairs are decided on. */
export interface Picture {
  readonly index: ReadableIndex;
  readonly volumes: ReadonlyMap<VolumeNumber, VolumeEntry>;
  readonly nextVolume: VolumeNumber;
  readonly columns: ColumnTable;
  readonly replay: LogReplay;
}

export interface CheckResult {
  readonly summary: CheckSummary;
  /** Undefined where index or log could not be read to their ends; findings say why. */
  readonly picture: Picture | undefined;
}

export async function check(ports: CheckPorts): Promise<CheckResult> {
  const { findings } = ports;
  const devices: CheckedDevice[] = [];
  for (const device of ports.devices) devices.push(await checkDevice(device, ports));
  const summary = { devices: devices.length, volumes: 0, columns: 0, chunks: 0, log: null, data: null };
  try {
    return await checkIndexed(ports, devices, summary);
  } catch (error) {
    if (!(error instanceof IndexUnreadable)) throw error;
    findings.add('index-unreadable', `${error.message}.`);
    return { summary, picture: undefined };
  }
}

/** What the index is needed for: everything but the devices. */
async function checkIndexed(
  ports: CheckPorts,
  devices: readonly CheckedDevice[],
  empty: CheckSummary,
): Promise<CheckResult> {
  const { findings, segments, segmentBytes, regions, checksums, logChecksums, readProgress } = ports;
  const index = guarded(ports.index);
  const state = index.state();
  const nextVolume = index.nextVolume();
  const volumes = checkVolumes(index, findings);
  const columns = new ColumnTable(devices);
  for (const entry of index.columns()) columns.add(entry, volumes, nextVolume, findings);
  const log = await checkLog({
    state,
    segments,
    segmentBytes,
    regions,
    checksums: logChecksums,
    findings,
    volumes,
    nextVolume,
    columns,
  });
  const chunks = checkChunks({ index, volumes, columns, replay: log?.replay, findings });
  const summary = { ...empty, volumes: volumes.size, columns: columns.count, chunks };
  if (log === undefined) return { summary, picture: undefined };
  const { row, cut, end, records, durable, replay } = log;
  let data: CheckSummary['data'] = null;
  if (readProgress !== undefined) {
    const progress = (doneBytes: number) => readProgress(doneBytes, columns.markedBytes);
    data = await checkData({ index, columns, replay, durable, regions, checksums, findings, progress });
  }
  const picture = { index, volumes, nextVolume, columns, replay };
  return { summary: { ...summary, log: { row, cut, end, records }, data }, picture };
}
