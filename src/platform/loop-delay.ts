/**
 * How late the event loop serves what waits for it. Everything of a data-plane instance runs on one loop, so what stalls
 * that (a long computation, the collection of garbage, an append that the disk holds up, a busy machine) stalls every
 * client at once, and no latency of a single request tells the one from the other. The node starts this and shows it.
 *
 * Node's own monitor does the counting, without JavaScript: a timer, whose lateness is what a client that came at that
 * moment would have waited. Stalls shorter than the timer's interval are so seen by chance, as often as they would meet
 * a client. libuv's timers count whole milliseconds: up to about 1 ms is an idle loop.
 *
 * Measured on two virtual processors: each waking costs 0.1 ms of processor time there, so 20 a second cost 0.2 % of a
 * core, 50 cost 0.5 %. Three monitors of one interval wake together and cost no more than one.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { CancelTimer, Clock } from '../base/io.ts';

const INTERVAL_MS = 50;
const WINDOW_MS = 60_000;

/** Milliseconds; all 0 while nothing was measured. */
export interface LoopDelaySummary {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** What is used of Node's monitor: a histogram of the nanoseconds from one firing of the timer to the next. */
export interface DelayMonitor {
  readonly count: number;
  readonly max: number;
  percentile(percentile: number): number;
  enable(): boolean;
  disable(): boolean;
  reset(): void;
}

export class LoopDelay {
  readonly #clock: Clock;
  readonly #total: DelayMonitor;
  /**
   * Emptied in turn, so that the older always holds the last minute, and up to another one before it. The first timer
   * after it was emptied is not counted; the other one has counted it.
   */
  #older: DelayMonitor;
  #newer: DelayMonitor;
  #cancel: CancelTimer | undefined;

  constructor(clock: Clock, monitor: (intervalMs: number) => DelayMonitor = nodeMonitor) {
    this.#clock = clock;
    this.#total = monitor(INTERVAL_MS);
    this.#older = monitor(INTERVAL_MS);
    this.#newer = monitor(INTERVAL_MS);
  }

  get sinceStart(): LoopDelaySummary {
    return summarize(this.#total);
  }

  get lastMinute(): LoopDelaySummary {
    return summarize(this.#older);
  }

  start(): void {
    for (const monitor of this.#monitors) monitor.enable();
    this.#scheduleTurn();
  }

  stop(): void {
    this.#cancel?.();
    for (const monitor of this.#monitors) monitor.disable();
  }

  get #monitors(): readonly DelayMonitor[] {
    return [this.#total, this.#older, this.#newer];
  }

  #scheduleTurn(): void {
    this.#cancel = this.#clock.after(WINDOW_MS, () => {
      const emptied = this.#older;
      emptied.reset();
      this.#older = this.#newer;
      this.#newer = emptied;
      this.#scheduleTurn();
    });
  }
}

function nodeMonitor(intervalMs: number): DelayMonitor {
  return monitorEventLoopDelay({ resolution: intervalMs });
}

function summarize(monitor: DelayMonitor): LoopDelaySummary {
  // An empty histogram of Node's has percentiles all the same.
  if (monitor.count === 0) return { p50: 0, p99: 0, p999: 0, max: 0 };
  return {
    p50: lateness(monitor.percentile(50)),
    p99: lateness(monitor.percentile(99)),
    p999: lateness(monitor.percentile(99.9)),
    max: lateness(monitor.max),
  };
}

/** Milliseconds, exact to the microsecond. Counted in whole milliseconds, a timer may seem early, which is no delay. */
function lateness(nanoseconds: number): number {
  return Math.max(0, Math.round(nanoseconds / 1000 - INTERVAL_MS * 1000) / 1000);
}
