/** How writers are slowed down before the log is full. */
import t from 'tap';
import { MIB } from '../../../src/base/units.ts';
import { Pace } from '../../../src/head/pace.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';

/** Bytes admitted in a second at this fill, by a writer that asks again whenever it may. */
function admittedInASecond(pace: Pace, loop: MemoryLoop, fill: number, resumed: () => number): number {
  let bytes = 0;
  let seen = -1;
  for (let ms = 0; ms < 1000; ms++) {
    if (seen !== resumed() || ms === 0) {
      seen = resumed();
      while (pace.admits(4096, fill)) {
        bytes += 4096;
        if (bytes > 2 ** 32) return bytes;
      }
    }
    loop.advance(1);
  }
  return bytes;
}

function paced() {
  const loop = new MemoryLoop();
  let resumed = 0;
  const pace = new Pace(loop, () => {
    resumed++;
  });
  for (let i = 0; i < 50; i++) pace.freed(16 * MIB, 160);
  return { loop, pace, resumed: () => resumed };
}

t.test('up to three quarters nobody waits', t => {
  const { loop, pace, resumed } = paced();
  t.ok(admittedInASecond(pace, loop, 0.75, resumed) > 2 ** 32);
  t.equal(loop.timerCount, 0);
  t.end();
});

for (const [fill, multiple] of [
  [0.76, 1.93],
  [0.9, 1],
  [0.95, 0.75],
  [1, 0.5],
] as const) {
  t.test(`at ${fill} writers get ${multiple} times what is freed, and are told when to go on`, t => {
    const { loop, pace, resumed } = paced();
    const admitted = admittedInASecond(pace, loop, fill, resumed) / (100 * MIB);
    t.ok(Math.abs(admitted - multiple) < 0.05, `${admitted.toFixed(2)} of what is freed`);
    t.ok(resumed() > 100);
    t.end();
  });
}

t.test('a large record is let through when there is any credit, and paid for afterwards', t => {
  const { loop, pace } = paced();
  loop.advance(10);
  t.ok(pace.admits(8 * MIB, 0.9));
  loop.advance(50);
  t.notOk(pace.admits(4096, 0.9), 'that was 80 ms worth of it');
  loop.advance(40);
  t.ok(pace.admits(4096, 0.9));
  t.end();
});

t.test('stopped, it calls nobody any more', t => {
  const { loop, pace, resumed } = paced();
  while (pace.admits(4096, 1));
  pace.stop();
  loop.advance(100);
  t.equal(resumed(), 0);
  t.end();
});
