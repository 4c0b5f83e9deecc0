/** What the benchmark measures: one row a workload, in the words of nbdload's options. */
import type { EngineClass } from './nbd-engines.ts';

const MIB = 2 ** 20;

export interface Row {
  readonly name: string;
  readonly title: string;
  /** Options of nbdload. */
  readonly load: readonly string[];
  /** The same for fio on the bare file; absent where it has no counterpart. */
  readonly fio?: readonly string[];
  /** IOPS, or MiB/s for large requests. */
  readonly unit: 'IOPS' | 'MiB/s';
  readonly writes: boolean;
  /** Whose latency is shown: of the flushes, where they are what is waited for. */
  readonly latencyOf?: 'flush';
  /** Which classes a row is for; all when absent. */
  readonly classes?: readonly EngineClass[];
  readonly sledgeArguments?: readonly string[];
  /** This much from the start of the volume is read once before, so that caches hold it. */
  readonly warmBytes?: number;
  readonly quick: boolean;
}

interface Shape {
  readonly depth: number;
  readonly connections: number;
  readonly quick: boolean;
}

const shapes: readonly Shape[] = [
  { depth: 1, connections: 1, quick: true },
  { depth: 16, connections: 1, quick: true },
  { depth: 16, connections: 4, quick: false },
];

function shapeName(shape: Shape): string {
  return shape.connections === 1 ? String(shape.depth) : `${shape.depth}x${shape.connections}`;
}

function nbdload(workload: string, blockSize: string, shape: Shape): string[] {
  return ['-w', workload, '-b', blockSize, '-q', String(shape.depth), '-c', String(shape.connections)];
}

function fio(workload: string, blockSize: string, shape: Shape): string[] {
  return [`--rw=${workload}`, `--bs=${blockSize}`, `--iodepth=${shape.depth}`, `--numjobs=${shape.connections}`];
}

function shaped(
  prefix: string,
  title: string,
  workload: string,
  writes: boolean,
  extra: Partial<Row> & { readonly loadExtra?: readonly string[]; readonly fioExtra?: readonly string[] } = {},
): Row[] {
  const { loadExtra = [], fioExtra = [], ...rest } = extra;
  return shapes.map(shape => ({
    name: `${prefix}-${shapeName(shape)}`,
    title: `4 KiB ${title}, depth ${shapeName(shape)}`,
    load: [...nbdload(workload, '4k', shape), ...loadExtra],
    fio: [...fio(workload, '4k', shape), ...fioExtra],
    unit: 'IOPS',
    writes,
    quick: shape.quick,
    ...rest,
  }));
}

const deep: Shape = { depth: 8, connections: 1, quick: true };
const smallCache: readonly Shape[] = [
  { depth: 1, connections: 1, quick: false },
  { depth: 16, connections: 1, quick: true },
  { depth: 64, connections: 1, quick: false },
];

export const rows: readonly Row[] = [
  ...shaped('read', 'random read', 'randread', false),
  ...shaped('write', 'random write', 'randwrite', true),
  ...shaped('fua', 'random write with FUA', 'randwrite', true, { loadExtra: ['-f'], fioExtra: ['--sync=dsync'] }),
  {
    name: 'flush',
    title: '4 KiB random write, then flush, in turn (pairs; latency of the flush)',
    latencyOf: 'flush',
    load: [...nbdload('randwrite', '4k', shapes[0]), '-F', '1'],
    fio: [...fio('randwrite', '4k', shapes[0]), '--fdatasync=1'],
    unit: 'IOPS',
    writes: true,
    quick: true,
  },
  {
    name: 'seqread',
    title: '1 MiB sequential read, depth 8',
    load: nbdload('read', '1m', deep),
    fio: fio('read', '1m', deep),
    unit: 'MiB/s',
    writes: false,
    quick: true,
  },
  {
    name: 'seqwrite',
    title: '1 MiB sequential write, depth 8',
    load: nbdload('write', '1m', deep),
    fio: fio('write', '1m', deep),
    unit: 'MiB/s',
    writes: true,
    quick: true,
  },
  {
    name: 'mixed',
    title: '4 KiB random, 70 % reads, depth 16',
    load: [...nbdload('randrw', '4k', shapes[1]), '-m', '70'],
    fio: [...fio('randrw', '4k', shapes[1]), '--rwmixread=70'],
    unit: 'IOPS',
    writes: true,
    quick: true,
  },
  // All that is read fits Sledge's own cache: hits, against hits in the page cache.
  ...shaped('hot', 'random read of 128 MiB', 'randread', false, {
    loadExtra: ['-s', '128M'],
    fioExtra: ['--size=128m'],
    warmBytes: 128 * MIB,
    classes: ['sledge', 'page cache'],
    quick: false,
  }),
  // A cache that holds next to nothing of the volume: the way to the disk is measured.
  ...smallCache.map(
    (shape): Row => ({
      name: `miss-${shapeName(shape)}`,
      title: `4 KiB random read, small cache, depth ${shapeName(shape)}`,
      load: nbdload('randread', '4k', shape),
      fio: fio('randread', '4k', shape),
      unit: 'IOPS',
      writes: false,
      classes: ['sledge', 'direct'],
      sledgeArguments: ['--cache', '64MiB'],
      quick: shape.quick,
    }),
  ),
];

/** Rows by a list such as `read-1,fua,miss-*`: full names, or a prefix up to the first dash. */
export function selectRows(selection: string): Row[] {
  const wanted = selection.split(',').map(word => word.replace(/-?\*$/, ''));
  const selected = rows.filter(row => wanted.some(word => row.name === word || row.name.startsWith(`${word}-`)));
  for (const word of wanted) {
    if (!rows.some(row => row.name === word || row.name.startsWith(`${word}-`))) throw new Error(`no row ${word}`);
  }
  return selected;
}
