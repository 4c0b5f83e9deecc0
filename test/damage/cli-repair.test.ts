/**
 * `sledge check --repair` on what a killed server has left, part of it in the log alone: each defect that can be repaired
 * is made in its index, repaired, and a server then has the data that was there, byte for byte. What would be a guess
 * changes nothing on disk.
 */
import { randomBytes } from 'node:crypto';
import { copyFileSync, existsSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { completion } from '../../src/base/io-wait.ts';
import type { Location } from '../../src/base/location.ts';
import { locationOf } from '../../src/base/location.ts';
import type { LogPosition, VolumeNumber } from '../../src/base/units.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import type { ColumnEntry, IndexTransaction } from '../../src/index/index-store.ts';
import { LmdbIndex } from '../../src/platform/lmdb-index.ts';
import { runCommand } from '../support/command-run.ts';
import { look } from '../support/directory-state.ts';
import { checksumFile, runOk, skipUnlessInstalled } from '../support/nbd-programs.ts';
import { logEmptied, type RunningServer, sledgeJson, startServer } from '../support/server-process.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

t.setTimeout(180_000);

const CHUNK = 64 * KIB;
const SMALL = 1 as VolumeNumber;
const LARGE = 2 as VolumeNumber;
const SCRATCH = 3 as VolumeNumber;
const COLUMNS = 8;
const SLOTS = 256;

interface Report {
  readonly errors: number;
  readonly warnings: number;
  readonly findings: readonly { kind: string; severity: string }[];
  readonly summary: { log: { cut: number; end: number }; data: { verifiedBlocks: number } | null } | null;
  readonly repaired: readonly { kind: string; what: string; file: string }[];
  readonly left: readonly { kind: string; why: string }[];
  readonly refusedBy: readonly string[];
}

async function check(directory: string, ...options: string[]): Promise<{ code: number; report: Report }> {
  const { code, out } = await runCommand('check', directory, '--json', ...options);
  return { code, report: JSON.parse(out) as Report };
}

function kindsOf(list: readonly { kind: string }[]): string[] {
  return [...new Set(list.map(({ kind }) => kind))].sort();
}

/** What is more than a crash leaves behind. */
function defectsOf(report: Report): string[] {
  return kindsOf(report.findings.filter(({ severity }) => severity !== 'note'));
}

class Place {
  readonly directory: string;
  readonly data: string;
  readonly device: string;
  readonly #test: Test;

  constructor(test: Test) {
    this.#test = test;
    this.directory = temporaryDirectory(test);
    this.data = join(this.directory, 'data');
    this.device = join(this.directory, 'disk');
  }

  start(): Promise<RunningServer> {
    return startServer(this.#test, {
      engine: 'sledge',
      dataDirectory: this.data,
      volumes: [
        { name: 'small', sizeBytes: 8 * MIB },
        { name: 'large', sizeBytes: 32 * MIB },
      ],
      tcp: true,
      sledgeArguments: ['--log', '64MiB', '--cache', '16MiB', '--device', `${this.device}:${COLUMNS * 16 + 1}MiB`],
    });
  }

  async fill(server: RunningServer, volume: string, bytes: number): Promise<void> {
    const file = join(this.directory, 'source');
    writeFileSync(file, randomBytes(bytes));
    await runOk('nbdcopy', ['--flush', '--requests=8', file, server.uriOf(volume)]);
  }

  async sums(server: RunningServer): Promise<string[]> {
    const sums: string[] = [];
    for (const volume of ['small', 'large']) {
      const file = join(this.directory, 'copy');
      rmSync(file, { force: true });
      await runOk('nbdcopy', [server.uriOf(volume), file]);
      sums.push(await checksumFile(file));
    }
    return sums;
  }

  /** Those in which something is: whether an empty one is on record makes no difference. */
  async columns(): Promise<ColumnEntry[]> {
    const index = new LmdbIndex(join(this.data, 'index'), { readOnly: true });
    const columns = [...index.columns()].filter(({ slots }) => slots.some(word => word !== 0));
    await index.close();
    return columns;
  }

  /** Makes a defect, by a transaction of the index itself. */
  async spoil(change: (transaction: IndexTransaction, index: LmdbIndex) => void): Promise<void> {
    const index = new LmdbIndex(join(this.data, 'index'));
    const transaction = index.begin();
    change(transaction, index);
    if ((await completion(request => transaction.commit(request))) !== 0) throw new Error('the defect was not made');
    await index.close();
  }
}

/** Of a volume's columns that the index has, in ascending order. */
function columnsOf(index: LmdbIndex, volume: VolumeNumber): ColumnEntry[] {
  return [...index.columns()].filter(entry => entry.volume === volume);
}

function entryOf(column: number, volume: VolumeNumber, bit: (slot: number) => boolean): ColumnEntry {
  const slots = new Uint32Array(SLOTS / 32);
  for (let slot = 0; slot < SLOTS; slot++) if (bit(slot)) slots[slot >>> 5] |= 1 << (slot & 31);
  return { device: 0, column, volume, chunkBytes: CHUNK, slots };
}

/** Every slot of the device passes for used by the index, those among them that the log alone names. */
function markAll(transaction: IndexTransaction, index: LmdbIndex): void {
  const owners = new Map(columnsOf(index, SMALL).map(({ column, volume }) => [column, volume]));
  for (let column = 0; column < COLUMNS; column++) {
    transaction.putColumn(entryOf(column, owners.get(column) ?? LARGE, () => true));
  }
}

function unmark(transaction: IndexTransaction, index: LmdbIndex): void {
  const [first] = columnsOf(index, LARGE);
  transaction.putColumn({ ...first, slots: new Uint32Array(SLOTS / 32) });
  const [small] = columnsOf(index, SMALL);
  const slots = small.slots.slice();
  slots[0] &= slots[0] - 1;
  transaction.putColumn({ ...small, slots });
}

function leaveOver(transaction: IndexTransaction): void {
  transaction.putColumn(entryOf(COLUMNS - 1, SCRATCH, slot => slot % 3 === 0));
}

/** Marks of a slot in which nothing is. */
function orphan(transaction: IndexTransaction): void {
  transaction.putColumn(entryOf(COLUMNS - 1, LARGE, slot => slot === 9));
}

function moveChunk(transaction: IndexTransaction, index: LmdbIndex, to: (from: Location) => Location): void {
  const [[number, chunk]] = [...index.chunks(SMALL, 0, 1000, 1)];
  transaction.putChunk(SMALL, number, { ...chunk, location: to(chunk.location) });
}

const skip = skipUnlessInstalled('nbdcopy');

t.test('defects are repaired or left, and the data is what it was', { skip }, async t => {
  const place = new Place(t);
  const { data } = place;
  const first = await place.start();
  await place.fill(first, 'large', 32 * MIB);
  await place.fill(first, 'small', 5 * MIB);
  // Behind a deletion everything is destaged: from now on the index has it.
  await sledgeJson(data, 'volume', 'create', 'scratch', '--size', '1MiB');
  await place.fill(first, 'scratch', MIB);
  await sledgeJson(data, 'volume', 'delete', 'scratch');
  await logEmptied(data);
  // Of this the log alone knows where it is.
  await place.fill(first, 'large', 4 * MIB);
  const sums = await place.sums(first);

  await t.test('a running server is left alone, with its lock file or without', async t => {
    const { code, report } = await check(data, '--repair');
    t.equal(code, 1);
    t.match(report, { error: { code: 'data-in-use', hint: /Stop it first/ } });
    const lock = join(data, 'lock');
    renameSync(lock, `${lock}.away`);
    const hidden = await check(data, '--repair');
    t.equal(hidden.code, 1);
    t.match(hidden.report.refusedBy, ['device-unusable']);
    t.same(kindsOf(hidden.report.repaired), ['lock-missing']);
    renameSync(`${lock}.away`, lock);
  });
  await first.kill();

  const killed = await check(data, '--read');
  t.same(defectsOf(killed.report), []);
  t.ok(killed.report.summary!.log.end > killed.report.summary!.log.cut, 'the log has operations');
  const before = look(data);
  t.same((await check(data, '--repair')).report.repaired, [], 'nothing to repair');
  t.same(look(data), before, 'nothing was written');

  const repairable: [string, string[], Parameters<Place['spoil']>[0]][] = [
    ['every slot marked', ['slot-orphan'], markAll],
    ['slots in use that are not marked', ['slot-unmarked'], unmark],
    ['a column of a volume that was deleted', ['column-volume-unknown'], leaveOver],
    [
      'all of it at once',
      ['column-volume-unknown', 'slot-orphan', 'slot-unmarked'],
      (transaction, index) => {
        unmark(transaction, index);
        leaveOver(transaction);
        transaction.putColumn(entryOf(COLUMNS - 2, LARGE, () => true));
      },
    ],
  ];
  for (const [name, kinds, spoil] of repairable) {
    await t.test(`repaired: ${name}`, async t => {
      const sound = await place.columns();
      await place.spoil(spoil);
      const found = await check(data);
      t.same(defectsOf(found.report), kinds);
      t.equal('repaired' in found.report, false);
      const spoiled = await place.columns();
      t.notSame(spoiled, sound);
      const { code, report } = await check(data, '--repair', '--read');
      t.equal(code, 0);
      t.same(kindsOf(report.repaired), kinds);
      for (const { what, file } of report.repaired)
        t.match({ what, file }, { what: /^[A-Z0-9].*\.$/, file: place.device });
      t.same([report.refusedBy, defectsOf(report)], [[], []]);
      t.ok(report.summary!.data!.verifiedBlocks > 8000, 'data was read');
      t.same(await place.columns(), sound);
      t.same(defectsOf((await check(data)).report), []);
      const server = await place.start();
      t.same(await place.sums(server), sums);
      await server.kill();
    });
  }

  await t.test('repaired: the lock file', async t => {
    rmSync(join(data, 'lock'));
    const { code, out } = await runCommand('check', data, '--repair');
    t.equal(code, 0);
    t.match(out, /^ {3}health: ok\n/);
    t.match(out, /\n repaired: .*lock was missing and has been made\.\n/);
    t.ok(existsSync(join(data, 'lock')));
    t.match((await runCommand('check', data, '--repair')).out, /\n repaired: nothing\n/);
  });

  const indexFile = join(data, 'index', 'index.lmdb');
  const kept = join(place.directory, 'kept.lmdb');
  copyFileSync(indexFile, kept);

  const unrepairable: [string, string, boolean, Parameters<Place['spoil']>[0]][] = [
    [
      'two chunks in one slot',
      'slot-shared',
      true,
      (transaction, index) => {
        const [, [, other]] = [...index.chunks(SMALL, 0, 1000, 2)];
        moveChunk(transaction, index, () => other.location);
      },
    ],
    [
      'a chunk at a place that is none',
      'chunk-outside',
      true,
      (transaction, index) => moveChunk(transaction, index, from => (from + 1) as Location),
    ],
    // Its own slot passes for an orphan, and the place that the index names for one that lacks its mark.
    [
      'a chunk at a wrong place',
      'slot-unmarked',
      false,
      (transaction, index) => {
        const [{ column }] = columnsOf(index, SMALL);
        const end = locationOf(0, MIB + column * 16 * MIB + (SLOTS - 1) * CHUNK);
        moveChunk(transaction, index, () => end);
      },
    ],
    ['chunks of a volume that is not there', 'chunk-volume-unknown', true, t => t.removeVolume(SMALL)],
    [
      'an index of another time than the log',
      'cut-outside',
      true,
      (transaction, index) => {
        const { epoch, cut } = index.state()!;
        transaction.putState({ epoch, cut: (cut + 1024 * MIB + 64) as LogPosition });
      },
    ],
  ];
  for (const [name, kind, refuses, spoil] of unrepairable) {
    await t.test(`not repaired: ${name}`, async t => {
      await place.spoil((transaction, index) => {
        if (refuses) orphan(transaction);
        spoil(transaction, index);
      });
      const found = await check(data);
      const spoiled = look(data);
      const { code, report } = await check(data, '--repair');
      t.equal(code, 1);
      t.same(report.repaired, []);
      t.same(kindsOf(report.findings), kindsOf(found.report.findings));
      t.equal(report.refusedBy.length > 0, refuses);
      const why = report.left.find(one => one.kind === kind)?.why ?? '';
      t.match(why, /^[A-Z0-9].*\.$/, why);
      t.same(look(data), spoiled, 'nothing was written');
      copyFileSync(kept, indexFile);
    });
  }

  await t.test('not repaired: index or device that is missing', async t => {
    await place.spoil(orphan);
    for (const [path, kind] of [
      [place.device, 'device-missing'],
      [join(data, 'index'), 'index-missing'],
    ] as const) {
      const spoiled = look(data);
      renameSync(path, join(place.directory, 'away'));
      const { code, report } = await check(data, '--repair');
      t.equal(code, 1);
      t.same([report.repaired, report.refusedBy.includes(kind as never)], [[], true]);
      const { out } = await runCommand('check', data, '--repair');
      t.match(out, new RegExp(`\\n  refused: nothing is repaired while there is ${kind}`));
      t.match(out, new RegExp(`\\n     left: ${kind}: `));
      renameSync(join(place.directory, 'away'), path);
      t.same(look(data), spoiled, 'nothing was written');
    }
    const { code, report } = await check(data, '--repair');
    t.equal(code, 0, 'with both of them there it is repaired');
    t.same(kindsOf(report.repaired), ['slot-orphan']);
  });

  const last = await place.start();
  t.same(await place.sums(last), sums);
  await place.fill(last, 'large', 32 * MIB);
  t.equal((await place.sums(last))[0], sums[0], 'what was given away was free');
  t.equal(await last.stop(), 0);
  t.same(defectsOf((await check(data, '--read')).report), []);
});
