import t from 'tap';
import { engines } from '../../../../scripts/bench/nbd-engines.ts';
import { judge } from '../../../../scripts/bench/nbd-gates.ts';
import { formatMarkdown, grouped } from '../../../../scripts/bench/nbd-markdown.ts';
import { resultOf, rowWith } from './bench-results.ts';

t.test('numbers are grouped by thousands', t => {
  t.same([0, 7.6, 999, 1000, 8130, 86116.4, 1234567].map(grouped), [
    '0',
    '8',
    '999',
    '1 000',
    '8 130',
    '86 116',
    '1 234 567',
  ]);
  t.end();
});

t.test('a row is one line with the best of each class, the raw file and the gates', t => {
  const reads = rowWith([{ measure: 'rate', over: 'direct', least: 1.2 }], { name: 'reads', title: 'random read' });
  const stream = rowWith([{ measure: 'rate', over: 'raw', least: 0.9 }], {
    name: 'stream',
    title: 'sequential read',
    unit: 'MiB/s',
  });
  const synced = rowWith([], { name: 'synced', title: 'synced write' });
  const idle = rowWith([], { name: 'not-measured', title: 'nobody measured this' });
  const results = [
    resultOf(reads, 'sledge', 'sledge', { rate: 15000 }),
    resultOf(reads, 'nbdkit', 'page cache', { rate: 9000 }),
    resultOf(reads, 'nbd-server', 'page cache', { rate: 9500 }),
    resultOf(reads, 'qemu-nbd-uring', 'direct', { rate: 10000 }),
    resultOf(stream, 'sledge', 'sledge', { rate: 700 }),
    resultOf(stream, 'raw', 'raw', { rate: 1400 }),
    resultOf(synced, 'sledge', 'sledge', { rate: 20000 }),
    resultOf(synced, 'raw', 'raw', { rate: 13500 }),
    resultOf(synced, 'raw, 16 at once', 'limit', { rate: 33500 }),
  ];
  const rows = [reads, stream, synced, idle];
  const names = ['sledge', 'nbdkit', 'nbd-server', 'qemu-nbd-uring'];
  const text = formatMarkdown({
    rows,
    engines: engines.filter(engine => names.includes(engine.name)),
    results,
    verdicts: judge(rows, results),
    figures: [],
  });
  t.same(text.split('\n'), [
    '| work (rates: higher is better) | Sledge | best of nbdkit, nbd-server (page cache) | best of qemu-nbd-uring (direct) | raw file | Sledge to the best, and what it has to be |',
    '|---|---|---|---|---|---|',
    '| random read | 15 000 | 9 500 (nbd-server) | 10 000 (qemu-nbd-uring) | – | 1.50 × direct (≥ 1.2): met |',
    '| sequential read | 700 MiB/s | – | – | 1 400 | 0.50 × raw (≥ 0.9): **missed** |',
    '| synced write | 20 000 | – | – | 13 500; at once 33 500 | – |',
    '',
  ]);
  t.end();
});

t.test('each gate of a row stands in its line', t => {
  const row = rowWith([
    { measure: 'rate', over: 'all', least: 2 },
    { measure: 'cpu', over: 'all', most: 1 },
    { measure: 'p99', over: 'all', most: 1 },
    { measure: 'lowest', least: 0.2 },
    { measure: 'rate', over: 'raw', least: 1 },
  ]);
  const results = [
    resultOf(row, 'sledge', 'sledge', { rate: 3, p99Us: 5, serverCpuUsPerOp: 4, lowestShare: 0.3 }),
    resultOf(row, 'nbdkit', 'page cache', { rate: 1, p99Us: 4, serverCpuUsPerOp: 8 }),
  ];
  const text = formatMarkdown({ rows: [row], engines: [], results, verdicts: judge([row], results), figures: [] });
  t.match(
    text.split('\n')[2],
    '3.00 × all (≥ 2.0): met; CPU 0.50 × (≤ 1.0): met; p99 1.25 × (≤ 1.0): **missed**; ' +
      'lowest 100 ms 0.30 × mean (≥ 0.2): met; not measured',
  );
  t.end();
});

t.test('figures of Sledge alone have a table of their own', t => {
  const text = formatMarkdown({
    rows: [],
    engines: [],
    results: [],
    verdicts: [],
    figures: [
      { name: 'idle', title: 'memory', value: 71.3, unit: 'MiB', below: 150 },
      { name: 'volumes', title: 'time to start', value: 2.5, unit: 's', below: 2 },
    ],
  });
  t.same(text.split('\n'), [
    '| Sledge alone | measured | what it has to be |',
    '|---|---|---|',
    '| memory | 71 MiB | < 150 MiB: met |',
    '| time to start | 2.50 s | < 2 s: **missed** |',
    '',
  ]);
  t.end();
});
