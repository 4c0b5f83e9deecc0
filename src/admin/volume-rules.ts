/**
 * What a volume may be called and how large it and its chunks may be: asked by the command line for its arguments and
 * by the control server for what arrives from outside, so that both refuse the same things with the same words.
 */
import { SledgeError } from '../base/errors.ts';
import { chunkBytesMax, chunkBytesMin, volumeBytesMax, volumeNameBytesMax } from '../base/limits.ts';
import { BLOCK_BYTES, formatBytes, isPowerOfTwo } from '../base/units.ts';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

/** Names are ASCII, so that characters and bytes are the same, and need no quoting in a shell, a URI or a path. */
export function checkVolumeName(name: string): void {
  if (name.length > volumeNameBytesMax || !NAME.test(name)) {
    const shown = name.length > 40 ? `${name.slice(0, 40)}…` : name;
    throw new SledgeError('bad-name', `${JSON.stringify(shown)} cannot be the name of a volume`);
  }
}

export function checkVolumeSize(sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % BLOCK_BYTES !== 0) {
    throw new SledgeError('bad-size', `a volume cannot have ${sizeBytes} bytes: its size is a multiple of 4096`);
  }
  if (sizeBytes > volumeBytesMax) {
    throw new SledgeError('bad-size', `a volume cannot be larger than ${formatBytes(volumeBytesMax)}`);
  }
}

export function checkChunkSize(chunkBytes: number): void {
  if (!isPowerOfTwo(chunkBytes) || chunkBytes < chunkBytesMin || chunkBytes > chunkBytesMax) {
    throw new SledgeError('bad-size', `a chunk cannot have ${chunkBytes} bytes`, {
      hint: `Give a power of two from ${formatBytes(chunkBytesMin)} to ${formatBytes(chunkBytesMax)}, such as 64KiB.`,
    });
  }
}
