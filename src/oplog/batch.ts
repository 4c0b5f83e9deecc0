/**
 * The records of a turn, gathered in one piece of memory and written with one call. A batch lies within one segment; it
 * is filled, written, and free again when its operations have been committed.
 */
import type { BlockFile, IoRequest } from '../base/io.ts';
import type { Region } from '../base/memory.ts';
import type { BatchMemory, LoggedOp } from './logged-op.ts';
import { emptyOp } from './logged-op.ts';

/** Files are written in whole pages of the page cache. */
export const LOG_PAGE_BYTES = 4096;

export class Batch implements IoRequest, BatchMemory {
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
  /** How many of the ops want to be durable before they are answered, and how many name data that lies elsewhere. */
  durableCount = 0;
  bulkCount = 0;
  /** It is written by a durable write: no sync has to follow. */
  durably = false;
  readonly #log: { batchWritten(batch: Batch, result: number): void };

  constructor(region: Region, log: { batchWritten(batch: Batch, result: number): void }) {
    this.region = region;
    this.bytes = region.bytes;
    this.sums = new Uint32Array(region.bytes.buffer, 0, region.bytes.length / 4);
    this.#log = log;
  }

  /** Everybody in it waits for stable storage, and for nothing but these bytes. */
  get isDurableAlone(): boolean {
    return this.durableCount === this.opCount && this.bulkCount === 0;
  }

  clear(): void {
    this.opCount = 0;
    this.usedBytes = 0;
    this.durableCount = 0;
    this.bulkCount = 0;
    this.durably = false;
    this.state = 'free';
  }

  nextOp(): LoggedOp {
    if (this.opCount === this.ops.length) this.ops.push(emptyOp());
    return this.ops[this.opCount++];
  }

  ioCompleted(result: number): void {
    this.#log.batchWritten(this, result);
  }
}
