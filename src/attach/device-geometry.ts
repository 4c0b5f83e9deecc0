/**
 * From what a server offers to what the kernel is told: the block size, the flags, and whether the device can be made at
 * all. Pure; called once for each device, before it is made.
 */
import { SledgeError } from '../base/errors.ts';
import { BLOCK_BYTES, isPowerOfTwo } from '../base/units.ts';
import { TRANSMISSION_CAN_MULTI_CONN, TRANSMISSION_READ_ONLY } from '../nbd-server-protocol/constants.ts';

/** The smallest the kernel has; the largest is a page. */
const SECTOR_BYTES = 512;

export interface Offer {
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  readonly minimumBlockBytes: number;
}

export interface Geometry {
  readonly blockBytes: number;
  readonly transmissionFlags: number;
}

/** Throws `not-supported` for what the kernel's client cannot do. */
export function deviceGeometry(offer: Offer, connections: number, readOnly: boolean): Geometry {
  const { sizeBytes, transmissionFlags, minimumBlockBytes } = offer;
  if (sizeBytes < SECTOR_BYTES) {
    throw new SledgeError('not-supported', `the volume has ${sizeBytes} bytes, less than one sector`, {
      hint: 'Give the volume a size.',
    });
  }
  if (!isPowerOfTwo(minimumBlockBytes) || minimumBlockBytes > BLOCK_BYTES) {
    throw new SledgeError('not-supported', `the server wants blocks of ${minimumBlockBytes} bytes`, {
      hint: 'The kernel has blocks of 512 to 4096 bytes: serve the volume with smaller ones.',
    });
  }
  if (connections > 1 && (transmissionFlags & TRANSMISSION_CAN_MULTI_CONN) === 0) {
    throw new SledgeError('not-supported', 'the server does not allow several connections to this volume', {
      hint: 'Leave --connections out.',
    });
  }
  return {
    blockBytes: blockBytesOf(sizeBytes, minimumBlockBytes),
    transmissionFlags: readOnly ? transmissionFlags | TRANSMISSION_READ_ONLY : transmissionFlags,
  };
}

/** Whole blocks of 4 KiB where the volume is such; its last bytes would be out of reach otherwise. */
function blockBytesOf(sizeBytes: number, minimumBlockBytes: number): number {
  let bytes = BLOCK_BYTES;
  while (bytes > Math.max(SECTOR_BYTES, minimumBlockBytes) && sizeBytes % bytes !== 0) bytes /= 2;
  return bytes;
}
