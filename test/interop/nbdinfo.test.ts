/** What a server says about itself, as nbdinfo (libnbd) sees it: over TCP and Unix sockets, volumes, flags and maps. */
import { join } from 'node:path';
import t from 'tap';
import { nbdsh, run, runOk, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { engineUnderTest, type RunningServer, skipOnStandIn, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const CHUNK = 65536;
const skip = skipUnlessInstalled('nbdinfo', 'nbdsh');

interface ExportInfo {
  readonly 'export-name': string;
  readonly 'export-size': number;
  readonly contexts?: readonly string[];
  readonly [property: string]: unknown;
}

interface Info {
  readonly protocol: string;
  readonly TLS: boolean;
  readonly structured?: boolean;
  readonly exports: readonly ExportInfo[];
}

interface MapExtent {
  readonly offset: number;
  readonly length: number;
  /** Of `base:allocation`: 1 hole, 2 reads as zeroes. */
  readonly type: number;
}

async function info(...args: string[]): Promise<Info> {
  return JSON.parse(await runOk('nbdinfo', ['--json', ...args])) as Info;
}

async function map(server: RunningServer): Promise<MapExtent[]> {
  return JSON.parse(await runOk('nbdinfo', ['--json', '--map', server.uri])) as MapExtent[];
}

/** The extents that a range meets. */
function extentsOf(extents: readonly MapExtent[], offset: number, length: number): MapExtent[] {
  return extents.filter(extent => extent.offset < offset + length && extent.offset + extent.length > offset);
}

for (const transport of ['tcp', 'unix'] as const) {
  t.test(`nbdinfo over ${transport} shows size, flags, contexts and block sizes`, { skip }, async t => {
    const directory = temporaryDirectory(t);
    const server = await startServer(t, {
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
      ...(transport === 'tcp' ? { tcp: true } : { unix: join(directory, 'socket') }),
    });
    const answer = await info(server.uri);
    t.equal(answer.protocol, 'newstyle-fixed');
    t.equal(answer.TLS, false);
    t.equal(answer.structured, true);
    t.equal(answer.exports.length, 1);
    const [disk] = answer.exports;
    t.equal(disk['export-name'], 'disk');
    t.equal(disk['export-size'], 64 * MIB);
    t.equal(disk['is_read_only'], false);
    t.strictSame(disk.contexts, ['base:allocation']);
    for (const ability of ['can_flush', 'can_fua', 'can_trim', 'can_zero', 'can_multi_conn', 'can_df', 'can_cache']) {
      t.equal(disk[ability], true, ability);
    }
    if (engineUnderTest() === 'sledge') {
      t.equal(disk['block_size_minimum'], 1, 'any alignment is accepted');
      t.ok(Number(disk['block_size_preferred']) >= 4096);
      t.ok(Number(disk['block_size_maximum']) >= 32 * MIB, '32 MiB payloads are promised');
    }
    t.equal((await runOk('nbdinfo', ['--size', server.uri])).trim(), String(64 * MIB));
    t.equal((await run('nbdinfo', ['--is', 'readonly', server.uri])).code, 2, 'is not read-only');
    t.equal((await run('nbdinfo', ['--can', 'fua', server.uri])).code, 0);
  });
}

t.test('nbdinfo --list names every volume with its size', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const volumes = [
    { name: 'alpha', sizeBytes: 16 * MIB },
    { name: 'beta', sizeBytes: 32 * MIB },
    { name: 'gamma', sizeBytes: 48 * MIB },
  ];
  const server = await startServer(t, { dataDirectory: join(directory, 'data'), volumes, tcp: true });
  const answer = await info('--list', server.uri);
  const listed = answer.exports.map(entry => ({ name: entry['export-name'], sizeBytes: entry['export-size'] }));
  t.strictSame(
    listed.sort((a, b) => a.name.localeCompare(b.name)),
    volumes,
  );
});

t.test(
  'the empty export name is the only volume, and nobody when there are two',
  { skip: skip || skipOnStandIn() },
  async t => {
    const directory = temporaryDirectory(t);
    const one = await startServer(t, {
      dataDirectory: join(directory, 'one'),
      volumes: [{ name: 'disk', sizeBytes: 16 * MIB }],
      unix: join(directory, 'one.socket'),
    });
    t.equal((await runOk('nbdinfo', ['--size', one.uriOf('')])).trim(), String(16 * MIB));
    const two = await startServer(t, {
      dataDirectory: join(directory, 'two'),
      volumes: [
        { name: 'a', sizeBytes: 16 * MIB },
        { name: 'b', sizeBytes: 16 * MIB },
      ],
      unix: join(directory, 'two.socket'),
    });
    t.not((await run('nbdinfo', ['--size', two.uriOf('')])).code, 0);
  },
);

t.test('the URIs that the server prints work as they are', { skip: skip || skipOnStandIn() }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [
      { name: 'first', sizeBytes: 16 * MIB },
      { name: 'second', sizeBytes: 32 * MIB },
    ],
    tcp: true,
    unix: join(directory, 'socket with a space'),
  });
  const line = server
    .output()
    .split('\n')
    .find(text => text.includes('"ready"'));
  const ready = JSON.parse(line ?? '{}') as { readonly volumes: readonly { readonly uris: readonly string[] }[] };
  t.equal(ready.volumes.length, 2);
  for (const [i, volume] of ready.volumes.entries()) {
    t.equal(volume.uris.length, 2, 'one for each address');
    for (const uri of volume.uris)
      t.equal((await runOk('nbdinfo', ['--size', uri])).trim(), String((i + 1) * 16 * MIB), uri);
  }
});

t.test('an unknown volume is refused, and the server goes on', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 16 * MIB }],
    tcp: true,
  });
  const refused = await run('nbdinfo', ['--size', server.uriOf('nothing')]);
  t.not(refused.code, 0);
  t.equal(refused.timedOut, false);
  t.equal((await runOk('nbdinfo', ['--size', server.uri])).trim(), String(16 * MIB));
});

t.test('nbdinfo --map shows what was written, what never was, and what was trimmed', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 64 * MIB;
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes }],
    unix: join(directory, 'socket'),
  });
  const empty = await map(server);
  t.ok(empty.length >= 1);
  t.ok(
    empty.every(extent => extent.type === 3),
    'a new volume is one hole',
  );

  // Whole chunks, one block, and a few bytes in the middle of a block.
  const written = [
    { offset: 0, length: CHUNK },
    { offset: 8 * MIB, length: 4 * CHUNK },
    { offset: 16 * MIB + 4096, length: 4096 },
    { offset: 24 * MIB + 1000, length: 7 },
    { offset: sizeBytes - 512, length: 512 },
  ];
  await nbdsh(`
h.connect_uri(${JSON.stringify(server.uri)})
for r in ${JSON.stringify(written)}:
    h.pwrite(b"\\x5a" * r["length"], r["offset"])
h.flush()
`);
  const extents = await map(server);
  let position = 0;
  for (const extent of extents) {
    t.equal(extent.offset, position, 'extents follow each other');
    position += extent.length;
  }
  t.equal(position, sizeBytes, 'extents cover the volume');
  for (const range of written) {
    const claims = extentsOf(extents, range.offset, range.length);
    t.ok(
      claims.every(extent => (extent.type & 2) === 0),
      `${range.offset}+${range.length} is not claimed to be zero`,
    );
  }
  for (const offset of [4 * MIB, 12 * MIB, 40 * MIB]) {
    t.strictSame(
      extentsOf(extents, offset, CHUNK).map(extent => extent.type),
      [3],
      `${offset} is still a hole`,
    );
  }

  await nbdsh(`
h.connect_uri(${JSON.stringify(server.uri)})
h.trim(${4 * CHUNK}, ${8 * MIB})
h.zero(${CHUNK}, 0)
h.flush()
`);
  const trimmed = await map(server);
  if (engineUnderTest() === 'sledge') {
    t.ok(
      extentsOf(trimmed, 8 * MIB, 4 * CHUNK).every(extent => extent.type === 3),
      'a trimmed range is a hole again',
    );
    t.ok(
      extentsOf(trimmed, 0, CHUNK).every(extent => (extent.type & 2) === 2),
      'a zeroed range reads as zeroes',
    );
  }
  const content = await nbdsh(`
h.connect_uri(${JSON.stringify(server.uri)})
emit(h.pread(${CHUNK}, 0) == bytes(${CHUNK}))
emit(h.pread(7, ${24 * MIB + 1000}) == b"\\x5a" * 7)
`);
  t.strictSame(content, [true, true]);
});
