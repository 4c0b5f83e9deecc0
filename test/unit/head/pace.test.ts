/** How writers are slowed down before the log is full. */
import t from 'tap';
import { destageFillStart, fillWithRoom, pressingFill } from '../../../src/base/limits.ts';
import { GIB, MIB } from '../../../src/base/units.ts';
import { Pace } from '../../../src/head/pace.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';

/** Bytes admitted in a second at this fill, by a writer that asks again whenever it may. */
function admittedInASecond(
  pace: Pace,
  loop: MemoryLoop,
  fill: number,
  resumed: () => number,
  madeBytes = ENOUGH,
): number {
  let bytes = 0;
  let seen = -1;
  for (let ms = 0; ms < 1000; ms++) {
    if (seen !== resumed() || ms === 0) {
      seen = resumed();
      while (pace.admits(4096, fill, LIMIT, madeBytes)) {
        bytes += 4096;
        if (bytes > 2 ** 32) return bytes;
      }
    }
    loop.advance(1);
  }
  return bytes;
}

/** A log of a GiB whose destage frees 100 MiB a second. */
const LIMIT = 1024 * MIB;
/** No file of the log has to be made. */
const ENOUGH = Number.POSITIVE_INFINITY;

function paced() {
  const loop = new MemoryLoop();
  let resumed = 0;
  const pace = new Pace(loop, () => {
    resumed++;
  });
  for (let i = 0; i < 50; i++) {
    pace.stepBegan(16 * MIB);
    loop.advance(160);
    pace.stepEnded();
  }
  return { loop, pace, resumed: () => resumed };
}

t.test('up to three quarters nobody waits', t => {
  const { loop, pace, resumed } = paced();
  t.ok(admittedInASecond(pace, loop, 0.75, resumed) > 2 ** 32);
  t.equal(loop.timerCount, 0);
  t.end();
});

for (const [fill, rate] of [
  [0.76, 50 + 61.4],
  [0.9, 50 + 25.6],
  [0.99, 50 + 2.6],
  [1, 50],
] as const) {
  t.test(`at ${fill} writers get ${rate} MiB a second, and are told when to go on`, t => {
    const { loop, pace, resumed } = paced();
    const admitted = admittedInASecond(pace, loop, fill, resumed) / MIB;
    t.ok(Math.abs(admitted / rate - 1) < 0.05, `${admitted.toFixed(1)} MiB`);
    t.ok(resumed() > 100);
    t.end();
  });
}

t.test('while further files of the log are made, writers use up those that are there ever more slowly', t => {
  const { loop, pace, resumed } = paced();
  t.ok(admittedInASecond(pace, loop, 0, resumed, 129 * MIB) > 2 ** 32, 'there are enough');
  t.equal(loop.timerCount, 0);
  for (const [made, rate] of [
    [120, 400],
    [30, 100],
    [1.5, 5],
  ] as const) {
    const admitted = admittedInASecond(pace, loop, 0, resumed, made * MIB) / MIB;
    t.ok(Math.abs(admitted / rate - 1) < 0.05, `${admitted.toFixed(1)} MiB`);
  }
  const both = admittedInASecond(pace, loop, 0.9, resumed, 120 * MIB) / MIB;
  t.ok(Math.abs(both / 75.6 - 1) < 0.05, 'of two reasons the slower one counts');
  t.end();
});

t.test('a step that takes longer than those before counts before its end', t => {
  const { loop, pace, resumed } = paced();
  pace.stepBegan(16 * MIB);
  loop.advance(1600);
  const admitted = admittedInASecond(pace, loop, 1, resumed) / MIB;
  t.ok(admitted < 5, `${admitted.toFixed(1)} MiB: half of 16 in 1.6 s and more`);
  t.end();
});

t.test('a large record is let through when there is any credit, and paid for afterwards', t => {
  const { loop, pace } = paced();
  loop.advance(10);
  t.ok(pace.admits(4 * MIB, 1, LIMIT, ENOUGH));
  loop.advance(50);
  t.notOk(pace.admits(4096, 1, LIMIT, ENOUGH), 'that was 80 ms worth of it');
  loop.advance(40);
  t.ok(pace.admits(4096, 1, LIMIT, ENOUGH));
  t.end();
});

t.test('stopped, it calls nobody any more', t => {
  const { loop, pace, resumed } = paced();
  while (pace.admits(4096, 1, LIMIT, ENOUGH));
  pace.stop();
  loop.advance(100);
  t.equal(resumed(), 0);
  t.end();
});

t.test('a long log leaves no more room than one of 2 GiB, up to 4 GiB', t => {
  for (const bytes of [64 * MIB, 2 * GIB]) t.equal(fillWithRoom(pressingFill, bytes), 0.75);
  t.equal(fillWithRoom(pressingFill, 4 * GIB), 0.875);
  t.equal(fillWithRoom(destageFillStart, 4 * GIB), 0.8);
  t.equal(fillWithRoom(pressingFill, 64 * GIB), 0.875);
  const { loop, pace, resumed } = paced();
  t.ok(pace.admits(4096, 0.87, 4 * GIB, ENOUGH), 'nobody waits below');
  t.equal(loop.timerCount, 0);
  t.equal(resumed(), 0);
  t.end();
});
