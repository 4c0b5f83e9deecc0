/** Disk images to volumes and back by qemu-img, whose NBD client is its own: info, convert, compare, map, resize-free. */
import { join } from 'node:path';
import t from 'tap';
import { run, runOk, skipUnlessInstalled, temporaryDirectory, writePatternFile } from '../support/nbd-programs.ts';
import { startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('qemu-img', 'qemu-io');

interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly zero: boolean;
  readonly data: boolean;
}

t.test('qemu-img info shows the size of a volume over TCP and over a Unix socket', { skip }, async t => {
  for (const transport of ['tcp', 'unix'] as const) {
    const directory = temporaryDirectory(t);
    const server = await startServer(t, {
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes: 40 * MIB }],
      ...(transport === 'tcp' ? { tcp: true } : { unix: join(directory, 'socket') }),
    });
    const info = JSON.parse(await runOk('qemu-img', ['info', '--output=json', server.uri])) as Record<string, unknown>;
    t.equal(info['virtual-size'], 40 * MIB, transport);
    t.equal(info['format'], 'raw', transport);
  }
});

t.test('an image converted to a volume and back to qcow2 compares equal', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 32 * MIB;
  const raw = join(directory, 'raw');
  const qcow2 = join(directory, 'qcow2');
  await writePatternFile(raw, sizeBytes, 5, block => Math.floor(block / 100) % 2 === 0);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes }],
    unix: join(directory, 'socket'),
  });
  await runOk('qemu-img', ['convert', '-n', '-W', '-m', '8', '-f', 'raw', '-O', 'raw', raw, server.uri]);
  await runOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, server.uri]);
  await runOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', server.uri, qcow2]);
  await runOk('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', raw, qcow2]);

  await runOk('qemu-io', ['-f', 'raw', '-c', `write -P 1 ${20 * MIB} 1`, server.uri]);
  const differing = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, server.uri]);
  t.equal(differing.code, 1, 'one byte of difference is found');
});

t.test('a qcow2 image can live inside of a volume', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
    unix: join(directory, 'socket'),
  });
  await runOk('qemu-img', ['create', '-f', 'qcow2', server.uri, '1G']);
  const commands = ['write -P 7 900M 1M', 'write -P 8 5000 3000', 'flush', 'read -P 7 900M 1M', 'read -P 0 100M 1M'];
  await runOk('qemu-io', ['-f', 'qcow2', ...commands.flatMap(command => ['-c', command]), server.uri]);
  await runOk('qemu-img', ['check', '-f', 'qcow2', server.uri]);
});

t.test('qemu-img map agrees with what was written', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 64 * MIB;
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes }],
    tcp: true,
  });
  const commands = [`write -P 1 ${4 * MIB} 1M`, `write -P 2 ${32 * MIB} 64k`, 'flush'];
  await runOk('qemu-io', ['-f', 'raw', ...commands.flatMap(command => ['-c', command]), server.uri]);
  const entries = JSON.parse(
    await runOk('qemu-img', ['map', '-f', 'raw', '--output=json', server.uri]),
  ) as readonly MapEntry[];
  const at = (offset: number): MapEntry | undefined =>
    entries.find(entry => entry.start <= offset && offset < entry.start + entry.length);
  t.equal(
    entries.reduce((sum, entry) => sum + entry.length, 0),
    sizeBytes,
    'the map covers the volume',
  );
  for (const offset of [4 * MIB, 5 * MIB - 1, 32 * MIB]) t.equal(at(offset)?.zero, false, `${offset} has data`);
  for (const offset of [0, 16 * MIB, 33 * MIB, sizeBytes - 1]) t.equal(at(offset)?.zero, true, `${offset} is zero`);
});
