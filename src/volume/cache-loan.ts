/** Slots of the block cache that a reply is sent from, as runs that lie one behind another; a reused object. */
import { assert } from '../base/assert.ts';
import type { MemoryPiece } from '../base/memory.ts';
import type { Loan } from '../nbd-server/exported-volume.ts';

export interface Lender {
  takeBack(loan: CacheLoan): void;
}

export class CacheLoan implements Loan {
  readonly pieces: MemoryPiece[] = [];
  pieceCount = 0;
  /** First slot of each piece, and how many slots it is of. */
  readonly firstSlots: number[] = [];
  readonly slotCounts: number[] = [];
  isOut = false;
  readonly #lender: Lender;

  constructor(lender: Lender) {
    this.#lender = lender;
  }

  returned(): void {
    assert(this.isOut, 'a loan is returned once');
    this.isOut = false;
    this.#lender.takeBack(this);
  }
}
