/**
 * Locks on ranges of blocks of one volume. A write that needs more than one step (a block changed in part: read, merge,
 * append; whole chunks: data to fresh slots, then append) holds its range meanwhile; other writes that meet the range
 * wait until it is free. Writes of one step hold nothing: their place in the order is fixed when they are appended.
 */
import { assert } from '../base/assert.ts';

/** Told when a lock that was in its way has gone: it tries again from the start. */
export interface LockWaiter {
  lockFreed(): void;
}

interface Held {
  readonly first: number;
  readonly end: number;
}

export class RangeLocks {
  readonly #held: Held[] = [];
  #waiting: LockWaiter[] = [];

  get isEmpty(): boolean {
    return this.#held.length === 0;
  }

  /** Whether any block of [first, end) is held. */
  overlaps(first: number, end: number): boolean {
    for (const held of this.#held) if (first < held.end && held.first < end) return true;
    return false;
  }

  /** Holds [first, end), no block of which is held. */
  hold(first: number, end: number): void {
    assert(!this.overlaps(first, end), 'a block is held once');
    this.#held.push({ first, end });
  }

  wait(waiter: LockWaiter): void {
    assert(this.#held.length > 0, 'there is a lock to wait for');
    this.#waiting.push(waiter);
  }

  /** Gives [first, end) free, as it was held; those who waited try again in order of their waiting. */
  free(first: number, end: number): void {
    const at = this.#held.findIndex(held => held.first === first && held.end === end);
    assert(at >= 0, 'only what is held is freed');
    this.#held.splice(at, 1);
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const waiter of waiting) waiter.lockFreed();
  }
}
