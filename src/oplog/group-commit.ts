/**
 * Makes what was committed durable, for all who wait at once. Used by the op log.
 *
 * Invariants:
 * - `durable` rises only when every sync of a round has succeeded, and only to what had been committed when it began.
 * - A segment whose write is still under way when a round begins is synced by the next one.
 * - Between rounds, `durable` may rise by durable writes of the log.
 * - One round at a time; whoever asks meanwhile is served by the next one.
 * - The first sync that fails ends it all, at once and for good.
 */
import { assert } from '../base/assert.ts';
import type { BlockFile, IoRequest } from '../base/io.ts';
import { RingQueue } from '../base/ring-queue.ts';
import type { LogPosition } from '../base/units.ts';
import type { DataSync } from './log-ports.ts';
import type { OpOwner } from './logged-op.ts';

interface Waiter {
  readonly position: LogPosition;
  readonly owner: OpOwner;
}

/** Told at the end of each round: 0, or the positive errno that ends the log. */
export interface SyncListener {
  roundEnded(errno: number): void;
}

export class GroupCommit implements IoRequest {
  readonly #data: DataSync;
  readonly #listener: SyncListener;
  readonly #dirty: Set<BlockFile>;
  readonly #waiters = new RingQueue<Waiter>();
  #durable: LogPosition;
  #target = 0 as LogPosition;
  #pending = 0;
  #error = 0;
  #rounds = 0;

  /** `dirty` are the files that may hold what was not synced; everything below `durable` has been. */
  constructor(data: DataSync, listener: SyncListener, dirty: Iterable<BlockFile>, durable: LogPosition) {
    this.#data = data;
    this.#listener = listener;
    this.#dirty = new Set(dirty);
    this.#durable = durable;
  }

  get durable(): LogPosition {
    return this.#durable;
  }

  /** Rounds that have succeeded. */
  get rounds(): number {
    return this.#rounds;
  }

  /** A round of syncs has not ended. */
  get isUnderWay(): boolean {
    return this.#pending > 0;
  }

  /** Everything below `position` is durable without a round: it was written durably, and what lay before was already. */
  rise(position: LogPosition): void {
    assert(this.#pending === 0 && this.#waiters.length === 0, 'nobody waits for less');
    this.#durable = position;
  }

  get isWaitedFor(): boolean {
    return this.#waiters.length > 0;
  }

  /** Whether the file may hold what was not synced. */
  isDirty(file: BlockFile): boolean {
    return this.#dirty.has(file);
  }

  /** The file is being written to. */
  touched(file: BlockFile): void {
    this.#dirty.add(file);
  }

  /** Positions that are waited for never fall. */
  wait(position: LogPosition, owner: OpOwner): void {
    this.#waiters.push({ position, owner });
  }

  /** Begins a round if anybody waits and none is under way; `writing` are the files with a write under way. */
  begin(committedEnd: LogPosition, writing: Iterable<BlockFile>): void {
    if (this.#pending > 0 || this.#error !== 0 || this.#waiters.length === 0) return;
    this.#target = committedEnd;
    const files = [...this.#dirty];
    this.#dirty.clear();
    for (const file of writing) this.#dirty.add(file);
    this.#pending = files.length + 1;
    for (const file of files) file.sync(this);
    this.#data.syncData(this);
  }

  ioCompleted(result: number): void {
    assert(this.#pending > 0, 'a completion belongs to a round');
    this.#pending--;
    if (this.#error !== 0) return;
    if (result < 0) {
      this.#error = -result;
      this.#listener.roundEnded(this.#error);
    } else if (this.#pending === 0) {
      this.#succeeded();
      this.#listener.roundEnded(0);
    }
  }

  /** Takes everybody who waits out: nothing will become durable any more. */
  giveUp(): OpOwner[] {
    const owners: OpOwner[] = [];
    while (this.#waiters.length > 0) owners.push(this.#waiters.shift().owner);
    return owners;
  }

  #succeeded(): void {
    this.#rounds++;
    this.#durable = this.#target;
    for (let next = this.#waiters.peek(); next !== undefined; next = this.#waiters.peek()) {
      if (next.position > this.#durable) break;
      this.#waiters.shift().owner.completed(0);
    }
  }
}
