/** 64-bit little-endian integers of the formats on disk, as safe-integer numbers: the low half first. */

const TWO_32 = 2 ** 32;

export function putUint64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, Math.floor(value / TWO_32), true);
}

export function getUint64(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * TWO_32;
}
