/** Promises over completions, for start-up, destage and other work where a promise for many I/Os costs nothing. */
import type { IoRequest, Turns } from './io.ts';

/** Starts one I/O and resolves with its result: a count, 0, or a negative errno. */
export function completion(start: (request: IoRequest) => void): Promise<number> {
  return new Promise(resolve => start({ ioCompleted: resolve }));
}

/** For long work: resolves when the loop has served the others once. */
export function nextTurn(turns: Turns): Promise<void> {
  return new Promise(resolve => turns.atEndOfTurn({ runAtEndOfTurn: resolve }));
}

/** Long work in slices, between which the loop serves others: `if (slices.isOver(n)) await nextTurn(turns)`. */
export class Slices {
  readonly #length: number;
  #done = 0;

  /** A slice is so many steps of the work long. */
  constructor(length: number) {
    this.#length = length;
  }

  /** So many steps were done: whether others are due. */
  isOver(steps: number): boolean {
    this.#done += steps;
    if (this.#done < this.#length) return false;
    this.#done = 0;
    return true;
  }
}

/**
 * Waits for a number of I/Os that share it as their request. `result` resolves with 0, or with the first negative errno,
 * once as many have completed as were announced with `expect` and `close` was called.
 */
export class Gather implements IoRequest {
  readonly result: Promise<number>;
  #resolve: (result: number) => void = () => {};
  #pending = 1;
  #error = 0;

  constructor() {
    this.result = new Promise(resolve => {
      this.#resolve = resolve;
    });
  }

  /** One more completion will come. */
  expect(): this {
    this.#pending++;
    return this;
  }

  ioCompleted(result: number): void {
    if (result < 0 && this.#error === 0) this.#error = result;
    if (--this.#pending === 0) this.#resolve(this.#error);
  }

  /** No more will be announced. */
  close(): Promise<number> {
    this.ioCompleted(0);
    return this.result;
  }
}

/** Keeps a bounded number of I/Os under way. */
export class IoWindow {
  #inFlight = 0;
  #error = 0;
  #waiting: (() => void) | undefined;

  /** The first negative errno so far, or 0. */
  get error(): number {
    return this.#error;
  }

  /** What I/Os are started with as their request, each after a call of `begin`; `request` hears of them, too. */
  joinedBy(request: IoRequest): IoRequest {
    return {
      ioCompleted: result => {
        request.ioCompleted(result);
        this.#ended(result);
      },
    };
  }

  begin(): void {
    this.#inFlight++;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Resolves when fewer than `max` are under way. One waits at a time. */
  room(max: number): Promise<void> {
    return this.#until(max - 1);
  }

  /** Resolves, with `error`, when none is under way. */
  async drained(): Promise<number> {
    await this.#until(0);
    return this.#error;
  }

  #ended(result: number): void {
    if (result < 0 && this.#error === 0) this.#error = result;
    this.#inFlight--;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.();
  }

  async #until(inFlight: number): Promise<void> {
    while (this.#inFlight > inFlight) {
      await new Promise<void>(resolve => {
        this.#waiting = resolve;
      });
    }
  }
}
