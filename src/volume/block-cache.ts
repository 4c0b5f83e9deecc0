/**
 * The head's cache of 4 KiB blocks: mass storage is opened O_DIRECT, so what is to be read twice is kept here. Reads
 * look here first, and put in what they did not find. Commits of writes replace what is here of their blocks, so that a
 * hit is always the newest committed content; they put nothing in, since what was just written lies in the log, whose
 * pages the system caches. Large reads that hit are sent from where their blocks lie: a copy less, which is a third of what
 * such a read costs.
 *
 * Replacement is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): new blocks enter
 * a small queue, and only those asked for again while in it, or soon after they left it (the ghost table), reach the
 * main queue. A scan passes through the small queue and leaves the rest alone. A hit costs one counter, no list surgery.
 *
 * Invariants:
 * - Each slot that has a key stands exactly once in exactly one of the two queues. A slot without one is not valid.
 * - A slot whose content is no longer right is marked invalid, found by nobody, and goes when its queue reaches it.
 * - A slot that is lent keeps its bytes until the last loan of it has come back: until then it is not filled, whichever block
 *   it stands for, and not valid where its bytes are not that block's. No more than a share of all slots is lent.
 */
import { assert } from '../base/assert.ts';
import { KeyTable, keyHigh, keyNumber, keyVolume } from '../base/key-table.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import type { BlockNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES, BLOCK_SHIFT } from '../base/units.ts';
import { CacheLoan, type Lender } from './cache-loan.ts';

/**
 * Slots of one slab of memory: 64 MiB. All but the first are taken from the system in the background, when half of the slab
 * before is in use. Else the first touch of each huge page would stop the loop, in a virtual machine whose host has to find the
 * memory first for 5 ms (measured, 4 KiB reads at depth 16 into a new cache: p99 5.3 ms instead of 0.7).
 */
const SLAB_SHIFT = 14;
const SLAB_SLOTS = 1 << SLAB_SHIFT;
const FREQUENCY_MAX = 3;
const SMALL_SHARE = 0.1;
const LENT_SHARE = 0.25;
/** Each may lend a slot once more, and a slot counts them in 16 bits. */
const LOANS_MAX = 0xffff;
const NONE = -1;

/** Slots in order of arrival; its room is that of all slots, so it never overflows. */
class SlotQueue {
  readonly #slots: Int32Array;
  #head = 0;
  #count = 0;

  constructor(capacity: number) {
    this.#slots = new Int32Array(capacity);
  }

  get count(): number {
    return this.#count;
  }

  push(slot: number): void {
    assert(this.#count < this.#slots.length, 'a slot is in one queue once');
    let tail = this.#head + this.#count;
    if (tail >= this.#slots.length) tail -= this.#slots.length;
    this.#slots[tail] = slot;
    this.#count++;
  }

  shift(): number {
    const slot = this.#slots[this.#head];
    this.#head = this.#head + 1 === this.#slots.length ? 0 : this.#head + 1;
    this.#count--;
    return slot;
  }
}

export class BlockCache implements Lender {
  readonly capacity: number;
  readonly #regions: RegionSource;
  readonly #table: KeyTable;
  readonly #slabs: Region[] = [];
  readonly #valid: Uint8Array;
  readonly #frequency: Uint8Array;
  /** Loans that each slot is part of. */
  readonly #lent: Uint16Array;
  readonly #small: SlotQueue;
  readonly #main: SlotQueue;
  readonly #smallTarget: number;
  /** Fingerprints of blocks that left the small queue, by hash; a newer one overwrites. */
  readonly #ghosts: Uint32Array;
  readonly #lentSlotsMax: number;
  /** Counted once for each loan. */
  #lentSlots = 0;
  #loansOut = 0;
  readonly #freeLoans: CacheLoan[] = [];
  /** Blocks that reads found here, and those that they did not; kept by the readers. */
  hits = 0;
  misses = 0;

  /** A cache of `bytes`, a multiple of 4096. */
  constructor(regions: RegionSource, bytes: number) {
    this.capacity = Math.floor(bytes / BLOCK_BYTES);
    this.#regions = regions;
    this.#table = new KeyTable(this.capacity);
    this.#valid = new Uint8Array(this.capacity);
    this.#frequency = new Uint8Array(this.capacity);
    this.#lent = new Uint16Array(this.capacity);
    this.#lentSlotsMax = Math.floor(this.capacity * LENT_SHARE);
    this.#small = new SlotQueue(this.capacity);
    this.#main = new SlotQueue(this.capacity);
    this.#smallTarget = Math.max(1, Math.floor(this.capacity * SMALL_SHARE));
    this.#ghosts = new Uint32Array(2 ** Math.ceil(Math.log2(this.capacity)));
  }

  get count(): number {
    return this.#table.count;
  }

  /** Slot of a block that is in the cache, or -1. Counts as a use of the block. */
  find(volume: VolumeNumber, block: BlockNumber): number {
    const slot = this.#table.find(keyHigh(volume, block), block >>> 0);
    if (slot < 0 || this.#valid[slot] === 0) return -1;
    if (this.#frequency[slot] < FREQUENCY_MAX) this.#frequency[slot]++;
    return slot;
  }

  /** As `find`, for the head's own purposes: not a use of the block. */
  peek(volume: VolumeNumber, block: BlockNumber): number {
    const slot = this.#table.find(keyHigh(volume, block), block >>> 0);
    return slot < 0 || this.#valid[slot] === 0 ? -1 : slot;
  }

  /** How many of `count` slots from `slot` on lie one behind another in memory. */
  runLength(slot: number, count: number): number {
    return Math.min(count, SLAB_SLOTS - (slot & (SLAB_SLOTS - 1)));
  }

  /** Copies `length` bytes, from `from` within the block of a slot on, to `offset` of `target`. It may reach over a run. */
  copyOut(slot: number, from: number, length: number, target: Uint8Array, offset: number): void {
    const start = ((slot & (SLAB_SLOTS - 1)) << BLOCK_SHIFT) + from;
    target.set(this.#slabs[slot >>> SLAB_SHIFT].bytes.subarray(start, start + length), offset);
  }

  /**
   * The bytes of a range, if all of its blocks are here: the caller has them sent, and returns the loan then. What is committed
   * meanwhile does not show in them.
   */
  lend(volume: VolumeNumber, offsetBytes: number, lengthBytes: number): CacheLoan | undefined {
    const first = Math.floor(offsetBytes / BLOCK_BYTES);
    const end = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES);
    if (this.#lentSlots + end - first > this.#lentSlotsMax || this.#loansOut === LOANS_MAX) return undefined;
    const loan = this.#freeLoans.pop() ?? new CacheLoan(this);
    if (!this.#gather(volume, first, end, loan)) {
      this.#freeLoans.push(loan);
      return undefined;
    }
    for (let i = 0; i < loan.pieceCount; i++) {
      const slot = loan.firstSlots[i];
      for (let each = slot; each < slot + loan.slotCounts[i]; each++) {
        this.#lent[each]++;
        if (this.#frequency[each] < FREQUENCY_MAX) this.#frequency[each]++;
      }
    }
    this.#lentSlots += end - first;
    this.#loansOut++;
    loan.isOut = true;
    const inFirst = offsetBytes - first * BLOCK_BYTES;
    loan.pieces[0].offset += inFirst;
    loan.pieces[0].length -= inFirst;
    loan.pieces[loan.pieceCount - 1].length -= end * BLOCK_BYTES - offsetBytes - lengthBytes;
    return loan;
  }

  /** Makes pieces of the blocks [first, end); false where one is not here. */
  #gather(volume: VolumeNumber, first: number, end: number, loan: CacheLoan): boolean {
    const { pieces, firstSlots, slotCounts } = loan;
    let last = NONE;
    // Most often a block lies behind the one before it, which is quicker to see than to look up.
    let behind = 0;
    for (let block = first; block < end; block++) {
      if (last >= 0 && (behind & (SLAB_SLOTS - 1)) !== 0 && this.#holds(behind, volume, block)) {
        behind++;
        slotCounts[last]++;
        pieces[last].length += BLOCK_BYTES;
        continue;
      }
      const slot = this.peek(volume, block as BlockNumber);
      if (slot < 0) return false;
      behind = slot + 1;
      last++;
      firstSlots[last] = slot;
      slotCounts[last] = 1;
      const region = this.#slabs[slot >>> SLAB_SHIFT];
      if (last === pieces.length) pieces.push({ region, offset: 0, length: 0 });
      const piece = pieces[last];
      piece.region = region;
      piece.offset = (slot & (SLAB_SLOTS - 1)) << BLOCK_SHIFT;
      piece.length = BLOCK_BYTES;
    }
    loan.pieceCount = last + 1;
    return true;
  }

  #holds(slot: number, volume: VolumeNumber, block: number): boolean {
    const isBlock = this.#table.lowOf(slot) === block >>> 0 && this.#table.highOf(slot) === keyHigh(volume, block);
    return isBlock && this.#valid[slot] === 1;
  }

  takeBack(loan: CacheLoan): void {
    for (let i = 0; i < loan.pieceCount; i++) {
      const slot = loan.firstSlots[i];
      for (let each = slot; each < slot + loan.slotCounts[i]; each++) this.#lent[each]--;
      this.#lentSlots -= loan.slotCounts[i];
    }
    this.#loansOut--;
    this.#freeLoans.push(loan);
  }

  /** Puts `count` blocks in, or replaces their content. `offset` is where their bytes begin in `source`. */
  put(volume: VolumeNumber, first: BlockNumber, count: number, source: Uint8Array, offset: number): void {
    // Slots that follow one another are filled by one copy: typed arrays are dear to make.
    let run = this.#slotFor(volume, first);
    let from = 0;
    for (let i = 1; i < count; i++) {
      const slot = this.#slotFor(volume, (first + i) as BlockNumber);
      if (run >= 0 && slot === run + i - from && this.runLength(run, i - from + 1) === i - from + 1) continue;
      this.#fill(run, i - from, source, offset + from * BLOCK_BYTES);
      run = slot;
      from = i;
    }
    this.#fill(run, count - from, source, offset + from * BLOCK_BYTES);
  }

  /** Replaces the content of a block, if it has a slot. */
  replace(volume: VolumeNumber, block: BlockNumber, source: Uint8Array, offset: number): void {
    const slot = this.#table.find(keyHigh(volume, block), block >>> 0);
    if (slot < 0) return;
    if (this.#lent[slot] > 0) {
      this.#valid[slot] = 0;
      return;
    }
    this.#valid[slot] = 1;
    this.#fill(slot, 1, source, offset);
  }

  /** The slot of a block, to be filled; -1 while what it has is lent. */
  #slotFor(volume: VolumeNumber, block: BlockNumber): number {
    const high = keyHigh(volume, block);
    const low = block >>> 0;
    let slot = this.#table.find(high, low);
    if (slot < 0) {
      if (this.#table.count === this.capacity) this.#evict();
      slot = this.#table.insert(high, low);
      if (slot >>> SLAB_SHIFT === this.#slabs.length) this.#addSlab(false);
      else if ((slot & (SLAB_SLOTS - 1)) === SLAB_SLOTS / 2) this.#addSlabAhead(slot);
      this.#frequency[slot] = 0;
      const hash = mix(high, low);
      if (this.#ghosts[hash & (this.#ghosts.length - 1)] === hash >>> 0) this.#main.push(slot);
      else this.#small.push(slot);
    }
    if (this.#lent[slot] > 0) return NONE;
    this.#valid[slot] = 1;
    return slot;
  }

  #fill(slot: number, count: number, source: Uint8Array, offset: number): void {
    if (slot < 0) return;
    const start = (slot & (SLAB_SLOTS - 1)) << BLOCK_SHIFT;
    this.#slabs[slot >>> SLAB_SHIFT].bytes.set(source.subarray(offset, offset + count * BLOCK_BYTES), start);
  }

  /** Makes sure that no block of [first, first + count) is found any more. */
  invalidate(volume: VolumeNumber, first: number, count: number): void {
    if (count <= this.#table.count) {
      for (let block = first; block < first + count; block++) {
        const slot = this.#table.find(keyHigh(volume, block), block >>> 0);
        if (slot >= 0) this.#valid[slot] = 0;
      }
      return;
    }
    for (let slot = 0; slot < this.#table.rowsTouched; slot++) {
      const high = this.#table.highOf(slot);
      if (keyVolume(high) !== volume) continue;
      const block = keyNumber(high, this.#table.lowOf(slot));
      if (block >= first && block < first + count) this.#valid[slot] = 0;
    }
  }

  #evict(): void {
    for (;;) {
      if (this.#small.count > this.#smallTarget || this.#main.count === 0) {
        const slot = this.#small.shift();
        if (this.#valid[slot] === 1 && this.#frequency[slot] > 0) {
          this.#frequency[slot] = 0;
          this.#main.push(slot);
          continue;
        }
        const hash = mix(this.#table.highOf(slot), this.#table.lowOf(slot));
        if (this.#valid[slot] === 1) this.#ghosts[hash & (this.#ghosts.length - 1)] = hash >>> 0;
        this.#free(slot);
        return;
      }
      const slot = this.#main.shift();
      if (this.#valid[slot] === 1 && this.#frequency[slot] > 0) {
        this.#frequency[slot]--;
        this.#main.push(slot);
        continue;
      }
      this.#free(slot);
      return;
    }
  }

  #free(slot: number): void {
    this.#valid[slot] = 0;
    this.#table.remove(slot);
  }

  #addSlab(soon: boolean): void {
    const slots = Math.min(SLAB_SLOTS, this.capacity - this.#slabs.length * SLAB_SLOTS);
    this.#slabs.push(this.#regions.allocate(slots * BLOCK_BYTES, soon));
  }

  #addSlabAhead(slot: number): void {
    const isLast = slot >>> SLAB_SHIFT === this.#slabs.length - 1;
    if (isLast && this.#slabs.length * SLAB_SLOTS < this.capacity) this.#addSlab(true);
  }
}

function mix(high: number, low: number): number {
  let hash = Math.imul(low ^ Math.imul(high, 0x85ebca6b), 0x9e3779b1);
  hash ^= hash >>> 16;
  hash = Math.imul(hash, 0x7feb352d);
  return (hash ^ (hash >>> 15)) | 1;
}
