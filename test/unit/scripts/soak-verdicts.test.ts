/** What `scripts/soak` makes of its readings. */
import t from 'tap';
import { judge, type Reading, type Window } from '../../../scripts/soak-verdicts.ts';
import { MIB } from '../../../src/base/units.ts';

const window: Window = {
  seconds: 0,
  iops: 1000,
  p999Us: 5000,
  maxUs: 9000,
  errors: 0,
  badData: 0,
  health: 'ok',
  logFill: 0.3,
  destaged: false,
  loopP99Ms: 8,
  loopMaxMs: 30,
  loopP99MsSinceStart: 7,
};

const SEGMENT_DESCRIPTORS_MAX = 256;

function readings(
  mibAt: (second: number) => number,
  descriptorsAt = (_second: number) => 40,
  segmentDescriptors = SEGMENT_DESCRIPTORS_MAX,
): Reading[] {
  return Array.from({ length: 100 }, (_, seconds) => ({
    seconds,
    rssBytes: mibAt(seconds) * MIB,
    descriptors: descriptorsAt(seconds),
    segmentDescriptors,
  }));
}

function goods(readings: Reading[], windows: Window[]): boolean[] {
  return judge(readings, windows, SEGMENT_DESCRIPTORS_MAX).map(verdict => verdict.good);
}

function windows(change: Partial<Window> = {}): Window[] {
  const { loopP99MsSinceStart = window.loopP99MsSinceStart } = change;
  const each = { ...window, loopP99MsSinceStart };
  return Array.from({ length: 10 }, (_, i) => ({ ...each, seconds: i * 10, ...(i === 7 && change) }));
}

t.test('a server that fills its caches first and then stays is good', t => {
  t.same(
    goods(
      readings(second => Math.min(300, 100 + second * 20)),
      windows(),
    ),
    [true, true, true, true, true],
  );
  t.end();
});

t.test('what grows is seen, memory from five per cent on and descriptors from the first', t => {
  t.ok(
    goods(
      readings(second => 200 + second * 0.1),
      windows(),
    )[0],
    '4 %',
  );
  t.notOk(
    goods(
      readings(second => 200 + second * 0.2),
      windows(),
    )[0],
    '7 %',
  );
  t.notOk(
    goods(
      readings(
        () => 200,
        second => (second < 90 ? 40 : 41),
      ),
      windows(),
    )[1],
  );
  const beyond = readings(
    () => 200,
    () => 40,
    SEGMENT_DESCRIPTORS_MAX + 2,
  );
  t.notOk(goods(beyond, windows())[1], 'more than a log of full length has');
  t.end();
});

t.test('a late loop, an error, a wrong byte, bad health: each is enough', t => {
  const of = (change: Partial<Window>) =>
    goods(
      readings(() => 200),
      windows(change),
    ).slice(2, 4);
  t.same(of({ loopP99MsSinceStart: 20 }), [false, true]);
  t.same(of({ loopP99Ms: 20 }), [true, true], 'one bad minute is told, and the whole is judged');
  t.same(of({ errors: 1 }), [true, false]);
  t.same(of({ badData: 1 }), [true, false]);
  t.same(of({ health: 'degraded' }), [true, false]);
  t.end();
});

t.test('latencies are told apart by whether something was destaged', t => {
  const texts = judge(
    readings(() => 200),
    windows({ destaged: true, p999Us: 70_000, maxUs: 90_000 }),
    SEGMENT_DESCRIPTORS_MAX,
  )
    .slice(4)
    .map(verdict => verdict.text);
  t.same(texts, [
    'latency beside a destage: p99.9 70.0 ms (median of 1 windows), longest 90.0 ms',
    'latency without a destage: p99.9 5.0 ms (median of 9 windows), longest 9.0 ms',
  ]);
  t.end();
});
