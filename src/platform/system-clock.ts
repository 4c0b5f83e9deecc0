/** The system's monotonic clock, and Node's timers. */
import { performance } from 'node:perf_hooks';
import { assert } from '../base/assert.ts';
import type { CancelTimer, Clock } from '../base/io.ts';

/** Node fires timers beyond this at once. */
const DELAY_MS_MAX = 2 ** 31 - 1;

export class SystemClock implements Clock {
  nowMs(): number {
    return performance.now();
  }

  after(delayMs: number, callback: () => void): CancelTimer {
    assert(delayMs >= 0 && delayMs <= DELAY_MS_MAX, 'a delay is at most 24 days');
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  }
}
