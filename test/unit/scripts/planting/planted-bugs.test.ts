/** The list of bugs that `scripts/planted-bugs` plants fits the present sources: otherwise it would rot unseen. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ALL_BUGS } from '../../../../scripts/planting/all-bugs.ts';
import { unitTestsOf } from '../../../../scripts/planting/hunt.ts';
import { type PlantedBug, plant } from '../../../../scripts/planting/planted-bug.ts';
import { runTap } from '../../../../scripts/planting/tap-program.ts';
import { WorkCopy } from '../../../../scripts/planting/work-copy.ts';

const root = process.cwd();

const BUG: PlantedBug = { name: 'b', breaks: 'It breaks.', file: 'src/x.ts', find: 'one', replacement: '$& two' };

t.test('the text of each bug stands in its file exactly once, and what takes its place is another', t => {
  for (const bug of ALL_BUGS) {
    const source = readFileSync(join(root, bug.file), 'utf8');
    t.not(plant(source, bug), source, bug.name);
  }
  t.end();
});

t.test('bugs have names of their own, and a sentence that says what is wrong', t => {
  t.ok(ALL_BUGS.length >= 18);
  t.equal(new Set(ALL_BUGS.map(bug => bug.name)).size, ALL_BUGS.length);
  for (const { name, breaks } of ALL_BUGS) {
    t.match(name, /^[a-z]+(-[a-z]+)*$/);
    t.match(breaks, /^[A-Z].*\.$/, name);
  }
  t.end();
});

t.test('a text that is not there, or there twice, is an error that names the bug', t => {
  t.equal(plant('zero one', BUG), 'zero $& two', 'what takes its place is taken as it is');
  t.throws(() => plant('zero', BUG), /b: its text stands 0 times in src\/x\.ts/);
  t.throws(() => plant('one one', BUG), /b: its text stands 2 times/);
  t.end();
});

t.test('the tests of a source are those of its folder, its own first, then those of the head', t => {
  const tests = unitTestsOf('src/oplog/scan.ts', root);
  t.equal(tests[0], 'test/unit/oplog/scan.test.js');
  t.ok(tests.includes('test/unit/oplog/log.test.js'));
  t.ok(tests.indexOf('test/unit/head/requests.test.js') > tests.indexOf('test/unit/oplog/log.test.js'));
  t.ok(tests.includes('test/model/head-scenarios.test.js'));
  t.equal(new Set(tests).size, tests.length);
  const session = unitTestsOf('src/nbd-server/session.ts', root);
  t.equal(session[0], 'test/unit/nbd-server/session.test.js');
  t.ok(
    session.every(file => file.startsWith('test/unit/nbd-server/')),
    'what no simulator runs has those of its folder',
  );
  for (const bug of ALL_BUGS) {
    for (const file of unitTestsOf(bug.file, root)) t.ok(existsSync(join(root, 'dist', file)), file);
  }
  t.end();
});

t.test('bugs are planted in a copy, are gone when they are taken out, and leave the checkout alone', t => {
  const bug = ALL_BUGS.find(({ name }) => name === 'fua-answered-at-once')!;
  const compiled = `dist/${bug.file.replace(/\.ts$/, '.js')}`;
  const original = readFileSync(join(root, compiled), 'utf8');
  const copy = new WorkCopy(root);
  t.teardown(() => copy.remove());
  const inCopy = () => readFileSync(join(copy.directory, compiled), 'utf8');
  copy.compileClean([bug.file]);
  const clean = inCopy();
  t.match(clean, 'this.waitDurable(op.end, owner)');
  t.match(clean, /^export class OpLog/m, 'it is a module as those beside it are');
  copy.plant(bug);
  t.notMatch(inCopy(), 'this.waitDurable(op.end, owner)');
  copy.uproot(bug);
  t.equal(inCopy(), clean);
  t.throws(() => copy.plant({ ...bug, replacement: 'if (' }), /expected/, 'what does not parse is not planted');
  t.equal(readFileSync(join(root, compiled), 'utf8'), original);
  copy.remove();
  t.notOk(existsSync(copy.directory));
  t.end();
});

t.test('a program is run to its end, its first failure, or the end of its time', async t => {
  const directory = t.testdir({
    'good.js': "console.log('TAP version 14\\nok 1 - fine\\n# seed 5\\n1..1');",
    'bad.js':
      "console.log('TAP version 14\\nnot ok 1 - wrong\\n  ---\\n  why: so\\n  ...'); setTimeout(() => {}, 60000);",
    'broken.js': "console.log('# seed 7'); throw new TypeError('unheard of');",
    'late.js':
      "console.log('TAP version 14\\nnot ok 1 - wrong'); setTimeout(() => { console.log('# run of seed 9'); setTimeout(() => {}, 60000); }, 500);",
    'endless.js': 'setTimeout(() => {}, 60000);',
    'asked.js': "console.log(process.env.ASKED === 'yes' ? 'ok 1 - asked' : 'not ok 1 - not asked');",
  });
  const run = (file: string, timeoutMs = 20_000) => runTap(file, directory, { ASKED: 'yes' }, timeoutMs);
  t.match(await run('good.js'), { outcome: 'passed', comments: ['seed 5'] });
  t.match(await run('bad.js'), { outcome: 'failed', name: 'wrong', details: ['  why: so'] });
  const broken = await run('broken.js');
  t.match(broken, { outcome: 'failed', name: 'exit code 1', comments: ['seed 7'] });
  t.ok(broken.details.some(line => line.includes('unheard of')));
  const late = await runTap('late.js', directory, {}, 20_000, /seed \d/);
  t.match(late, { outcome: 'failed', name: 'wrong', comments: ['run of seed 9'] }, 'what is awaited is heard');
  t.match(await run('endless.js', 300), { outcome: 'timed out' });
  t.match(await run('asked.js'), { outcome: 'passed' });
});
