/**
 * Buffers for payloads that are too large for a connection's own: one region for all connections, cut into blocks of
 * power-of-two sizes (a buddy system). Sessions take a block when they admit a request and give it back when its reply
 * has been sent; when none is left they wait, and do not receive meanwhile: this is what slows the clients down.
 *
 * Each volume has a share of it, and gets a further block only while it has less than is free. So one whose requests hang,
 * on a device or with a client that does not read, ends up with half of the pool, and for the others there is some left.
 *
 * Invariants:
 * - Blocks do not overlap, and each is aligned to its own size (so to 4096 at least).
 * - Within a share nobody overtakes a waiter, even with a smaller wish. A share whose turn it is and for whose wish there is
 *   no block yet is overtaken by the others, but not for ever: the largest wish is met in the end where all comes back.
 * - A granted waiter is told inside of another session's `release`: it takes note and acts at the end of the turn.
 *
 * Back of the envelope: `take` and `release` touch a handful of typed array cells a level, at most 11 levels: well below
 * 0.1 µs against the 10 µs it takes to move a payload of 64 KiB.
 */
import { assert } from '../base/assert.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import { isPowerOfTwo } from '../base/units.ts';

/** The smallest block: below this, payloads travel inline. */
export const POOL_BLOCK_BYTES_MIN = 64 * 1024;

export interface PoolWaiter {
  /** Called once, with the offset of the block, after `wait`. */
  poolGranted(offset: number): void;
}

/** What a volume has of the pool, and who waits for more of it. */
export class PoolShare {
  heldBytes = 0;
  readonly waiters: PoolWaiter[] = [];
  /** What each of them waits for, as the order of a block. */
  readonly wishes: number[] = [];
}

const NONE = -1;
/** So often others go on while a wish waits for a block that is large enough. */
const OVERTAKES_MAX = 4096;
/** State of a unit that does not begin a free block; otherwise the state is the order of the free block. */
const NOT_FREE = -1;

export class PayloadPool {
  readonly region: Region;
  readonly #orderMax: number;
  readonly #freeOrder: Int8Array;
  /** Order of the block that was taken at this unit. */
  readonly #takenOrder: Int8Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** First free block of each order. */
  readonly #heads: Int32Array;
  readonly #holders: (PoolShare | undefined)[];
  readonly #shares = new WeakMap<object, PoolShare>();
  /** Shares that somebody waits for, each once, in turn. */
  readonly #waiting: PoolShare[] = [];
  /** The share whose turn it is, and for whose wish there is no block. */
  #stalled: PoolShare | undefined;
  #overtakes = 0;
  #serving = false;
  #freeBytes: number;

  /** `bytes` is a power of two and at least one smallest block. */
  constructor(regions: RegionSource, bytes: number) {
    assert(isPowerOfTwo(bytes) && bytes >= POOL_BLOCK_BYTES_MIN, 'the pool is a power of two of blocks');
    const unitCount = bytes / POOL_BLOCK_BYTES_MIN;
    this.region = regions.allocate(bytes);
    this.#orderMax = Math.log2(unitCount);
    this.#freeOrder = new Int8Array(unitCount).fill(NOT_FREE);
    this.#takenOrder = new Int8Array(unitCount).fill(NOT_FREE);
    this.#holders = new Array<PoolShare | undefined>(unitCount).fill(undefined);
    this.#next = new Int32Array(unitCount).fill(NONE);
    this.#previous = new Int32Array(unitCount).fill(NONE);
    this.#heads = new Int32Array(this.#orderMax + 1).fill(NONE);
    this.#freeBytes = bytes;
    this.#link(0, this.#orderMax);
  }

  get freeBytes(): number {
    return this.#freeBytes;
  }

  get waiterCount(): number {
    return this.#waiting.reduce((sum, share) => sum + share.waiters.length, 0);
  }

  /** Largest block there can ever be. */
  get blockBytesMax(): number {
    return POOL_BLOCK_BYTES_MIN * 2 ** this.#orderMax;
  }

  /** The share of all sessions with this volume. */
  shareOf(volume: object): PoolShare {
    let share = this.#shares.get(volume);
    if (share === undefined) {
      share = new PoolShare();
      this.#shares.set(volume, share);
    }
    return share;
  }

  /** Offset of a block of at least `bytes`, or −1: nothing fits, the share has enough, or others wait. */
  take(share: PoolShare, bytes: number): number {
    if (share.waiters.length > 0 || !this.#admits(share)) return NONE;
    return this.#takeFor(share, orderOf(bytes));
  }

  /** Queues behind all who wait in this share; the block comes with `poolGranted`. */
  wait(share: PoolShare, waiter: PoolWaiter, bytes: number): void {
    assert(bytes <= this.blockBytesMax, 'a wish that the pool can meet');
    assert(!share.waiters.includes(waiter), 'a waiter waits once');
    if (share.waiters.length === 0) this.#waiting.push(share);
    share.waiters.push(waiter);
    share.wishes.push(orderOf(bytes));
  }

  /** Forgets a waiter, who may have been granted or not be waiting at all. */
  cancel(share: PoolShare, waiter: PoolWaiter): void {
    const index = share.waiters.indexOf(waiter);
    if (index < 0) return;
    share.waiters.splice(index, 1);
    share.wishes.splice(index, 1);
    if (share.waiters.length === 0) this.#waiting.splice(this.#waiting.indexOf(share), 1);
    if (index === 0 && this.#stalled === share) this.#stalled = undefined;
    this.#serve();
  }

  release(offset: number): void {
    let unit = offset / POOL_BLOCK_BYTES_MIN;
    let order = this.#takenOrder[unit];
    assert(order !== NOT_FREE && order !== undefined, 'a block is released once');
    this.#takenOrder[unit] = NOT_FREE;
    const bytes = POOL_BLOCK_BYTES_MIN << order;
    this.#freeBytes += bytes;
    this.#holders[unit]!.heldBytes -= bytes;
    this.#holders[unit] = undefined;
    while (order < this.#orderMax) {
      const buddy = unit ^ (1 << order);
      if (this.#freeOrder[buddy] !== order) break;
      this.#unlink(buddy, order);
      unit &= ~(1 << order);
      order += 1;
    }
    this.#link(unit, order);
    this.#serve();
  }

  /** Shares in turn, until none of those that are waited for gets a block. */
  #serve(): void {
    if (this.#serving) return;
    this.#serving = true;
    for (let refused = 0; refused < this.#waiting.length; ) {
      const share = this.#waiting.shift()!;
      const offset = this.#admits(share) ? this.#takeFor(share, share.wishes[0]) : NONE;
      if (offset < 0) {
        if (this.#stalled === undefined && this.#admits(share)) {
          this.#stalled = share;
          this.#overtakes = 0;
        }
        this.#waiting.push(share);
        refused++;
        continue;
      }
      refused = 0;
      share.wishes.shift();
      const waiter = share.waiters.shift()!;
      if (share.waiters.length > 0) this.#waiting.push(share);
      waiter.poolGranted(offset);
    }
    this.#serving = false;
  }

  #admits(share: PoolShare): boolean {
    return share.heldBytes === 0 || share.heldBytes < this.#freeBytes;
  }

  #takeFor(share: PoolShare, order: number): number {
    const overtakes = this.#stalled !== undefined && this.#stalled !== share;
    if (overtakes && this.#overtakes >= OVERTAKES_MAX) return NONE;
    const offset = this.#takeOrder(order);
    if (offset < 0) return NONE;
    if (overtakes) this.#overtakes++;
    else this.#stalled = undefined;
    share.heldBytes += POOL_BLOCK_BYTES_MIN << order;
    this.#holders[offset / POOL_BLOCK_BYTES_MIN] = share;
    return offset;
  }

  #takeOrder(wanted: number): number {
    let order = wanted;
    while (order <= this.#orderMax && this.#heads[order] === NONE) order += 1;
    if (order > this.#orderMax) return NONE;
    const unit = this.#heads[order];
    this.#unlink(unit, order);
    while (order > wanted) {
      order -= 1;
      this.#link(unit + (1 << order), order);
    }
    this.#takenOrder[unit] = wanted;
    this.#freeBytes -= POOL_BLOCK_BYTES_MIN << wanted;
    return unit * POOL_BLOCK_BYTES_MIN;
  }

  #link(unit: number, order: number): void {
    const head = this.#heads[order];
    this.#freeOrder[unit] = order;
    this.#previous[unit] = NONE;
    this.#next[unit] = head;
    if (head !== NONE) this.#previous[head] = unit;
    this.#heads[order] = unit;
  }

  #unlink(unit: number, order: number): void {
    const before = this.#previous[unit];
    const after = this.#next[unit];
    this.#freeOrder[unit] = NOT_FREE;
    if (before === NONE) this.#heads[order] = after;
    else this.#next[before] = after;
    if (after !== NONE) this.#previous[after] = before;
  }
}

/** log2 of the count of smallest blocks that `bytes` needs. */
function orderOf(bytes: number): number {
  const units = Math.ceil(bytes / POOL_BLOCK_BYTES_MIN);
  return units <= 1 ? 0 : 32 - Math.clz32(units - 1);
}
