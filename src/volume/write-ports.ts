/** What writing takes of the rest of the head, and what the parts of a write take of the writer. */
import type { IoRequest } from '../base/io.ts';
import type { Location } from '../base/location.ts';
import type { Region } from '../base/memory.ts';
import type { BlockNumber, LogPosition, OpNumber, VolumeNumber } from '../base/units.ts';
import type { BulkChunk, OpOwner } from '../oplog/logged-op.ts';
import type { RecordKind } from '../oplog/record.ts';
import type { ReadPorts, SpanPool } from './span.ts';
import type { Volume } from './volume.ts';

/** The log, as far as writing needs it (`oplog/log.ts`). */
export interface LogAppends {
  readonly failure: number;
  readonly committedEnd: LogPosition;
  readonly appendedEnd: LogPosition;
  hasRoom(recordBytes: number): boolean;
  readonly isFull: boolean;
  appendWrite(
    volume: VolumeNumber,
    op: OpNumber,
    first: BlockNumber,
    count: number,
    source: Uint8Array,
    sourceOffset: number,
    owner: OpOwner,
    durableWanted: boolean,
  ): void;
  appendBulk(
    volume: VolumeNumber,
    op: OpNumber,
    firstChunk: number,
    chunks: readonly BulkChunk[],
    owner: OpOwner,
    durableWanted: boolean,
  ): void;
  appendRange(
    kind: RecordKind,
    volume: VolumeNumber,
    op: OpNumber,
    first: BlockNumber,
    count: number,
    owner: OpOwner,
    durableWanted: boolean,
  ): void;
}

export interface StorageWrites {
  write(location: Location, region: Region, offset: number, length: number, request: IoRequest): void;
  /** A write has completed: the next sync has to cover it. */
  wrote(location: Location): void;
  /** In place of that, where the device takes long to sync: true if `request` completes with the sync (see sled.ts). */
  secure(written: readonly { readonly location: Location }[], request: IoRequest): boolean;
  writeFailed(location: Location): void;
}

export interface SlotSource {
  /** Undefined when mass storage is full. */
  allocate(volume: VolumeNumber, chunkBytes: number): Location | undefined;
  /** A slot that no record names. */
  release(location: Location): void;
}

export interface WritePorts {
  readonly reads: ReadPorts;
  readonly spans: SpanPool;
  readonly log: LogAppends;
  readonly storage: StorageWrites;
  readonly slots: SlotSource;
  /** The overlay or the log is short of room: the destage should hurry. */
  roomWanted(): void;
  /** Whether writers are not too fast for a record of this length just now; if they are, `Writer.resume` follows. */
  isAdmitted(recordBytes: number): boolean;
  /** Whether the volume has something on a device that is aside: it gets a part of log and overlay, and waits by itself. */
  liesAside(volume: Volume): boolean;
  /** Whether that part has room. */
  readonly asideHasRoom: boolean;
  asideTakes(rows: number): void;
  asideRoomWanted(): void;
  /** Something was trimmed or replaced whose space has not come free yet. */
  readonly spaceReturns: boolean;
  /** Mass storage is full: what comes can only lie in log and overlay. */
  readonly storageIsFull: boolean;
  /** How much of log or overlay, whichever has less left, is in use, 0 to 1. */
  readonly fill: number;
}

/** What is to be appended, by what it does to the room that there is: zeroes of whole chunks and trims may give some back. */
export type Change = 'data' | 'zeroes' | 'trim';

/** `refused`: for want of space, and nothing is under way that could bring some. */
export type Admission = 'admitted' | 'waits' | 'refused';

/** Of `admitData`, which else gives an errno. */
export const WAITS = -1;

/** Waits until its next record fits. */
export interface RoomWaiter {
  /** Whose room it waits for. */
  readonly volume: Volume;
  /** Tries again; true when it does not wait for room any more, whatever became of it. */
  tryAppend(): boolean;
}

/** Told when all that was appended before it asked has been committed. */
export interface CommitWaiter {
  committedSoFar(): void;
}

/** The writer, as its jobs see it. */
export interface WriteQueue {
  readonly ports: WritePorts;
  /** What is refused that is not in the log yet: EIO, ENOSPC, or 0 when it is not. */
  refusal(change: Change): number;
  /**
   * Whether a record of this length that enters `rows` rows of the volume into the overlay may be appended now; the rows are
   * then reserved. Those who wait already come first: `waiter` is the one that asks, if it is one of them.
   */
  admit(volume: Volume, recordBytes: number, rows: number, waiter: RoomWaiter | undefined): Admission;
  /** The same for data that is ready to go, and may have become unwelcome meanwhile: 0, `WAITS`, or the errno for it. */
  admitData(volume: Volume, recordBytes: number, rows: number, waiter: RoomWaiter): number;
  waitForRoom(waiter: RoomWaiter): void;
  waitForCommit(waiter: CommitWaiter): void;
}
