/**
 * The op log of a head: operations in order, appended to preallocated segment files and made durable on demand. The head
 * appends, learns of each operation that has reached the operating system (`committed`), and asks for durability; the
 * destage says how far the log may be cut.
 *
 * Invariants:
 * - Records lie one behind another; positions only rise. A record never crosses from one segment into the next.
 * - Operations are committed in the order in which they were appended, none before its record (and all before it) has
 *   been written. A commit means: the process may die, and the operation is still there.
 * - `durable` rises only after a sync of every segment file, and of the mass storage that bulk records name, that was
 *   started after the last of the writes it covers had completed. One sync covers all who wait: group commit.
 * - A write or sync that fails ends the log: nothing is acknowledged any more, nothing is tried again as if it had
 *   worked (after a failed fsync the page cache may claim clean what never reached the disk).
 * - A segment is used again only when the cut has passed it.
 * - Files are written in whole pages: a batch begins with what its first page holds already and ends with zeroes up to
 *   the page's end, so that the page cache never has to read a page in order to change a part of it.
 *
 * Cost of a 4 KiB write: 4176 bytes of log; copy and checksum 0.4 µs, its share of one pwrite of the turn 1.5 µs.
 */
import { assert } from '../base/assert.ts';
import type { Checksums } from '../base/checksum.ts';
import { takeSums } from '../base/checksum.ts';
import { EIO } from '../base/errno.ts';
import type { BlockFile, IoRequest, Turns } from '../base/io.ts';
import { logBatchBytes, logBatchCount } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import { RingQueue } from '../base/ring-queue.ts';
import type { BlockNumber, Epoch, LogPosition, OpNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES, roundUp } from '../base/units.ts';
import type { RecordHeader } from './record.ts';
import {
  bulkRecordBytes,
  emptyHeader,
  putBulkDescriptor,
  RECORD_HEADER_BYTES,
  RecordKind,
  sealRecord,
  writeDataOffset,
  writeRecordBytes,
} from './record.ts';

export const LOG_PAGE_BYTES = 4096;

/** Who asked for an operation: told once, with 0 or a positive errno. */
export interface OpOwner {
  completed(errno: number): void;
}

/** A chunk as a bulk record names it. */
export interface BulkChunk {
  readonly location: Location;
  readonly sums: Uint32Array;
  /** The chunk's data in memory, from `dataOffset` on, valid until the operation is committed; absent for zeroes. */
  readonly data?: Uint8Array;
  readonly dataOffset: number;
}

/** An operation that has been appended; a reused object, valid until `committed` returns. */
export interface LoggedOp {
  kind: RecordKind;
  volume: VolumeNumber;
  op: OpNumber;
  first: BlockNumber;
  count: number;
  position: LogPosition;
  /** Where the record ends: the position that has to be durable before the operation is. */
  end: LogPosition;
  /** Of the data of a write and of its checksums within `batch.bytes` and `batch.sums`. */
  dataOffset: number;
  sumsIndex: number;
  chunks: readonly BulkChunk[] | undefined;
  owner: OpOwner | undefined;
  durableWanted: boolean;
}

/** An operation that is not one yet. */
export function emptyOp(): LoggedOp {
  return {
    kind: RecordKind.end,
    volume: 0 as VolumeNumber,
    op: 0 as OpNumber,
    first: 0 as BlockNumber,
    count: 0,
    position: 0 as LogPosition,
    end: 0 as LogPosition,
    dataOffset: 0,
    sumsIndex: 0,
    chunks: undefined,
    owner: undefined,
    durableWanted: false,
  };
}

/** The memory in which the operations of a batch lie while it is written and committed. */
export interface BatchMemory {
  readonly bytes: Uint8Array;
  readonly sums: Uint32Array;
}

/** The head's side of a commit. */
export interface Committer {
  /** The operation is in the log and takes effect now; it is called in order of position. */
  committed(op: LoggedOp, memory: BatchMemory): void;
  /** All operations of a batch have been committed. */
  batchCommitted(): void;
  /** Room has come free: what was refused by `hasRoom` may try again. */
  roomFreed(): void;
  /** The log has failed and stays so; called once. */
  logFailed(errno: number): void;
}

/** Mass storage, as far as the durability of bulk records depends on it. */
export interface DataSync {
  /** Syncs whatever was written and not synced yet; completes with 0 or a negative errno, later. */
  syncData(request: IoRequest): void;
}

export interface SegmentSource {
  /** A new segment file, preallocated and zero-filled, durable under its name. */
  create(): Promise<BlockFile>;
}

export interface OpLogPorts {
  readonly turns: Turns;
  readonly regions: RegionSource;
  readonly checksums: Checksums;
  readonly segments: SegmentSource;
  readonly data: DataSync;
}

/** Where a log goes on: what recovery has found, or an empty one. */
export interface OpLogState {
  readonly epoch: Epoch;
  readonly cut: LogPosition;
  readonly end: LogPosition;
  /** Files by logical segment number (position / segment length), those that hold [cut, end). */
  readonly live: ReadonlyMap<number, BlockFile>;
  /** What lies in the page of `end` before it: `end` modulo 4096 bytes. */
  readonly tail: Uint8Array;
  /** Files that hold nothing that counts. */
  readonly spare: readonly BlockFile[];
}

export interface OpLogOptions {
  readonly segmentBytes: number;
  /** What all segments together may take; at least four segments. */
  readonly limitBytes: number;
}

class Batch implements IoRequest, BatchMemory {
  readonly region: Region;
  readonly bytes: Uint8Array;
  readonly sums: Uint32Array;
  readonly ops: LoggedOp[] = [];
  /** Ops in use; the rest of `ops` waits to be used again. */
  opCount = 0;
  usedBytes = 0;
  segment: BlockFile | undefined;
  state: 'free' | 'filling' | 'writing' | 'written' = 'free';
  start = 0;
  readonly #log: { batchWritten(batch: Batch, result: number): void };

  constructor(region: Region, log: { batchWritten(batch: Batch, result: number): void }) {
    this.region = region;
    this.bytes = region.bytes;
    this.sums = new Uint32Array(region.bytes.buffer, 0, region.bytes.length / 4);
    this.#log = log;
  }

  nextOp(): LoggedOp {
    if (this.opCount === this.ops.length) {
      this.ops.push(emptyOp());
    }
    return this.ops[this.opCount++];
  }

  ioCompleted(result: number): void {
    this.#log.batchWritten(this, result);
  }
}

interface DurableWaiter {
  readonly position: LogPosition;
  readonly owner: OpOwner;
}

export class OpLog {
  readonly segmentBytes: number;
  readonly limitBytes: number;
  readonly #ports: OpLogPorts;
  readonly #committer: Committer;
  readonly #epoch: Epoch;
  /** Where this process began to append. */
  readonly beginning: LogPosition;
  readonly #batches: Batch[] = [];
  /** Batches that are being written or wait for their turn to commit, oldest first. */
  readonly #writing = new RingQueue<Batch>();
  readonly #segments: Map<number, BlockFile>;
  readonly #spare: BlockFile[];
  readonly #dirty = new Set<BlockFile>();
  readonly #header: RecordHeader = emptyHeader();
  /** What the last page holds, as far as `#end`. */
  readonly #tail = new Uint8Array(LOG_PAGE_BYTES);
  readonly #waiters = new RingQueue<DurableWaiter>();
  #filling: Batch | undefined;
  /** Where the next record goes. */
  #end: LogPosition;
  #committedEnd: LogPosition;
  #durable: LogPosition;
  #cut: LogPosition;
  /** The segment that is being made. */
  #creating: Promise<void> | undefined;
  #closed = false;
  #turnAsked = false;
  #roomRefused = false;
  #failure = 0;
  #syncTarget = 0 as LogPosition;
  #syncsPending = 0;
  #syncError = 0;
  #lastSyncCount = 0;
  readonly #syncPart: IoRequest = { ioCompleted: result => this.#syncPartDone(result) };

  constructor(ports: OpLogPorts, committer: Committer, options: OpLogOptions, state: OpLogState) {
    assert(options.limitBytes >= 4 * options.segmentBytes, 'a log has at least four segments');
    assert(state.end >= state.cut, 'the log ends behind its cut');
    this.#ports = ports;
    this.#committer = committer;
    this.segmentBytes = options.segmentBytes;
    this.limitBytes = options.limitBytes;
    this.#epoch = state.epoch;
    this.beginning = state.end;
    this.#cut = state.cut;
    this.#end = state.end;
    this.#committedEnd = state.end;
    // What recovery read may still be in the page cache only: all of it is synced before it counts as durable.
    this.#durable = state.cut;
    this.#segments = new Map(state.live);
    this.#spare = [...state.spare];
    assert(state.tail.length === state.end % LOG_PAGE_BYTES, 'the tail is of the last page');
    this.#tail.set(state.tail);
    for (const file of state.live.values()) this.#dirty.add(file);
    for (let i = 0; i < logBatchCount; i++) this.#batches.push(new Batch(ports.regions.allocate(logBatchBytes), this));
    this.#provideSpare();
  }

  /** Behind the last record that was committed. */
  get committedEnd(): LogPosition {
    return this.#committedEnd;
  }

  /** Behind the last record that was appended. */
  get appendedEnd(): LogPosition {
    return this.#end;
  }

  get durable(): LogPosition {
    return this.#durable;
  }

  get cut(): LogPosition {
    return this.#cut;
  }

  get usedBytes(): number {
    return this.#end - this.#cut;
  }

  get segmentCount(): number {
    return this.#segments.size + this.#spare.length;
  }

  /** 0, or the errno that ended the log. */
  get failure(): number {
    return this.#failure;
  }

  get syncCount(): number {
    return this.#lastSyncCount;
  }

  /**
   * Whether a record of this length can be appended now. If not, `Committer.roomFreed` tells when to ask again (or
   * `logFailed` that there is no use in it).
   */
  hasRoom(recordBytes: number): boolean {
    if (this.#failure !== 0) return false;
    if (this.#prepare(recordBytes)) return true;
    this.#roomRefused = true;
    return false;
  }

  /** Appends a write of `count` blocks whose data is copied from `source`. `hasRoom` was true for its record. */
  appendWrite(
    volume: VolumeNumber,
    op: OpNumber,
    first: BlockNumber,
    count: number,
    source: Uint8Array,
    sourceOffset: number,
    owner: OpOwner | undefined,
    durableWanted: boolean,
  ): void {
    const recordBytes = writeRecordBytes(count);
    const offset = this.#append(RecordKind.write, recordBytes, volume, op, first, count, owner, durableWanted);
    const batch = this.#filling!;
    const logged = batch.ops[batch.opCount - 1];
    const dataOffset = offset + writeDataOffset(count);
    const bytes = count * BLOCK_BYTES;
    batch.bytes.set(source.subarray(sourceOffset, sourceOffset + bytes), dataOffset);
    const sumsIndex = (offset + RECORD_HEADER_BYTES) >>> 2;
    takeSums(this.#ports.checksums, batch.bytes, dataOffset, count, batch.sums, sumsIndex);
    batch.sums.fill(0, sumsIndex + count, dataOffset >>> 2);
    logged.dataOffset = dataOffset;
    logged.sumsIndex = sumsIndex;
    this.#seal(batch, offset);
  }

  /** Appends the record of whole chunks from `first` on, whose data already lies at their locations. */
  appendBulk(
    volume: VolumeNumber,
    op: OpNumber,
    firstChunk: number,
    chunks: readonly BulkChunk[],
    owner: OpOwner | undefined,
    durableWanted: boolean,
  ): void {
    const recordBytes = bulkRecordBytes(chunks.length, chunks[0].sums.length);
    const first = firstChunk as BlockNumber;
    const offset = this.#append(RecordKind.bulk, recordBytes, volume, op, first, chunks.length, owner, durableWanted);
    const batch = this.#filling!;
    batch.ops[batch.opCount - 1].chunks = chunks;
    batch.bytes.fill(0, offset + recordBytes - 16, offset + recordBytes);
    for (let i = 0; i < chunks.length; i++) {
      putBulkDescriptor(batch.region.view, offset, i, chunks[i].location, chunks[i].sums);
    }
    this.#seal(batch, offset);
  }

  /** Appends an operation that is its header alone: zero, trim, resize. */
  appendRange(
    kind: RecordKind,
    volume: VolumeNumber,
    op: OpNumber,
    first: BlockNumber,
    count: number,
    owner: OpOwner | undefined,
    durableWanted: boolean,
  ): void {
    const offset = this.#append(kind, RECORD_HEADER_BYTES, volume, op, first, count, owner, durableWanted);
    this.#seal(this.#filling!, offset);
  }

  /** Tells `owner` when everything below `position`, which is committed, is durable; at once if it is already. */
  waitDurable(position: LogPosition, owner: OpOwner): void {
    assert(position <= this.#committedEnd, 'only what is committed can become durable');
    if (this.#failure !== 0) {
      owner.completed(EIO);
    } else if (position <= this.#durable) {
      owner.completed(0);
    } else {
      this.#waiters.push({ position, owner });
      this.#askForTurn();
    }
  }

  /** Reads what was committed at `position`; the range lies within one record. */
  read(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    const file = this.#segments.get(Math.floor(position / this.segmentBytes));
    assert(file !== undefined, 'a read of the log is within its live segments');
    file.read(position % this.segmentBytes, region, offset, length, request);
  }

  /** Everything below `position` is in mass storage and in the index: its segments may be used again. */
  trim(position: LogPosition): void {
    assert(position >= this.#cut && position <= this.#durable, 'the cut rises, and only over what is durable');
    this.#cut = position;
    const firstLive = Math.floor(position / this.segmentBytes);
    for (const [number, file] of this.#segments) {
      if (number >= firstLive) continue;
      this.#segments.delete(number);
      this.#spare.push(file);
    }
    this.#tellRoom();
  }

  /** Makes no further segment; resolves when the one that is being made is there. What was appended stays. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#creating;
  }

  /** Runs at the end of each turn in which something was appended or durability was asked for. */
  runAtEndOfTurn(): void {
    this.#turnAsked = false;
    if (this.#failure !== 0) return;
    if (this.#filling !== undefined) this.#write();
    this.#startSync();
  }

  batchWritten(batch: Batch, result: number): void {
    if (result < 0) {
      this.#fail(-result);
      return;
    }
    if (this.#failure !== 0) return;
    batch.state = 'written';
    while (this.#writing.peek()?.state === 'written') this.#commit(this.#writing.shift());
    this.#tellRoom();
  }

  #commit(batch: Batch): void {
    for (let i = 0; i < batch.opCount; i++) {
      const op = batch.ops[i];
      this.#committedEnd = op.end;
      if (op.kind === RecordKind.end) continue;
      this.#committer.committed(op, batch);
      const owner = op.owner;
      op.owner = undefined;
      op.chunks = undefined;
      if (owner === undefined) continue;
      if (op.durableWanted) this.waitDurable(op.end, owner);
      else owner.completed(0);
    }
    batch.opCount = 0;
    batch.usedBytes = 0;
    batch.state = 'free';
    this.#committer.batchCommitted();
  }

  /** Makes sure that `#filling` can take a record of this length, rolling to the next batch or segment if it must. */
  #prepare(recordBytes: number): boolean {
    const inSegment = this.#end % this.segmentBytes;
    const remaining = this.segmentBytes - inSegment;
    if (inSegment !== 0 && recordBytes > remaining) {
      const next = Math.floor(this.#end / this.segmentBytes) + 1;
      if (!this.#segments.has(next) && !this.#useSpare(next)) return false;
      if (!this.#closeSegment(remaining)) return false;
    } else if (inSegment === 0) {
      const number = this.#end / this.segmentBytes;
      if (!this.#segments.has(number) && !this.#useSpare(number)) return false;
      // The record before filled its segment to the last byte: its batch ends with it.
      if (this.#filling !== undefined && this.#filling.segment !== this.#segments.get(number)) this.#write();
    }
    const batch = this.#filling;
    if (batch !== undefined) {
      if (batch.usedBytes + recordBytes <= logBatchBytes) return true;
      this.#write();
    }
    return this.#openBatch();
  }

  #openBatch(): boolean {
    if (this.#filling !== undefined) return true;
    const batch = this.#batches.find(candidate => candidate.state === 'free');
    if (batch === undefined) return false;
    batch.state = 'filling';
    batch.usedBytes = this.#end % LOG_PAGE_BYTES;
    batch.start = this.#end - batch.usedBytes;
    batch.bytes.set(this.#tail.subarray(0, batch.usedBytes));
    batch.segment = this.#segments.get(Math.floor(this.#end / this.segmentBytes));
    assert(batch.segment !== undefined, 'a batch is opened in a live segment');
    this.#filling = batch;
    return true;
  }

  /** Marks the rest of the segment as unused, so that recovery goes on in the next one. */
  #closeSegment(remaining: number): boolean {
    if (remaining >= RECORD_HEADER_BYTES) {
      const batch = this.#filling;
      if (batch === undefined || batch.usedBytes + RECORD_HEADER_BYTES > logBatchBytes) {
        if (batch !== undefined) this.#write();
        if (!this.#openBatch()) return false;
      }
      const none = 0 as VolumeNumber;
      const offset = this.#append(RecordKind.end, RECORD_HEADER_BYTES, none, 0 as OpNumber, 0 as BlockNumber, 0);
      this.#seal(this.#filling!, offset);
      const { ops, opCount } = this.#filling!;
      ops[opCount - 1].end = (this.#end - RECORD_HEADER_BYTES + remaining) as LogPosition;
    }
    if (this.#filling !== undefined) this.#write();
    this.#end = ((Math.floor((this.#end - 1) / this.segmentBytes) + 1) * this.segmentBytes) as LogPosition;
    return true;
  }

  #useSpare(number: number): boolean {
    const cutSegment = Math.floor(this.#cut / this.segmentBytes);
    if ((number - cutSegment + 1) * this.segmentBytes > this.limitBytes) return false;
    const file = this.#spare.pop();
    if (file !== undefined) this.#segments.set(number, file);
    this.#provideSpare();
    return file !== undefined;
  }

  /** Has a next segment made before the current one is full. */
  #provideSpare(): void {
    if (this.#creating !== undefined || this.#closed || this.#spare.length > 1 || this.#failure !== 0) return;
    if ((this.segmentCount + 1) * this.segmentBytes > this.limitBytes) return;
    this.#creating = this.#ports.segments.create().then(
      file => {
        this.#creating = undefined;
        this.#spare.push(file);
        this.#provideSpare();
        this.#tellRoom();
      },
      () => {
        // No space for a further segment: the log goes round in those that it has. Tried again with the next need.
        this.#creating = undefined;
      },
    );
  }

  #append(
    kind: RecordKind,
    recordBytes: number,
    volume: VolumeNumber,
    op: OpNumber,
    first: BlockNumber,
    count: number,
    owner?: OpOwner,
    durableWanted = false,
  ): number {
    const batch = this.#filling;
    assert(batch !== undefined && batch.usedBytes + recordBytes <= logBatchBytes, 'room was made for the record');
    const offset = batch.usedBytes;
    batch.usedBytes += recordBytes;
    const header = this.#header;
    header.kind = kind;
    header.recordBytes = recordBytes;
    header.position = this.#end;
    header.epoch = this.#epoch;
    header.volume = volume;
    header.op = op;
    header.durable = this.#durable;
    header.first = first;
    header.count = count;
    const logged = batch.nextOp();
    logged.kind = kind;
    logged.volume = volume;
    logged.op = op;
    logged.first = first;
    logged.count = count;
    logged.position = this.#end;
    this.#end = (this.#end + recordBytes) as LogPosition;
    logged.end = this.#end;
    logged.owner = owner;
    logged.durableWanted = durableWanted;
    this.#askForTurn();
    return offset;
  }

  #seal(batch: Batch, offset: number): void {
    sealRecord(batch.region.view, batch.bytes, offset, this.#header, this.#ports.checksums);
  }

  #askForTurn(): void {
    if (this.#turnAsked) return;
    this.#turnAsked = true;
    this.#ports.turns.atEndOfTurn(this);
  }

  #write(): void {
    const batch = this.#filling;
    assert(batch?.segment !== undefined && batch.state === 'filling', 'there is a batch to write');
    this.#filling = undefined;
    if (batch.opCount === 0) {
      batch.state = 'free';
      return;
    }
    const inPage = batch.usedBytes % LOG_PAGE_BYTES;
    const length = roundUp(batch.usedBytes, LOG_PAGE_BYTES);
    batch.bytes.fill(0, batch.usedBytes, length);
    this.#tail.set(batch.bytes.subarray(batch.usedBytes - inPage, batch.usedBytes));
    batch.state = 'writing';
    this.#writing.push(batch);
    this.#dirty.add(batch.segment);
    batch.segment.write(batch.start % this.segmentBytes, batch.region, 0, length, batch);
  }

  #startSync(): void {
    if (this.#syncsPending > 0 || this.#waiters.length === 0 || this.#failure !== 0) return;
    // Waiters ask only for what is committed, so the newest of them is covered by a sync that starts now.
    this.#syncTarget = this.#committedEnd;
    this.#syncError = 0;
    this.#syncsPending = this.#dirty.size + 1;
    const files = [...this.#dirty];
    this.#dirty.clear();
    // A batch whose write is under way is not covered: its file stays dirty.
    for (const batch of this.#batches) if (batch.state === 'writing') this.#dirty.add(batch.segment!);
    for (const file of files) file.sync(this.#syncPart);
    this.#ports.data.syncData(this.#syncPart);
  }

  #syncPartDone(result: number): void {
    if (result < 0 && this.#syncError === 0) this.#syncError = -result;
    this.#syncsPending--;
    if (this.#syncsPending > 0) return;
    if (this.#syncError !== 0) {
      this.#fail(this.#syncError);
      return;
    }
    this.#lastSyncCount++;
    this.#durable = this.#syncTarget;
    for (let next = this.#waiters.peek(); next !== undefined; next = this.#waiters.peek()) {
      if (next.position > this.#durable) break;
      this.#waiters.shift().owner.completed(0);
    }
    if (this.#waiters.length > 0) this.#askForTurn();
  }

  #tellRoom(): void {
    if (!this.#roomRefused) return;
    this.#roomRefused = false;
    this.#committer.roomFreed();
  }

  #fail(errno: number): void {
    if (this.#failure !== 0) return;
    this.#failure = errno;
    this.#committer.logFailed(errno);
    const owners: OpOwner[] = [];
    const collect = (batch: Batch) => {
      for (let i = 0; i < batch.opCount; i++) {
        const owner = batch.ops[i].owner;
        if (owner !== undefined) owners.push(owner);
      }
    };
    while (this.#writing.length > 0) collect(this.#writing.shift());
    if (this.#filling !== undefined) collect(this.#filling);
    while (this.#waiters.length > 0) owners.push(this.#waiters.shift().owner);
    for (const owner of owners) owner.completed(EIO);
  }
}
