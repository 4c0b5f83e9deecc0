/** The loop's delay: what Node's monitor measures of a stall, and how the last minute is kept apart from the rest. */
import { performance } from 'node:perf_hooks';
import t from 'tap';
import { type DelayMonitor, LoopDelay } from '../../../src/platform/loop-delay.ts';
import { SystemClock } from '../../../src/platform/system-clock.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';

const NANOSECONDS_PER_MS = 1e6;
const nothing = { p50: 0, p99: 0, p999: 0, max: 0 };

/** Counts what a test says it has seen, in place of a timer. */
class MemoryMonitor implements DelayMonitor {
  readonly intervalMs: number;
  enabled = false;
  #seen: number[] = [];

  constructor(intervalMs: number) {
    this.intervalMs = intervalMs;
  }

  get count(): number {
    return this.#seen.length;
  }
  get max(): number {
    return Math.max(0, ...this.#seen);
  }
  percentile(percentile: number): number {
    // As Node's: an empty one has some value.
    if (this.#seen.length === 0) return 511;
    const sorted = [...this.#seen].sort((a, b) => a - b);
    return sorted[Math.ceil((sorted.length * percentile) / 100) - 1];
  }
  enable(): boolean {
    this.enabled = true;
    return true;
  }
  disable(): boolean {
    this.enabled = false;
    return true;
  }
  reset(): void {
    this.#seen = [];
  }
  fired(lateMs: number): void {
    if (this.enabled) this.#seen.push((this.intervalMs + lateMs) * NANOSECONDS_PER_MS);
  }
}

function rig() {
  const loop = new MemoryLoop();
  const monitors: MemoryMonitor[] = [];
  const delay = new LoopDelay(loop, intervalMs => {
    const monitor = new MemoryMonitor(intervalMs);
    monitors.push(monitor);
    return monitor;
  });
  const fired = (lateMs: number) => {
    for (const monitor of monitors) monitor.fired(lateMs);
  };
  return { loop, monitors, delay, fired };
}

t.test('a delay is what a timer was late, not the time between two of them', t => {
  const { delay, fired } = rig();
  delay.start();
  t.same(delay.sinceStart, nothing, 'nothing was measured yet');
  for (let i = 0; i < 98; i++) fired(0.5);
  fired(-0.25);
  fired(80);
  t.same(delay.sinceStart, { p50: 0.5, p99: 0.5, p999: 80, max: 80 });
  t.same(delay.lastMinute, delay.sinceStart);
  delay.stop();
  t.end();
});

t.test('a timer that seems early was not late', t => {
  const { delay, fired } = rig();
  delay.start();
  fired(-0.75);
  t.same(delay.sinceStart, nothing);
  delay.stop();
  t.end();
});

t.test('a stall is seen for a minute at least and for two at most; since the start it stays', t => {
  const { loop, delay, fired } = rig();
  delay.start();
  const run = (seconds: number) => {
    for (let second = 0; second < seconds; second++) {
      fired(1);
      loop.advance(1000);
    }
  };
  for (const before of [0, 30, 59]) {
    run(before);
    fired(500);
    run(59);
    t.equal(delay.lastMinute.max, 500, `after a minute, ${before} s after the last one was forgotten`);
    run(62);
    t.equal(delay.lastMinute.max, 1, 'after two');
    t.equal(delay.sinceStart.max, 500);
  }
  delay.stop();
  t.end();
});

t.test('when it is stopped nothing is left of it', t => {
  const { loop, monitors, delay } = rig();
  delay.start();
  t.ok(monitors.every(monitor => monitor.enabled));
  delay.stop();
  t.notOk(monitors.some(monitor => monitor.enabled));
  t.equal(loop.timerCount, 0);
  t.end();
});

t.test('a loop that computes for 300 ms kept others waiting about as long, as Node measures it', async t => {
  const delay = new LoopDelay(new SystemClock());
  delay.start();
  t.teardown(() => delay.stop());
  const sleep = (ms: number) => new Promise(resolve => setTimeout(resolve, ms));
  await sleep(200);
  const end = performance.now() + 300;
  while (performance.now() < end);
  await sleep(200);
  const { lastMinute, sinceStart } = delay;
  // The timer was due at some moment of the stall: at the latest, 50 ms after its begin.
  t.ok(sinceStart.max >= 240, `${sinceStart.max} ms`);
  // The median may change from one look to the next.
  t.same({ ...lastMinute, p50: 0 }, { ...sinceStart, p50: 0 });
  t.ok(sinceStart.p50 < 50, `most timers were not in the stall: ${sinceStart.p50} ms`);
});
