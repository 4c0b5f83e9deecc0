/** The flame graph: boxes as wide as their time, in an SVG that is well-formed. */
import t from 'tap';
import { flameGraph } from '../../../../scripts/profiling/flame-graph.ts';
import type { Frame, Sample } from '../../../../scripts/profiling/sample.ts';

const run: Frame = { kind: 'javascript', name: '#run', file: 'src/loop.ts', line: 10 };
const put: Frame = { kind: 'javascript', name: 'put', file: 'src/cache.ts', line: 20 };
const less: Frame = { kind: 'library', name: 'std::operator<' };

const sample = (seconds: number, frames: readonly Frame[], thread = 'main'): Sample => ({ thread, seconds, frames });

interface Drawn {
  readonly tip: string;
  readonly x: number;
  readonly y: number;
  readonly width: number;
}

function boxesOf(svg: string): Drawn[] {
  const box = /<g><title>([^<]*)<\/title><rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"/g;
  return [...svg.matchAll(box)].map(([, tip, x, y, width]) => ({
    tip,
    x: Number(x),
    y: Number(y),
    width: Number(width),
  }));
}

t.test('a box lies below its caller, is as wide as its time, and tells its numbers', t => {
  const svg = flameGraph(
    [sample(0.03, [put, run]), sample(0.01, [run]), sample(0.04, [put, run], 'workers')],
    'a title',
  );
  const boxes = boxesOf(svg);
  const all = boxes[0];
  t.match(all.tip, /^all threads\n80\.0 ms, 100\.00 %$/);
  const main = boxes.find(box => box.tip.startsWith('main\n'))!;
  const runs = boxes.filter(box => box.tip.startsWith('#run\n'));
  const puts = boxes.filter(box => box.tip.startsWith('put\n'));
  t.equal(main.width, all.width / 2);
  t.equal(runs.length, 2, 'one for each thread');
  t.equal(puts[0].tip, 'put\nsrc/cache.ts:20\n30.0 ms, 37.50 %');
  t.equal(puts[0].width, runs[0].width * 0.75);
  t.ok(puts[0].y > runs[0].y && runs[0].y > main.y && main.y > all.y, 'the callers above');
  t.ok(
    boxes.every(box => box.x >= 0 && box.x + box.width <= all.width + 0.01),
    'nothing sticks out',
  );
  t.end();
});

t.test('neighbours do not overlap', t => {
  const frames = Array.from({ length: 20 }, (_, i): Frame => ({ kind: 'kernel', name: `f${i}` }));
  const boxes = boxesOf(
    flameGraph(
      frames.map((frame, i) => sample(0.001 * (i + 1), [frame])),
      '',
    ),
  );
  const row = boxes.filter(box => box.tip.startsWith('f')).sort((a, b) => a.x - b.x);
  t.equal(row.length, 20);
  for (const [i, box] of row.slice(1).entries()) t.ok(box.x >= row[i].x + row[i].width - 0.011);
  t.end();
});

t.test('names and title are escaped, and every element is closed', t => {
  const svg = flameGraph([sample(0.03, [less, run])], 'a & b < "c"');
  t.match(svg, /std::operator&lt;\nlibrary/);
  t.match(svg, /a &amp; b &lt; &quot;c&quot;/);
  const open: string[] = [];
  for (const [, end, name, rest] of svg.matchAll(/<(\/?)(\w+)([^>]*)>/g)) {
    if (end === '/') t.equal(open.pop(), name);
    else if (!rest.endsWith('/')) open.push(name);
  }
  t.same(open, []);
  t.end();
});

t.test('what is too narrow to see is left out, and so is all of it when nothing was sampled', t => {
  const svg = flameGraph([sample(1, [run]), sample(1e-5, [put])], '');
  t.notMatch(svg, /put/);
  t.same(boxesOf(flameGraph([], '')), []);
  t.end();
});

t.test('the same samples give the same picture, in whatever order they came', t => {
  const some = [sample(1, [put, run]), sample(2, [run]), sample(3, [less])];
  t.equal(flameGraph(some, ''), flameGraph(some.toReversed(), ''));
  t.end();
});
