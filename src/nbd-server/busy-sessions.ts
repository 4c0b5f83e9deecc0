/**
 * How many connections are at work. While it is one, its client and the server wait for each other, and it pays to let the
 * client go on as early as can be; with several there is always somebody who goes on, and the processor is what is short.
 */

/** As long as what was seen before counts: many turns, and short enough to notice a change. */
const WINDOW_MS = 10;

export class BusySessions {
  #window = 0;
  /** Connections that were at work in this window, and in the one before. */
  #count = 0;
  #countBefore = 0;

  /** A connection is at work. `window` is what its last call returned, 0 at first. */
  note(nowMs: number, window: number): number {
    const current = Math.floor(nowMs / WINDOW_MS) + 1;
    if (current !== this.#window) {
      this.#countBefore = current === this.#window + 1 ? this.#count : 0;
      this.#count = 0;
      this.#window = current;
    }
    if (window !== current) this.#count++;
    return current;
  }

  get isOne(): boolean {
    return this.#count <= 1 && this.#countBefore <= 1;
  }
}
