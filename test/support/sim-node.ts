/**
 * A node on simulated ports: the parts of `node/start.ts` put together over files, an index and a clock that a test
 * controls. The files and the index outlive a crash, everything else is thrown away and built anew by `boot`.
 */

import { BouncePool } from '../../src/base/bounce-pool.ts';
import { EIO } from '../../src/base/errno.ts';
import { SledgeError } from '../../src/base/errors.ts';
import { completion } from '../../src/base/io-wait.ts';
import { columnBytes } from '../../src/base/limits.ts';
import type { OpNumber, VolumeNumber } from '../../src/base/units.ts';
import type { Destage } from '../../src/head/destage.ts';
import { DestageStuck } from '../../src/head/destage-store.ts';
import { Head } from '../../src/head/head.ts';
import { purge } from '../../src/head/purge.ts';
import type { RecoveryRow } from '../../src/head/recovery.ts';
import { SlotAllocator } from '../../src/head/slot-allocator.ts';
import { startHead } from '../../src/head/start-head.ts';
import type { VolumeEntry } from '../../src/index/index-store.ts';
import { columnsThatFit, Device } from '../../src/sled/device.ts';
import { Sled } from '../../src/sled/sled.ts';
import { FIRST_COLUMN_POSITION } from '../../src/sled/superblock.ts';
import { BlockCache } from '../../src/volume/block-cache.ts';
import { Overlay } from '../../src/volume/overlay.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { type CommitGate, IndexContents, MemoryIndex } from './memory-index.ts';
import type { Crash } from './oracle.ts';
import { compareParts } from './sim-audit.ts';
import { type SimFaults, SimFile } from './sim-file.ts';
import { SimLoop } from './sim-loop.ts';
import { SimRegions, simChecksums } from './sim-memory.ts';
import type { SimRandom } from './sim-random.ts';

export interface SimNodeOptions {
  readonly segmentBytes: number;
  readonly logSegments: number;
  readonly cacheBytes: number;
  readonly overlayRows: number;
  readonly bounceBuffers: number;
  readonly devices: number;
  readonly columnsPerDevice: number;
  readonly canDiscard: boolean;
}

/** What goes wrong, how often in ten thousand I/Os. Off while the node starts and while it is judged. */
export interface SimTrouble {
  readonly device: SimFaults;
  /** Of the last device, if something else goes wrong with it than with the others. */
  readonly lastDevice?: SimFaults;
  readonly log: SimFaults;
  readonly indexPerMyriad: number;
  /** Of segments that cannot be made: ENOSPC. */
  readonly segmentPerMyriad: number;
}

const NO_FAULTS: SimFaults = { readPerMyriad: 0, writePerMyriad: 0, syncPerMyriad: 0 };
export const NO_TROUBLE: SimTrouble = { device: NO_FAULTS, log: NO_FAULTS, indexPerMyriad: 0, segmentPerMyriad: 0 };

/** What outlives a node. */
export interface SimDisks {
  readonly devices: readonly SimFile[];
  readonly segments: readonly SimFile[];
  readonly contents: IndexContents;
}

/** Hears of everything that decides what a loss of power may leave. */
export interface NodeWatcher {
  /** A file is there now; it may be given a watcher of its own. */
  fileMade(file: SimFile): void;
  commitBegan(apply: (contents: IndexContents) => void): void;
  /** The oldest one under way has taken place. */
  commitEnded(): void;
}

interface QueuedCommit {
  readonly apply: () => void;
}

export class SimNode {
  readonly loop: SimLoop;
  readonly options: SimNodeOptions;
  readonly devices: SimFile[] = [];
  readonly segments: SimFile[] = [];
  readonly corruptions: string[] = [];
  readonly rows: RecoveryRow[] = [];
  stuck = '';
  readonly #random: SimRandom;
  readonly #contents: IndexContents;
  readonly #watcher: NodeWatcher | undefined;
  #commits: QueuedCommit[] = [];
  #regions = new SimRegions();
  /** Since the node was started. */
  logFailed = false;
  /** What a real node puts on record beside its log. */
  #syncHasFailed = false;
  #indexPerMyriad = 0;
  #segmentPerMyriad = 0;
  #segmentsRefused = 0;
  #indexFailed = false;
  #logFaults = NO_FAULTS;
  #head: Head | undefined;
  #destage: Destage | undefined;

  /** `found` gives what an earlier node has left; else all is new. */
  constructor(
    random: SimRandom,
    options: SimNodeOptions,
    { found, watcher }: { found?: (loop: SimLoop) => SimDisks; watcher?: NodeWatcher } = {},
  ) {
    this.#random = random;
    this.options = options;
    this.#watcher = watcher;
    this.loop = new SimLoop(random);
    const disks = found?.(this.loop);
    this.#contents = disks?.contents ?? new IndexContents();
    if (disks !== undefined) {
      this.devices.push(...disks.devices);
      this.segments.push(...disks.segments);
      return;
    }
    for (let number = 0; number < options.devices; number++) {
      const bytes = FIRST_COLUMN_POSITION + options.columnsPerDevice * columnBytes;
      const device = new SimFile(`device ${number}`, bytes, 'direct', this.loop, random);
      device.canDiscard = options.canDiscard;
      this.devices.push(device);
      this.#watcher?.fileMade(device);
    }
  }

  get head(): Head {
    if (this.#head === undefined) throw new Error('the node is not up');
    return this.#head;
  }

  get destage(): Destage {
    if (this.#destage === undefined) throw new Error('the node is not up');
    return this.#destage;
  }

  /** Pages of the devices that rot or stray writes may have spoilt. */
  get damagedPages(): number {
    return this.devices.reduce((sum, device) => sum + device.damaged.size, 0);
  }

  /** How often something went wrong in files, index commits not counted. */
  get faultCount(): number {
    return [...this.devices, ...this.segments].reduce((sum, file) => sum + file.faultCount, this.#segmentsRefused);
  }

  /** Whether the log's own records say of all that is durable that it is. */
  get durableIsStated(): boolean {
    const { log } = this.head;
    return !log.lacksMark && log.appendedEnd === log.committedEnd;
  }

  get commitsUnderWay(): number {
    return this.#commits.length;
  }

  trouble(trouble: SimTrouble): void {
    this.#indexPerMyriad = trouble.indexPerMyriad;
    this.#segmentPerMyriad = trouble.segmentPerMyriad;
    this.#logFaults = trouble.log;
    for (const device of this.devices) device.faults = trouble.device;
    if (trouble.lastDevice !== undefined) this.devices.at(-1)!.faults = trouble.lastDevice;
    for (const segment of this.segments) segment.faults = trouble.log;
  }

  /** Starts it, as `node/start.ts` does. */
  boot(): Promise<void> {
    return this.loop.until(this.#open());
  }

  crash(kind: Crash): void {
    this.loop.crash();
    // A commit that was asked for may be there; never one without those before it.
    this.#indexFailed = false;
    this.logFailed = false;
    const survivors = this.#random.below(this.#commits.length + 1);
    for (const commit of this.#commits.slice(0, survivors)) commit.apply();
    this.#commits = [];
    for (const file of [...this.segments, ...this.devices]) {
      if (kind === 'power') file.powerLost();
      else file.processDied();
    }
    this.#head = undefined;
    this.#destage = undefined;
    this.#regions.giveBack();
    this.#regions = new SimRegions();
  }

  async createVolume(name: string, sizeBytes: number, chunkBytes: number, ack: VolumeEntry['ack']): Promise<Volume> {
    const { head } = this;
    const number = head.index.nextVolume();
    const createdAt = '2026-01-01T00:00:00.000Z';
    const lastOp = 0 as OpNumber;
    const entry: VolumeEntry = {
      number,
      name,
      sizeBytes,
      chunkBytes,
      ack,
      readOnly: false,
      createdAt,
      state: 'present',
      lastOp,
    };
    const transaction = head.index.begin();
    transaction.putVolume(entry);
    transaction.putNextVolume((number + 1) as VolumeNumber);
    const result = await this.loop.until(completion(request => transaction.commit(request)));
    if (result < 0) throw new Error('the volume cannot be made');
    return head.addVolume(entry);
  }

  /** As `Node` does it; it may be cut short by a crash, after which `finishDeletions` goes on. */
  async deleteVolume(volume: Volume): Promise<void> {
    const { index } = this.head;
    volume.state = 'deleting';
    const transaction = index.begin();
    transaction.putVolume(volume.toEntry(volume.committedOp));
    await completion(request => transaction.commit(request));
    await this.#purge(volume);
  }

  /** Goes on with deletions that a crash has interrupted. */
  async finishDeletions(): Promise<void> {
    for (const volume of [...this.head.volumes()]) if (volume.state === 'deleting') await this.#purge(volume);
  }

  async #purge(volume: Volume): Promise<void> {
    const { head, destage } = this;
    await purge(head, destage, volume);
    await destage.cutAll().catch((error: unknown) => {
      if (!(error instanceof DestageStuck)) throw error;
    });
  }

  /**
   * Everything is answered and destaged: what the parts know of each other has to agree. Says what does not.
   */
  async audit(): Promise<string[]> {
    const { head, loop } = this;
    await loop.until(this.destage.all());
    // Discards end, timers of what was dropped run out, and what they started ends.
    for (let i = 0; i < 12; i++) {
      loop.passTime();
      while (await loop.turn()) {
        // Until nothing is under way.
      }
      await loop.until(this.destage.all());
    }
    return compareParts(head, this.#contents, this.options);
  }

  async #open(): Promise<void> {
    const { loop, options } = this;
    const { segmentBytes } = options;
    const regions = this.#regions;
    const index = new MemoryIndex(this.#contents, this.#gate());
    const bounce = new BouncePool(regions, options.bounceBuffers);
    const { head, destage, syncSucceeded } = await startHead({
      index,
      newHead: () => this.#newHead(index, regions, bounce),
      files: this.segments,
      segments: { create: () => this.#createSegment() },
      log: { segmentBytes, limitBytes: options.logSegments * segmentBytes },
      turns: loop,
      clock: loop,
      regions,
      checksums: simChecksums,
      destageEvents: {
        stuck: (why: string) => {
          this.stuck = why;
        },
        recovered: () => {
          this.stuck = '';
        },
      },
      syncHasFailed: this.#syncHasFailed,
      syncFailed: () => {
        this.#syncHasFailed = true;
      },
      recovered: ({ row }) => void this.rows.push(row),
    });
    if (syncSucceeded) this.#syncHasFailed = false;
    this.#head = head;
    this.#destage = destage;
  }

  #newHead(index: MemoryIndex, regions: SimRegions, bounce: BouncePool): Head {
    const { options } = this;
    const sled = new Sled(this.loop);
    const slots = new SlotAllocator();
    for (const [number, file] of this.devices.entries()) {
      const device = new Device(`/sim/${number}`, file, {
        node: '0'.repeat(32),
        device: '1'.repeat(32),
        number,
        columnBytes,
        firstColumn: FIRST_COLUMN_POSITION,
        columnCount: columnsThatFit(file.sizeBytes),
        serial: 1,
      });
      device.syncFailed = () => {
        this.#syncHasFailed = true;
      };
      sled.add(device);
      slots.addDevice(device);
    }
    for (const column of index.columns()) slots.loadColumn(sled.device(column.device), column);
    slots.loaded();
    const head = new Head({
      turns: this.loop,
      index,
      sled,
      slots,
      overlay: new Overlay(options.overlayRows),
      cache: new BlockCache(regions, options.cacheBytes),
      bounce,
      checksums: simChecksums,
      segmentBytes: options.segmentBytes,
      events: {
        logFailed: () => {
          this.logFailed = true;
          this.#syncHasFailed = true;
        },
        corruptionFound: (volume, block, place, fault) => {
          // What a device did not give is no corruption: those reads fail on purpose.
          if (fault === 'mismatch') this.corruptions.push(`${volume} block ${block} at ${JSON.stringify(place)}`);
        },
      },
    });
    for (const entry of index.volumes()) head.addVolume(entry);
    return head;
  }

  /** Commits are carried out one after another, some time after they were asked for. */
  #gate(): CommitGate {
    return (apply, request) => {
      const commit: QueuedCommit = { apply };
      this.#commits.push(commit);
      this.#watcher?.commitBegan(apply);
      const attempt = () => {
        if (this.#commits[0] !== commit) {
          this.loop.post(attempt);
          return;
        }
        this.#commits.shift();
        // An index that has failed takes no further commit, until the node is started again.
        this.#indexFailed ||= this.#random.below(10_000) < this.#indexPerMyriad;
        if (!this.#indexFailed) {
          apply();
          this.#watcher?.commitEnded();
        }
        request.ioCompleted(this.#indexFailed ? -EIO : 0);
      };
      this.loop.post(attempt);
    };
  }

  #createSegment(): Promise<SimFile> {
    return new Promise((resolve, reject) => {
      this.loop.post(() => {
        if (this.#random.below(10_000) < this.#segmentPerMyriad) {
          this.#segmentsRefused++;
          reject(new SledgeError('io', 'no space for a segment'));
          return;
        }
        const { segmentBytes } = this.options;
        const file = new SimFile(`segment ${this.segments.length}`, segmentBytes, 'buffered', this.loop, this.#random);
        file.faults = this.#logFaults;
        this.segments.push(file);
        this.#watcher?.fileMade(file);
        resolve(file);
      });
    });
  }
}
