/** Rates of the last seconds, from two looks at counters that only rise. */
import type { CommandStatus } from '../admin/node-control.ts';
import type { CancelTimer, Clock } from '../base/io.ts';
import type { CommandSnapshot } from '../nbd-server/statistics.ts';

const SAMPLE_MS = 5000;

interface Sample {
  readonly atMs: number;
  readonly commands: readonly CommandSnapshot[];
}

export class RateSampler {
  readonly #clock: Clock;
  readonly #read: () => readonly CommandSnapshot[];
  /** The two newest samples, so that a rate is over five to ten seconds. */
  #older: Sample | undefined;
  #newer: Sample | undefined;
  #cancel: CancelTimer | undefined;

  constructor(clock: Clock, read: () => readonly CommandSnapshot[]) {
    this.#clock = clock;
    this.#read = read;
  }

  start(): void {
    this.#older = this.#newer;
    this.#newer = { atMs: this.#clock.nowMs(), commands: this.#read() };
    this.#cancel = this.#clock.after(SAMPLE_MS, () => this.start());
  }

  stop(): void {
    this.#cancel?.();
  }

  commands(): CommandStatus[] {
    const base = this.#older ?? this.#newer;
    const seconds = base === undefined ? 0 : (this.#clock.nowMs() - base.atMs) / 1000;
    return this.#read().map(now => {
      const before = base?.commands.find(other => other.command === now.command);
      const rate = (value: number, old: number | undefined) => (seconds > 0 ? (value - (old ?? 0)) / seconds : 0);
      return {
        command: now.command,
        count: now.answered,
        errors: now.failed,
        bytes: now.bytes,
        perSecond: rate(now.answered, before?.answered),
        bytesPerSecond: rate(now.bytes, before?.bytes),
        latencyUs: now.latencyUs,
      };
    });
  }
}
