/**
 * What destaging does to log and index, with the ways in which that fails: one place knows that the index takes no
 * further transaction after one that failed.
 */
import { errnoName } from '../base/errno.ts';
import { completion } from '../base/io-wait.ts';
import type { Epoch, LogPosition } from '../base/units.ts';
import type { IndexTransaction } from '../index/index-store.ts';
import type { Head } from './head.ts';

/** Destaging cannot go on; nothing is lost, the log still holds it all. */
export class DestageStuck extends Error {
  override readonly name = 'DestageStuck';
  readonly lasts: 'for now' | 'for good';

  constructor(message: string, lasts: 'for now' | 'for good' = 'for now') {
    super(message);
    this.lasts = lasts;
  }
}

/** No device has a slot left for a chunk that has none yet, or a slot has no space behind it, or the index has none. */
export class DevicesFull extends DestageStuck {}

export class DestageStore {
  readonly #head: Head;
  readonly #epoch: Epoch;
  #failed = false;

  constructor(head: Head, epoch: Epoch) {
    this.#head = head;
    this.#epoch = epoch;
  }

  /** A commit has failed: what the index holds is found out at the next start, and until then no slot comes free. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Resolves when everything that was committed is durable in the log. */
  async logSynced(): Promise<void> {
    if ((await this.#head.flush()) !== 0) throw new DestageStuck('the op log cannot be synced');
  }

  /**
   * To be called before slots are marked for a transaction, which may make the index longer by so much: marks of one that is
   * never made would stay.
   */
  refuseUnwritable(bytes: number): void {
    this.#refuseFailed();
    if (!this.#head.index.hasRoom(bytes)) throw new DevicesFull('the file system of the index has no space left');
  }

  #refuseFailed(): void {
    if (this.#failed) throw new DestageStuck('the index could not be written', 'for good');
  }

  /**
   * Commits the transaction together with the columns that have changed, and with the log's state: its new cut, if it has
   * one, and how far it is durable, since what the index says from here on relies on that. (After a start the log calls
   * nothing durable until its first sync; what is on record stays.)
   */
  async commit(transaction: IndexTransaction, cut = this.#head.log.cut): Promise<void> {
    this.#refuseFailed();
    const { slots, log, index } = this.#head;
    slots.store(transaction);
    const durable = Math.max(log.durable, index.state()?.durable ?? 0) as LogPosition;
    transaction.putState({ cut, epoch: this.#epoch, since: log.beginning, durable });
    const result = await completion(request => transaction.commit(request));
    if (result >= 0) return;
    this.#failed = true;
    throw new DestageStuck(`the index cannot be written: ${errnoName(result)}`, 'for good');
  }
}
