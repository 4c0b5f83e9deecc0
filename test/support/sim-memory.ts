/**
 * Regions and checksums for simulations. Large regions are used again from one simulated process to the next, without
 * being cleared when they are only ever buffers; checksums are a fast 32-bit mix instead of CRC32C, since nothing in a
 * simulated run depends on which function it is.
 */
import type { Checksums } from '../../src/base/checksum.ts';
import { crc32c } from '../../src/base/crc32c.ts';
import type { Region, RegionSource } from '../../src/base/memory.ts';
import { plainRegion } from '../../src/base/memory.ts';
import { BLOCK_BYTES, KIB } from '../../src/base/units.ts';

const POOLED_FROM_BYTES = 256 * KIB;
const pool = new Map<number, Region[]>();

/** What one simulated process has allocated; given back when it is gone. */
export class SimRegions implements RegionSource {
  readonly #taken: Region[] = [];

  allocate(bytes: number): Region {
    if (bytes < POOLED_FROM_BYTES) return plainRegion(bytes);
    const region = pool.get(bytes)?.pop() ?? plainRegion(bytes);
    this.#taken.push(region);
    return region;
  }

  /** Nothing refers to the regions any more. */
  giveBack(): void {
    for (const region of this.#taken.splice(0)) {
      const size = region.bytes.length;
      const free = pool.get(size);
      if (free === undefined) pool.set(size, [region]);
      else free.push(region);
    }
  }
}

function mix(bytes: Uint8Array, offset: number, length: number, seed: number): number {
  const start = bytes.byteOffset + offset;
  if (start % 4 !== 0 || length % 4 !== 0) return crc32c(bytes, offset, length, seed);
  const words = new Int32Array(bytes.buffer, start, length / 4);
  let sum = seed ^ length;
  for (let i = 0; i < words.length; i++) {
    sum = Math.imul(sum ^ words[i], 0x9e3779b1);
    sum ^= sum >>> 15;
  }
  return sum >>> 0;
}

export const simChecksums: Checksums = {
  checksumBlocks(bytes, offset, count, sums, sumsIndex) {
    for (let i = 0; i < count; i++) sums[sumsIndex + i] = mix(bytes, offset + i * BLOCK_BYTES, BLOCK_BYTES, 0);
  },
  checksum: mix,
};
