/** Copies by nbdcopy (libnbd), to a volume and back: what arrives is what was sent, and holes stay holes. */
import { join } from 'node:path';
import t from 'tap';
import {
  checksumFile,
  nbdsh,
  runOk,
  skipUnlessInstalled,
  temporaryDirectory,
  writePatternFile,
} from '../support/nbd-programs.ts';
import { skipOnStandIn, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('nbdcopy', 'nbdinfo', 'nbdsh');

for (const transport of ['tcp', 'unix'] as const) {
  t.test(`a file copied to a volume and back over ${transport} is the same file`, { skip }, async t => {
    const directory = temporaryDirectory(t);
    const sizeBytes = 48 * MIB;
    const source = join(directory, 'source');
    const copy = join(directory, 'copy');
    await writePatternFile(source, sizeBytes, 1);
    const server = await startServer(t, {
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes }],
      ...(transport === 'tcp' ? { tcp: true } : { unix: join(directory, 'socket') }),
    });
    await runOk('nbdcopy', ['--flush', '--connections=4', '--requests=16', source, server.uri]);
    await runOk('nbdcopy', ['--connections=4', '--requests=64', server.uri, copy]);
    t.equal(await checksumFile(copy), await checksumFile(source));
  });
}

const variations: readonly (readonly string[])[] = [
  ['--allocated'],
  ['--destination-is-zero'],
  ['--no-extents'],
  ['--synchronous'],
  ['--request-size=1048576', '--requests=4'],
  ['--request-size=4096', '--requests=64', '--connections=1'],
  ['--sparse=0'],
];

t.test('a file with holes, there and back', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 16 * MIB;
  const source = join(directory, 'source');
  // Runs of data and holes of 1 to 48 blocks, so that some end inside of a chunk.
  await writePatternFile(source, sizeBytes, 2, block => Math.floor(block / 48) % 3 === 1 || block % 37 === 5);
  const checksum = await checksumFile(source);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    // Each variation has a volume that nothing was written to.
    volumes: variations.map((_, i) => ({ name: `disk${i}`, sizeBytes })),
    unix: join(directory, 'socket'),
  });
  for (const [i, variation] of variations.entries()) {
    await t.test(`nbdcopy ${variation.join(' ')}`, async t => {
      const copy = join(directory, `copy${i}`);
      const uri = server.uriOf(`disk${i}`);
      await runOk('nbdcopy', [...variation, '--flush', source, uri]);
      await runOk('nbdcopy', [...variation.filter(option => option !== '--destination-is-zero'), uri, copy]);
      t.equal(await checksumFile(copy), checksum);
    });
  }
});

t.test('a file with holes copied over old data leaves none of the old data', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 16 * MIB;
  const old = join(directory, 'old');
  const source = join(directory, 'source');
  const copy = join(directory, 'copy');
  await writePatternFile(old, sizeBytes, 3);
  await writePatternFile(source, sizeBytes, 4, block => block % 64 < 40);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes }],
    unix: join(directory, 'socket'),
  });
  await runOk('nbdcopy', [old, server.uri]);
  await runOk('nbdcopy', ['--flush', source, server.uri]);
  await runOk('nbdcopy', [server.uri, copy]);
  t.equal(await checksumFile(copy), await checksumFile(source));
});

t.test('a volume copied to another volume keeps its holes', { skip: skip || skipOnStandIn() }, async t => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 32 * MIB;
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [
      { name: 'from', sizeBytes },
      { name: 'to', sizeBytes },
    ],
    tcp: true,
  });
  await nbdsh(`
h.connect_uri(${JSON.stringify(server.uriOf('from'))})
h.pwrite(b"data" * 32768, ${4 * MIB})
h.pwrite(b"more" * 16384, ${20 * MIB})
`);
  await runOk('nbdcopy', ['--destination-is-zero', '--flush', server.uriOf('from'), server.uriOf('to')]);
  const map = async (volume: string): Promise<unknown> =>
    JSON.parse(await runOk('nbdinfo', ['--json', '--map', server.uriOf(volume)]));
  t.strictSame(await map('to'), await map('from'));
  const [same] = await nbdsh(`
h.connect_uri(${JSON.stringify(server.uriOf('to'))})
emit(h.pread(131072, ${4 * MIB}) == b"data" * 32768 and h.pread(65536, ${20 * MIB}) == b"more" * 16384)
`);
  t.equal(same, true);
});
