/**
 * How checksums stand in records and index entries. A block's checksum is the CRC32C of its 4096 bytes; the value 0 is
 * kept free to say "this block was never written and reads as zeroes", so that no bitmap has to stand beside the sums.
 */

/** What is stored for a block that has not been written. */
export const NO_SUM = 0;

/** The port through which cores take checksums: native in the product, TypeScript in simulations. */
export interface Checksums {
  /** CRC32C of each of `count` 4096-byte blocks from `offset` of `bytes`, into `sums` from `sumsIndex` on. */
  checksumBlocks(bytes: Uint8Array, offset: number, count: number, sums: Uint32Array, sumsIndex: number): void;
  /** CRC32C of `length` bytes from `offset`, continuing from `seed` (0 to begin). */
  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number;
}

/** The same, but for checksums that begin with 0: those begin with `seed`. Whoever does not know it cannot make them. */
export function seededChecksums(checksums: Checksums, seed: number): Checksums {
  return {
    checksumBlocks: (bytes, offset, count, sums, sumsIndex) =>
      checksums.checksumBlocks(bytes, offset, count, sums, sumsIndex),
    checksum: (bytes, offset, length, begin) => checksums.checksum(bytes, offset, length, begin === 0 ? seed : begin),
  };
}

/** Fills `sums` with what is stored for `count` blocks: their CRC32C, where a CRC of 0 stands as 0xffffffff. */
export function takeSums(
  checksums: Checksums,
  bytes: Uint8Array,
  offset: number,
  count: number,
  sums: Uint32Array,
  sumsIndex: number,
): void {
  checksums.checksumBlocks(bytes, offset, count, sums, sumsIndex);
  for (let i = sumsIndex; i < sumsIndex + count; i++) if (sums[i] === NO_SUM) sums[i] = 0xffffffff;
}
