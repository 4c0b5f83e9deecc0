import t from 'tap';
import { formatAddress, nbdClientLine, nbdUri } from '../../../src/admin/nbd-uri.ts';
import { parseAddress } from '../../../src/bin/arguments.ts';
import { parseNbdUri } from '../../../src/nbd-server-protocol/uri.ts';
import type { ListenAddress } from '../../../src/platform/io-platform.ts';

t.test('a URI leads back to the address and the name', t => {
  const table: [ListenAddress, object][] = [
    [
      { kind: 'tcp', host: '127.0.0.1', port: 10809 },
      { kind: 'tcp', host: '127.0.0.1', port: 10809 },
    ],
    [
      { kind: 'tcp', host: '::1', port: 4000 },
      { kind: 'tcp', host: '::1', port: 4000 },
    ],
    [
      { kind: 'tcp', host: '0.0.0.0', port: 4000 },
      { kind: 'tcp', host: '127.0.0.1', port: 4000 },
    ],
    [
      { kind: 'unix', path: '/run/a b&c.sock' },
      { kind: 'unix', path: '/run/a b&c.sock' },
    ],
  ];
  for (const [address, endpoint] of table) {
    for (const tls of [false, true]) {
      const uri = nbdUri(address, 'vol0', tls);
      t.match(parseNbdUri(uri ?? ''), { ok: true, uri: { endpoint, tls, exportName: 'vol0' } }, String(uri));
    }
  }
  t.equal(nbdUri({ kind: 'fd', fd: 3 }, 'vol0', false), undefined);
  t.end();
});

t.test('the nbd-client line is ready to paste', t => {
  t.equal(
    nbdClientLine({ kind: 'tcp', host: '127.0.0.1', port: 10809 }, 'vol0', 0),
    'sudo nbd-client 127.0.0.1 10809 -N vol0 -b 4096 /dev/nbd0',
  );
  t.equal(nbdClientLine({ kind: 'tcp', host: '::', port: 1 }, 'v', 2), 'sudo nbd-client ::1 1 -N v -b 4096 /dev/nbd2');
  t.equal(
    nbdClientLine({ kind: 'unix', path: "/run/it's.sock" }, 'vol0', 1),
    "sudo nbd-client -unix '/run/it'\\''s.sock' -N vol0 -b 4096 /dev/nbd1",
  );
  t.equal(nbdClientLine({ kind: 'fd', fd: 3 }, 'vol0', 0), undefined);
  t.end();
});

t.test('an address is shown as --listen takes it', t => {
  for (const text of ['127.0.0.1:10809', '[::1]:1', 'unix:/run/sledge.sock']) {
    t.equal(formatAddress(parseAddress(text)), text);
  }
  t.equal(formatAddress({ kind: 'fd', fd: 3 }), 'socket 3 of the service manager');
  t.end();
});
