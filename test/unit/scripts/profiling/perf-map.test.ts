/** The map of compiled code: what was thrown away does not lend its name to what lies there now. */
import t from 'tap';
import { withoutSuperseded } from '../../../../scripts/profiling/perf-map.ts';

const lines = (...each: readonly string[]) => each.map(line => `${line}\n`).join('');

t.test('entries apart from each other stay, in the order of addresses', t => {
  t.equal(
    withoutSuperseded(lines('7f20 10 JS:*b', '7f00 20 JS:^a', '7f30 1 JS:~c x:1:2')),
    lines('7f00 20 JS:^a', '7f20 10 JS:*b', '7f30 1 JS:~c x:1:2'),
  );
  t.end();
});

t.test('of entries that overlap, whichever way, the newer stays', t => {
  const newer = '1100 100 JS:*newer';
  for (const older of [
    '1100 100 JS:*older',
    '1080 81 JS:*older',
    '11ff 80 JS:*older',
    '1000 400 JS:*older',
    '1180 1 JS:*older',
  ]) {
    t.equal(withoutSuperseded(lines(older, newer)), lines(newer), older);
  }
  for (const neighbour of ['1080 80 JS:*older', '1200 80 JS:*older']) {
    t.equal(withoutSuperseded(lines(neighbour, newer)).split('\n').length, 3, neighbour);
  }
  t.end();
});

t.test('what took the place of something keeps only what it needs', t => {
  t.equal(
    withoutSuperseded(lines('1000 10 a', '1010 10 b', '1008 10 c', '1018 8 d', '1000 8 e')),
    lines('1000 8 e', '1008 10 c', '1018 8 d'),
  );
  t.end();
});

t.test('a line that is not whole is left out', t => {
  t.equal(withoutSuperseded('1000 10 a\n1010 1'), lines('1000 10 a'));
  t.equal(withoutSuperseded(''), '');
  t.end();
});
