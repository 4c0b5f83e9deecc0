import t from 'tap';
import { checksumRows, parseChecksumOptions, USAGE } from '../../../../scripts/bench/checksums-options.ts';
import { costOf, formatCosts } from '../../../../scripts/bench/checksums-report.ts';
import { UsageError } from '../../../../scripts/bench/nbd-options.ts';
import { inTurn, turnsOf } from '../../../../scripts/bench/nbd-turns.ts';
import { resultOf, rowWith } from './bench-results.ts';

t.test('the rows are small and large requests, both ways, and hits', t => {
  t.same(
    checksumRows.map(row => [row.name, row.load.slice(0, 6).join(' ')]),
    [
      ['hot-16', '-w randread -b 4k -q 16'],
      ['miss-16', '-w randread -b 4k -q 16'],
      ['seqread', '-w read -b 1m -q 8'],
      ['write-16', '-w randwrite -b 4k -q 16'],
      ['seqwrite', '-w write -b 1m -q 8'],
    ],
  );
  t.end();
});

t.test('all rows, three times five seconds, unless something else is asked for', t => {
  const options = parseChecksumOptions([])!;
  t.equal(options.rows.length, 5);
  t.ok(options.rows.every(row => row.seconds === 5));
  t.match(options, { repeat: 3, sizeBytes: 2 * 1024 ** 3, json: false });
  const some = parseChecksumOptions(['--rows', 'write-16,hot-16', '--seconds', '0.5', '--repeat', '5', '--json'])!;
  t.match(some, { repeat: 5, json: true });
  t.same(
    some.rows.map(row => [row.name, row.seconds]),
    [
      ['hot-16', 0.5],
      ['write-16', 0.5],
    ],
  );
  t.end();
});

t.test('wrong use is refused with a sentence that names the option', t => {
  for (const [argv, message] of [
    [['--rows', 'hot-16,fua-1'], /--rows: there is no row fua-1; there are hot-16/],
    [['--seconds', 'long'], /--seconds: from/],
    [['--repeat', '1.5'], /--repeat: a whole number/],
    [['--size', '64MiB'], /--size: at least 128MiB/],
    [['--off'], /--off/],
    [['off'], /off/],
  ] as const) {
    t.throws(() => parseChecksumOptions(argv), { constructor: UsageError, message }, argv.join(' '));
  }
  t.equal(parseChecksumOptions(['--help']), undefined);
  for (const { name } of checksumRows) t.match(USAGE, name);
  t.end();
});

t.test('a cost is the median with checksums over the median without', t => {
  const row = rowWith([], { name: 'write-16', title: 'random write' });
  const on = resultOf(
    row,
    'on',
    'sledge',
    { rate: 90, serverCpuUsPerOp: 11 },
    { rate: 10, serverCpuUsPerOp: 99 },
    { rate: 99, serverCpuUsPerOp: 10.4 },
  );
  const off = resultOf(row, 'off', 'sledge', { rate: 120, serverCpuUsPerOp: 10 });
  const cost = costOf(row, on, off);
  t.equal(cost.rateRatio, 0.75);
  t.equal(cost.cpuRatio, 1.1);
  const lines = formatCosts([cost]).split('\n');
  t.match(lines[1], /^random write: on +90 {2}IOPS +99 % .* 11\.00/);
  t.match(lines[2], /^ {2}off +120 {2}IOPS +0 % .* 10\.00/);
  t.match(lines[3], /^ {2}on \/ off +0\.75 +1\.10$/);
  t.end();
});

t.test('CPU time too short to be seen has no ratio', t => {
  const row = rowWith([]);
  const cost = costOf(
    row,
    resultOf(row, 'on', 'sledge', { rate: 9, serverCpuUsPerOp: 1 }),
    resultOf(row, 'off', 'sledge', { rate: 10, serverCpuUsPerOp: 0 }),
  );
  t.equal(cost.cpuRatio, undefined);
  t.match(formatCosts([cost]), /on \/ off +0\.90\n/);
  t.end();
});

t.test('reads come before writes in all repeats, and each repeat begins with another server', t => {
  const write = rowWith([], { name: 'write', writes: true });
  const read = rowWith([], { name: 'read' });
  t.same(
    [...turnsOf([write, read], 2)].map(({ row, turn }) => [row.name, turn]),
    [
      ['read', 0],
      ['read', 1],
      ['write', 0],
      ['write', 1],
    ],
  );
  t.same(
    [0, 1, 2].map(turn => inTurn(['on', 'off'], turn)),
    [
      ['on', 'off'],
      ['off', 'on'],
      ['on', 'off'],
    ],
  );
  t.end();
});
