/**
 * A running node: volumes, server, log, destage and devices in one place. It answers the control plane, is the export
 * table of the NBD server, and stops everything in order. `start.ts` builds it.
 */
import type {
  CreateVolumeRequest,
  NodeControl,
  NodeStatus,
  ScrubProgress,
  ScrubReport,
  VolumeInfo,
} from '../admin/node-control.ts';
import { sledgeVersion } from '../admin/version.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import { completion } from '../base/io-wait.ts';
import { indexRemovalGrowthBytes, nbdDrainTimeoutMs, volumeCountMax } from '../base/limits.ts';
import type { Epoch, OpNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES, formatBytes } from '../base/units.ts';
import type { Destage } from '../head/destage.ts';
import type { DiscardedSpace } from '../head/discarded-space.ts';
import type { Head } from '../head/head.ts';
import type { IndexTransaction, VolumeEntry } from '../index/index-store.ts';
import type { ExportedVolume, ExportTable, SessionHandle } from '../nbd-server/exported-volume.ts';
import type { NbdServer, NbdServerOptions } from '../nbd-server/server.ts';
import type { IoPlatform, ListenAddress, Listener } from '../platform/io-platform.ts';
import type { LoopDelay } from '../platform/loop-delay.ts';
import type { Volume } from '../volume/volume.ts';
import type { DamageList } from './damage-list.ts';
import type { DataDirectory } from './data-directory.ts';
import { Deletions } from './deletions.ts';
import type { NodeLog, RunningNode } from './options.ts';
import { asideProblems, type ProblemList } from './problem-list.ts';
import { RateSampler } from './rate-sampler.ts';
import type { Scrubs } from './scrubs.ts';

export interface NodeParts {
  readonly platform: IoPlatform;
  readonly loopDelay: LoopDelay;
  readonly directory: DataDirectory;
  readonly head: Head;
  readonly destage: Destage;
  readonly space: DiscardedSpace;
  readonly epoch: Epoch;
  readonly problems: ProblemList;
  readonly damage: DamageList;
  readonly scrubs: Scrubs;
  readonly log: NodeLog;
  readonly tls: NodeStatus['tls'];
  /** Gives back, in this order, what was opened for the node. */
  readonly closers: readonly (() => Promise<void> | void)[];
}

export class Node implements NodeControl, ExportTable, RunningNode {
  readonly #parts: NodeParts;
  readonly #byName = new Map<string, Volume>();
  readonly #sessions = new Map<ExportedVolume, Set<SessionHandle>>();
  readonly #listeners: Listener[] = [];
  readonly #startedAt = new Date();
  readonly #rates: RateSampler;
  readonly #deletions: Deletions;
  /** Names of volumes that are being made, or that are not yet on record as deleted: nobody else gets them. */
  readonly #heldNames = new Set<string>();
  /** The number for the next volume. */
  #nextVolume = 1;
  #server: NbdServer | undefined;
  #stopping: Promise<void> | undefined;
  #lastSync: { count: number; at: string } | undefined;

  constructor(parts: NodeParts) {
    this.#parts = parts;
    this.#deletions = new Deletions(parts.head, parts.destage, parts.log);
    this.#rates = new RateSampler(parts.platform, () => this.#server?.statistics().commands ?? []);
    for (const volume of parts.head.volumes()) if (volume.state === 'present') this.#byName.set(volume.name, volume);
  }

  get control(): NodeControl {
    return this;
  }

  get addresses(): readonly ListenAddress[] {
    return this.#listeners.map(listener => listener.address);
  }

  /** What the NBD server shares with the rest of the node. */
  get serverPorts(): Pick<NbdServerOptions, 'turns' | 'clock' | 'regions'> {
    const { platform } = this.#parts;
    return { turns: platform, clock: platform, regions: platform };
  }

  /** Serves clients at these addresses. */
  async serve(server: NbdServer, addresses: readonly ListenAddress[]): Promise<void> {
    this.#server = server;
    for (const address of addresses) {
      this.#listeners.push(await this.#parts.platform.listen(address, stream => server.accept(stream)));
    }
    this.#rates.start();
    this.#parts.loopDelay.start();
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  // --- exports -----------------------------------------------------------------------------------------------------------

  find(name: string): ExportedVolume | undefined {
    if (name === '' && this.#byName.size === 1) return [...this.#byName.values()][0];
    return this.#byName.get(name);
  }

  list(): Iterable<ExportedVolume> {
    return this.#sorted();
  }

  opened(volume: ExportedVolume, session: SessionHandle): void {
    const sessions = this.#sessions.get(volume);
    if (sessions === undefined) this.#sessions.set(volume, new Set([session]));
    else sessions.add(session);
  }

  closed(volume: ExportedVolume, session: SessionHandle): void {
    const sessions = this.#sessions.get(volume);
    sessions?.delete(session);
    if (sessions?.size === 0) this.#sessions.delete(volume);
  }

  // --- volumes -----------------------------------------------------------------------------------------------------------

  volumes(): VolumeInfo[] {
    return this.#sorted().map(volume => this.#info(volume));
  }

  volume(name: string): VolumeInfo | undefined {
    const volume = this.#byName.get(name);
    return volume === undefined ? undefined : this.#info(volume);
  }

  async createVolume(request: CreateVolumeRequest): Promise<VolumeInfo> {
    this.#refuseWhenStopping();
    const { head } = this.#parts;
    if (this.#byName.has(request.name) || this.#heldNames.has(request.name)) {
      throw new SledgeError('volume-exists', `there is a volume ${request.name} already`);
    }
    if (this.#byName.size + this.#heldNames.size >= volumeCountMax) {
      throw new SledgeError('volume-limit', `a node has at most ${volumeCountMax} volumes`);
    }
    this.#refuseWithoutRoom();
    this.#heldNames.add(request.name);
    try {
      const number = Math.max(head.index.nextVolume(), this.#nextVolume) as VolumeNumber;
      this.#nextVolume = number + 1;
      const entry: VolumeEntry = {
        ...request,
        number,
        createdAt: new Date().toISOString(),
        state: 'present',
        lastOp: 0 as OpNumber,
      };
      const transaction = head.index.begin();
      transaction.putVolume(entry);
      transaction.putNextVolume((number + 1) as VolumeNumber);
      await commit(transaction);
      const volume = head.addVolume(entry);
      this.#byName.set(volume.name, volume);
      return this.#info(volume);
    } finally {
      this.#heldNames.delete(request.name);
    }
  }

  async growVolume(name: string, sizeBytes: number): Promise<VolumeInfo> {
    this.#refuseWhenStopping();
    const volume = this.#require(name);
    if (sizeBytes < volume.sizeBytes) {
      throw new SledgeError('shrink-refused', `${name} has ${formatBytes(volume.sizeBytes)}`);
    }
    if (sizeBytes > volume.sizeBytes) {
      const errno = await this.#parts.head.resize(volume, sizeBytes);
      if (errno !== 0) throw new SledgeError('io', `the new size of ${name} was not stored: ${errnoName(errno)}`);
    }
    return this.#info(volume);
  }

  async deleteVolume(name: string): Promise<void> {
    this.#refuseWhenStopping();
    const volume = this.#require(name);
    const sessions = this.#sessions.get(volume)?.size ?? 0;
    if (sessions > 0) throw new SledgeError('volume-busy', `${name} has ${sessions} connected clients`);
    this.#refuseWithoutRoom();
    this.#byName.delete(name);
    this.#heldNames.add(name);
    volume.state = 'deleting';
    const { damage, head, scrubs } = this.#parts;
    const transaction = head.index.begin();
    transaction.putVolume(volume.toEntry(volume.committedOp));
    const reason = new SledgeError('volume-unknown', `${name} was deleted while it was scrubbed`);
    // Where the commit fails it is not known until the next start whether the volume is there: nobody gets it or its name.
    await Promise.all([scrubs.cancel(volume, reason), commit(transaction)]);
    damage.forget(name);
    this.#heldNames.delete(name);
    this.#deletions.add(volume);
  }

  async scrubVolume(name: string, bytesPerSecond: number, signal: AbortSignal): Promise<ScrubReport> {
    this.#refuseWhenStopping();
    return await this.#parts.scrubs.run(this.#require(name), bytesPerSecond, signal);
  }

  scrubProgress(name: string): ScrubProgress | undefined {
    const volume = this.#byName.get(name);
    return volume === undefined ? undefined : this.#parts.scrubs.progress(volume);
  }

  /** Goes on with deletions that a crash or a stop has interrupted, beside everything else. */
  finishDeletions(): void {
    for (const volume of this.#parts.head.volumes()) {
      if (volume.state !== 'deleting') continue;
      this.#parts.log.info({ volume: volume.name }, 'finishing the deletion of a volume');
      this.#deletions.add(volume);
    }
  }

  status(): NodeStatus {
    const { platform, loopDelay, directory, head, problems, damage, tls } = this.#parts;
    const { log, cache } = head;
    const now = new Date();
    if (log.syncCount !== (this.#lastSync?.count ?? 0)) {
      this.#lastSync = { count: log.syncCount, at: now.toISOString() };
    }
    const devices = this.#deviceStatus();
    const hasFailed = devices.some(({ errors }) => errors.read + errors.write > 0);
    const list = [...asideProblems(head.sled.devices()), ...problems.list()];
    const failed = list.some(problem => problem.severity === 'error');
    return {
      health: failed ? 'failed' : list.length > 0 || hasFailed ? 'degraded' : 'ok',
      problems: list,
      version: sledgeVersion(),
      pid: process.pid,
      dataDirectory: directory.path,
      formatVersion: directory.node.format,
      startedAt: this.#startedAt.toISOString(),
      uptimeSeconds: Math.round((now.getTime() - this.#startedAt.getTime()) / 1000),
      io: { kind: platform.kind, why: platform.kindReason },
      log: {
        usedBytes: log.usedBytes,
        limitBytes: log.limitBytes,
        segments: log.segmentCount,
        lastSyncAt: this.#lastSync?.at ?? null,
        checksumErrors: damage.logFindings,
      },
      cache: {
        usedBytes: cache.count * BLOCK_BYTES,
        limitBytes: cache.capacity * BLOCK_BYTES,
        hits: cache.hits,
        misses: cache.misses,
      },
      index: { sizeBytes: head.index.sizeBytes },
      devices,
      volumes: this.volumes(),
      addresses: this.addresses,
      tls,
      connections: this.#server?.statistics().connections.length ?? 0,
      commands: this.#rates.commands(),
      eventLoopDelayMs: { lastMinute: loopDelay.lastMinute, sinceStart: loopDelay.sinceStart },
    };
  }

  #sorted(): Volume[] {
    return [...this.#byName.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #require(name: string): Volume {
    const volume = this.#byName.get(name);
    if (volume === undefined) throw new SledgeError('volume-unknown', `there is no volume ${name}`);
    return volume;
  }

  #refuseWhenStopping(): void {
    if (this.#stopping !== undefined) throw new SledgeError('shutting-down', 'the server is stopping');
  }

  /** Before a commit, which would be the last one if it failed. */
  #refuseWithoutRoom(): void {
    if (this.#parts.head.index.hasRoom(indexRemovalGrowthBytes)) return;
    throw new SledgeError('no-space', 'the file system of the index is full', {
      hint: 'Free some space there, and try again.',
    });
  }

  #info(volume: Volume): VolumeInfo {
    const { head, epoch, problems } = this.#parts;
    return {
      name: volume.name,
      number: volume.number,
      sizeBytes: volume.sizeBytes,
      chunkBytes: volume.chunkBytes,
      ack: volume.ack,
      readOnly: volume.readOnly,
      allocatedBytes: head.slots.usedBytes(volume.number),
      lastOp: volume.committedOp,
      epoch,
      connections: this.#sessions.get(volume)?.size ?? 0,
      createdAt: volume.createdAt,
      problems: problems.ofVolume(volume.name),
    };
  }

  #deviceStatus(): NodeStatus['devices'] {
    const { head } = this.#parts;
    return [...head.sled.devices()].map(device => ({
      name: `device ${device.number}`,
      path: device.path,
      kind: device.kind,
      sizeBytes: device.file.sizeBytes,
      usedBytes: (device.columnCount - head.slots.freeColumnsOf(device)) * device.columnBytes,
      alignmentBytes: device.file.alignmentBytes,
      state: device.failure !== undefined ? 'failed' : hasErrors(device.errors) ? 'degraded' : 'ok',
      errors: { ...device.errors },
    }));
  }

  async #stop(): Promise<void> {
    const { head, destage, closers, log } = this.#parts;
    this.#rates.stop();
    this.#parts.loopDelay.stop();
    await this.#parts.scrubs.stop();
    for (const listener of this.#listeners) await listener.close();
    const drained = await this.#drained();
    const errno = await head.flush();
    if (errno !== 0) log.error({ errno: errnoName(errno) }, 'what was written last is not durable');
    await destage.stop();
    // A mark of the log may be on its way, for which nobody waits.
    await head.appendedIsCommitted();
    await head.log.close();
    await this.#parts.space.stop();
    if (!drained) {
      const why =
        head.waitingWrites + head.waitingAsideWrites > 0
          ? 'writes wait for room that does not come'
          : 'clients do not take their replies';
      throw new SledgeError('io', `stopped without answering every request: ${why}`);
    }
    for (const close of closers) await close();
    if (errno !== 0)
      throw new SledgeError('io', `stopped, but what was written last is not durable: ${errnoName(errno)}`);
  }

  /** Waits until clients are answered and gone, but not for ever. */
  async #drained(): Promise<boolean> {
    const { platform } = this.#parts;
    let cancel = () => {};
    const deadline = new Promise<boolean>(resolve => {
      cancel = platform.after(nbdDrainTimeoutMs, () => resolve(false));
    });
    const drained = this.#server?.drain().then(() => true) ?? Promise.resolve(true);
    const result = await Promise.race([drained, deadline]);
    cancel();
    return result;
  }
}

async function commit(transaction: IndexTransaction): Promise<void> {
  const result = await completion(request => transaction.commit(request));
  if (result < 0) throw new SledgeError('io', `the index cannot be written: ${errnoName(result)}`);
}

function hasErrors(errors: { read: number; write: number; checksum: number }): boolean {
  return errors.read + errors.write + errors.checksum > 0;
}
