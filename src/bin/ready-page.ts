/** What `sledge serve` prints when clients can connect: for people, lines that are ready to paste; for programs, JSON. */
import { resolve } from 'node:path';
import { formatAddress, nbdClientLine, nbdUri } from '../admin/nbd-uri.ts';
import type { ListenAddress } from '../platform/io-platform.ts';

export interface ReadyPage {
  readonly pid: number;
  readonly dataDirectory: string;
  readonly addresses: readonly ListenAddress[];
  /** Names. */
  readonly volumes: readonly string[];
  readonly tls: 'off' | 'offer' | 'require';
}

/** More than fit a screen are left to `sledge volume list`. */
const VOLUMES_SHOWN_MAX = 8;

export function readyEvent(page: ReadyPage): object {
  return {
    event: 'ready',
    pid: page.pid,
    dataDirectory: resolve(page.dataDirectory),
    tls: page.tls,
    // The URI of an address is that of the default export, which is the volume where there is just one.
    addresses: page.addresses.map(address => ({ ...address, uri: nbdUri(address, '', page.tls === 'require') })),
    volumes: page.volumes.map(name => ({ name, uris: urisOf(page, name) })),
  };
}

export function readyText(page: ReadyPage): string {
  const lines = [`sledge is ready (process ${page.pid}).`];
  const data = resolve(page.dataDirectory);
  for (const [number, name] of page.volumes.slice(0, VOLUMES_SHOWN_MAX).entries()) {
    lines.push('', `  volume ${name}`);
    for (const uri of urisOf(page, name)) lines.push(`    ${uri}`);
    // The kernel's client takes TLS through options that name files of the client's own.
    if (page.tls !== 'require') {
      for (const address of page.addresses) {
        const line = nbdClientLine(address, name, number);
        if (line !== undefined) lines.push(`    ${line}`);
      }
    }
  }
  const hidden = page.volumes.length - VOLUMES_SHOWN_MAX;
  if (hidden > 0) lines.push('', `  and ${hidden} more: sledge volume list --data ${data}`);
  lines.push('');
  if (page.volumes.length === 0) {
    const addresses = page.addresses.map(formatAddress).join(', ');
    lines.push(`  No volume yet, listening on ${addresses}. Make one with:`);
    lines.push(`    sledge volume create vol0 --size 10GiB --data ${data}`, '');
  }
  lines.push(`  Data is in ${data}. See: sledge status --data ${data}`);
  lines.push('  Stop with Ctrl-C or SIGTERM.');
  return `${lines.join('\n')}\n`;
}

function urisOf(page: ReadyPage, name: string): string[] {
  return page.addresses.map(address => nbdUri(address, name, page.tls === 'require')).filter(uri => uri !== undefined);
}
