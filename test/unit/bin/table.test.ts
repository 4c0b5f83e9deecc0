import t from 'tap';
import { formatCount, formatDuration, formatLatency, formatTable } from '../../../src/bin/table.ts';

t.test('a table aligns names at the left and numbers at the right', t => {
  const rows = [
    ['NAME', 'SIZE'],
    ['a', '1 GiB'],
    ['longer', '10 GiB'],
  ];
  t.equal(formatTable(rows, [0], '  '), '  NAME      SIZE\n  a        1 GiB\n  longer  10 GiB\n');
  t.end();
});

t.test('counts, times and durations take the unit that fits', t => {
  t.same([0, 9999, 12_345, 5e7, 2e10].map(formatCount), ['0', '9999', '12.3k', '50.0M', '20.0G']);
  t.same([85, 1200, 3_400_000].map(formatLatency), ['85 µs', '1.2 ms', '3.4 s']);
  t.same([0, 45, 60, 200, 7500, 97_200].map(formatDuration), [
    '0 s',
    '45 s',
    '1 min',
    '3 min 20 s',
    '2 h 5 min',
    '1 d 3 h',
  ]);
  t.end();
});
