/** An I/O whose end the control plane awaits: one promise, one completion. Never on the data path. */
import type { IoRequest } from '../base/io.ts';

export class ControlRequest implements IoRequest {
  readonly done: Promise<number>;
  #resolve: (result: number) => void = () => {};

  constructor() {
    this.done = new Promise(resolve => {
      this.#resolve = resolve;
    });
  }

  ioCompleted(result: number): void {
    this.#resolve(result);
  }
}
