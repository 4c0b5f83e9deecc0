/**
 * Counts of durations in log-linear buckets: 16 to each power of two of microseconds, so that a quantile read from it is
 * wrong by at most 1/16. Recording is a handful of integer operations; nothing is allocated.
 */
const SUB_BITS = 4;
const SUB_COUNT = 1 << SUB_BITS;
/** Microseconds above this (35 minutes) count as this. */
const MICROSECONDS_MAX = 2 ** 31 - 1;
const BUCKET_COUNT = (32 - SUB_BITS) * SUB_COUNT;

export class LatencyHistogram {
  /** Doubles: a count may pass 2^32. */
  readonly #counts = new Float64Array(BUCKET_COUNT);
  #total = 0;

  get total(): number {
    return this.#total;
  }

  record(milliseconds: number): void {
    const microseconds = Math.min(MICROSECONDS_MAX, Math.max(0, milliseconds * 1000)) | 0;
    this.#counts[bucketOf(microseconds)] += 1;
    this.#total += 1;
  }

  /** The duration in milliseconds that `share` (0 to 1) of what was recorded did not exceed; 0 when it is empty. */
  quantileMs(share: number): number {
    const wanted = share * this.#total;
    let seen = 0;
    for (let bucket = 0; bucket < BUCKET_COUNT; bucket += 1) {
      seen += this.#counts[bucket];
      if (seen > 0 && seen >= wanted) return upperBoundOf(bucket) / 1000;
    }
    return 0;
  }
}

/** Below 16 µs each microsecond has its own bucket; above, the four bits behind the leading one choose it. */
function bucketOf(microseconds: number): number {
  if (microseconds < SUB_COUNT) return microseconds;
  const exponent = 31 - Math.clz32(microseconds);
  return (exponent - SUB_BITS + 1) * SUB_COUNT + ((microseconds >> (exponent - SUB_BITS)) & (SUB_COUNT - 1));
}

/** The largest duration that falls into the bucket, in microseconds. */
function upperBoundOf(bucket: number): number {
  if (bucket < SUB_COUNT) return bucket;
  const exponent = Math.floor(bucket / SUB_COUNT) + SUB_BITS - 1;
  const step = 2 ** (exponent - SUB_BITS);
  return (SUB_COUNT + (bucket % SUB_COUNT)) * step + step - 1;
}
