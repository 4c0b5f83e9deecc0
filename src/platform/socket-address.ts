/** Addresses of sockets: names are looked up here (without blocking), the addon takes numbers; and how peers are shown. */
import type { LookupAddress } from 'node:dns';
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { SledgeError } from '../base/errors.ts';
import { addon, type NativeSocketName } from './addon.ts';
import type { ListenAddress } from './io-platform.ts';
import { systemError } from './system-error.ts';

/** A sockaddr, `length` bytes of `bytes`. */
export interface SocketAddress {
  readonly bytes: Uint8Array;
  readonly length: number;
}

const SOCKADDR_BYTES_MAX = 128;
const EVERY_ADDRESS = new Set(['', '*', '::']);

/** Whether the host means every address of the machine, IPv4 and IPv6. */
export function isEveryAddress(host: string): boolean {
  return EVERY_ADDRESS.has(host);
}

/** The first address that `host` (a number or a name) stands for. Rejects with `bad-address`. */
export async function tcpAddress(host: string, port: number): Promise<SocketAddress> {
  return (await tcpAddresses(host, port))[0];
}

/** All of them, at least one, in the order in which they are to be tried. Rejects with `bad-address`. */
export async function tcpAddresses(host: string, port: number): Promise<SocketAddress[]> {
  const numeric = isEveryAddress(host) ? '::' : host;
  if (isIP(numeric) !== 0) return [numericAddress(numeric, port)];
  let found: LookupAddress[];
  try {
    found = await lookup(host, { all: true });
  } catch (error) {
    throw new SledgeError('bad-address', `the host name ${host} has no address`, { cause: error });
  }
  return found.map(({ address }) => numericAddress(address, port));
}

function numericAddress(host: string, port: number): SocketAddress {
  const bytes = new Uint8Array(SOCKADDR_BYTES_MAX);
  const length = addon.encodeTcpAddress(host, port, bytes);
  if (length < 0) throw systemError('bad-address', `${host} with port ${port} is not an address`, length);
  return { bytes, length };
}

/** Rejects with `bad-address` what is empty or longer than a Unix socket's path may be. */
export function unixAddress(path: string): SocketAddress {
  const bytes = new Uint8Array(SOCKADDR_BYTES_MAX);
  const length = addon.encodeUnixAddress(path, bytes);
  if (length < 0) throw systemError('bad-address', `${JSON.stringify(path)} cannot be a Unix socket`, length);
  return { bytes, length };
}

export function printHostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

export function printAddress(address: ListenAddress): string {
  switch (address.kind) {
    case 'tcp':
      return printHostPort(address.host, address.port);
    case 'unix':
      return `unix:${address.path}`;
    case 'fd':
      return `descriptor ${address.fd}`;
  }
}

/** `127.0.0.1:51234`, `[::1]:51234`, `unix`. IPv4 within IPv6 is shown as IPv4; a peer that has gone as `unknown`. */
export function printPeer(name: NativeSocketName | number): string {
  if (typeof name === 'number') return 'unknown';
  if (name.family !== 'tcp') return name.family;
  const host = name.host.startsWith('::ffff:') && name.host.includes('.') ? name.host.slice(7) : name.host;
  return printHostPort(host, name.port);
}
