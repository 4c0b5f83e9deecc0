import t from 'tap';
import { LatencyHistogram } from '../../../src/base/latency-histogram.ts';

t.test('without samples everything is 0', t => {
  const histogram = new LatencyHistogram();
  t.equal(histogram.count, 0);
  t.equal(histogram.percentileUs(0.99), 0);
  t.equal(histogram.maximumUs, 0);
  t.end();
});

t.test('percentiles are at most one part in 32 above the true ones, over nine orders of magnitude', t => {
  const seed = Date.now() % 1_000_000;
  t.comment(`seed ${seed}`);
  let state = seed + 1;
  const random = () => {
    // A linear congruential generator, as of Park and Miller.
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
  const histogram = new LatencyHistogram();
  const samples = Array.from({ length: 20_000 }, () => 10 ** (random() * 9));
  for (const sample of samples) histogram.record(sample);
  samples.sort((left, right) => left - right);
  for (const fraction of [0.01, 0.5, 0.9, 0.99, 0.999, 1]) {
    const exact = samples[Math.ceil(samples.length * fraction) - 1] as number;
    const estimate = histogram.percentileUs(fraction);
    t.ok(estimate >= exact * 0.999_999, `p${fraction * 100}: ${estimate} is not below ${exact}`);
    t.ok(estimate <= exact * (1 + 1 / 32) + 1, `p${fraction * 100}: ${estimate} is not far above ${exact}`);
  }
  t.equal(histogram.maximumUs, samples.at(-1));
  t.end();
});

t.test('values beyond all bounds are still counted', t => {
  const histogram = new LatencyHistogram();
  for (const value of [-1, 0, 2 ** 31, 2 ** 40]) histogram.record(value);
  t.equal(histogram.count, 4);
  t.equal(histogram.maximumUs, 2 ** 40);
  t.end();
});
