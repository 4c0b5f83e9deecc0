/**
 * A set of whole numbers held as sorted, disjoint, non-adjacent ranges. Trims and zeroes of any length stay in one of
 * these, as whole chunks, until the destage has carried them into the index: a trim of 16 TiB costs one range.
 */
export class RangeSet {
  /** Starts and ends (exclusive) of the ranges, ascending. */
  #starts: number[] = [];
  #ends: number[] = [];

  get isEmpty(): boolean {
    return this.#starts.length === 0;
  }

  get rangeCount(): number {
    return this.#starts.length;
  }

  has(value: number): boolean {
    const i = this.#firstEndingAfter(value);
    return i < this.#starts.length && this.#starts[i] <= value;
  }

  /** First value from `value` on that is in the set; Infinity when there is none. */
  nextIn(value: number): number {
    const i = this.#firstEndingAfter(value);
    return i < this.#starts.length ? Math.max(value, this.#starts[i]) : Number.POSITIVE_INFINITY;
  }

  /** First value from `value` on that is not in the set. */
  nextOut(value: number): number {
    const i = this.#firstEndingAfter(value);
    return i < this.#starts.length && this.#starts[i] <= value ? this.#ends[i] : value;
  }

  /** Adds [start, end). */
  add(start: number, end: number): void {
    if (start >= end) return;
    const first = this.#firstEndingAfter(start - 1);
    let last = first;
    while (last < this.#starts.length && this.#starts[last] <= end) last++;
    const from = first < last ? Math.min(start, this.#starts[first]) : start;
    const to = first < last ? Math.max(end, this.#ends[last - 1]) : end;
    this.#starts.splice(first, last - first, from);
    this.#ends.splice(first, last - first, to);
  }

  /** The ranges, ascending. */
  *ranges(): Iterable<readonly [start: number, end: number]> {
    for (let i = 0; i < this.#starts.length; i++) yield [this.#starts[i], this.#ends[i]];
  }

  /** Index of the first range whose end is above `value`. */
  #firstEndingAfter(value: number): number {
    let low = 0;
    let high = this.#ends.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ends[middle] > value) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
