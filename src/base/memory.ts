/**
 * Memory that files, sockets and TypeScript share. A region is page-aligned, never moves, and its native address is
 * known, so that an I/O names its buffer as (region, offset, length) and no byte is copied on the way to the kernel.
 */

/** One piece of I/O memory. Its `bytes` start at offset 0 of `view.buffer`. */
export interface Region {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Native address of the first byte, a multiple of 4096; 0 in simulations, where no kernel looks at it. */
  readonly address: number;
}

/** `length` bytes from `offset` of a region. */
export interface MemoryPiece {
  region: Region;
  offset: number;
  length: number;
}

/** Makes regions: the addon's page-aligned mappings in the product, plain arrays in tests. */
export interface RegionSource {
  /**
   * Zero-filled memory of `bytes` (a multiple of 4096), taken from the system only as far as it is touched; with `soon`, for
   * what is going to be used as a whole, all of it in the background.
   */
  allocate(bytes: number, soon?: boolean): Region;
}

/** A region over ordinary memory, for cores that run without a kernel beneath them. */
export function plainRegion(bytes: number): Region {
  const buffer = new ArrayBuffer(bytes);
  return { bytes: new Uint8Array(buffer), view: new DataView(buffer), address: 0 };
}
