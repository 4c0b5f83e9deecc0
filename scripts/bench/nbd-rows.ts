/**
 * What the benchmark measures: one row a workload, in the words of nbdload's and fio's options, with the gates that
 * Sledge has to pass in it.
 */
import { MIB } from '../../src/base/units.ts';
import type { Gate } from './nbd-gates.ts';
import type { ResultClass, Rivals } from './nbd-results.ts';

export type Client = 'nbdload' | 'fio';

export interface Row {
  readonly name: string;
  readonly title: string;
  /** Options of nbdload. */
  readonly load: readonly string[];
  /** The same for fio, on the bare file and over NBD; absent where it has no counterpart. */
  readonly fio?: readonly string[];
  /** What the bare file gives when all requests that are in flight are one. */
  readonly together?: Together;
  /** fio's options mean the same on the bare file only. */
  readonly fioOnFileOnly?: boolean;
  readonly client: Client;
  /** Pairs are of a write and the flush that waits for it; their latency is that of the flush. */
  readonly unit: 'IOPS' | 'MiB/s' | 'pairs/s';
  readonly writes: boolean;
  /** Of each measurement, in a full run. */
  readonly seconds: number;
  readonly classes: readonly ResultClass[];
  readonly sledgeArguments?: readonly string[];
  /** Over TLS with certificates: only for the servers that know how, and for a client with libnbd. */
  readonly tls?: boolean;
  /** This much from the start of the volume is read once before, so that caches hold it. */
  readonly warmBytes?: number;
  /**
   * It reads all of the volume: servers that live from the page cache find it there, and Sledge's own cache is full.
   */
  readonly pageCached?: boolean;
  /** What it reads comes from the disk: Sledge's volume is read once before. */
  readonly fromDisk?: boolean;
  /**
   * Options of nbdload for a load of another depth that comes before, for each kind of server: one request at a time, each of
   * which waits for the disk, is a long way to a server whose code has been compiled.
   */
  readonly warmLoad?: readonly string[];
  /** The rate is looked at in pieces, too. */
  readonly watchesRate?: boolean;
  /** Part of --quick. */
  readonly quick: boolean;
  /** Of the rows that `--client both` also measures with fio. */
  readonly alsoFio?: boolean;
  readonly gates: readonly Gate[];
}

/**
 * So many requests written and synced by one call, and nothing else under way: the disk's limit for a server that syncs
 * for all who wait at once, if it took no time itself.
 */
export interface Together {
  readonly count: number;
  /** Options of fio. */
  readonly fio: readonly string[];
}

/** Not measured: connections are made, and the code that will be busy is compiled. */
export function rampSecondsOf(row: Row): number {
  return Math.min(2, Math.max(0.5, row.seconds / 2));
}

interface Shape {
  readonly depth: number;
  readonly connections: number;
}

const ONE: Shape = { depth: 1, connections: 1 };
const DEEP: Shape = { depth: 16, connections: 1 };
const WIDE: Shape = { depth: 16, connections: 4 };
const DEEPER: Shape = { depth: 64, connections: 1 };
const STREAM: Shape = { depth: 8, connections: 1 };

const SERVERS: readonly ResultClass[] = ['sledge', 'page cache', 'direct'];
const ALL: readonly ResultClass[] = [...SERVERS, 'raw'];
const TO_THE_DISK: readonly ResultClass[] = ['sledge', 'direct', 'raw'];

/** Fits Sledge's own cache: what is read of it are hits, against hits in the page cache. */
const WARM_BYTES = 128 * MIB;
const WARM_LOAD: readonly string[] = ['-s', String(WARM_BYTES)];

function faster(least: number, over: Rivals = 'all'): Gate {
  return { measure: 'rate', over, least };
}

const CHEAP: Gate = { measure: 'cpu', over: 'all', most: 1 };

function shapeName(shape: Shape): string {
  return shape.connections === 1 ? String(shape.depth) : `${shape.depth}×${shape.connections}`;
}

function nbdload(workload: string, blockSize: string, shape: Shape): string[] {
  return ['-w', workload, '-b', blockSize, '-q', String(shape.depth), '-c', String(shape.connections)];
}

function fio(workload: string, blockSize: string, shape: Shape): string[] {
  return [`--rw=${workload}`, `--bs=${blockSize}`, `--iodepth=${shape.depth}`, `--numjobs=${shape.connections}`];
}

function row(details: Pick<Row, 'name' | 'title' | 'load'> & Partial<Row>): Row {
  return {
    client: 'nbdload',
    unit: 'IOPS',
    writes: false,
    seconds: 5,
    classes: ALL,
    quick: false,
    gates: [],
    ...details,
  };
}

interface Small {
  readonly kind: string;
  readonly title: string;
  readonly workload: 'randread' | 'randwrite';
  /** At depth 1 the server is idle for most of the time. */
  readonly waitsForDisk?: boolean;
  /** Further options. */
  readonly load?: readonly string[];
  readonly fio?: readonly string[];
}

/** A row of 4 KiB requests, in one of its shapes. */
function small(kind: Small, shape: Shape, gates: readonly Gate[], details: Partial<Row> = {}): Row {
  const load = (at: Shape) => [...nbdload(kind.workload, '4k', at), ...(kind.load ?? [])];
  return row({
    name: `${kind.kind}-${shapeName(shape).replace('×', 'x')}`,
    title: `4 KiB ${kind.title}, depth ${shapeName(shape)}`,
    load: load(shape),
    ...(shape === ONE && kind.waitsForDisk && { warmLoad: load(DEEP) }),
    fio: [...fio(kind.workload, '4k', shape), ...(kind.fio ?? [])],
    writes: kind.workload === 'randwrite',
    quick: shape === DEEP,
    gates,
    ...details,
  });
}

const READ: Small = { kind: 'read', title: 'random read', workload: 'randread' };
const HOT: Small = {
  kind: 'hot',
  title: 'random read of 128 MiB in the cache',
  workload: 'randread',
  load: WARM_LOAD,
  fio: [`--size=${WARM_BYTES}`],
};
const MISS: Small = {
  kind: 'miss',
  title: 'random read, cache of 64 MiB',
  workload: 'randread',
  waitsForDisk: true,
};
const WRITE: Small = { kind: 'write', title: 'random write', workload: 'randwrite' };
const FUA: Small = {
  kind: 'fua',
  title: 'random write with FUA',
  workload: 'randwrite',
  load: ['-f'],
  waitsForDisk: true,
  fio: ['--sync=dsync'],
};
const PAIRS: Small = {
  kind: 'pairs',
  title: 'random write, then flush (pairs)',
  workload: 'randwrite',
  load: ['-F', '1'],
  waitsForDisk: true,
};

const hot: Partial<Row> = { warmBytes: WARM_BYTES, classes: SERVERS };
const miss: Partial<Row> = { classes: TO_THE_DISK, fromDisk: true, sledgeArguments: ['--cache', '64MiB'] };
const burst: Partial<Row> = { seconds: 10 };

/** What rows of writes that are waited for on the disk have in common. */
function synced(shape: Shape): Partial<Row> {
  const count = shape.depth * shape.connections;
  const one = [...fio('write', `${4 * count}k`, ONE), '--sync=dsync'];
  return { fioOnFileOnly: true, ...(count > 1 && { together: { count, fio: one } }) };
}

/** fio as many jobs as the queue is deep: each waits for its own flush. */
function pairs(shape: Shape, gates: readonly Gate[]): Row {
  const jobs = { depth: 1, connections: shape.depth * shape.connections };
  const options = [...fio('randwrite', '4k', jobs), '--fdatasync=1'];
  return small(PAIRS, shape, gates, { ...synced(shape), unit: 'pairs/s', fio: options });
}

function stream(name: string, title: string, workload: 'read' | 'write', details: Partial<Row>): Row {
  return row({
    name,
    title: `1 MiB ${title}, depth ${shapeName(STREAM)}`,
    load: nbdload(workload, '1m', STREAM),
    fio: fio(workload, '1m', STREAM),
    unit: 'MiB/s',
    writes: workload === 'write',
    ...details,
  });
}

export const rows: readonly Row[] = [
  small(HOT, ONE, [faster(1)], { ...hot, quick: true }),
  small(HOT, DEEP, [faster(1.2), CHEAP], { ...hot, alsoFio: true }),
  small(HOT, WIDE, [faster(1)], hot),
  small(MISS, ONE, [faster(1.2, 'direct')], miss),
  small(MISS, DEEP, [faster(1.2, 'direct')], { ...miss, alsoFio: true }),
  small(MISS, DEEPER, [faster(1.5, 'direct'), faster(0.8, 'raw')], miss),
  // As it comes, against page caches that hold all of it: there to know, not to pass.
  small(READ, DEEP, [], { pageCached: true, quick: false }),
  stream('seqread', 'sequential read, cache of 256 MiB', 'read', {
    classes: TO_THE_DISK,
    fromDisk: true,
    sledgeArguments: ['--cache', '256MiB'],
    quick: true,
    gates: [faster(1, 'direct'), faster(0.9, 'raw')],
  }),
  stream('seqhot', 'sequential read of 128 MiB in the cache', 'read', {
    ...hot,
    load: [...nbdload('read', '1m', STREAM), ...WARM_LOAD],
    fio: [...fio('read', '1m', STREAM), `--size=${WARM_BYTES}`],
    gates: [faster(1)],
  }),
  row({
    name: 'tls-read-16',
    title: `4 KiB random read of 128 MiB over TLS, depth ${shapeName(DEEP)}`,
    load: ['-e', 'libnbd', ...nbdload('randread', '4k', DEEP), ...WARM_LOAD],
    tls: true,
    ...hot,
    quick: true,
    gates: [faster(1)],
  }),
  row({
    name: 'tls-seqread',
    title: `1 MiB sequential read of 128 MiB over TLS, depth ${shapeName(STREAM)}`,
    load: ['-e', 'libnbd', ...nbdload('read', '1m', STREAM), ...WARM_LOAD],
    unit: 'MiB/s',
    tls: true,
    ...hot,
    gates: [faster(1)],
  }),
  small(WRITE, ONE, [faster(1.2)], burst),
  small(WRITE, DEEP, [faster(2), CHEAP], { ...burst, alsoFio: true }),
  small(WRITE, WIDE, [faster(2)], burst),
  row({
    name: 'sustain',
    title: `4 KiB random write, sustained, depth ${shapeName(DEEP)}`,
    load: nbdload('randwrite', '4k', DEEP),
    writes: true,
    seconds: 120,
    classes: SERVERS,
    watchesRate: true,
    gates: [faster(1.2), { measure: 'lowest', least: 0.2 }],
  }),
  small(FUA, ONE, [faster(1.2)], synced(ONE)),
  small(FUA, DEEP, [faster(2.5)], synced(DEEP)),
  small(FUA, WIDE, [faster(2.5)], synced(WIDE)),
  pairs(ONE, [faster(1.2)]),
  pairs(DEEP, [faster(2.5)]),
  pairs(WIDE, [faster(2.5)]),
  stream('seqwrite', 'sequential write', 'write', {
    seconds: 30,
    quick: true,
    gates: [faster(1.5, 'direct'), faster(0.7, 'raw')],
  }),
  row({
    name: 'mixed',
    title: `4 KiB random, 70 % reads, depth ${shapeName(DEEP)}`,
    load: [...nbdload('randrw', '4k', DEEP), '-m', '70'],
    fio: [...fio('randrw', '4k', DEEP), '--rwmixread=70'],
    writes: true,
    pageCached: true,
    quick: true,
    gates: [faster(1.5), { measure: 'p99', over: 'all', most: 1 }],
  }),
];

/** The row as a user of fio sees it: what fio itself costs is in it, so it has no gates. Undefined where fio cannot. */
export function viaFio(row: Row): Row | undefined {
  if (row.fio === undefined || row.fioOnFileOnly) return undefined;
  const classes = row.classes.filter(class_ => class_ !== 'raw');
  return { ...row, name: `${row.name} via fio`, title: `${row.title}, via fio`, client: 'fio', classes, gates: [] };
}

/** The groups that rows come in, by the names that `matches` takes. */
export function groupOf(name: string): string {
  return name.replace(/-.*/, '');
}

/** Whether a word of a selection such as `read,hot-16,miss-*` means the row: its full name, or the first part of it. */
export function matches(word: string, name: string): boolean {
  const wanted = word.replace(/-?\*$/, '');
  return name === wanted || name.startsWith(`${wanted}-`);
}
