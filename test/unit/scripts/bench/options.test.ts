import t from 'tap';
import { parseOptions, USAGE, UsageError } from '../../../../scripts/bench/nbd-options.ts';
import { rows } from '../../../../scripts/bench/nbd-rows.ts';

function rowsOf(...argv: string[]): string[] {
  return parseOptions(argv)!.rows.map(row => row.name);
}

t.test('rows are chosen by name, by group and by pattern; figures the same way', t => {
  t.same(rowsOf('--rows', 'fua,miss-16'), ['miss-16', 'fua-1', 'fua-16', 'fua-16x4']);
  t.same(rowsOf('--rows', 'pairs-*'), ['pairs-1', 'pairs-16', 'pairs-16x4']);
  t.same(rowsOf('--rows', 'write-16'), ['write-16'], 'not write-16x4');
  const options = parseOptions(['--rows', 'idle,mixed'])!;
  t.same(
    options.figures.map(figure => figure.name),
    ['idle'],
  );
  t.same(
    options.rows.map(row => row.name),
    ['mixed'],
  );
  t.end();
});

t.test('a full run has all rows with their own seconds; --seconds is for all', t => {
  const full = parseOptions([])!;
  t.same(full.rows, rows);
  t.equal(full.rows.find(row => row.name === 'sustain')!.seconds, 120);
  t.ok(parseOptions(['--seconds', '0.3'])!.rows.every(row => row.seconds === 0.3));
  t.ok(parseOptions(['--quick', '--seconds', '2'])!.rows.every(row => row.seconds === 2));
  t.end();
});

t.test('a quick run has some of each kind, without the sustained writes', t => {
  const quick = rowsOf('--quick');
  for (const kind of ['hot', 'miss', 'write', 'fua', 'pairs', 'seqread', 'seqwrite', 'mixed', 'tls']) {
    t.ok(
      quick.some(name => name.startsWith(kind)),
      kind,
    );
  }
  t.notOk(quick.includes('sustain'));
  t.end();
});

t.test('rows of synced writes know what the disk gives when all that is in flight is one request', t => {
  const counts = rows.flatMap(row => (row.together === undefined ? [] : [[row.name, row.together.count]]));
  t.same(counts, [
    ['fua-16', 16],
    ['fua-16x4', 64],
    ['pairs-16', 16],
    ['pairs-16x4', 64],
  ]);
  const fua = rows.find(row => row.name === 'fua-16');
  t.same(fua?.together?.fio, ['--rw=write', '--bs=64k', '--iodepth=1', '--numjobs=1', '--sync=dsync']);
  t.end();
});

t.test('fio measures what its nbd engine can do, in rows of their own without gates', t => {
  t.same(rowsOf('--rows', 'hot-16,fua-16,mixed', '--client', 'both'), ['hot-16', 'hot-16 via fio', 'fua-16', 'mixed']);
  const fio = parseOptions(['--client', 'fio', '--rows', 'mixed,fua,pairs,tls,seqread'])!.rows;
  t.same(
    fio.map(row => row.name),
    ['seqread via fio', 'mixed via fio'],
  );
  t.ok(fio.every(row => row.gates.length === 0 && !row.classes.includes('raw')));
  t.end();
});

t.test('wrong use is refused with a sentence that names the option', t => {
  for (const [argv, message] of [
    [['--rows', 'frob'], /--rows: there is no row frob; groups are hot, miss/],
    [['--engines', 'sledge,frob'], /--engines: there is no server frob; there are sledge, nbdkit/],
    [['--size', '1MiB'], /--size: give at least/],
    [['--seconds', 'long'], /--seconds: a number/],
    [['--repeat', '0'], /--repeat: a number, 1 or more/],
    [['--transport', 'pigeon'], /--transport is unix or tcp/],
    [['--client', 'curl'], /--client is nbdload, fio or both/],
    [['--frob'], /--frob/],
    [['frob'], /frob/],
  ] as const) {
    t.throws(() => parseOptions(argv), { constructor: UsageError, message }, argv.join(' '));
  }
  t.end();
});

t.test('the help names every row and server, in lines that fit', t => {
  t.equal(parseOptions(['--help']), undefined);
  for (const { name } of rows) t.match(USAGE, name);
  t.ok(USAGE.split('\n').every(line => line.length <= 120));
  t.end();
});
