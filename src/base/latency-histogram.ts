/**
 * Counts latencies in buckets that are 1/32 of their value wide: a percentile is at most 3 % too high, whatever the
 * number of samples, and recording one is an addition. Used by the server's statistics and by `sledge bench`.
 *
 * Values are microseconds. Those below 32 have a bucket each; each doubling above has 32. The last takes all from 2^31
 * (over half an hour) on.
 */
const SUB_BITS = 5;
const SUB_COUNT = 1 << SUB_BITS;
const EXPONENT_MAX = 31;
const BUCKET_COUNT = (EXPONENT_MAX - SUB_BITS + 1) * SUB_COUNT;

export class LatencyHistogram {
  readonly #buckets = new Float64Array(BUCKET_COUNT);
  #count = 0;
  #maximum = 0;

  get count(): number {
    return this.#count;
  }

  get maximumUs(): number {
    return this.#maximum;
  }

  record(us: number): void {
    const index = bucketOf(us);
    this.#buckets[index]++;
    this.#count++;
    if (us > this.#maximum) this.#maximum = us;
  }

  /** The upper end of the bucket that the sample at `fraction` (0 to 1) of all is in, but no more than the maximum. */
  percentileUs(fraction: number): number {
    if (this.#count === 0) return 0;
    const rank = Math.max(1, Math.ceil(this.#count * fraction));
    let seen = 0;
    for (let index = 0; index < BUCKET_COUNT; index++) {
      seen += this.#buckets[index];
      if (seen >= rank) return Math.min(upperEnd(index), this.#maximum);
    }
    return this.#maximum;
  }
}

function bucketOf(us: number): number {
  const whole = Math.min(Math.max(0, Math.floor(us)), 2 ** EXPONENT_MAX - 1);
  if (whole < SUB_COUNT) return whole;
  const exponent = 31 - Math.clz32(whole);
  const shift = exponent - SUB_BITS;
  return (shift + 1) * SUB_COUNT + (whole >>> shift) - SUB_COUNT;
}

/** The largest value of the bucket, as a whole number of microseconds up. */
function upperEnd(index: number): number {
  if (index < SUB_COUNT) return index + 1;
  const shift = Math.floor(index / SUB_COUNT) - 1;
  return (SUB_COUNT + (index % SUB_COUNT) + 1) * 2 ** shift;
}
