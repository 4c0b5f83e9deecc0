/**
 * Asks the log for a mark when what is durable stays unsaid. Each record says how far the log was durable when it was
 * appended. When nothing follows, no record says so of the last ones, and recovery would take damage in them for a tail
 * that was never whole and drop them, although a client was told that they are durable. A mark is a record that says
 * this alone.
 *
 * Invariant: while the log goes on there are no marks; the operations that follow say the same for nothing.
 */
import type { CancelTimer, Clock } from '../base/io.ts';

/** How long nothing more has to become durable. */
const QUIET_MS = 50;

export interface MarkedLog {
  /** Operations are durable of which no record says so. */
  readonly lacksMark: boolean;
  /** Appends a mark; false when it has to be tried again later. */
  tryMark(): boolean;
}

export class MarkTimer {
  readonly #clock: Pick<Clock, 'after'>;
  readonly #log: MarkedLog;
  #cancel: CancelTimer | undefined;
  #roseMeanwhile = false;

  constructor(clock: Pick<Clock, 'after'>, log: MarkedLog) {
    this.#clock = clock;
    this.#log = log;
  }

  /** More of the log is durable than before. */
  durableRose(): void {
    if (this.#cancel !== undefined) this.#roseMeanwhile = true;
    else if (this.#log.lacksMark) this.#start();
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #start(): void {
    this.#roseMeanwhile = false;
    this.#cancel = this.#clock.after(QUIET_MS, () => {
      this.#cancel = undefined;
      if (this.#log.lacksMark && (this.#roseMeanwhile || !this.#log.tryMark())) this.#start();
    });
  }
}
