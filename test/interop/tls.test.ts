/** TLS with certificates and with pre-shared keys, by libnbd and by qemu: the right ones come in, the wrong ones do not. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCertificates, makePskFile } from '../support/nbd-certificates.ts';
import {
  checksumFile,
  nbdsh,
  run,
  runOk,
  skipUnlessInstalled,
  temporaryDirectory,
  writePatternFile,
} from '../support/nbd-programs.ts';
import { type RunningServer, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('certtool', 'nbdinfo', 'nbdcopy', 'qemu-img', 'nbdsh');
const sizeBytes = 16 * MIB;
const volumes = [{ name: 'disk', sizeBytes }];
const goodKey = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff';
const wrongKey = 'ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff';

async function size(uri: string): Promise<string> {
  return (await runOk('nbdinfo', ['--size', uri])).trim();
}

/** True when the server turned the client away, rather than leaving it to wait. */
async function refused(program: string, ...args: readonly string[]): Promise<boolean> {
  const result = await run(program, args, { timeoutMs: 20_000 });
  return result.code !== 0 && !result.timedOut;
}

function secure(server: RunningServer, certificates: string): string {
  return server.uriOf('disk', { tls: true, parameters: { 'tls-certificates': certificates } });
}

function withKey(server: RunningServer, user: string, file: string): string {
  return server.uriOf('disk', { tls: true, user, parameters: { 'tls-psk-file': file } });
}

t.test('certificates: data goes both ways unharmed, over TCP and Unix sockets', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const { directory: certificates } = await makeCertificates(join(directory, 'pki'));
  const source = join(directory, 'source');
  await writePatternFile(source, sizeBytes, 6);
  for (const transport of ['tcp', 'unix'] as const) {
    const server = await startServer(t, {
      dataDirectory: join(directory, transport),
      volumes,
      tls: { certificates },
      ...(transport === 'tcp' ? { tcp: true } : { unix: join(directory, 'socket') }),
    });
    const uri = server.uriOf('disk', {
      tls: true,
      parameters: { 'tls-certificates': certificates, 'tls-hostname': 'localhost' },
    });
    const copy = join(directory, `copy-${transport}`);
    await runOk('nbdcopy', ['--flush', source, uri]);
    await runOk('nbdcopy', [uri, copy]);
    t.equal(await checksumFile(copy), await checksumFile(source), transport);
    const info = JSON.parse(await runOk('nbdinfo', ['--json', uri])) as { TLS: boolean };
    t.equal(info.TLS, true, transport);
  }
});

t.test('certificates: a client without one, or with one of another authority, is refused', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const ours = await makeCertificates(join(directory, 'ours'));
  const theirs = await makeCertificates(join(directory, 'theirs'));
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes,
    tcp: true,
    tls: { certificates: ours.directory },
  });
  t.equal(await size(secure(server, ours.directory)), String(sizeBytes));

  t.ok(await refused('nbdinfo', '--size', secure(server, theirs.directory)), 'the client finds the server out');

  // Trusts the server, but its own certificate is of another authority.
  const impostor = join(directory, 'impostor');
  mkdirSync(impostor);
  await runOk('cp', [ours.ca, theirs.clientCertificate, theirs.clientKey, impostor]);
  t.ok(await refused('nbdinfo', '--size', secure(server, impostor)), 'another authority');

  const anonymous = join(directory, 'anonymous');
  mkdirSync(anonymous);
  await runOk('cp', [ours.ca, anonymous]);
  t.ok(await refused('nbdinfo', '--size', secure(server, anonymous)), 'no certificate');

  t.equal(await size(secure(server, ours.directory)), String(sizeBytes), 'the server goes on');
});

t.test('certificates: qemu comes in with the right ones only', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const ours = await makeCertificates(join(directory, 'ours'));
  const theirs = await makeCertificates(join(directory, 'theirs'));
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes,
    tcp: true,
    tls: { certificates: ours.directory },
  });
  const info = (certificates: string): string[] => [
    'info',
    '--object',
    `tls-creds-x509,id=tls,dir=${certificates},endpoint=client`,
    '--image-opts',
    `driver=nbd,host=127.0.0.1,port=${server.port},export=disk,tls-creds=tls`,
  ];
  t.match(await runOk('qemu-img', info(ours.directory)), /virtual size: 16 MiB/);
  t.ok(await refused('qemu-img', ...info(theirs.directory)));
});

t.test('tls require: plaintext gets no name, no size, no data', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const { directory: certificates } = await makeCertificates(join(directory, 'pki'));
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes,
    tcp: true,
    tls: { certificates, required: true },
  });
  t.ok(await refused('nbdinfo', '--size', server.uri));
  const list = await run('nbdinfo', ['--list', server.uri]);
  t.not(list.code, 0);
  t.notMatch(list.stdout, /disk/);
  t.ok(await refused('qemu-img', 'info', server.uri));
  const answers = await nbdsh(`
h.set_opt_mode(True)
h.connect_uri(${JSON.stringify(server.uri)})
h.set_export_name("disk")
emit([attempt(h.opt_list, lambda *arguments: 0), attempt(h.opt_info)])
emit(attempt(h.opt_abort))
`);
  t.equal((answers[0] as string[]).includes('ok'), false, 'neither list nor info is answered');
  t.equal(answers[1], 'ok', 'abort is');
  t.equal(await size(secure(server, certificates)), String(sizeBytes));
});

t.test('tls offered: plaintext is served beside it', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const { directory: certificates } = await makeCertificates(join(directory, 'pki'));
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes,
    tcp: true,
    tls: { certificates },
  });
  t.equal(await size(server.uri), String(sizeBytes));
  t.equal(await size(secure(server, certificates)), String(sizeBytes));
  const answers = await nbdsh(`
plain, hidden = nbd.NBD(), nbd.NBD()
plain.connect_uri(${JSON.stringify(server.uri)})
hidden.set_uri_allow_local_file(True)
hidden.connect_uri(${JSON.stringify(secure(server, certificates))})
emit([plain.get_tls_negotiated(), hidden.get_tls_negotiated()])
plain.pwrite(b"one" * 5000, 4097)
emit(hidden.pread(15000, 4097) == b"one" * 5000)
hidden.pwrite(b"two" * 5000, 4097)
emit(plain.pread(15000, 4097) == b"two" * 5000)
`);
  t.strictSame(answers, [[false, true], true, true]);
});

t.test('pre-shared keys: the right key of a known name only', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const keys = makePskFile(join(directory, 'keys'), 'alice', goodKey);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes,
    tcp: true,
    tls: { psk: keys, required: true },
  });
  t.equal(await size(withKey(server, 'alice', keys)), String(sizeBytes));

  const wrong = makePskFile(join(directory, 'wrong'), 'alice', wrongKey);
  t.ok(await refused('nbdinfo', '--size', withKey(server, 'alice', wrong)), 'wrong key');
  const stranger = makePskFile(join(directory, 'stranger'), 'mallory', goodKey);
  t.ok(await refused('nbdinfo', '--size', withKey(server, 'mallory', stranger)), 'unknown name');
  t.ok(await refused('nbdinfo', '--size', server.uri), 'plaintext');

  const source = join(directory, 'source');
  const copy = join(directory, 'copy');
  await writePatternFile(source, sizeBytes, 8);
  await runOk('nbdcopy', ['--flush', source, withKey(server, 'alice', keys)]);
  await runOk('nbdcopy', [withKey(server, 'alice', keys), copy]);
  t.equal(await checksumFile(copy), await checksumFile(source));
});

t.test('pre-shared keys: qemu comes in with the right key only', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const keys = makePskFile(join(directory, 'keys'), 'qemu', goodKey);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes,
    tcp: true,
    tls: { psk: keys, required: true },
  });
  const info = (key: string, name: string): string[] => {
    const credentials = join(directory, name);
    mkdirSync(credentials);
    writeFileSync(join(credentials, 'keys.psk'), `qemu:${key}\n`);
    return [
      'info',
      '--object',
      `tls-creds-psk,id=tls,dir=${credentials},endpoint=client,username=qemu`,
      '--image-opts',
      `driver=nbd,host=127.0.0.1,port=${server.port},export=disk,tls-creds=tls`,
    ];
  };
  t.match(await runOk('qemu-img', info(goodKey, 'right')), /virtual size: 16 MiB/);
  t.ok(await refused('qemu-img', ...info(wrongKey, 'wrong')));
});
