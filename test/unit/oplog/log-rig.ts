/** An op log over files in memory, with every event written down in order. Used by the tests of this folder. */
import type { Checksums } from '../../../src/base/checksum.ts';
import type { IoRequest } from '../../../src/base/io.ts';
import type { Location } from '../../../src/base/location.ts';
import { plainRegion, type RegionSource } from '../../../src/base/memory.ts';
import type { BlockNumber, Epoch, LogPosition, OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import { BLOCK_BYTES } from '../../../src/base/units.ts';
import { OpLog } from '../../../src/oplog/log.ts';
import type { Committer, OpLogState } from '../../../src/oplog/log-ports.ts';
import type { BatchMemory, BulkChunk, LoggedOp, OpOwner } from '../../../src/oplog/logged-op.ts';
import { bulkRecordBytes, RECORD_HEADER_BYTES, RecordKind, writeRecordBytes } from '../../../src/oplog/record.ts';
import { addon } from '../../../src/platform/addon.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from './controlled-file.ts';

export const regions: RegionSource = { allocate: plainRegion };
export const checksums: Checksums = addon;
export const VOLUME = 7 as VolumeNumber;

/** An operation as it was committed, copied out of the reused object. */
export interface Seen {
  readonly kind: RecordKind;
  readonly op: number;
  readonly first: number;
  readonly count: number;
  readonly position: number;
  readonly end: number;
  readonly data: Uint8Array;
}

export interface LogRigOptions {
  readonly segmentBytes: number;
  readonly segments?: number;
  readonly loop?: MemoryLoop;
  readonly state?: Partial<OpLogState>;
}

export class LogRig implements Committer {
  readonly loop: MemoryLoop;
  readonly log: OpLog;
  /** In order of their making. */
  readonly files: ControlledFile[] = [];
  readonly events: string[] = [];
  readonly seen: Seen[] = [];
  /** While set, making a segment fails. */
  createFails = false;
  creations = 0;
  dataSyncs = 0;
  /** While set, syncs of mass storage wait here. */
  dataHeld: IoRequest[] | undefined;
  onRoom: () => void = () => {};
  /** Of new files. */
  holdNew: readonly ('write' | 'sync')[] = [];
  #op = 0;

  constructor(options: LogRigOptions) {
    const { segmentBytes, segments = 4 } = options;
    this.loop = options.loop ?? new MemoryLoop();
    const create = async () => {
      this.creations++;
      if (this.createFails) throw new Error('no space');
      const file = new ControlledFile(this.loop, segmentBytes);
      for (const command of this.holdNew) file.hold.add(command);
      this.files.push(file);
      return file;
    };
    const syncData = (request: IoRequest) => {
      this.dataSyncs++;
      if (this.dataHeld !== undefined) this.dataHeld.push(request);
      else this.loop.post(() => request.ioCompleted(0));
    };
    this.log = new OpLog(
      { turns: this.loop, clock: this.loop, regions, checksums, segments: { create }, data: { syncData } },
      this,
      { segmentBytes, limitBytes: segments * segmentBytes },
      {
        epoch: 1 as Epoch,
        cut: 0 as LogPosition,
        end: 0 as LogPosition,
        live: new Map(),
        tail: new Uint8Array(),
        spare: [],
        ...options.state,
      },
    );
  }

  committed(op: LoggedOp, memory: BatchMemory): void {
    const { kind, first, count, position, end } = op;
    const data =
      kind === RecordKind.write
        ? memory.bytes.slice(op.dataOffset, op.dataOffset + count * BLOCK_BYTES)
        : new Uint8Array();
    this.seen.push({ kind, op: op.op, first, count, position, end, data });
    this.events.push(`commit ${op.op}`);
  }

  batchCommitted(): void {
    this.events.push('batch');
  }

  roomFreed(): void {
    this.events.push('room');
    this.onRoom();
  }

  logFailed(errno: number): void {
    this.events.push(`failed ${errno}`);
  }

  /** A client's if the name begins so. */
  owner(name: string): OpOwner {
    const owner = { completed: (errno: number) => void this.events.push(`${name} ${errno}`) };
    if (!name.startsWith('client')) return owner;
    return { ...owner, hurryReply: () => void this.events.push(`${name} leaves`) };
  }

  /** Turns of the loop, and what promises have to do in between, until all is quiet. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; quiet++) {
      await new Promise(resolve => setImmediate(resolve));
      if (this.loop.turn()) quiet = 0;
    }
  }

  /** Takes the events noted since the last call. */
  take(): string[] {
    return this.events.splice(0);
  }

  /** Appends a write of `count` blocks filled with `fill`; false when there is no room. */
  write(count: number, fill: number, name?: string, durable = false): boolean {
    if (!this.log.hasRoom(writeRecordBytes(count))) return false;
    const source = new Uint8Array(count * BLOCK_BYTES).fill(fill);
    const owner = name === undefined ? undefined : this.owner(name);
    this.log.appendWrite(VOLUME, this.#nextOp(), fill as BlockNumber, count, source, 0, owner, durable);
    return true;
  }

  /** Appends a record of its header alone. */
  zero(name?: string, durable = false): boolean {
    if (!this.log.hasRoom(RECORD_HEADER_BYTES)) return false;
    const owner = name === undefined ? undefined : this.owner(name);
    this.log.appendRange(RecordKind.zero, VOLUME, this.#nextOp(), 0 as BlockNumber, 1, owner, durable);
    return true;
  }

  /** Appends a bulk record of one chunk with so many blocks that it has `recordBytes` (80, 96, 112 …). */
  bulk(recordBytes: number, name?: string): boolean {
    const blocks = (recordBytes - RECORD_HEADER_BYTES - 8) / 4;
    if (bulkRecordBytes(1, blocks) !== recordBytes) throw new Error(`no bulk record has ${recordBytes} bytes`);
    if (!this.log.hasRoom(recordBytes)) return false;
    const sums = new Uint32Array(blocks).fill(9);
    const chunk: BulkChunk = { location: 256 as Location, sums, data: undefined, dataOffset: 0 };
    const owner = name === undefined ? undefined : this.owner(name);
    this.log.appendBulk(VOLUME, this.#nextOp(), 0, [chunk], owner, false);
    return true;
  }

  #nextOp(): OpNumber {
    this.#op++;
    return this.#op as OpNumber;
  }
}
