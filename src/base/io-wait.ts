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
