/**
 * Starts a node: lock, format, devices, index, recovery of the log, volumes, listeners, in this order. What was opened is
 * given back when a later part fails, so that a start that was refused leaves everything as it was.
 */
import { statfsSync } from 'node:fs';
import { BouncePool } from '../base/bounce-pool.ts';
import { seededChecksums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import {
  bounceBufferCount,
  chunkBytesDefault,
  logBytesDefault,
  logSegmentBytes,
  logSegmentsMin,
  nbdHandshakeTimeoutMs,
} from '../base/limits.ts';
import type { DamagedPlace, FilePlace } from '../base/location.ts';
import { locationDevice, locationPosition } from '../base/location.ts';
import { formatBytes } from '../base/units.ts';
import type { HeadEvents } from '../head/head.ts';
import { Head, logFailureText } from '../head/head.ts';
import { describeRow } from '../head/recovery.ts';
import { SlotAllocator } from '../head/slot-allocator.ts';
import type { StartedHead } from '../head/start-head.ts';
import { startHead } from '../head/start-head.ts';
import type { IndexStore } from '../index/index-store.ts';
import type { ServerTls } from '../nbd-server/server.ts';
import { NbdServer } from '../nbd-server/server.ts';
import { writeRecordBytes } from '../oplog/record.ts';
import type { IoPlatform } from '../platform/io-platform.ts';
import { LmdbIndex } from '../platform/lmdb-index.ts';
import { LoopDelay } from '../platform/loop-delay.ts';
import { createIoPlatform } from '../platform/platform.ts';
import { detachStream } from '../platform/ring-stream.ts';
import { openFilesMax } from '../platform/system-limits.ts';
import { loadTlsMaterial } from '../platform/tls.ts';
import { tlsUpgrade } from '../platform/tls-stream.ts';
import type { Device } from '../sled/device.ts';
import { Sled } from '../sled/sled.ts';
import { BlockCache } from '../volume/block-cache.ts';
import { Overlay } from '../volume/overlay.ts';
import { DamageList } from './damage-list.ts';
import { DataDirectory, logSeedOf } from './data-directory.ts';
import { openDevices } from './device-set.ts';
import { leaveIndexSums, takeIndexSums } from './index-sums.ts';
import { Node } from './node.ts';
import type { NodeLog, NodeOptions, RunningNode, TlsOption } from './options.ts';
import { ProblemList } from './problem-list.ts';
import { Scrubs } from './scrubs.ts';
import { refuseTooManyFiles, SegmentFiles } from './segment-files.ts';

export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const tls = options.tls === undefined ? undefined : loadTls(options.tls, options.log);
  const closers: (() => Promise<void> | void)[] = [];
  try {
    const node = await open(options, closers);
    closers.unshift(() => node.stop());
    await makeVolumes(node, options);
    const server = new NbdServer({ ...node.serverPorts, exports: node, log: options.log, ...(tls ? { tls } : {}) });
    await node.serve(server, options.listen);
    node.finishDeletions();
    return node;
  } catch (error) {
    for (const close of closers) await close();
    throw error;
  }
}

async function open(options: NodeOptions, closers: (() => Promise<void> | void)[]): Promise<Node> {
  const { log } = options;
  const checkAborted = () => {
    if (options.signal?.aborted) throw new SledgeError('shutting-down', 'stopped before the server was up');
  };
  if (options.logBytes !== undefined) refuseTooManyFiles(options.logBytes, openFilesMax());
  const directory = DataDirectory.open(options.dataDirectory);
  closers.unshift(() => directory.close());
  const platform = createIoPlatform();
  closers.unshift(() => platform.close());
  const index = await openIndex(directory, platform, log, closers);
  const { devices, close } = await openDevices(platform, directory, options.devices);
  closers.unshift(close);
  checkAborted();
  const segments = new SegmentFiles(platform, directory.logPath, logSegmentBytes);
  closers.unshift(() => segments.close());
  const problems = new ProblemList();
  const files = await segments.openAll();
  const fresh = await segments.ensure(logSegmentsMin);
  checkAborted();
  const started = performance.now();
  const damage = new DamageList(problems);
  let running: StartedHead | undefined;
  const locate = (place: DamagedPlace): FilePlace => {
    if (place.kind === 'log') return segments.placeOf(running?.head.log.fileAt(place.position), place.position);
    const number = locationDevice(place.location);
    const file = devices.find(device => device.number === number)?.path ?? `device ${number}`;
    return { file, offsetBytes: locationPosition(place.location) };
  };
  const syncFailed = () => markSyncFailed(directory, log);
  for (const device of devices) device.syncFailed = syncFailed;
  const events = headEvents(problems, damage, log, locate, syncFailed);
  const bounce = new BouncePool(platform, bounceBufferCount);
  const { logBytes = defaultLogBytes(directory.logPath) } = options;
  running = await startHead({
    index,
    newHead: () => newHead(platform, index, devices, { ...options, logBytes }, events, bounce),
    files,
    fresh,
    segments,
    log: { segmentBytes: logSegmentBytes, limitBytes: logBytes },
    turns: platform,
    clock: platform,
    regions: platform,
    checksums: seededChecksums(platform, logSeedOf(directory.node)),
    destageEvents: destageEvents(problems, log),
    syncHasFailed: directory.syncHasFailed,
    syncFailed,
    recovered: ({ row, operations, dropped }) => {
      const milliseconds = Math.round(performance.now() - started);
      log.info({ row, operations, dropped, milliseconds }, `recovered: ${describeRow(row)}`);
      if (row === 'rotten') problems.add('log-rotten', rottenProblem);
    },
  });
  const { head, destage, space, epoch, syncSucceeded } = running;
  if (syncSucceeded) directory.syncSucceeded();
  closers.unshift(() => destage.stop());
  const tls = options.tls?.mode ?? 'off';
  return new Node({
    platform,
    loopDelay: new LoopDelay(platform),
    directory,
    head,
    destage,
    space,
    epoch,
    problems,
    damage,
    scrubs: new Scrubs({ head, clock: platform, log, damage, locate }),
    log,
    tls,
    closers: closers.splice(0),
  });
}

async function openIndex(
  directory: DataDirectory,
  platform: IoPlatform,
  log: NodeLog,
  closers: (() => Promise<void> | void)[],
): Promise<LmdbIndex> {
  const { indexPath } = directory;
  if (directory.node.devices.length > 0 && !LmdbIndex.exists(indexPath)) {
    const hint = 'Bring it back from a backup: without it nobody knows what lies where on the devices.';
    throw new SledgeError('corrupt', `the index of ${directory.path} is missing`, { hint });
  }
  await takeIndexSums(indexPath, platform, log);
  let index: LmdbIndex | undefined;
  closers.unshift(async () => {
    await index?.close();
    if (index?.hasFailed !== true) await leaveIndexSums(indexPath, platform, log);
  });
  index = new LmdbIndex(indexPath);
  return index;
}

function defaultLogBytes(directory: string): number {
  const { blocks, bsize } = statfsSync(directory);
  return logBytesDefault(blocks * bsize, openFilesMax());
}

function newHead(
  platform: IoPlatform,
  index: IndexStore,
  devices: readonly Device[],
  options: NodeOptions & { readonly logBytes: number },
  events: HeadEvents,
  bounce: BouncePool,
): Head {
  const sled = new Sled(platform);
  sled.asideChanged = ({ path, isAside, illness }) => {
    if (isAside) options.log.warn({ device: path, why: illness }, 'a device is set aside');
    else options.log.info({ device: path }, 'a device is not aside any more');
  };
  const slots = new SlotAllocator();
  for (const device of devices) {
    sled.add(device);
    slots.addDevice(device);
  }
  for (const column of index.columns()) slots.loadColumn(sled.device(column.device), column);
  slots.loaded();
  const head = new Head({
    turns: platform,
    index,
    sled,
    slots,
    overlay: new Overlay(Math.ceil(options.logBytes / writeRecordBytes(1)) + 64 * 1024),
    cache: new BlockCache(platform, options.cacheBytes),
    bounce,
    checksums: platform,
    segmentBytes: logSegmentBytes,
    events,
  });
  for (const entry of index.volumes()) head.addVolume(entry);
  return head;
}

async function makeVolumes(node: Node, options: NodeOptions): Promise<void> {
  for (const { name, sizeBytes } of options.volumes) {
    const existing = node.volume(name);
    if (existing === undefined) {
      await node.createVolume({ name, sizeBytes, chunkBytes: chunkBytesDefault, ack: 'written', readOnly: false });
    } else if (existing.sizeBytes !== sizeBytes) {
      const size = formatBytes(existing.sizeBytes);
      options.log.warn(
        { volume: name },
        `volume ${name} is there with ${size}, which it keeps: see \`sledge volume grow\``,
      );
    }
  }
}

function loadTls(option: TlsOption, log: NodeLog): ServerTls {
  const files = option.psk !== undefined ? { psk: option.psk } : { certificates: option.certificates ?? '' };
  const material = loadTlsMaterial(files);
  for (const warning of material.warnings) log.warn({}, warning);
  return {
    mode: option.mode === 'require' ? 'forced' : 'selective',
    upgrade: tlsUpgrade(material, detachStream, nbdHandshakeTimeoutMs),
  };
}

const rottenProblem = {
  severity: 'error',
  what: 'The op log holds a damaged block.',
  why: 'Data that was durable does not match its checksum any more: the disk has changed it.',
  todo: 'Reads of that block fail until it is written again. Check the disk.',
} as const;

function headEvents(
  problems: ProblemList,
  damage: DamageList,
  log: NodeLog,
  locate: (place: DamagedPlace) => FilePlace,
  syncFailed: () => void,
): HeadEvents {
  return {
    logFailed: errno => {
      syncFailed();
      log.error({ errno: errnoName(errno) }, logFailureText(errno));
      problems.add('log', {
        severity: 'error',
        what: 'Nothing can be written.',
        why: `${logFailureText(errno)}; after that nothing it says can be relied on.`,
        todo: 'Check the disk of the data directory, then start the server again.',
      });
    },
    corruptionFound: (volume, block, place, fault) => {
      const file = locate(place);
      const how = fault === 'mismatch' ? 'does not match its checksum' : 'cannot be read';
      log.error({ volume, block, ...file }, `stored data ${how}`);
      damage.found(volume, block, place, file, fault);
    },
  };
}

/** Best effort: a disk that fails may not take this either. */
function markSyncFailed(directory: DataDirectory, log: NodeLog): void {
  try {
    directory.syncFailed();
  } catch (error) {
    log.error({ error: String(error) }, 'that a sync failed cannot be put on record');
  }
}

function destageEvents(problems: ProblemList, log: NodeLog) {
  return {
    stuck: (why: string, lasts: 'for now' | 'for good') => {
      log.error({}, `destaging has stopped: ${why}`);
      problems.add('destage', {
        severity: 'error',
        what: 'Data stays in the op log; when it is full, writes wait.',
        why: `It cannot be moved to mass storage: ${why}.`,
        todo:
          lasts === 'for now'
            ? 'Free space or repair the device; it is tried again every second.'
            : 'Free space or repair the disk, and start the server again.',
      });
    },
    recovered: () => {
      log.info({}, 'destaging goes on');
      problems.clear('destage');
    },
  };
}
