import t from 'tap';
import { editDistance, nearest } from '../../../src/bin/nearest.ts';

t.test('the distance counts insertions, deletions, replacements and swaps', t => {
  t.equal(editDistance('serve', 'serve'), 0);
  t.equal(editDistance('serv', 'serve'), 1);
  t.equal(editDistance('servee', 'serve'), 1);
  t.equal(editDistance('sarve', 'serve'), 1);
  t.equal(editDistance('serev', 'serve'), 1);
  t.equal(editDistance('', 'abc'), 3);
  t.equal(editDistance('abc', ''), 3);
  t.end();
});

t.test('a word that is near is suggested and one that is far is not', t => {
  const words = ['serve', 'status', 'volume', 'bench'];
  t.equal(nearest('statsu', words), 'status');
  t.equal(nearest('volumes', words), 'volume');
  t.equal(nearest('frobnicate', words), undefined);
  t.equal(nearest('x', words), undefined);
  t.end();
});
