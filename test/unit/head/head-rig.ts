/**
 * A whole head in memory: index, log, devices, destage and recovery, on files whose I/O the test controls and a clock
 * that it moves. `Store` is what survives the head, as disks survive a process.
 */

import { BouncePool } from '../../../src/base/bounce-pool.ts';
import { seededChecksums } from '../../../src/base/checksum.ts';
import type { IoRequest } from '../../../src/base/io.ts';
import type { BlockFault, DamagedPlace } from '../../../src/base/location.ts';
import { plainRegion, type Region, type RegionSource } from '../../../src/base/memory.ts';
import type { OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { Destage } from '../../../src/head/destage.ts';
import type { DiscardedSpace } from '../../../src/head/discarded-space.ts';
import { Head } from '../../../src/head/head.ts';
import type { RecoveryRow } from '../../../src/head/recovery.ts';
import { SlotAllocator } from '../../../src/head/slot-allocator.ts';
import { startHead } from '../../../src/head/start-head.ts';
import type { Extent, Loan, VolumeCommand, VolumeRequest } from '../../../src/nbd-server/exported-volume.ts';
import type { OpLog } from '../../../src/oplog/log.ts';
import { addon } from '../../../src/platform/addon.ts';
import { type Device, takeDevice } from '../../../src/sled/device.ts';
import { Sled } from '../../../src/sled/sled.ts';
import { BlockCache } from '../../../src/volume/block-cache.ts';
import { Overlay } from '../../../src/volume/overlay.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { lentBytes } from '../../support/gathered.ts';
import { IndexContents, MemoryIndex } from '../../support/memory-index.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from '../oplog/controlled-file.ts';

export const regions: RegionSource = { allocate: plainRegion };
export const SEGMENT = 8 * MIB;

export interface RigOptions {
  readonly columns?: number;
  readonly chunkBytes?: number;
  readonly volumeBytes?: number;
  readonly volumes?: number;
  readonly overlayRows?: number;
  readonly cacheBytes?: number;
  readonly segments?: number;
  readonly syncHasFailed?: boolean;
  readonly logSeed?: number;
}

/** What is on disk. */
export class Store {
  readonly loop = new MemoryLoop();
  readonly contents = new IndexContents();
  readonly segments: ControlledFile[] = [];
  readonly device: ControlledFile;
  deviceInfo: Device | undefined;

  constructor(columns: number) {
    this.device = new ControlledFile(this.loop, MIB + columns * 16 * MIB);
    this.device.alignmentBytes = 512;
  }
}

/** A request as a session would hand it over. */
export class TestRequest implements VolumeRequest {
  command: VolumeCommand;
  offsetBytes: number;
  lengthBytes: number;
  fua = false;
  noHole = false;
  fastZero = false;
  oneExtent = false;
  holesWanted = false;
  region: Region;
  regionOffset = 0;
  readonly holes: [number, number][] = [];
  readonly extents: Extent[] = [];
  /** Undefined until it is completed. */
  errno: number | undefined;
  placed = 0;
  hurries = 0;
  keepsLoan = false;
  loan: Loan | undefined;
  readonly #done: (request: TestRequest) => void;

  constructor(command: VolumeCommand, offset: number, length: number, done: (request: TestRequest) => void) {
    this.command = command;
    this.offsetBytes = offset;
    this.lengthBytes = length;
    this.region = plainRegion(0);
    this.#done = done;
  }

  /** What was read, with the holes filled in. */
  get bytes(): Uint8Array {
    const bytes = this.region.bytes.slice(this.regionOffset, this.regionOffset + this.lengthBytes);
    for (const [at, length] of this.holes) bytes.fill(0, at, at + length);
    return bytes;
  }

  place(): void {
    if (this.placed++ > 0) return;
    // Rubbish, so that a byte that nobody filled in shows.
    this.region = plainRegion(Math.ceil(this.lengthBytes / 4096) * 4096);
    this.region.bytes.fill(0xee);
    this.regionOffset = 0;
  }

  addHole(offset: number, lengthBytes: number): void {
    this.holes.push([offset, lengthBytes]);
  }

  addExtent(lengthBytes: number, flags: number): void {
    this.extents.push({ lengthBytes, flags });
  }

  /** Reads as into its own place; the loan is `loan` until the test returns it. */
  completedFrom(loan: Loan): void {
    this.place();
    this.region.bytes.set(lentBytes(loan), this.regionOffset);
    if (this.keepsLoan) this.loan = loan;
    else loan.returned();
    this.completed(0);
  }

  hurryReply(): void {
    this.hurries++;
  }

  completed(errno: number): void {
    if (this.errno !== undefined) throw new Error('a request is completed once');
    this.errno = errno;
    this.#done(this);
  }
}

type RequestOptions = Partial<Pick<TestRequest, 'fua' | 'noHole' | 'holesWanted' | 'oneExtent' | 'keepsLoan'>>;

export class HeadRig {
  readonly store: Store;
  readonly loop: MemoryLoop;
  readonly head: Head;
  readonly log: OpLog;
  readonly destage: Destage;
  readonly index: MemoryIndex;
  readonly space: DiscardedSpace;
  readonly row: RecoveryRow;
  readonly events: string[];
  /** While set, index transactions wait here: `apply` and then `request.ioCompleted`. */
  readonly gate: { held: (() => void)[] | undefined };

  private constructor(
    parts: Omit<HeadRig, 'loop' | 'volume' | 'settle' | 'advance' | 'submit' | 'do' | 'write' | 'read'>,
  ) {
    this.store = parts.store;
    this.loop = parts.store.loop;
    this.head = parts.head;
    this.log = parts.log;
    this.destage = parts.destage;
    this.index = parts.index;
    this.space = parts.space;
    this.row = parts.row;
    this.events = parts.events;
    this.gate = parts.gate;
  }

  /** Starts a head on what `store` holds; makes volumes 1 to n when there are none. */
  static async start(options: RigOptions = {}, store = new Store(options.columns ?? 4)): Promise<HeadRig> {
    const { overlayRows = 64 * KIB, cacheBytes = 16 * MIB, segments = 4 } = options;
    const { loop } = store;
    const tools = { regions, checksums: addon };
    const gate: HeadRig['gate'] = { held: undefined };
    const index = new MemoryIndex(store.contents, (apply, request: IoRequest) => {
      const commit = () =>
        loop.post(() => {
          apply();
          request.ioCompleted(0);
        });
      if (gate.held === undefined) commit();
      else gate.held.push(commit);
    });
    if (store.deviceInfo === undefined) {
      const identity = { node: '0'.repeat(32), device: '1'.repeat(32), number: 0 };
      store.deviceInfo = await pump(loop, takeDevice('/memory', store.device, identity, tools));
    }
    if (store.contents.volumes.size === 0) addVolumes(store.contents, options);
    const device = store.deviceInfo;
    const events: string[] = [];
    const headEvents = {
      logFailed: (errno: number) => void events.push(`log failed ${errno}`),
      corruptionFound: (volume: string, block: number, place: DamagedPlace, fault: BlockFault) => {
        const where = place.kind === 'device' ? `location ${place.location}` : `log position ${place.position}`;
        events.push(`${fault === 'mismatch' ? 'corrupt' : fault} ${volume} ${block} ${where}`);
      },
    };
    const bounce = new BouncePool(regions, 16);
    const newHead = () => {
      const sled = new Sled(loop);
      const slots = new SlotAllocator();
      sled.add(device);
      slots.addDevice(device);
      for (const column of index.columns()) slots.loadColumn(device, column);
      slots.loaded();
      const overlay = new Overlay(overlayRows);
      const cache = new BlockCache(regions, cacheBytes);
      const parts = { index, sled, slots, overlay, cache, bounce, checksums: addon };
      const head = new Head({ ...parts, turns: loop, segmentBytes: SEGMENT, events: headEvents });
      for (const entry of index.volumes()) head.addVolume(entry);
      return head;
    };
    const create = async () => {
      const file = new ControlledFile(loop, SEGMENT);
      store.segments.push(file);
      return file;
    };
    let row: RecoveryRow = 'empty';
    const { head, destage, space } = await pump(
      loop,
      startHead({
        index,
        newHead,
        files: store.segments,
        segments: { create },
        log: { segmentBytes: SEGMENT, limitBytes: segments * SEGMENT },
        turns: loop,
        clock: loop,
        regions,
        checksums: seededChecksums(addon, options.logSeed ?? 0),
        destageEvents: {
          stuck: why => void events.push(`stuck: ${why}`),
          recovered: () => void events.push('recovered'),
        },
        syncHasFailed: options.syncHasFailed ?? false,
        syncFailed: () => void events.push('sync failed'),
        recovered: result => {
          row = result.row;
        },
      }),
    );
    const rig = new HeadRig({ store, head, log: head.log, destage, index, space, row, events, gate });
    await rig.settle();
    return rig;
  }

  volume(number = 1): Volume {
    const volume = this.head.volume(number as VolumeNumber);
    if (volume === undefined) throw new Error(`there is no volume ${number}`);
    return volume;
  }

  /** Turns of the loop, and what promises have to do in between, until all is quiet. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; quiet++) {
      await new Promise(resolve => setImmediate(resolve));
      if (this.loop.turn()) quiet = 0;
    }
  }

  /** Lets time pass, and everything happen that is due meanwhile. */
  async advance(milliseconds: number): Promise<void> {
    for (let passed = 0; passed < milliseconds; passed += 250) {
      this.loop.advance(Math.min(250, milliseconds - passed));
      await this.settle();
    }
  }

  /** Hands a request over; the payload of a small write is rubbish as soon as the volume may not use it any more. */
  submit(
    command: VolumeCommand,
    offset: number,
    data: number | Uint8Array,
    options: RequestOptions = {},
    volume = 1,
  ): TestRequest {
    const length = typeof data === 'number' ? data : data.length;
    const request = new TestRequest(command, offset, length, () => {});
    Object.assign(request, options);
    if (typeof data !== 'number') {
      request.region = plainRegion(Math.ceil(length / 4096) * 4096);
      request.region.bytes.set(data);
    }
    this.volume(volume).submit(request);
    if (typeof data !== 'number' && length <= 32 * KIB) request.region.bytes.fill(0xdd);
    return request;
  }

  /** A request that is waited for. */
  async do(
    command: VolumeCommand,
    offset = 0,
    data: number | Uint8Array = 0,
    options: RequestOptions = {},
    volume = 1,
  ): Promise<TestRequest> {
    const request = this.submit(command, offset, data, options, volume);
    await this.settle();
    if (request.errno === undefined) throw new Error(`${command} at ${offset} is not answered`);
    return request;
  }

  /** Writes `length` bytes of one value; gives the errno. */
  async write(offset: number, length: number, fill: number, options: RequestOptions = {}, volume = 1): Promise<number> {
    return (await this.do('write', offset, new Uint8Array(length).fill(fill), options, volume)).errno!;
  }

  async read(offset: number, length: number, volume = 1): Promise<Uint8Array> {
    const request = await this.do('read', offset, length, {}, volume);
    if (request.errno !== 0) throw new Error(`read at ${offset} failed with ${request.errno}`);
    return request.bytes;
  }
}

/** Runs a promise that waits for I/O of this loop. */
export async function pump<T>(loop: MemoryLoop, work: Promise<T>): Promise<T> {
  let done = false;
  const settled = work.finally(() => {
    done = true;
  });
  settled.catch(() => {});
  while (!done) {
    loop.turn();
    await new Promise(resolve => setImmediate(resolve));
  }
  return settled;
}

function addVolumes(contents: IndexContents, options: RigOptions): void {
  const { volumes = 1, volumeBytes = 64 * MIB, chunkBytes = 64 * KIB } = options;
  for (let i = 1; i <= volumes; i++) {
    const number = i as VolumeNumber;
    contents.volumes.set(number, {
      number,
      name: `vol${i}`,
      sizeBytes: volumeBytes,
      chunkBytes,
      ack: 'written',
      readOnly: false,
      createdAt: '2026-01-01T00:00:00.000Z',
      state: 'present',
      lastOp: 0 as OpNumber,
    });
  }
  contents.nextVolume = (volumes + 1) as VolumeNumber;
}

/** Whether all bytes have one value. */
export function isAll(bytes: Uint8Array, value: number): boolean {
  return bytes.every(byte => byte === value);
}
