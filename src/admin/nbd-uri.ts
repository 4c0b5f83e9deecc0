/**
 * NBD URIs and the command lines that attach a volume, made from the addresses a node is bound to: what `sledge serve`
 * prints when it is ready, and `sledge status` later.
 */
import { formatNbdUri } from '../nbd-server-protocol/uri.ts';
import type { ListenAddress } from '../platform/io-platform.ts';

/** Undefined for a socket that a service manager handed over and whose address is not known. */
export function nbdUri(address: ListenAddress, volumeName: string, tls: boolean): string | undefined {
  switch (address.kind) {
    case 'tcp': {
      const endpoint = { kind: 'tcp', host: reachableHost(address.host), port: address.port } as const;
      return formatNbdUri({ endpoint, tls, exportName: volumeName });
    }
    case 'unix':
      return formatNbdUri({ endpoint: { kind: 'unix', path: address.path }, tls, exportName: volumeName });
    case 'fd':
      return undefined;
  }
}

/** The line that attaches the volume as `/dev/nbdN` with the kernel's client; undefined as for `nbdUri`. */
export function nbdClientLine(address: ListenAddress, volumeName: string, deviceNumber: number): string | undefined {
  const rest = `-N ${volumeName} -b 4096 /dev/nbd${deviceNumber}`;
  switch (address.kind) {
    case 'tcp':
      return `sudo nbd-client ${reachableHost(address.host)} ${address.port} ${rest}`;
    case 'unix':
      return `sudo nbd-client -unix ${shellWord(address.path)} ${rest}`;
    case 'fd':
      return undefined;
  }
}

/** As --listen takes it. */
export function formatAddress(address: ListenAddress): string {
  switch (address.kind) {
    case 'tcp':
      return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
    case 'unix':
      return `unix:${address.path}`;
    case 'fd':
      return `socket ${address.fd} of the service manager`;
  }
}

/** Nobody can connect to "any address": what is bound to it answers on the loopback one too. */
function reachableHost(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '::1';
  return host;
}

function shellWord(text: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
