/** Regions of the product: page-aligned mappings made by the addon, which go when nobody holds the region any more. */
import { assert } from '../base/assert.ts';
import { SledgeError } from '../base/errors.ts';
import type { Region } from '../base/memory.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import { addon } from './addon.ts';

class MappedRegion implements Region {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly address: number;

  constructor(buffer: ArrayBuffer) {
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.address = addon.addressOf(buffer);
  }
}

export function allocateRegion(bytes: number, soon = false): Region {
  assert(Number.isSafeInteger(bytes) && bytes > 0 && bytes % BLOCK_BYTES === 0, 'a region is whole pages');
  const buffer = addon.allocate(bytes, soon);
  if (buffer === undefined) throw new SledgeError('no-space', `the system has no ${bytes} bytes of memory to give`);
  return new MappedRegion(buffer);
}

/** The native address of a piece of a region, asserted to lie within it. */
export function addressWithin(region: Region, offset: number, length: number): number {
  assert(offset >= 0 && length > 0 && offset + length <= region.bytes.length, 'an I/O stays within its region');
  assert(region.address > 0, 'the region was allocated by the platform');
  return region.address + offset;
}
