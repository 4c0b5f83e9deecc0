/**
 * Checks a data directory whose server is stopped: takes its lock, opens what is there for reading only, and hands it to
 * the check. `sledge check` calls it. Nothing is made, written or repaired, but that LMDB enters its reader in the lock
 * file beside the index; only a repair (`repair-directory.ts`) has changes of the index stored.
 */
import { closeSync, existsSync, readdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { seededChecksums } from '../base/checksum.ts';
import { SledgeError } from '../base/errors.ts';
import { logSegmentBytes } from '../base/limits.ts';
import { type CheckSummary, check, type Picture } from '../check/check.ts';
import type { RecordedDevice } from '../check/check-devices.ts';
import type { SegmentFile } from '../check/check-log.ts';
import { type Finding, type FindingKind, Findings } from '../check/finding.ts';
import { type ColumnChange, storeRepairs } from '../check/repair.ts';
import type { IoPlatform, PlatformFile } from '../platform/io-platform.ts';
import { LmdbIndex } from '../platform/lmdb-index.ts';
import { createIoPlatform } from '../platform/platform.ts';
import { openClaimed } from './claimed-file.ts';
import { logSeedOf, type NodeFile, readNodeFile } from './data-directory.ts';
import { lockForReading } from './directory-lock.ts';
import { leaveIndexSums, takeIndexSums, unusableText, verifyIndex } from './index-sums.ts';
import { SEGMENT_NAME } from './segment-files.ts';

export interface CheckReport {
  readonly directory: string;
  readonly errors: number;
  readonly warnings: number;
  readonly notes: number;
  readonly findings: readonly Finding[];
  /** What was looked at; null where node.json or the index could not be read. */
  readonly summary: CheckSummary | null;
}

export interface CheckOptions {
  /** With it all data is read; called now and then with the bytes that were read, and about how many there are. */
  readonly readProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** Rejects with `data-in-use` while a server runs, `not-a-data-directory`, `bad-format`, or what the I/O itself needs. */
export async function checkDirectory(directory: string, options: CheckOptions = {}): Promise<CheckReport> {
  const path = resolve(directory);
  const lock = lockForReading(path);
  try {
    const findings = new Findings();
    if (lock === undefined) findings.add('lock-missing', `${join(path, 'lock')} is missing.`);
    return await report(path, findings, options);
  } finally {
    if (lock !== undefined) closeSync(lock);
  }
}

/** What is there now; the caller holds the lock. */
export async function report(path: string, findings: Findings, options: CheckOptions): Promise<CheckReport> {
  const node = readNode(path, findings);
  const summary = node === undefined ? null : await checkNode(path, node, findings, options);
  return {
    directory: path,
    errors: findings.count('error'),
    warnings: findings.count('warning'),
    notes: findings.count('note'),
    findings: findings.list(),
    summary,
  };
}

export function readNode(path: string, findings: Findings): NodeFile | undefined {
  const file = join(path, 'node.json');
  try {
    return readNodeFile(file);
  } catch (error) {
    if (!(error instanceof SledgeError) || error.code !== 'corrupt') throw error;
    findings.add('node-file', `${error.message}.`, { file });
    return undefined;
  }
}

/**
 * `decide` is called after the check, with all that was opened still open; the changes that it resolves with are stored
 * before the devices are given up.
 */
export async function checkNode(
  path: string,
  node: NodeFile,
  findings: Findings,
  options: CheckOptions,
  decide?: (picture: Picture | undefined, platform: IoPlatform) => Promise<readonly ColumnChange[]>,
): Promise<CheckSummary | null> {
  const platform = createIoPlatform();
  const files: PlatformFile[] = [];
  let index: LmdbIndex | undefined;
  try {
    const devices: RecordedDevice[] = [];
    for (const record of node.devices) {
      if (devices.some(other => other.path === record.path)) {
        findings.add('node-file', `node.json names ${record.path} as two devices.`, { file: join(path, 'node.json') });
        continue;
      }
      const file = await openDevice(platform, record.path, findings);
      if (file !== undefined) files.push(file);
      devices.push({ ...record, file });
    }
    index = await openIndex(platform, join(path, 'index'), findings);
    if (index === undefined) return null;
    const segments = await openSegments(platform, join(path, 'log'), files);
    const { summary, picture } = await check({
      node: node.node,
      devices,
      index,
      segments,
      segmentBytes: logSegmentBytes,
      regions: platform,
      checksums: platform,
      logChecksums: seededChecksums(platform, logSeedOf(node)),
      findings,
      readProgress: options.readProgress,
    });
    const changes = (await decide?.(picture, platform)) ?? [];
    if (changes.length > 0) {
      await index.close();
      index = undefined;
      await changeIndex(join(path, 'index'), changes, platform);
    }
    return summary;
  } finally {
    await index?.close();
    for (const file of files) await file.close();
    await platform.close();
  }
}

async function openDevice(platform: IoPlatform, path: string, findings: Findings): Promise<PlatformFile | undefined> {
  try {
    // Claimed as by a server, so that none starts to write on it meanwhile.
    return await openClaimed(platform, { path, mode: 'direct', readOnly: true });
  } catch (error) {
    if (!(error instanceof SledgeError)) throw error;
    const kind: FindingKind = error.code === 'device-missing' ? 'device-missing' : 'device-unusable';
    const what =
      kind === 'device-missing' ? `Device ${path} is not there` : `A device cannot be used: ${error.message}`;
    findings.add(kind, `${what}.`, { file: path });
    return undefined;
  }
}

/** The one place where the index of a stopped server is opened for writing. */
async function changeIndex(directory: string, changes: readonly ColumnChange[], platform: IoPlatform): Promise<void> {
  // Sums that could not be used were found by the check before, and any that cannot be stored by the one behind.
  const log = { warn: () => {} };
  await takeIndexSums(directory, platform, log);
  const index = new LmdbIndex(directory);
  try {
    await storeRepairs(index, changes);
  } finally {
    await index.close();
  }
  await leaveIndexSums(directory, platform, log);
}

async function openIndex(platform: IoPlatform, directory: string, findings: Findings): Promise<LmdbIndex | undefined> {
  if (!LmdbIndex.exists(directory)) {
    findings.add('index-missing', `The index in ${directory} is missing.`, { file: directory });
    return undefined;
  }
  // What LMDB makes of a damaged page may be the end of this process.
  if (!(await isIndexUsable(platform, directory, findings))) return undefined;
  const files = new Set(readdirSync(directory));
  try {
    return new LmdbIndex(directory, { readOnly: true });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    findings.add('index-unreadable', `The index in ${directory} cannot be opened: ${reason}.`, { file: directory });
    return undefined;
  } finally {
    // The library makes its lock file where it is missing.
    for (const name of readdirSync(directory)) if (!files.has(name)) rmSync(join(directory, name));
  }
}

async function isIndexUsable(platform: IoPlatform, directory: string, findings: Findings): Promise<boolean> {
  try {
    const verdict = await verifyIndex(directory, platform);
    if (verdict.kind === 'unusable') findings.add('index-sums', `${unusableText(verdict)}.`, { file: verdict.file });
    if (verdict.kind !== 'damaged') return true;
    const { file, offsetBytes, what } = verdict;
    findings.add('index-damaged', `${file} is not what the last stop has left: ${what}.`, { file, offsetBytes });
  } catch (error) {
    if (!(error instanceof SledgeError)) throw error;
    findings.add('index-unreadable', `${error.message}.`, { file: directory });
  }
  return false;
}

async function openSegments(platform: IoPlatform, directory: string, files: PlatformFile[]): Promise<SegmentFile[]> {
  if (!existsSync(directory)) return [];
  const segments: SegmentFile[] = [];
  for (const name of readdirSync(directory).sort()) {
    if (!SEGMENT_NAME.test(name)) continue;
    const path = join(directory, name);
    const file = await platform.openFile({ path, mode: 'buffered', readOnly: true });
    files.push(file);
    segments.push({ path, file });
  }
  return segments;
}
