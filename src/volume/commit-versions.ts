/**
 * Tells whether anything was committed to a range of blocks since a read of it began. A read that missed the cache may
 * put what it brings there only if nothing was: otherwise old data could come to lie in the cache after newer data had
 * been there and was evicted. Counters are shared by hash, so a "yes" may be wrong and costs one missed insertion; a
 * "no" is always right.
 */
import type { BlockNumber, VolumeNumber } from '../base/units.ts';

const COUNTERS = 1 << 14;
/** Blocks that share a counter: 64 KiB. */
const GROUP_SHIFT = 4;
const GROUP_BLOCKS = 1 << GROUP_SHIFT;

export class CommitVersions {
  readonly #counters = new Uint32Array(COUNTERS);
  #all = 0;

  /** Something was committed to these blocks. */
  committed(volume: VolumeNumber, first: BlockNumber, count: number): void {
    if (count > COUNTERS) {
      this.#all++;
      return;
    }
    for (let block: number = first; block < first + count; block += GROUP_BLOCKS) this.#counters[slot(volume, block)]++;
    this.#counters[slot(volume, first + count - 1)]++;
  }

  /** A figure that stays the same only as long as nothing is committed to these blocks. */
  of(volume: VolumeNumber, first: number, count: number): number {
    let sum = this.#all;
    for (let block = first; block < first + count; block += GROUP_BLOCKS) sum += this.#counters[slot(volume, block)];
    return sum + this.#counters[slot(volume, first + count - 1)];
  }
}

function slot(volume: number, block: number): number {
  const group = Math.floor(block / GROUP_BLOCKS) >>> 0;
  return (Math.imul(group ^ Math.imul(volume, 0x9e3779b1), 0x85ebca6b) >>> 9) & (COUNTERS - 1);
}
