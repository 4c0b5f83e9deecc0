/**
 * Slows writers down before the log is full, so that they never meet a full one: what would be seconds at full speed and
 * then a stand-still of half a second at a time becomes the speed at which mass storage can follow.
 *
 * From the fill on at which it is urgent (three quarters, or later in a long log) writers get half of the rate at which the
 * destage frees, and beside it a part of the room that is left: as much as would use it up in some seconds. So the room
 * never quite ends, and a step of the destage that takes long is bridged by it. The rate is that of the steps before, or of
 * the one under way if that is slower already.
 *
 * A log that grows is another such place: its files are made ahead of need, which at times takes the disk half a second. When
 * there are few left writers get as much as would use them up in a part of that.
 */
import type { CancelTimer, Clock } from '../base/io.ts';
import { fillWithRoom, pressingFill } from '../base/limits.ts';
import { MIB } from '../base/units.ts';

const FREED_SHARE = 0.5;
const ROOM_MS = 4000;
/** Of a log that grows: more than this of it in files that are there already is no reason to wait. */
const MADE_BYTES_SHORT = 128 * MIB;
const MADE_MS = 300;
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
  /** What the step under way will free, if it does not take too long to say, and when it began. */
  #stepBytes = Number.POSITIVE_INFINITY;
  #stepMs = 0;
  /** Bytes that may still come; below 0 after a large record. */
  #credit = 0;
  #creditMs = 0;
  #timer: CancelTimer | undefined;

  /** `resume` is called when somebody who was refused may ask again. */
  constructor(clock: Clock, resume: () => void) {
    this.#clock = clock;
    this.#resume = resume;
  }

  /** The destage begins a step that will free so much of the log. */
  stepBegan(bytes: number): void {
    this.#stepBytes = bytes;
    this.#stepMs = this.#clock.nowMs();
  }

  /** The step has freed it. */
  stepEnded(): void {
    this.#bytesPerMs += (this.#stepRate(this.#clock.nowMs()) - this.#bytesPerMs) * WEIGHT;
    this.#stepBytes = Number.POSITIVE_INFINITY;
  }

  /** The rate of the step under way, in bytes a millisecond, if it ended now. */
  #stepRate(now: number): number {
    return this.#stepBytes / Math.max(1, now - this.#stepMs);
  }

  /**
   * Whether a record of this length may be appended now, with so much of log or overlay filled (0 to 1), and so much of the
   * log in files that are there (infinite where none has to be made).
   */
  admits(bytes: number, fill: number, limitBytes: number, madeBytes: number): boolean {
    const isPressing = fill > fillWithRoom(pressingFill, limitBytes);
    if (!isPressing && madeBytes > MADE_BYTES_SHORT) return true;
    const now = this.#clock.nowMs();
    let perMs = madeBytes / MADE_MS;
    if (isPressing) {
      const freedPerMs = Math.min(this.#bytesPerMs, this.#stepRate(now));
      perMs = Math.min(perMs, freedPerMs * FREED_SHARE + ((1 - fill) * limitBytes) / ROOM_MS);
    }
    this.#credit = Math.min(this.#credit + (now - this.#creditMs) * perMs, BURST_MS * perMs);
    this.#creditMs = now;
    if (this.#credit > 0) {
      this.#credit -= bytes;
      return true;
    }
    return this.refuses();
  }

  /** Nothing may be appended now; who is refused may ask again in a moment. */
  refuses(): false {
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
