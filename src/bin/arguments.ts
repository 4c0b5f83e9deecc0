/**
 * From the text of arguments to values: sizes, addresses, devices, volumes, counts. Used by the commands; everything
 * here throws a SledgeError that names the argument as it was given, and reads nothing but its input.
 */
import { isIPv6 } from 'node:net';
import { resolve } from 'node:path';
import { checkVolumeName, checkVolumeSize } from '../admin/volume-rules.ts';
import { SledgeError } from '../base/errors.ts';
import { columnBytes } from '../base/limits.ts';
import { BLOCK_BYTES, formatBytes, parseBytes } from '../base/units.ts';
import type { DeviceOption, VolumeOption } from '../node/options.ts';
import type { ListenAddress } from '../platform/io-platform.ts';

/** A path of a Unix socket has 108 bytes in the kernel, with a NUL at the end. */
const SOCKET_PATH_BYTES_MAX = 107;

/** A size in bytes, at least `minimumBytes`; `what` names it in the message. */
export function parseSize(text: string, what: string, minimumBytes = 1): number {
  const bytes = parseBytes(text);
  if (bytes === undefined) throw new SledgeError('bad-size', `${what}: ${JSON.stringify(text)} is not a size`);
  if (bytes < minimumBytes) {
    throw new SledgeError('bad-size', `${what}: ${text} is less than ${formatBytes(minimumBytes)}`, {
      hint: 'Give a larger size, such as 64KiB, 512MiB or 10GiB.',
    });
  }
  return bytes;
}

/** A size that is whole blocks. */
export function parseBlockSize(text: string, what: string, minimumBytes = BLOCK_BYTES): number {
  const bytes = parseSize(text, what, minimumBytes);
  if (bytes % BLOCK_BYTES !== 0) throw new SledgeError('bad-size', `${what}: ${text} is not a multiple of 4096 bytes`);
  return bytes;
}

export function parseVolumeSize(text: string): number {
  const bytes = parseBlockSize(text, 'volume size');
  checkVolumeSize(bytes);
  return bytes;
}

/** `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; port 0 is "any that is free". */
export function parseAddress(text: string): ListenAddress {
  if (text.startsWith('unix:')) return parseSocketPath(text.slice('unix:'.length));
  const match = /^(?:\[([^\]]*)\]|([^:[\]/\s]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65535) throw new SledgeError('bad-address', `${JSON.stringify(text)} is not an address`);
  const [, ipv6, host] = match;
  if (ipv6 !== undefined && !isIPv6(ipv6)) {
    throw new SledgeError('bad-address', `${JSON.stringify(ipv6)} is not an IPv6 address`);
  }
  return { kind: 'tcp', host: (ipv6 ?? host) as string, port };
}

function parseSocketPath(path: string): ListenAddress {
  if (path === '') throw new SledgeError('bad-address', 'unix: needs the path of a socket');
  const absolute = resolve(path);
  const bytes = Buffer.byteLength(absolute);
  if (bytes > SOCKET_PATH_BYTES_MAX || absolute.includes('\0')) {
    throw new SledgeError(
      'bad-address',
      `the path of a socket has ${SOCKET_PATH_BYTES_MAX} bytes at most, not ${bytes}`,
      {
        hint: 'Put the socket into a directory with a shorter path, such as /run.',
      },
    );
  }
  return { kind: 'unix', path: absolute };
}

/**
 * `PATH` or `PATH:SIZE`. What stands behind the last colon is a size when it looks like one; paths below /dev hold colons
 * of their own (`/dev/disk/by-path/pci-0000:00:1f.2`), so there it has to be one that has a unit.
 */
export function parseDevice(text: string): DeviceOption {
  const colon = text.lastIndexOf(':');
  const tail = text.slice(colon + 1);
  const looksLikeSize = /^\d+(\.\d+)?\s*[A-Za-z]*$/.test(tail);
  const isSize = text.startsWith('/dev/') ? /[A-Za-z]$/.test(tail) && parseBytes(tail) !== undefined : looksLikeSize;
  const path = colon >= 0 && isSize ? text.slice(0, colon) : text;
  if (path === '' || path.includes('\0')) {
    throw new SledgeError('usage', `--device ${JSON.stringify(text)} has no path`, { hint: 'Give PATH or PATH:SIZE.' });
  }
  if (path === text) return { path: resolve(path) };
  // Less than one column would hold nothing.
  return { path: resolve(path), sizeBytes: parseBlockSize(tail, `device ${path}`, 2 * columnBytes) };
}

/** `NAME:SIZE`. */
export function parseVolume(text: string): VolumeOption {
  const colon = text.indexOf(':');
  if (colon < 0) {
    throw new SledgeError('usage', `--volume ${JSON.stringify(text)} has no size`, {
      hint: 'Give NAME:SIZE, such as vol0:10GiB.',
    });
  }
  const name = text.slice(0, colon);
  checkVolumeName(name);
  return { name, sizeBytes: parseVolumeSize(text.slice(colon + 1)) };
}

/** A whole number within bounds. */
export function parseCount(text: string, what: string, minimum: number, maximum: number): number {
  const count = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (!(count >= minimum && count <= maximum)) {
    throw new SledgeError('usage', `${what} is a number from ${minimum} to ${maximum}, not ${JSON.stringify(text)}`);
  }
  return count;
}

/** One of some words. */
export function parseChoice<Choice extends string>(text: string, what: string, choices: readonly Choice[]): Choice {
  const choice = choices.find(candidate => candidate === text);
  if (choice === undefined) {
    throw new SledgeError('usage', `${what} is one of ${choices.join(', ')}, not ${JSON.stringify(text)}`);
  }
  return choice;
}
