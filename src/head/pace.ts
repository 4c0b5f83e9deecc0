/**
 * Slows writers down before the log is full, so that they never meet a full one: what would be seconds at full speed and
 * then a stand-still of half a second at a time becomes the speed at which mass storage can follow. The destage says how
 * much it frees and how long that took; the fuller the log, the smaller the multiple of that rate that writers get.
 *
 *   fill of log or overlay    up to 0.75    0.75 … 0.9           0.9 … 1
 *   rate                      any           twice … once         once … half of what is freed
 */
import type { CancelTimer, Clock } from '../base/io.ts';
import { MIB } from '../base/units.ts';

const FILL_START = 0.75;
const FILL_EVEN = 0.9;
/** Before anything is known. */
const BYTES_PER_MS_AT_START = MIB / 8;
/** What may come at once after a pause, as time at the current rate. */
const BURST_MS = 5;
const WEIGHT = 1 / 4;
const WAIT_MS = 1;

export class Pace {
  readonly #clock: Clock;
  readonly #resume: () => void;
  #bytesPerMs = BYTES_PER_MS_AT_START;
  /** Bytes that may still come; below 0 after a large record. */
  #credit = 0;
  #creditMs = 0;
  #timer: CancelTimer | undefined;

  /** `resume` is called when somebody who was refused may ask again. */
  constructor(clock: Clock, resume: () => void) {
    this.#clock = clock;
    this.#resume = resume;
  }

  /** The destage has freed so much of the log, at the end of a step that took so long. */
  freed(bytes: number, durationMs: number): void {
    const rate = bytes / Math.max(1, durationMs);
    this.#bytesPerMs += (rate - this.#bytesPerMs) * WEIGHT;
  }

  /** Whether a record of this length may be appended now, with log or overlay filled by `fill` (0 to 1). */
  admits(bytes: number, fill: number): boolean {
    if (fill <= FILL_START) return true;
    const now = this.#clock.nowMs();
    const perMs = this.#bytesPerMs * multipleAt(fill);
    this.#credit = Math.min(this.#credit + (now - this.#creditMs) * perMs, BURST_MS * perMs);
    this.#creditMs = now;
    if (this.#credit > 0) {
      this.#credit -= bytes;
      return true;
    }
    this.#timer ??= this.#clock.after(WAIT_MS, () => {
      this.#timer = undefined;
      this.#resume();
    });
    return false;
  }

  stop(): void {
    this.#timer?.();
    this.#timer = undefined;
  }
}

function multipleAt(fill: number): number {
  if (fill < FILL_EVEN) return 2 - (fill - FILL_START) / (FILL_EVEN - FILL_START);
  return Math.max(0.5, 1 - (fill - FILL_EVEN) / (1 - FILL_EVEN) / 2);
}
