import t from 'tap';
import { type Gate, judge, lowestShare, type Verdict } from '../../../../scripts/bench/nbd-gates.ts';
import type { Result } from '../../../../scripts/bench/nbd-results.ts';
import { rows } from '../../../../scripts/bench/nbd-rows.ts';
import { resultOf, rowWith } from './bench-results.ts';

const row = rowWith([]);

const field: readonly Result[] = [
  resultOf(row, 'sledge', 'sledge', { rate: 135, p99Us: 90, serverCpuUsPerOp: 9, lowestShare: 0.4 }),
  resultOf(row, 'nbdkit', 'page cache', { rate: 100, p99Us: 100, serverCpuUsPerOp: 20 }),
  resultOf(row, 'nbd-server', 'page cache', { rate: 80, p99Us: 10, serverCpuUsPerOp: 10 }),
  resultOf(row, 'qemu-nbd-uring', 'direct', { rate: 60, p99Us: 200, serverCpuUsPerOp: 15 }),
  resultOf(row, 'raw', 'raw', { rate: 150, p99Us: 5 }),
];

function verdict(gate: Gate, results: readonly Result[] = field): Verdict {
  const [only] = judge([rowWith([gate])], results);
  return only;
}

t.test('a rate is compared with the best of the class that the gate names', t => {
  t.match(verdict({ measure: 'rate', over: 'all', least: 1.2 }), {
    sentence: 'rate ≥ 1.2 × best of all (nbdkit)',
    peer: 'nbdkit',
    found: '1.35',
    state: 'met',
  });
  t.match(verdict({ measure: 'rate', over: 'direct', least: 2.5 }), {
    sentence: 'rate ≥ 2.5 × best of direct (qemu-nbd-uring)',
    found: '2.25',
    state: 'missed',
  });
  t.match(verdict({ measure: 'rate', over: 'raw', least: 0.9 }), {
    sentence: 'rate ≥ 0.9 × the raw file',
    found: '0.90',
    state: 'met',
  });
  t.end();
});

t.test('the raw file is no peer, nor is what it gives when all requests are one', t => {
  const limit = resultOf(row, 'raw, 16 at once', 'limit', { rate: 300 });
  const gate: Gate = { measure: 'rate', over: 'all', least: 1 };
  t.equal(verdict(gate).peer, 'nbdkit');
  t.equal(verdict(gate, [...field, limit]).peer, 'nbdkit');
  t.end();
});

t.test('the p99 is compared with that of the quickest peer, not with the lowest p99', t => {
  t.match(verdict({ measure: 'p99', over: 'all', most: 1 }), { peer: 'nbdkit', found: '0.90', state: 'met' });
  t.match(verdict({ measure: 'p99', over: 'all', most: 0.8 }), { state: 'missed' });
  t.end();
});

t.test('CPU time is compared with the lowest of all peers', t => {
  t.match(verdict({ measure: 'cpu', over: 'all', most: 1 }), { peer: 'nbd-server', found: '0.90', state: 'met' });
  const dear = [resultOf(row, 'sledge', 'sledge', { rate: 1, serverCpuUsPerOp: 11 }), ...field.slice(1)];
  t.match(verdict({ measure: 'cpu', over: 'all', most: 1 }, dear), { found: '1.10', state: 'missed' });
  t.end();
});

t.test('the lowest rate is compared with its own mean, and the worst of the repeats counts', t => {
  t.match(verdict({ measure: 'lowest', least: 0.2 }), { found: '0.40', state: 'met' });
  const once = [resultOf(row, 'sledge', 'sledge', { lowestShare: 0.5 }, { lowestShare: 0.1 }, { lowestShare: 0.6 })];
  t.match(verdict({ measure: 'lowest', least: 0.2 }, once), { found: '0.10', state: 'missed' });
  t.end();
});

t.test('a gate without its other side is not measured, and neither met nor missed', t => {
  const alone = field.filter(result => result.class === 'sledge');
  for (const gate of [
    { measure: 'rate', over: 'all', least: 1 },
    { measure: 'rate', over: 'raw', least: 1 },
    { measure: 'p99', over: 'page cache', most: 1 },
    { measure: 'cpu', over: 'all', most: 1 },
  ] as const) {
    t.equal(verdict(gate, alone).state, 'not measured');
  }
  const without = field.filter(result => result.class !== 'sledge');
  t.equal(verdict({ measure: 'rate', over: 'all', least: 1 }, without).state, 'not measured');
  t.equal(verdict({ measure: 'lowest', least: 0.2 }, without).state, 'not measured');
  t.end();
});

t.test('CPU time too short to be seen is no measure', t => {
  const unseen = [field[0], resultOf(row, 'nbdkit', 'page cache', { rate: 100, serverCpuUsPerOp: 0 })];
  t.equal(verdict({ measure: 'cpu', over: 'all', most: 1 }, unseen).state, 'not measured');
  t.end();
});

t.test('results of other rows do not count', t => {
  const other = rowWith([], { name: 'other' });
  const results = [field[0], resultOf(other, 'nbdkit', 'page cache', { rate: 1 })];
  t.equal(verdict({ measure: 'rate', over: 'all', least: 1 }, results).state, 'not measured');
  t.end();
});

t.test('medians decide, not the mean or the best', t => {
  const results = [
    resultOf(row, 'sledge', 'sledge', { rate: 10 }, { rate: 1000 }, { rate: 20 }),
    resultOf(row, 'nbdkit', 'page cache', { rate: 10 }, { rate: 10 }, { rate: 10 }),
  ];
  t.equal(verdict({ measure: 'rate', over: 'all', least: 1 }, results).value, 2);
  t.equal(results[0].spread, 990 / 20);
  t.end();
});

t.test('the lowest window is found wherever it begins', t => {
  t.equal(lowestShare([10, 10, 10, 10], 2), 1);
  // Two neighbours that straddle what would be windows if these did not slide.
  t.equal(lowestShare([10, 0, 0, 10, 10, 10, 10, 10], 2), 0);
  t.equal(lowestShare([8, 0, 8, 8], 1), 0);
  t.equal(lowestShare([8, 0, 8, 8], 2), 8 / 12);
  t.equal(lowestShare([0, 12], 2), 1, 'one window is all of it');
  t.end();
});

t.test('too few intervals, or none with anything in it, give no lowest share', t => {
  t.equal(lowestShare([], 5), undefined);
  t.equal(lowestShare([1, 2, 3, 4], 5), undefined);
  t.equal(lowestShare([0, 0, 0], 2), undefined);
  t.end();
});

t.test('every gate of the rows can be measured with what the row measures', t => {
  for (const { name, gates, classes, watchesRate } of rows) {
    for (const gate of gates) {
      if (gate.measure === 'lowest') t.ok(watchesRate, `${name} watches its rate`);
      else if (gate.over !== 'all') t.ok(classes.includes(gate.over), `${name} measures ${gate.over}`);
    }
  }
  t.end();
});
