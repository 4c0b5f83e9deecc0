/**
 * `sledge check` on what real servers leave behind: clean after a stop and after SIGKILL, and then with single bits of
 * it changed, each of which is named with its file and byte.
 */
import { readdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { logSegmentBytes } from '../../src/base/limits.ts';
import { locationPosition } from '../../src/base/location.ts';
import type { VolumeNumber } from '../../src/base/units.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import { RECORD_HEADER_BYTES, RECORD_MAGIC, RecordKind, writeDataOffset } from '../../src/oplog/record.ts';
import { LmdbIndex } from '../../src/platform/lmdb-index.ts';
import { runCommand } from '../support/command-run.ts';
import { look } from '../support/directory-state.ts';
import { flip } from '../support/flip.ts';
import { run } from '../support/nbd-programs.ts';
import { logEmptied, type RunningServer, sledgeJson, sledgeProgram, startServer } from '../support/server-process.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

t.setTimeout(120_000);

interface Report {
  readonly errors: number;
  readonly findings: readonly { kind: string; severity: string; what: string; file?: string; offsetBytes?: number }[];
  readonly summary: {
    chunks: number;
    log: { row: string; cut: number; end: number } | null;
    data: { verifiedBlocks: number } | null;
  };
}

async function check(directory: string, ...options: string[]): Promise<{ code: number; report: Report; text: string }> {
  const { code, out } = await runCommand('check', directory, '--json', ...options);
  return { code, report: JSON.parse(out) as Report, text: out };
}

async function load(server: RunningServer, volume: string, mode: string): Promise<void> {
  const result = await run(sledgeProgram, ['bench', server.uriOf(volume), '--seconds', '1', '--mode', mode, '--yes']);
  if (result.code !== 0) throw new Error(result.stderr);
}

/** The first write record at or behind a position of the log. */
function writeRecordAt(directory: string, position: number) {
  const segments = new Map<number, { file: string; bytes: Buffer }>();
  for (const name of readdirSync(join(directory, 'log'))) {
    const file = join(directory, 'log', name);
    const bytes = readFileSync(file);
    if (bytes.readUInt32LE(0) === RECORD_MAGIC) segments.set(Number(bytes.readBigUInt64LE(16)), { file, bytes });
  }
  for (let next = position; ; ) {
    const at = next % logSegmentBytes;
    const segment = segments.get(next - at);
    if (segment === undefined) throw new Error(`no write record is between ${position} and ${next}`);
    const { file, bytes } = segment;
    if (at + RECORD_HEADER_BYTES > bytes.length || bytes.readUInt32LE(at) !== RECORD_MAGIC) {
      next += logSegmentBytes - at;
      continue;
    }
    const count = Number(bytes.readBigUInt64LE(at + 56));
    if (bytes[at + 5] === RecordKind.write) return { file, at, data: at + writeDataOffset(count) };
    next += bytes.readUInt32LE(at + 8);
  }
}

t.test('stopped and killed servers leave clean directories, and each changed bit is named', async t => {
  const directory = temporaryDirectory(t);
  const dataDirectory = join(directory, 'data');
  const device = join(directory, 'disk');
  const options = {
    engine: 'sledge',
    dataDirectory,
    volumes: ['small', 'large'].map(name => ({ name, sizeBytes: 32 * MIB })),
    tcp: true,
    sledgeArguments: ['--log', '64MiB', '--cache', '16MiB', '--device', `${device}:129MiB`],
  } as const;

  const first = await startServer(t, options);
  const running = await check(dataDirectory);
  t.equal(running.code, 1, 'a running server is an error');
  t.match(running.report, { error: { code: 'data-in-use', hint: /Stop it first/ } });
  await load(first, 'small', 'randwrite');
  await load(first, 'large', 'write');
  // Behind a deletion everything is destaged: from now on the devices alone have it.
  await sledgeJson(dataDirectory, 'volume', 'create', 'scratch', '--size', '1MiB');
  await sledgeJson(dataDirectory, 'volume', 'delete', 'scratch');
  await logEmptied(dataDirectory);
  t.equal(await first.stop(), 0);

  const before = look(dataDirectory);
  const stopped = await run(sledgeProgram, ['check', dataDirectory, '--read']);
  t.equal(stopped.code, 0, stopped.stdout);
  t.match(stopped.stdout, /health: ok/);
  t.notMatch(stopped.stdout, /error:|warning:/);
  const whole = await check(dataDirectory, '--read');
  t.equal(whole.code, 0);
  t.ok(whole.report.summary.chunks > 500, `${whole.report.summary.chunks} chunks`);
  t.ok(whole.report.summary.data!.verifiedBlocks > 8000, `${whole.report.summary.data!.verifiedBlocks} blocks`);
  t.same(look(dataDirectory), before, 'nothing was changed');

  await t.test('a bit in a block of a device', async t => {
    const index = new LmdbIndex(join(dataDirectory, 'index'), { readOnly: true });
    const [[, { location }]] = [...index.chunks(2 as VolumeNumber, 100, 101, 1)];
    await index.close();
    const offsetBytes = locationPosition(location) + 5 * 4096;
    flip(device, offsetBytes + 1234);
    const { code, report } = await check(dataDirectory, '--read');
    t.equal(code, 1);
    t.match(report.findings, [{ kind: 'block-damaged', file: device, offsetBytes }]);
    t.equal(report.findings.length, 1);
    t.equal((await check(dataDirectory)).code, 0, 'only --read reads it');
    const { out } = await runCommand('check', dataDirectory, '--read');
    t.ok(out.includes(`error: The block at byte ${offsetBytes} of ${device} is damaged`), out);
    flip(device, offsetBytes + 1234);
  });

  await t.test('a bit in one superblock, and in both', async t => {
    flip(device, 64 * KIB + 50);
    const one = await check(dataDirectory);
    t.equal(one.code, 0);
    t.match(one.report.findings, [{ kind: 'superblock-copy', severity: 'warning', file: device, offsetBytes: 65536 }]);
    flip(device, 50);
    const both = await check(dataDirectory);
    t.equal(both.code, 1);
    t.match(both.report.findings, [
      { kind: 'superblock-damaged', file: device, offsetBytes: 0 },
      { kind: 'superblock-damaged', file: device, offsetBytes: 65536 },
      { kind: 'chunks-lost', file: device },
    ]);
    flip(device, 50);
    flip(device, 64 * KIB + 50);
  });

  await t.test('a device that is gone', async t => {
    renameSync(device, `${device}.away`);
    const { code, report } = await check(dataDirectory, '--read');
    t.equal(code, 1);
    t.match(report.findings, [
      { kind: 'device-missing', file: device },
      { kind: 'chunks-lost', file: device },
    ]);
    renameSync(`${device}.away`, device);
  });

  await t.test('node.json and index', async t => {
    const file = join(dataDirectory, 'node.json');
    flip(file, 0);
    const damaged = await check(dataDirectory);
    t.equal(damaged.code, 1);
    t.match(damaged.report.findings, [{ kind: 'node-file', file }]);
    flip(file, 0);
    renameSync(join(dataDirectory, 'index'), join(dataDirectory, 'away'));
    t.match((await check(dataDirectory)).report.findings, [{ kind: 'index-missing' }]);
    renameSync(join(dataDirectory, 'away'), join(dataDirectory, 'index'));
    const indexFile = join(dataDirectory, 'index', 'index.lmdb');
    flip(indexFile, 8 * KIB + 100);
    const changed = await check(dataDirectory);
    t.equal(changed.code, 1);
    t.match(changed.report.findings, [{ kind: 'index-damaged', file: indexFile, offsetBytes: 8 * KIB }]);
    t.equal(changed.report.summary, null, 'and is not opened');
    flip(indexFile, 8 * KIB + 100);
    const pages = readFileSync(indexFile);
    truncateSync(indexFile, 16 * KIB);
    t.match((await check(dataDirectory)).report.findings, [{ kind: 'index-damaged', what: /16384 bytes of/ }]);
    // As a killed server leaves it.
    const sums = join(dataDirectory, 'index', 'index.sums');
    renameSync(sums, join(directory, 'sums'));
    const truncated = await check(dataDirectory);
    t.equal(truncated.code, 1);
    t.match(truncated.report.findings, [{ kind: 'index-unreadable', what: /its end is missing/ }]);
    renameSync(join(directory, 'sums'), sums);
    writeFileSync(indexFile, pages);
    renameSync(join(dataDirectory, 'lock'), join(directory, 'lock'));
    const { code, report } = await check(dataDirectory);
    t.equal(code, 0);
    t.match(report.findings, [{ kind: 'lock-missing', severity: 'note' }]);
    renameSync(join(directory, 'lock'), join(dataDirectory, 'lock'));
  });

  const second = await startServer(t, options);
  await sledgeJson(dataDirectory, 'volume', 'create', 'careful', '--size', '8MiB', '--ack', 'durable');
  await load(second, 'large', 'write');
  await load(second, 'careful', 'randwrite');
  await second.kill();

  const killed = await check(dataDirectory, '--read');
  t.equal(killed.code, 0, killed.text);
  t.same(
    killed.report.findings.filter(finding => finding.severity !== 'note'),
    [],
  );
  const log = killed.report.summary.log!;
  t.ok(log.end > log.cut, 'the log has operations');

  await t.test("a bit in the log's middle", async t => {
    const { file, at, data } = writeRecordAt(dataDirectory, log.cut);
    flip(file, data + 100);
    const rotten = await check(dataDirectory);
    t.equal(rotten.code, 1);
    t.match(rotten.report.summary.log, { row: 'rotten' });
    t.match(rotten.report.findings, [{ kind: 'log-block-damaged', file, offsetBytes: data }]);
    flip(file, data + 100);

    flip(file, at + 33);
    const broken = await check(dataDirectory);
    t.equal(broken.code, 1);
    t.match(broken.report.summary.log, { row: 'broken' });
    t.match(
      broken.report.findings.find(finding => finding.kind === 'log-broken'),
      { file, offsetBytes: at },
    );
    flip(file, at + 33);
    t.equal((await check(dataDirectory, '--read')).code, 0, 'put right again');
  });

  const third = await startServer(t, options);
  t.equal(await third.stop(), 0, 'a server starts on what was checked');
  t.equal((await check(dataDirectory, '--read')).code, 0);
});

t.test('wrong use and what is no data directory', async t => {
  const directory = temporaryDirectory(t);
  const nothing = await runCommand('check', directory);
  t.equal(nothing.code, 1);
  t.match(nothing.error, /has no node\.json\n {2}Name a directory that `sledge serve` has made/);
  t.same(readdirSync(directory), [], 'nothing was made');
  t.equal((await runCommand('check')).code, 2);
  t.match((await runCommand('check', directory, '--raed')).error, /did you mean --read/);
});
