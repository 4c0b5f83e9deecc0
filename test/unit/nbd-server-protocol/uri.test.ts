/** NBD URIs. Id of the checklist: U1. */
import t from 'tap';
import { formatNbdUri, type NbdUri, parseNbdUri } from '../../../src/nbd-server-protocol/index.ts';

const tcp = (host: string, exportName: string, more: Partial<NbdUri> = {}): NbdUri => ({
  endpoint: { kind: 'tcp', host, port: 10809 },
  tls: false,
  exportName,
  ...more,
});

const BOTH_WAYS: readonly [string, NbdUri][] = [
  ['nbd://example.com/disk', tcp('example.com', 'disk')],
  ['nbd://example.com/', tcp('example.com', '')],
  ['nbd://example.com//disk', tcp('example.com', '/disk')],
  ['nbd://example.com/hello%20world', tcp('example.com', 'hello world')],
  ['nbd://example.com/a%3Fb%23c%25', tcp('example.com', 'a?b#c%')],
  ['nbd://[::1]:9/x', tcp('::1', 'x', { endpoint: { kind: 'tcp', host: '::1', port: 9 } })],
  ['nbds://alice@h/d?tls-type=psk', tcp('h', 'd', { tls: true, user: 'alice', tlsType: 'psk' })],
  [
    'nbds://h/d?tls-hostname=other&tls-verify-peer=0',
    tcp('h', 'd', { tls: true, tlsHostname: 'other', tlsVerifyPeer: false }),
  ],
  [
    'nbd+unix:///disk?socket=/run/a%20b.sock',
    { endpoint: { kind: 'unix', path: '/run/a b.sock' }, tls: false, exportName: 'disk' },
  ],
  ['nbds+unix:///?socket=s', { endpoint: { kind: 'unix', path: 's' }, tls: true, exportName: '' }],
  ['nbd+unix:///?socket=%00/abstract', { endpoint: { kind: 'unix', path: '\0/abstract' }, tls: false, exportName: '' }],
];

for (const [text, uri] of BOTH_WAYS) {
  t.test(`U1: ${text} is read and written`, async t => {
    t.same(parseNbdUri(text), { ok: true, uri });
    t.equal(formatNbdUri(uri), text);
  });
}

t.test('U1: other spellings of the same are read', async t => {
  t.same(parseNbdUri('nbd://example.com'), { ok: true, uri: tcp('example.com', '') });
  t.same(parseNbdUri('NBD://example.com:10809/disk'), { ok: true, uri: tcp('example.com', 'disk') });
  t.same(parseNbdUri('nbd://h/d?x-foo=1'), { ok: true, uri: tcp('h', 'd') });
  t.match(parseNbdUri('nbd+unix:/d?socket=s'), { ok: true, uri: { exportName: 'd' } });
});

for (const bad of [
  '',
  'disk',
  'http://h/d',
  'nbd:///d',
  'nbd://h:99999/d',
  'nbd://h:0/d',
  'nbd://h:x/d',
  'nbd://[::1/d',
  'nbd://h/%zz',
  'nbd://h/%ff',
  'nbd://h/a%00b',
  'nbd+unix:///d',
  'nbd+unix://host/d?socket=s',
  'nbd://h/d?socket=s',
  'nbd://h/d?color=red',
  'nbd://h/d?tls-type=magic',
  'nbd://h/d?tls-verify-peer=yes',
]) {
  t.test(`U1: ${JSON.stringify(bad)} is refused`, async t => {
    t.equal(parseNbdUri(bad).ok, false);
  });
}
