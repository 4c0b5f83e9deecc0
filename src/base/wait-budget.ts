/**
 * Decides whether to wait a little for something that may come soon. The loop asks it whether to wait for the next
 * completion with the processor burning or to sleep at once, the log whether to wait for more requests.
 *
 * A wait that pays saves the sleep and the wake-up, 5 to 10 µs of latency; one that does not costs its whole length. So
 * it has to pay at least four times out of five. Measured, echo over a Unix socket with two processes: 145 000 round
 * trips a second instead of 15 000 where each has a processor to itself; but half of those without waiting where they
 * share one, since then the other side can only answer once this one sleeps.
 */
const CREDIT_MAX = 32;
const CREDIT_AT_START = 16;
const COST_OF_FAILURE = 4;
/** Without credit, every so many chances one is taken, to see whether times have changed. */
const CHANCES_PER_TRIAL = 32;

export class WaitBudget {
  readonly #micros: number;
  #credit = CREDIT_AT_START;
  #chances = 0;

  constructor(micros: number) {
    this.#micros = micros;
  }

  /** How long to wait now; 0 is not at all. What is above 0 has to be reported to `waited`. */
  next(): number {
    if (this.#credit > 0) return this.#micros;
    this.#chances += 1;
    if (this.#chances < CHANCES_PER_TRIAL) return 0;
    this.#chances = 0;
    return this.#micros;
  }

  waited(paid: boolean): void {
    if (!paid) {
      this.#credit = Math.max(0, this.#credit - COST_OF_FAILURE);
    } else if (this.#credit === 0) {
      this.#credit = COST_OF_FAILURE;
    } else if (this.#credit < CREDIT_MAX) {
      this.#credit += 1;
    }
  }
}
