/**
 * Buffers for payloads that are too large for a connection's own: one region for all connections, cut into blocks of
 * power-of-two sizes (a buddy system). Sessions take a block when they admit a request and give it back when its reply
 * has been sent; when none is left they wait, and do not receive meanwhile: this is what slows the clients down.
 *
 * Invariants:
 * - Blocks do not overlap, and each is aligned to its own size (so to 4096 at least).
 * - Nobody overtakes a waiter, even with a smaller wish; so the largest wish is met in the end, because everything that
 *   is out comes back.
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

const NONE = -1;
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
  readonly #waiters: PoolWaiter[] = [];
  readonly #wishes: number[] = [];
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
    return this.#waiters.length;
  }

  /** Largest block there can ever be. */
  get blockBytesMax(): number {
    return POOL_BLOCK_BYTES_MIN * 2 ** this.#orderMax;
  }

  /** Offset of a block of at least `bytes`, or −1: nothing fits, or others wait. */
  take(bytes: number): number {
    return this.#waiters.length > 0 ? NONE : this.#takeOrder(orderOf(bytes));
  }

  /** Queues behind all who wait; the block comes with `poolGranted`. */
  wait(waiter: PoolWaiter, bytes: number): void {
    assert(bytes <= this.blockBytesMax, 'a wish that the pool can meet');
    assert(!this.#waiters.includes(waiter), 'a waiter waits once');
    this.#waiters.push(waiter);
    this.#wishes.push(orderOf(bytes));
  }

  /** Forgets a waiter, who may have been granted or not be waiting at all. */
  cancel(waiter: PoolWaiter): void {
    const index = this.#waiters.indexOf(waiter);
    if (index < 0) return;
    this.#waiters.splice(index, 1);
    this.#wishes.splice(index, 1);
    this.#serve();
  }

  release(offset: number): void {
    let unit = offset / POOL_BLOCK_BYTES_MIN;
    let order = this.#takenOrder[unit];
    assert(order !== NOT_FREE && order !== undefined, 'a block is released once');
    this.#takenOrder[unit] = NOT_FREE;
    this.#freeBytes += POOL_BLOCK_BYTES_MIN << order;
    while (order < this.#orderMax) {
      const buddy = unit ^ (1 << order);
      if (this.#freeOrder[buddy] !== order) break;
      this.#unlink(buddy, order);
      unit &= ~(1 << order);
      order += 1;
    }
    this.#link(unit, order);
    if (this.#waiters.length > 0) this.#serve();
  }

  #serve(): void {
    if (this.#serving) return;
    this.#serving = true;
    while (this.#waiters.length > 0) {
      const offset = this.#takeOrder(this.#wishes[0]);
      if (offset < 0) break;
      this.#wishes.shift();
      this.#waiters.shift()!.poolGranted(offset);
    }
    this.#serving = false;
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
