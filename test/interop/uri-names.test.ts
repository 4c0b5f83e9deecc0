/** Names and socket paths that have to be written with care in a URI. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { run, runOk, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('nbdinfo', 'qemu-img');

t.test('volume names of every allowed character are found, plain or percent-encoded', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const names = ['a', 'A', '0', 'disk.v2', 'disk-v2', 'disk_v2', 'UPPER.lower-1_2', 'n'.repeat(128)];
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: names.map((name, i) => ({ name, sizeBytes: (16 + i) * MIB })),
    tcp: true,
  });
  for (const [i, name] of names.entries()) {
    const encoded = [...name].map(c => `%${c.charCodeAt(0).toString(16)}`).join('');
    const base = `nbd://127.0.0.1:${server.port}/`;
    t.equal((await runOk('nbdinfo', ['--size', base + name])).trim(), String((16 + i) * MIB), name);
    t.equal((await runOk('nbdinfo', ['--size', base + encoded])).trim(), String((16 + i) * MIB), encoded);
  }
});

t.test('names that cannot be are refused without harm', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 16 * MIB }],
    unix: join(directory, 'socket'),
  });
  for (const name of ['../disk', 'disk/', '/disk', 'Disk', 'disk ', 'dísk', '日本', "d'isk;ls", 'x'.repeat(4096)]) {
    const refused = await run('nbdinfo', ['--size', server.uriOf(name)]);
    t.not(refused.code, 0, name.slice(0, 20));
    t.equal(refused.timedOut, false, name.slice(0, 20));
  }
  t.equal((await runOk('nbdinfo', ['--size', server.uri])).trim(), String(16 * MIB));
});

t.test('socket paths with spaces, signs and letters of other scripts', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const parent = join(directory, 'a b & c');
  mkdirSync(parent);
  for (const [i, name] of ['so cket', 'so+cket', 'so%20cket', 'so&cket=1', 'so#cket?', 'søcket-日'].entries()) {
    const server = await startServer(t, {
      dataDirectory: join(directory, `data ${i}`),
      volumes: [{ name: 'disk', sizeBytes: 16 * MIB }],
      unix: join(parent, name),
    });
    t.equal((await runOk('nbdinfo', ['--size', server.uri])).trim(), String(16 * MIB), name);
    t.ok((await runOk('qemu-img', ['info', server.uri])).includes('16 MiB'), name);
    await server.stop();
  }
});
