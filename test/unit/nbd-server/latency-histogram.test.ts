/** The histogram of durations. HIST-n are our own ids. */
import t from 'tap';
import { LatencyHistogram } from '../../../src/nbd-server/latency-histogram.ts';

t.test('HIST-1: a quantile is off by no more than a sixteenth, at any magnitude', async t => {
  for (const milliseconds of [0.001, 0.015, 0.016, 0.1, 1, 17, 999, 60_000, 2_000_000]) {
    const histogram = new LatencyHistogram();
    histogram.record(milliseconds);
    const found = histogram.quantileMs(0.5);
    t.ok(found >= milliseconds * 0.999 - 0.001 && found <= milliseconds * 1.0626, `${milliseconds} → ${found}`);
  }
});

t.test('HIST-2: quantiles of a uniform distribution', async t => {
  const histogram = new LatencyHistogram();
  for (let value = 1; value <= 10_000; value += 1) histogram.record(value / 100);
  for (const share of [0.5, 0.9, 0.99, 1]) {
    t.ok(Math.abs(histogram.quantileMs(share) - share * 100) <= share * 6.3, `${share}`);
  }
  t.equal(histogram.total, 10_000);
});

t.test('HIST-3: an empty histogram, nonsense and forever have a place', async t => {
  const histogram = new LatencyHistogram();
  t.equal(histogram.quantileMs(0.99), 0);
  histogram.record(-5);
  histogram.record(Number.POSITIVE_INFINITY);
  t.equal(histogram.quantileMs(0), 0);
  t.ok(histogram.quantileMs(1) > 2_000_000);
});
