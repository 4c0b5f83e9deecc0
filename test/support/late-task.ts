/** The late task of a loop in virtual time: it runs in some later turn, unless it was cancelled by then. */
import type { TurnTask } from '../../src/base/io.ts';

export class LateTask {
  readonly #post: (completion: () => void) => void;
  #task: TurnTask | undefined;

  constructor(post: (completion: () => void) => void) {
    this.#post = post;
  }

  ask(task: TurnTask): void {
    if (this.#task !== undefined) throw new Error('one late task at a time');
    this.#task = task;
    this.#post(() => {
      if (this.#task !== task) return;
      this.#task = undefined;
      task.runAtEndOfTurn();
    });
  }

  cancel(): void {
    this.#task = undefined;
  }
}
