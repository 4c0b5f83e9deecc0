/**
 * When to try again to reach a server or a node that is gone. The first try comes at once: what was restarted in place is
 * often back before anybody noticed. Then the pauses grow to a second and stay there: I/O is waiting, and a refused
 * connection costs nobody anything. Half of each pause is chance, so that the devices of a host do not come all at once.
 *
 * A connection that lives only for a moment counts as a failed try: a server that accepts and hangs up is not back.
 */
const FIRST_PAUSE_MS = 50;
const GROWTH = 1.5;
const PAUSE_MS_MAX = 1000;
/** A connection that has lived this long ends the run of failed tries. */
const PROVEN_MS = 1000;

export class ReconnectPolicy {
  readonly #random: () => number;
  #failures = 0;
  #connectedAtMs = Number.NEGATIVE_INFINITY;

  /** `random` gives numbers from 0 up to, but not including, 1. */
  constructor(random: () => number) {
    this.#random = random;
  }

  /** The connection was lost: the pause before the first try. */
  lost(nowMs: number): number {
    if (nowMs - this.#connectedAtMs >= PROVEN_MS) this.#failures = 0;
    return this.#pause();
  }

  /** A try failed: the pause before the next one. */
  failed(): number {
    if (this.#failures === 0) this.#failures = 1;
    return this.#pause();
  }

  connected(nowMs: number): void {
    this.#connectedAtMs = nowMs;
  }

  #pause(): number {
    const pause = Math.min(PAUSE_MS_MAX, FIRST_PAUSE_MS * GROWTH ** (this.#failures - 1));
    const isFirst = this.#failures === 0;
    this.#failures = Math.min(this.#failures + 1, 100);
    return isFirst ? 0 : pause * (0.5 + this.#random() / 2);
  }
}
