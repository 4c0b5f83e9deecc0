/** What an op log is given: the ports it does its work through, who hears of commits, and where it goes on. */
import type { Checksums } from '../base/checksum.ts';
import type { BlockFile, Clock, IoRequest, Turns } from '../base/io.ts';
import type { RegionSource } from '../base/memory.ts';
import type { Epoch, LogPosition } from '../base/units.ts';
import type { BatchMemory, LoggedOp } from './logged-op.ts';

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
  /** Syncs what records may name and was not synced yet; completes with 0 or a negative errno, later. */
  syncData(request: IoRequest): void;
}

export interface SegmentSource {
  /** A new segment file, preallocated and zero-filled, durable under its name. */
  create(): Promise<BlockFile>;
}

export interface OpLogPorts {
  readonly turns: Turns;
  readonly clock: Clock;
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
