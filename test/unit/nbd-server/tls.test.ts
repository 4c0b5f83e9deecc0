/**
 * TLS over real sockets: material from files, the upgrade, the encrypted stream, and who is turned away. Certificates are
 * made for each run by openssl. Ids of the checklist: S6 S7 S8; MAT-n (files) and STREAM-n are our own.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { connect as connectPlain, type Socket } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import t from 'tap';
import { plainRegion, type Region } from '../../../src/base/memory.ts';
import type { Stream } from '../../../src/base/stream.ts';
import { createIoPlatform } from '../../../src/platform/platform.ts';
import { detachStream } from '../../../src/platform/ring-stream.ts';
import { loadTlsMaterial, type TlsMaterial } from '../../../src/platform/tls.ts';
import { tlsUpgrade } from '../../../src/platform/tls-stream.ts';
import { pattern, sameBytes } from './harness.ts';

const directory = t.testdir();
const file = (name: string): string => join(directory, name);

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' });
}

function makeAuthority(name: string): void {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${name}-key.pem`];
  openssl('req', '-x509', ...key, '-subj', `/CN=${name}`, '-days', '2', '-out', `${name}-cert.pem`);
}

function makeCertificate(name: string, authority: string): void {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${name}-key.pem`];
  openssl('req', ...key, '-subj', '/CN=localhost', '-out', `${name}.csr`);
  const signer = ['-CA', `${authority}-cert.pem`, '-CAkey', `${authority}-key.pem`, '-CAcreateserial'];
  writeFileSync(file('names'), 'subjectAltName=DNS:localhost');
  openssl(
    'x509',
    '-req',
    '-in',
    `${name}.csr`,
    ...signer,
    '-days',
    '2',
    '-extfile',
    'names',
    '-out',
    `${name}-cert.pem`,
  );
}

makeAuthority('ca');
makeAuthority('other');
makeCertificate('server', 'ca');
makeCertificate('client', 'ca');
makeCertificate('stranger', 'other');

const platform = createIoPlatform({ spinMicros: 0 });
const open: (() => void)[] = [];
t.teardown(async () => {
  for (const close of open) close();
  await platform.close();
});

interface Pair {
  readonly client: Socket;
  readonly upgraded: Promise<Stream>;
}

/** A connected pair whose server end goes through the upgrade. */
async function pair(material: TlsMaterial, handshakeMs = 5000): Promise<Pair> {
  const upgrade = tlsUpgrade(material, detachStream, handshakeMs);
  let arrived: (stream: Stream) => void = () => {};
  const accepted = new Promise<Stream>(resolve => {
    arrived = resolve;
  });
  const listener = await platform.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 }, stream => arrived(stream));
  const { address } = listener;
  const client = connectPlain(address.kind === 'tcp' ? address.port : 0, '127.0.0.1');
  client.on('error', () => {});
  open.push(() => client.destroy());
  const upgraded = upgrade(await accepted);
  upgraded.catch(() => {});
  await listener.close();
  return { client, upgraded };
}

function secure(client: Socket, options: ConnectionOptions): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({ socket: client, servername: 'localhost', ...options }, () => resolve(socket));
    socket.once('error', reject);
    socket.on('error', () => {});
  });
}

const certificateOf = (name: string): ConnectionOptions => ({
  ca: readFileSync(file('ca-cert.pem')),
  cert: readFileSync(file(`${name}-cert.pem`)),
  key: readFileSync(file(`${name}-key.pem`)),
});

/** Bytes the client has received, as they come. */
function collect(socket: TLSSocket): { bytes: () => Buffer } {
  const parts: Buffer[] = [];
  socket.on('data', (part: Buffer) => parts.push(part));
  return { bytes: () => Buffer.concat(parts) };
}

function receive(stream: Stream, region: Region, offset: number, length: number): Promise<number> {
  return new Promise(resolve => {
    let inside = true;
    stream.receive(region, offset, length, {
      ioCompleted: result => {
        if (inside) throw new Error('completed from inside of the call');
        resolve(result);
      },
    });
    inside = false;
  });
}

function send(stream: Stream, region: Region, offset: number, length: number): Promise<number> {
  return new Promise(resolve => {
    stream.send(region, offset, length, { ioCompleted: resolve });
  });
}

t.test('S7: a client with a certificate of the authority gets TLS 1.3, or 1.2 if that is what it has', async t => {
  const material = loadTlsMaterial({ certificates: directory });
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const { client, upgraded } = await pair(material);
    const socket = await secure(client, { ...certificateOf('client'), maxVersion: version });
    const stream = await upgraded;
    t.equal(socket.getProtocol(), version);
    t.equal(stream.encrypted, true);
    t.match(stream.peer, /^127\.0\.0\.1:\d+$/);
    stream.close();
  }
});

t.test('S7: TLS 1.1 is refused', async t => {
  const { client, upgraded } = await pair(loadTlsMaterial({ certificates: directory }));
  const old = { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
  await t.rejects(secure(client, { ...certificateOf('client'), ...old }));
  await t.rejects(upgraded);
});

t.test('S6: a client without a certificate, or with one of another authority, is turned away', async t => {
  const material = loadTlsMaterial({ certificates: directory });
  for (const options of [{ ca: readFileSync(file('ca-cert.pem')) }, certificateOf('stranger')]) {
    const { client, upgraded } = await pair(material);
    secure(client, options).catch(() => {});
    await t.rejects(upgraded);
  }
});

t.test('S6: what is no TLS, a client that leaves and one that is silent end the upgrade', async t => {
  const material = loadTlsMaterial({ certificates: directory });
  const start = performance.now();
  const babbler = await pair(material);
  babbler.client.write('IHAVEOPT, in clear');
  await t.rejects(babbler.upgraded);
  const leaver = await pair(material);
  leaver.client.destroy();
  await t.rejects(leaver.upgraded);
  t.ok(performance.now() - start < 2000, 'at once, not by the time limit');
  const silent = await pair(material, 50);
  await t.rejects(silent.upgraded);
});

t.test('S7: pre-shared keys: the right key is let in, an unknown name and a wrong key are not', async t => {
  const key = 'a1b2c3d4e5f60718293a4b5c6d7e8f90';
  writeFileSync(file('keys.psk'), `# a comment\nalice:${key}\nbob:0000\n`);
  chmodSync(file('keys.psk'), 0o600);
  const material = loadTlsMaterial({ psk: file('keys.psk') });
  t.same(material.warnings, []);
  const login = (identity: string, hex: string): ConnectionOptions => ({
    ciphers: 'PSK',
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ identity, psk: Buffer.from(hex, 'hex') }),
  });
  const good = await pair(material);
  const socket = await secure(good.client, login('alice', key));
  t.match(socket.getCipher().name, /^(ECDHE|DHE)-PSK/, 'with forward secrecy');
  (await good.upgraded).close();
  for (const [name, hex] of [
    ['alice', '0000'],
    ['mallory', key],
  ]) {
    const bad = await pair(material);
    secure(bad.client, login(name, hex)).catch(() => {});
    await t.rejects(bad.upgraded, name);
  }
});

t.test('STREAM-1: bytes go both ways, in pieces of any size', async t => {
  const { client, upgraded } = await pair(loadTlsMaterial({ certificates: directory }));
  const socket = await secure(client, certificateOf('client'));
  const stream = await upgraded;
  const data = pattern(1_000_000, 4);
  const region = plainRegion(1 << 20);
  socket.write(data);
  let arrived = 0;
  while (arrived < data.length) {
    const wanted = Math.min(data.length - arrived, 1 + ((arrived * 7) % 50_000));
    const count = await receive(stream, region, arrived, wanted);
    if (count < 1 || count > wanted) throw new Error(`${count} of ${wanted} bytes`);
    arrived += count;
  }
  t.ok(sameBytes(region.bytes.subarray(0, arrived), data));
  const collected = collect(socket);
  t.equal(await send(stream, region, 10, 700_000), 700_000);
  while (collected.bytes().length < 700_000) await new Promise(resolve => setTimeout(resolve, 5));
  t.ok(sameBytes(collected.bytes(), data.subarray(10, 700_010)));
  const receiving = receive(stream, region, 0, 10);
  stream.shutdown();
  await new Promise(resolve => socket.once('end', resolve));
  t.pass('S8: the client sees the end');
  socket.end();
  t.equal(await receiving, 0, 'and so do we');
  stream.close();
});

t.test('STREAM-2: nothing is read ahead while no receive is posted', async t => {
  const { client, upgraded } = await pair(loadTlsMaterial({ certificates: directory }));
  const socket = await secure(client, certificateOf('client'));
  const stream = await upgraded;
  let written = 0;
  const chunk = Buffer.alloc(1 << 20);
  const flood = (): void => {
    written += chunk.length;
    if (written < 64 << 20) socket.write(chunk, flood);
  };
  flood();
  await new Promise(resolve => setTimeout(resolve, 300));
  t.ok(written < 32 << 20, `the client got rid of ${written >> 20} MiB`);
  stream.close();
});

t.test('STREAM-3: close ends what is under way, with a negative errno', async t => {
  const { client, upgraded } = await pair(loadTlsMaterial({ certificates: directory }));
  await secure(client, certificateOf('client'));
  const stream = await upgraded;
  const receiving = receive(stream, plainRegion(4096), 0, 4096);
  // The client does not read: sooner or later a send stays under way.
  client.pause();
  const region = plainRegion(64 << 20);
  const sending = send(stream, region, 0, 64 << 20);
  stream.close();
  t.ok((await receiving) < 0);
  t.ok((await sending) < 0);
});

t.test('STREAM-4: a client that breaks off ends a receive, and every later one', async t => {
  const { client, upgraded } = await pair(loadTlsMaterial({ certificates: directory }));
  await secure(client, certificateOf('client'));
  const stream = await upgraded;
  const receiving = receive(stream, plainRegion(4096), 0, 4096);
  client.resetAndDestroy();
  t.ok((await receiving) <= 0);
  t.ok((await receive(stream, plainRegion(4096), 0, 4096)) <= 0);
  stream.close();
});

t.test('MAT-1: missing, unreadable and ill-matched files are named', async t => {
  const empty = t.testdir();
  t.throws(() => loadTlsMaterial({ certificates: empty }), { code: 'tls-files', message: /ca-cert\.pem/ });
  t.throws(() => loadTlsMaterial({ psk: join(empty, 'none') }), { code: 'tls-files', message: /none/ });
  const mixed = t.testdir();
  copyFileSync(file('ca-cert.pem'), join(mixed, 'ca-cert.pem'));
  copyFileSync(file('server-cert.pem'), join(mixed, 'server-cert.pem'));
  t.throws(() => loadTlsMaterial({ certificates: mixed }), { code: 'tls-files', message: /server-key\.pem/ });
  copyFileSync(file('client-key.pem'), join(mixed, 'server-key.pem'));
  t.throws(() => loadTlsMaterial({ certificates: mixed }), { code: 'tls-files', message: /do not fit/ });
  copyFileSync(file('server-key.pem'), join(mixed, 'server-key.pem'));
  chmodSync(join(mixed, 'server-key.pem'), 0o644);
  t.match(loadTlsMaterial({ certificates: mixed }).warnings, [/server-key\.pem can be read by others/]);
});

t.test('MAT-2: a PSK file with a bad line is refused by its number, without its content', async t => {
  for (const bad of ['alice', ':aa', 'alice:xyz', 'alice:abc', 'alice:', `alice:${'aa'.repeat(257)}`, '']) {
    writeFileSync(file('bad.psk'), `# first\n${bad}\n`);
    let message = '';
    try {
      loadTlsMaterial({ psk: file('bad.psk') });
    } catch (error) {
      message = (error as Error).message;
      t.equal((error as { code?: string }).code, 'tls-files');
    }
    t.match(message, bad === '' ? /holds no key/ : /line 2/);
    t.notMatch(message, /alice/);
  }
});

t.test('MAT-3: a client whose certificate was withdrawn is turned away', async t => {
  writeFileSync(file('index.txt'), '');
  writeFileSync(file('number'), '01\n');
  const config =
    '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=2\n';
  writeFileSync(file('ca.conf'), config);
  const authority = ['-config', 'ca.conf', '-keyfile', 'ca-key.pem', '-cert', 'ca-cert.pem'];
  openssl('ca', ...authority, '-revoke', 'client-cert.pem');
  openssl('ca', ...authority, '-gencrl', '-out', 'ca-crl.pem');
  const { client, upgraded } = await pair(loadTlsMaterial({ certificates: directory }));
  secure(client, certificateOf('client')).catch(() => {});
  await t.rejects(upgraded);
});
