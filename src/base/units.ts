/**
 * Numbers that must not be mixed up carry a brand. All are safe integers: a volume's size ends at 2^52 bytes and an op
 * number at 2^53 − 1, which at a million operations a second is reached after 285 years.
 */
declare const brand: unique symbol;
type Branded<Name extends string> = number & { readonly [brand]: Name };

/** Place of an operation in its volume's sequence: 1, 2, 3 …; 0 means "none yet". */
export type OpNumber = Branded<'OpNumber'>;
/** Rises with each start or change of primary of a volume; from 1. */
export type Epoch = Branded<'Epoch'>;
/** Number of a 4 KiB block within its volume, from 0. */
export type BlockNumber = Branded<'BlockNumber'>;
/** Number of a chunk within its volume, from 0. */
export type ChunkNumber = Branded<'ChunkNumber'>;
/** Number of a volume within its node, from 1, never used again after the volume is deleted. */
export type VolumeNumber = Branded<'VolumeNumber'>;
/** Position in the node's op log, in bytes since the first record ever written; never falls. */
export type LogPosition = Branded<'LogPosition'>;

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

/** The unit of the overlay, of the cache and of checksums. */
export const BLOCK_BYTES = 4096;
/** `offset >> BLOCK_SHIFT` is right only below 2^31; larger offsets divide by BLOCK_BYTES. */
export const BLOCK_SHIFT = 12;

const SUFFIXES: readonly [string, number][] = [
  ['TiB', TIB],
  ['GiB', GIB],
  ['MiB', MIB],
  ['KiB', KIB],
];

/**
 * Bytes of a size as people write it: `4096`, `64KiB`, `10GiB`, `1.5TiB`; `K`, `M`, `G` and `T` alone are taken for the
 * binary units too. Returns undefined for anything else, and for what is not a whole number of bytes.
 */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:iB)?|B)?$/.exec(text.trim());
  if (match === null) return undefined;
  const factor = SUFFIXES.find(([suffix]) => suffix[0] === match[2])?.[1] ?? 1;
  const bytes = Number(match[1]) * factor;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `10737418240` → `10 GiB`, `1536` → `1.5 KiB`, `1000` → `1000 bytes`; at most one decimal. */
export function formatBytes(bytes: number): string {
  for (const [suffix, factor] of SUFFIXES) {
    if (bytes >= factor) {
      const value = bytes / factor;
      return `${Number.isInteger(value) ? value : value.toFixed(1)} ${suffix}`;
    }
  }
  return `${bytes} bytes`;
}

/** The smallest multiple of `unit` that is not below `value`; both are non-negative safe integers. */
export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** The largest multiple of `unit` that is not above `value`. */
export function roundDown(value: number, unit: number): number {
  return Math.floor(value / unit) * unit;
}

export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && Number.isInteger(Math.log2(value));
}
