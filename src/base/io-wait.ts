/** Promises over completions, for start-up, destage and other work where a promise for many I/Os costs nothing. */
import type { IoRequest } from './io.ts';

/** Starts one I/O and resolves with its result: a count, 0, or a negative errno. */
export function completion(start: (request: IoRequest) => void): Promise<number> {
  return new Promise(resolve => start({ ioCompleted: resolve }));
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

/** Keeps a bounded number of I/Os under way that share it as their request. */
export class IoWindow implements IoRequest {
  readonly #max: number;
  #inFlight = 0;
  #error = 0;
  #waiting: (() => void) | undefined;

  constructor(max: number) {
    this.#max = max;
  }

  /** The first negative errno so far, or 0. */
  get error(): number {
    return this.#error;
  }

  get isFull(): boolean {
    return this.#inFlight >= this.#max;
  }

  /** One more I/O is started with the window as its request. */
  begin(): this {
    this.#inFlight++;
    return this;
  }

  ioCompleted(result: number): void {
    if (result < 0 && this.#error === 0) this.#error = result;
    this.#inFlight--;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.();
  }

  /** Resolves when fewer than `max` are under way. One waits at a time. */
  async room(): Promise<void> {
    while (this.isFull) await this.#change();
  }

  /** Resolves, with `error`, when none is under way. */
  async drained(): Promise<number> {
    while (this.#inFlight > 0) await this.#change();
    return this.#error;
  }

  #change(): Promise<void> {
    return new Promise(resolve => {
      this.#waiting = resolve;
    });
  }
}
