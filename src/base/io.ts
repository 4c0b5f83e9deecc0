/**
 * The ports that cores do I/O through. A core is handed them and never reaches for the system itself, so that the same
 * core runs on io_uring, on a pool of threads, and in a simulation with faults.
 *
 * Rules that every implementation keeps (`test/contract` holds them to it):
 * - A completion is never called from inside of the call that started the I/O.
 * - Each I/O completes exactly once; completions of different I/Os come in any order.
 * - Until then the buffer belongs to the I/O.
 * - `result` is a count of bytes, or 0 where nothing is counted, or a negative errno. Reads and writes of files never
 *   complete short: what the system leaves undone is done before the completion, or it is -EIO.
 */
import type { Region } from './memory.ts';

/** What an I/O reports to. Implementations are reused objects: no closure is made per I/O. */
export interface IoRequest {
  ioCompleted(result: number): void;
}

/** Storage with positions: a file or a block device. Positions and lengths are bytes. */
export interface BlockFile {
  readonly sizeBytes: number;
  /** Positions, lengths, offsets and addresses have to be multiples of this: 1 when buffered, 512 or more when direct. */
  readonly alignmentBytes: number;
  read(position: number, region: Region, offset: number, length: number, request: IoRequest): void;
  write(position: number, region: Region, offset: number, length: number, request: IoRequest): void;
  /**
   * A write that completes when its bytes, and perhaps nothing else, are on stable storage. Positions, offsets and lengths
   * are multiples of 4096 whatever the alignment, and no other write of the range is under way or waits for a sync.
   */
  writeDurable(position: number, region: Region, offset: number, length: number, request: IoRequest): void;
  /**
   * Writes what the page cache alone holds of the range; completes when the disk has taken it, which may still lose it
   * until a sync. A sync that has less to do is what it is for: where the system has no such thing it does nothing.
   */
  writeBack(position: number, length: number, request: IoRequest): void;
  /** Completes when all that was written (completions seen) before the call is on stable storage. */
  sync(request: IoRequest): void;
  /** Gives the range's space back; afterwards it reads as zeroes. -EOPNOTSUPP where this cannot be had. */
  discard(position: number, length: number, request: IoRequest): void;
}

/** Run once at the end of the turn of the loop in which it was asked for. */
export interface TurnTask {
  runAtEndOfTurn(): void;
}

/**
 * A turn of the loop: completions are drained, then the tasks asked for meanwhile run in the order of asking, and what
 * was prepared is submitted in one system call, or in few (see `hurry`). Work of one turn is so gathered: one append, one
 * send a connection.
 */
export interface Turns {
  /** Each task is an object of long life and may be asked for once a turn; asking again before it ran is a bug. */
  atEndOfTurn(task: TurnTask): void;
  /**
   * Runs the task in a turn that many microseconds later, or soon after. The loop burns its processor meanwhile: for
   * waits that are shorter than a timer can tell. One at a time.
   */
  afterMicros(task: TurnTask, micros: number): void;
  /** The task that was asked for with `afterMicros`, if it did not run yet, is not run. */
  cancelAfterMicros(): void;
  /** What was started in this turn goes to the system now, and not only at its end: it costs a system call of its own. */
  hurry(): void;
}

/** Cancels a timer; after it has fired or been cancelled, a further call does nothing. */
export type CancelTimer = () => void;

/** Time, in milliseconds, from a monotonic clock with an arbitrary start. */
export interface Clock {
  nowMs(): number;
  after(delayMs: number, callback: () => void): CancelTimer;
}
