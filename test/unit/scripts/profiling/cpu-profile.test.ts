/** Reading V8's own profiles, and finding the sources of what they name. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import t from 'tap';
import { type CpuProfile, samplesOf } from '../../../../scripts/profiling/cpu-profile.ts';
import { SourcePlaces } from '../../../../scripts/profiling/source-places.ts';
import { temporaryDirectory } from '../../../support/temporary-directory.ts';

function node(id: number, functionName: string, children: readonly number[] = [], url = '', lineNumber = -1) {
  return { id, callFrame: { functionName, url, lineNumber, columnNumber: lineNumber }, children };
}

const profile: CpuProfile = {
  nodes: [
    node(1, '(root)', [2, 3, 4]),
    node(2, '(idle)'),
    node(3, '(garbage collector)'),
    node(4, 'turn', [5, 6], 'file:///p/loop.js', 9),
    node(5, '', [7], 'file:///p/log.js', 19),
    node(6, '(garbage collector)'),
    node(7, 'set'),
  ],
  startTime: 1_000_000,
  //        at 1.0  1.1  1.3  1.6  2.0  2.5 s
  samples: [4, 5, 2, 7, 6, 3],
  timeDeltas: [0, 100_000, 200_000, 300_000, 400_000, 500_000],
};
const placeOf = (url: string, line: number) => ({ file: url, line });

t.test('a sample stands for the time until the next, and idleness for nothing', t => {
  const samples = samplesOf(profile, { fromUs: 0, toUs: 10_000_000 }, placeOf);
  t.match(samples, [
    {
      thread: 'main',
      seconds: 0.1,
      frames: [{ kind: 'javascript', name: 'turn', file: 'file:///p/loop.js', line: 10 }],
    },
    { seconds: 0.2, frames: [{ name: '(anonymous)', line: 20 }, { name: 'turn' }] },
    { seconds: 0.4, frames: [{ kind: 'builtin', name: 'set' }, { name: '(anonymous)' }, { name: 'turn' }] },
    { seconds: 0.5, frames: [{ kind: 'collector' }, { name: 'turn' }] },
    { seconds: 0, frames: [{ kind: 'collector' }] },
  ]);
  t.equal(samples.length, 5);
  t.end();
});

t.test('what was outside of the window is cut off', t => {
  const samples = samplesOf(profile, { fromUs: 1_100_000, toUs: 2_000_000 }, placeOf);
  t.same(
    samples.map(sample => sample.frames[0].name),
    ['(anonymous)', 'set'],
  );
  t.end();
});

t.test('an empty profile has no samples', t => {
  t.same(samplesOf({ nodes: [node(1, '(root)')], startTime: 0 }, { fromUs: 0, toUs: 1 }, placeOf), []);
  t.end();
});

t.test('a place is that in the source where there is a map, and else that of the code', t => {
  const root = temporaryDirectory(t);
  mkdirSync(join(root, 'dist', 'src'), { recursive: true });
  const code = join(root, 'dist', 'src', 'a.js');
  // Line 3 of the code, from its first column, is line 41 of the source.
  writeFileSync(
    `${code}.map`,
    JSON.stringify({ version: 3, sources: ['../../src/a.ts'], names: [], mappings: ';;AAwCA' }),
  );
  const { find } = new SourcePlaces(root);
  t.same(find(pathToFileURL(code).href, 3, 1), { file: 'src/a.ts', line: 41 });
  t.same(find(code, 3, 5), { file: 'src/a.ts', line: 41 }, 'by path as well');
  t.same(find(join(root, 'node_modules', 'b.js'), 7, 1), { file: 'node_modules/b.js', line: 7 });
  t.same(find('/elsewhere/c.js', 7, 1), { file: '/elsewhere/c.js', line: 7 });
  t.same(find('node:internal/timers', 438, 28), { file: 'node:internal/timers', line: 438 });
  t.end();
});
