import t from 'tap';
import { TapCounter, type TapCounts } from '../../../scripts/tap-count.ts';

function count(text: string, exitedWell = true): TapCounts & { notices: string[] } {
  const counter = new TapCounter();
  for (const line of text.split('\n')) counter.line(line);
  const counts = counter.end(exitedWell, 'ended by SIGABRT');
  return { ...counts, notices: counter.notices.map(notice => `${notice.kind}: ${notice.name}`) };
}

t.test('assertions are counted, and the subtests around them are not', t => {
  const counts = count(`TAP version 14
# Subtest: one
    ok 1 - first
    # Subtest: inner
        ok 1 - deep
        ok 2 - deeper
        1..2
    ok 2 - inner # time=0.4ms
    1..2
ok 1 - one # time=2.1ms

1..1
# time=10ms`);
  t.match(counts, { passed: 3, failed: 0, skipped: 0 });
  t.end();
});

t.test('a failure is named with the subtests it is in, and counted once', t => {
  const counts = count(
    `# Subtest: outer
    # Subtest: inner
        ok 1 - fine
        not ok 2 - numbers
          ---
          diff: |
            ok 1 - this line of a diff is no assertion
            not ok 2 - nor is this
          ...
        1..2
    not ok 1 - inner # time=1ms
    1..1
not ok 1 - outer # time=2ms
1..1`,
    false,
  );
  t.match(counts, { passed: 1, failed: 1, skipped: 0 });
  t.same(counts.notices, ['failed: outer > inner > numbers']);
  t.end();
});

t.test('a subtest that fails without a failed assertion counts as one failure', t => {
  const counts = count(
    `# Subtest: short
    ok 1 - fine
    1..2
    # test count(1) != plan(2)
not ok 1 - short
1..1`,
    false,
  );
  t.match(counts, { passed: 1, failed: 1 });
  t.end();
});

t.test('skipped subtests, assertions and files are counted as skips', t => {
  t.match(
    count('ok 1 - whole subtest # SKIP no kernel\n# Subtest: x\n    ok 1 - later # todo\n    1..1\nok 2 - x\n1..2'),
    {
      passed: 0,
      failed: 0,
      skipped: 2,
    },
  );
  t.match(count('TAP version 14\n1..0 # no such device'), { passed: 0, failed: 0, skipped: 1 });
  t.end();
});

t.test('buffered subtests are counted like others', t => {
  const counts = count(`ok 1 - parallel # time=5ms {
    ok 1 - a
    ok 2 - b
    1..2
}

ok 2 - last
1..2`);
  t.match(counts, { passed: 3, failed: 0, skipped: 0 });
  t.end();
});

t.test('a file that crashes is a failure even if all that it said was good', t => {
  const counts = count('ok 1 - fine', false);
  t.match(counts, { passed: 1, failed: 1 });
  t.same(counts.notices, ['failed: ended by SIGABRT']);
  t.end();
});

t.test('a file that says nothing is a failure', t => {
  t.match(count(''), { passed: 0, failed: 1 });
  t.match(count('', false), { passed: 0, failed: 1 });
  t.end();
});
