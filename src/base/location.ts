/** Where data lies in mass storage, as index entries and log records name it. */
import { BLOCK_BYTES } from './units.ts';

/** What is wrong with a block: its bytes do not match its checksum, or the device does not give them. */
export type BlockFault = 'mismatch' | 'unreadable';

/** Where a damaged block was found: on a device, or in the op log. */
export type DamagedPlace =
  | { readonly kind: 'device'; readonly location: Location }
  | { readonly kind: 'log'; readonly position: number };

/** A byte of a file. */
export interface FilePlace {
  readonly file: string;
  readonly offsetBytes: number;
}

declare const brand: unique symbol;
/** A place in mass storage: device number × 2^40 + position on the device in blocks. */
export type Location = number & { readonly [brand]: 'Location' };

const DEVICE_UNIT = 2 ** 40;

export function locationOf(device: number, positionBytes: number): Location {
  return (device * DEVICE_UNIT + positionBytes / BLOCK_BYTES) as Location;
}

export function locationDevice(location: Location): number {
  return Math.floor(location / DEVICE_UNIT);
}

/** Position on its device, in bytes. */
export function locationPosition(location: Location): number {
  return (location % DEVICE_UNIT) * BLOCK_BYTES;
}
