/** Streams of large reads, told from reads here and there. */
import t from 'tap';
import { GIB, MIB } from '../../../src/base/units.ts';
import { ReadStream } from '../../../src/volume/read-stream.ts';

t.test('reads that follow one another add up, in whatever order a few of them come', t => {
  const stream = new ReadStream();
  for (const at of [0, 2, 1, 3, 5, 4]) stream.add(GIB + at * MIB, MIB);
  t.equal(stream.add(GIB + 6 * MIB, MIB), 7 * MIB);
  t.end();
});

t.test('a read elsewhere begins a new stream, a start over again, too', t => {
  const stream = new ReadStream();
  for (let at = 0; at < 100; at++) stream.add(at * MIB, MIB);
  t.equal(stream.add(0, MIB), MIB);
  t.equal(stream.add(GIB, 4 * MIB), 4 * MIB);
  t.end();
});
