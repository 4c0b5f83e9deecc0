/**
 * An operation on its way from being appended to being committed: what the log hands to the head. Recovery makes the
 * same of each record that it plays again.
 */
import type { Location } from '../base/location.ts';
import type { BlockNumber, LogPosition, OpNumber, VolumeNumber } from '../base/units.ts';
import { RecordKind } from './record.ts';

/** Who asked for an operation: told once, with 0 or a positive errno. */
export interface OpOwner {
  completed(errno: number): void;
  /**
   * Where it is there, the owner is a client: `completed` lays its reply, and starts nothing. It may then come just before the
   * operation takes effect, followed by this, which lets the reply leave.
   */
  hurryReply?(): void;
}

/** A chunk as a bulk record names it. */
export interface BulkChunk {
  readonly location: Location;
  readonly sums: Uint32Array;
  /** The chunk's data in memory, from `dataOffset` on, valid until the operation is committed; undefined for zeroes. */
  readonly data: Uint8Array | undefined;
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
