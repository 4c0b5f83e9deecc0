/** Each contradiction between log, index and devices is found, named with its place, and nothing else is. */
import t, { type Test } from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import type { BlockFile } from '../../../src/base/io.ts';
import type { Location } from '../../../src/base/location.ts';
import { locationPosition } from '../../../src/base/location.ts';
import type { Epoch, LogPosition, OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { type CheckSummary, check } from '../../../src/check/check.ts';
import type { Finding, FindingKind } from '../../../src/check/finding.ts';
import { FINDINGS_PER_KIND_MAX, Findings } from '../../../src/check/finding.ts';
import { writeDataOffset, writeRecordBytes } from '../../../src/oplog/record.ts';
import { addon } from '../../../src/platform/addon.ts';
import { MemoryIndex } from '../../support/memory-index.ts';
import { HeadRig, pump, regions, SEGMENT, type Store } from '../head/head-rig.ts';

const CHUNK = 64 * KIB;
const VOLUME = 1 as VolumeNumber;
const DEVICE = '/memory';
const NODE = '0'.repeat(32);

interface Looked {
  readonly findings: readonly Finding[];
  readonly kinds: readonly FindingKind[];
  readonly summary: CheckSummary;
}

async function look(store: Store, options: { read?: boolean; node?: string; file?: BlockFile } = {}): Promise<Looked> {
  const findings = new Findings();
  const file = 'file' in options ? options.file : store.device;
  const { summary } = await pump(
    store.loop,
    check({
      node: options.node ?? NODE,
      devices: [{ number: 0, identity: '1'.repeat(32), path: DEVICE, file }],
      index: new MemoryIndex(store.contents),
      segments: store.segments.map((segment, i) => ({ path: `/log/${i}`, file: segment })),
      segmentBytes: SEGMENT,
      regions,
      checksums: addon,
      logChecksums: addon,
      findings,
      readProgress: options.read === false ? undefined : () => {},
    }),
  );
  const list = findings.list();
  return { findings: list, kinds: list.map(finding => finding.kind), summary };
}

/** A head that has destaged some chunks and has more in its log, and then lost its process. */
async function lived(): Promise<Store> {
  const rig = await HeadRig.start();
  await rig.write(0, 2 * CHUNK, 1);
  await rig.write(4096, 4096, 2);
  await rig.write(10 * CHUNK + 100, 50, 3);
  await pump(rig.loop, rig.destage.all());
  await rig.write(8192, 4096, 4);
  await rig.do('trim', CHUNK, CHUNK);
  await rig.write(5 * CHUNK, CHUNK, 5);
  await rig.do('flush');
  await rig.write(20 * CHUNK, 4096, 6);
  return rig.store;
}

function only(t: Test, looked: Looked, kind: FindingKind, place: Partial<Finding> = {}): void {
  t.same(looked.kinds, [kind], looked.findings.map(finding => finding.what).join(' '));
  t.match(looked.findings[0], place);
}

function chunksOf(store: Store) {
  return store.contents.chunks.get(VOLUME)!;
}

t.test('what a head leaves behind is clean, whenever it is looked at', async t => {
  const rig = await HeadRig.start();
  t.same((await look(rig.store)).kinds, [], 'before anything was written');
  const store = await lived();
  const { kinds, summary } = await look(store);
  t.same(kinds, []);
  t.match(summary, { devices: 1, volumes: 1, log: { row: 'clean' } });
  t.ok(summary.chunks >= 2 && summary.columns === 1);
  t.ok(summary.data!.verifiedBlocks > 16, `${summary.data!.verifiedBlocks} blocks`);
  const { summary: brief } = await look(store, { read: false });
  t.equal(brief.data, null);
});

t.test('a device that is missing or of another node takes its chunks along, and they are counted', async t => {
  const store = await lived();
  const lost = await look(store, { file: undefined as never });
  only(t, lost, 'chunks-lost', { what: '3 chunk(s) lie on device /memory, which cannot be used.' });
  t.same((await look(store, { node: '2'.repeat(32) })).kinds, ['device-foreign', 'chunks-lost']);
});

t.test('superblocks: one bad copy is a warning, two are an error, each with its byte', async t => {
  const store = await lived();
  store.device.flip(64 * KIB + 40);
  only(t, await look(store), 'superblock-copy', { severity: 'warning', file: DEVICE, offsetBytes: 64 * KIB });
  store.device.flip(30);
  const { findings } = await look(store);
  const damaged = findings.filter(finding => finding.kind === 'superblock-damaged');
  t.same(
    damaged.map(({ severity, offsetBytes }) => [severity, offsetBytes]),
    [
      ['error', 0],
      ['error', 64 * KIB],
    ],
  );
  store.device.poke(0, new Uint8Array(4096));
  store.device.poke(64 * KIB, new Uint8Array(4096));
  t.ok((await look(store)).kinds.includes('device-blank'));
});

t.test('a device that has shrunk', async t => {
  const store = await lived();
  store.device.sizeBytes -= 16 * MIB;
  only(t, await look(store), 'device-shrunk', { file: DEVICE });
});

t.test('data: a damaged block and one that cannot be read are named by their bytes', async t => {
  const store = await lived();
  const { location } = chunksOf(store).get(0)!;
  const position = locationPosition(location) + 3 * 4096;
  store.device.flip(position + 17);
  only(t, await look(store), 'block-damaged', { file: DEVICE, offsetBytes: position });
  t.match((await look(store)).findings[0]!.what, /bytes 12288 to 16383 of vol1/);
  t.same((await look(store, { read: false })).kinds, [], 'without reading it is not seen');
  store.device.flip(position + 17);
  // Bytes 8192 to 12287 were written again, and the log has them: what the device says of them does not count.
  store.device.flip(locationPosition(location) + 2 * 4096);
  t.same((await look(store)).kinds, [], 'a block that the log covers');
  // Chunk 1 was trimmed in the log.
  store.device.flip(locationPosition(chunksOf(store).get(1)!.location));
  t.same((await look(store)).kinds, [], 'a chunk that the log has dropped');

  const read = store.device.read.bind(store.device);
  store.device.read = (at, region, offset, length, request) => {
    if (at > position || at + length <= position) read(at, region, offset, length, request);
    else store.loop.post(() => request.ioCompleted(-EIO));
  };
  only(t, await look(store), 'block-unreadable', { file: DEVICE, offsetBytes: position });
});

t.test('data that a bulk record of the log names is read where the log says', async t => {
  for (const durable of [true, false]) {
    const rig = await HeadRig.start();
    await rig.write(0, CHUNK, 1);
    if (durable) {
      await rig.do('flush');
      await rig.write(20 * CHUNK, 4096, 6);
    }
    const { store } = rig;
    t.equal(store.contents.chunks.size, 0, 'the index does not know of it');
    t.same((await look(store)).kinds, []);
    store.device.flip(MIB + 5 * 4096 + 9);
    const kind = durable ? 'block-damaged' : 'bulk-unwritten';
    only(t, await look(store), kind, { file: DEVICE, offsetBytes: MIB + 5 * 4096 });
  }
});

t.test('index: what chunks, columns and volumes say of one another', async t => {
  const cases: [FindingKind, string, (store: Store) => void][] = [
    ['chunk-outside', 'no such device', s => move(s, 0, (7 * 2 ** 40) as Location)],
    ['chunk-outside', 'in front of the columns', s => move(s, 0, 1 as Location)],
    ['chunk-outside', 'behind the last column', s => move(s, 0, (MIB / 4096 + 4 * 4096) as Location)],
    ['chunk-outside', 'not at the start of a slot', s => move(s, 0, (chunksOf(s).get(0)!.location + 1) as Location)],
    ['chunk-column', 'in a column nobody has', s => move(s, 0, (MIB / 4096 + 2 * 4096) as Location)],
    ['slot-unmarked', 'in a free slot', s => move(s, 0, (MIB / 4096 + 200 * 16) as Location)],
    ['slot-shared', 'two in one slot', s => move(s, 0, chunksOf(s).get(10)!.location)],
    ['chunk-sums', 'too few checksums', s => change(s, 0, entry => ({ ...entry, sums: entry.sums.slice(0, 8) }))],
    ['chunk-op', 'newer than its volume', s => change(s, 0, entry => ({ ...entry, op: 99 as OpNumber }))],
    ['chunk-op', 'of no operation', s => change(s, 0, entry => ({ ...entry, op: 0 as OpNumber }))],
    ['chunk-volume-unknown', 'of no volume', s => s.contents.chunks.set(9 as VolumeNumber, chunksOf(s))],
    ['chunk-beyond-end', 'behind the end', s => chunksOf(s).set(5000, chunksOf(s).get(0)!)],
    [
      'slot-orphan',
      'a mark too many',
      s =>
        mark(s, slots => {
          slots[3] = 1;
        }),
    ],
    ['column-shape', 'a bitmap too long', s => column(s, entry => ({ ...entry, slots: new Uint32Array(9) }))],
    ['column-outside', 'a column too many', s => put(s, { device: 0, column: 4 })],
    ['column-outside', 'of no device', s => put(s, { device: 3, column: 0 })],
    ['column-volume-unknown', 'of no volume', s => put(s, { device: 0, column: 2, slots: new Uint32Array(8).fill(1) })],
    ['column-volume-unknown', 'of a volume to come', s => put(s, { device: 0, column: 2, volume: 77 as VolumeNumber })],
    [
      'column-left-over',
      'of a deleted volume',
      s => {
        s.contents.nextVolume = 9 as VolumeNumber;
        put(s, { device: 0, column: 2 });
      },
    ],
    [
      'volume-entry',
      'a number to come',
      s => {
        s.contents.nextVolume = VOLUME;
      },
    ],
    [
      'index-state',
      'without a state',
      s => {
        s.contents.state = undefined;
      },
    ],
  ];
  for (const [kind, name, spoil] of cases) {
    const store = await lived();
    spoil(store);
    const { kinds, findings } = await look(store, { read: false });
    t.ok(kinds.includes(kind), `${kind}: ${name} (${kinds.join(' ')})`);
    for (const { what, why, todo } of findings) {
      t.match(what, /^[A-Z/].*\.$/, what);
      t.ok(why.endsWith('.') && todo.endsWith('.'));
    }
  }
});

t.test('two chunks in one slot are both named, with the slot', async t => {
  const store = await lived();
  const { location } = chunksOf(store).get(10)!;
  move(store, 0, location);
  const shared = (await look(store)).findings.find(finding => finding.kind === 'slot-shared')!;
  t.match(shared, { file: DEVICE, offsetBytes: locationPosition(location) });
  t.match(shared.what, /chunk 0 of vol1 and chunk 10 of vol1/);
});

t.test('an index that throws is a finding and no end of the check', async t => {
  const store = await lived();
  Object.defineProperty(store.contents, 'columns', {
    get: () => {
      throw new Error('a page is gone');
    },
  });
  const looked = await look(store);
  only(t, looked, 'index-unreadable', { what: 'In the index a column cannot be read: a page is gone.' });
});

// --- log ---------------------------------------------------------------------------------------------------------------

/** Five writes to the log alone; `flushed` of them, counted from the first, are known to be durable. */
async function written(flushed: number): Promise<Store> {
  const rig = await HeadRig.start();
  for (let i = 1; i <= 5; i++) {
    await rig.write(i * CHUNK, 4096, i);
    if (i === flushed) await rig.do('flush');
  }
  return rig.store;
}

const RECORD = writeRecordBytes(1);

function liveSegment(store: Store): number {
  return store.segments.findIndex(file => file.peek(0, 4).some(byte => byte !== 0));
}

t.test('log rows: torn, rotten, broken, and whole records behind the end', async t => {
  const data = writeDataOffset(1);
  const cases: [FindingKind, number, number, number, string][] = [
    ['log-torn', 0, 3 * RECORD + data, 3 * RECORD, 'torn'],
    ['log-block-damaged', 4, 1 * RECORD + data, 1 * RECORD + data, 'rotten'],
    ['log-broken', 4, 1 * RECORD + 40, 1 * RECORD, 'broken'],
    ['log-behind-end', 0, 2 * RECORD + 40, 2 * RECORD, 'clean'],
  ];
  for (const [kind, flushed, flip, offsetBytes, row] of cases) {
    const store = await written(flushed);
    const segment = liveSegment(store);
    store.segments[segment]!.flip(flip);
    const looked = await look(store);
    only(t, looked, kind, { file: `/log/${segment}`, offsetBytes });
    t.equal(looked.summary.log?.row, row);
  }
});

t.test('log: damage in front of a torn tail is named beside it', async t => {
  const store = await written(4);
  const data = writeDataOffset(1);
  const file = store.segments[liveSegment(store)]!;
  for (const record of [1, 4]) file.flip(record * RECORD + data);
  store.contents.state = { ...store.contents.state!, durable: (4 * RECORD) as LogPosition };
  t.same(new Set((await look(store)).kinds), new Set(['log-block-damaged', 'log-torn']));
});

t.test('log: what index and records say of one another', async t => {
  const cases: [FindingKind, (store: Store) => void][] = [
    [
      'op-gap',
      s => {
        s.contents.state = { cut: RECORD as LogPosition, epoch: 1 as Epoch };
      },
    ],
    ['op-missing', s => volume(s, { lastOp: 9 as OpNumber })],
    ['log-range', s => volume(s, { sizeBytes: 2 * CHUNK })],
    ['log-volume-gone', s => s.contents.volumes.delete(VOLUME)],
    [
      'log-volume-unknown',
      s => {
        s.contents.volumes.delete(VOLUME);
        s.contents.nextVolume = VOLUME;
      },
    ],
    [
      'cut-outside',
      s => {
        s.contents.state = { cut: (SEGMENT + 64) as LogPosition, epoch: 1 as Epoch };
      },
    ],
    [
      'index-state',
      s => {
        s.contents.state = { cut: -1 as LogPosition, epoch: 1 as Epoch };
      },
    ],
    [
      'log-shorter',
      s => {
        s.contents.state = { cut: 0 as LogPosition, epoch: 1 as Epoch, since: 9e5 as LogPosition };
      },
    ],
    [
      'log-missing',
      s => {
        s.segments.length = 0;
      },
    ],
    [
      'log-conflict',
      s => {
        s.segments.push(s.segments[liveSegment(s)]!);
      },
    ],
    [
      'log-segment-length',
      s => {
        s.segments[liveSegment(s)]!.sizeBytes = MIB;
      },
    ],
    [
      'log-segment-unfinished',
      s => {
        s.segments[liveSegment(s) === 0 ? 1 : 0]!.sizeBytes = 0;
      },
    ],
    [
      'log-unreadable',
      s => {
        s.segments[0]!.failing.set('read', -EIO);
      },
    ],
  ];
  for (const [kind, spoil] of cases) {
    const store = await written(4);
    t.same((await look(store)).kinds, [], 'before');
    spoil(store);
    const { kinds } = await look(store);
    t.ok(kinds.includes(kind), `${kind} (${kinds.join(' ')})`);
  }
});

t.test('a bulk record that names a slot of another volume', async t => {
  const rig = await HeadRig.start({ volumes: 2 });
  await rig.write(0, CHUNK, 1);
  const { store } = rig;
  put(store, { device: 0, column: 0, volume: 2 as VolumeNumber, slots: Uint32Array.of(2, 0, 0, 0, 0, 0, 0, 0) });
  t.ok((await look(store)).kinds.includes('log-slot'));
});

t.test('of very many findings of one kind some are listed and all are counted', t => {
  const findings = new Findings();
  for (let i = 0; i < FINDINGS_PER_KIND_MAX + 7; i++) findings.add('block-damaged', `Block ${i}.`);
  findings.add('log-torn', 'Torn.');
  const all = new Findings();
  all.addAll(findings);
  for (const list of [findings, all]) {
    t.equal(list.count('error'), FINDINGS_PER_KIND_MAX + 7);
    t.equal(list.count('note'), 1);
    t.equal(list.list().length, FINDINGS_PER_KIND_MAX + 2);
    t.match(list.list()[FINDINGS_PER_KIND_MAX], { what: /^7 more/ });
    t.equal(list.list().at(-1)!.kind, 'log-torn', 'errors come first');
  }
  t.end();
});

// --- spoiling ----------------------------------------------------------------------------------------------------------

type Entry = ReturnType<typeof chunksOf> extends Map<number, infer E> ? E : never;
type Contents = Store['contents'];
type Column = Contents['columns'] extends Map<string, infer C> ? C : never;
type Volume = Contents['volumes'] extends Map<VolumeNumber, infer V> ? V : never;

function change(store: Store, chunk: number, to: (entry: Entry) => Entry): void {
  chunksOf(store).set(chunk, to(chunksOf(store).get(chunk)!));
}

function move(store: Store, chunk: number, location: Location): void {
  change(store, chunk, entry => ({ ...entry, location }));
}

function column(store: Store, to: (entry: Column) => Column): void {
  const [[key, entry]] = [...store.contents.columns];
  store.contents.columns.set(key, to(entry));
}

function mark(store: Store, to: (slots: Uint32Array) => void): void {
  column(store, entry => {
    const slots = entry.slots.slice();
    to(slots);
    return { ...entry, slots };
  });
}

function put(store: Store, entry: Partial<Column> & { readonly device: number; readonly column: number }): void {
  const key = `${entry.device}/${entry.column}`;
  const preset = { volume: 5 as VolumeNumber, chunkBytes: CHUNK, slots: new Uint32Array(8) };
  store.contents.columns.set(key, { ...preset, ...entry });
}

function volume(store: Store, entry: Partial<Volume>): void {
  store.contents.volumes.set(VOLUME, { ...store.contents.volumes.get(VOLUME)!, ...entry });
}
