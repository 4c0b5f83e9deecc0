/**
 * A loop in virtual time whose I/Os complete in random order: the simulated side of `Turns` and `Clock`. The driver of a
 * simulation calls `turn` until what it waits for has happened.
 *
 * Invariants:
 * - Nothing completes inside of the call that started it, and each I/O at most once.
 * - A turn is: timers that are due, some completions, the promises that they resolve, the tasks asked for, their promises.
 * - Virtual time: a turn in which anything completes takes TURN_MICROS, one that only waits for a timer takes until that
 *   timer (`passTime`). The product's own computing takes none, so virtual over real time says how many hours of an idle
 *   or I/O-bound node were gone through, not how fast the simulation computes.
 * - After `crash` nothing that was under way before is heard of again.
 */
import type { CancelTimer, Clock, Turns, TurnTask } from '../../src/base/io.ts';
import { LateTask } from './late-task.ts';
import type { SimRandom } from './sim-random.ts';

/** About the round trip of a fast disk: what a loop that waits for I/O spends in a turn. */
const TURN_MICROS = 50;
const START_MICROS = 1_000_000;

interface Timer {
  readonly dueMicros: number;
  readonly callback: () => void;
}

export class SimLoop implements Turns, Clock {
  readonly #random: SimRandom;
  #nowMicros = START_MICROS;
  #pending: (() => void)[] = [];
  #tasks: TurnTask[] = [];
  readonly #lateTask = new LateTask(completion => this.post(completion));
  #timers = new Set<Timer>();
  turns = 0;

  constructor(random: SimRandom) {
    this.#random = random;
  }

  /** Completes at some later time. */
  post(completion: () => void): void {
    this.#pending.push(completion);
  }

  get pendingCount(): number {
    return this.#pending.length;
  }

  atEndOfTurn(task: TurnTask): void {
    if (this.#tasks.includes(task)) throw new Error('a task was asked for twice in a turn');
    this.#tasks.push(task);
  }

  afterMicros(task: TurnTask): void {
    this.#lateTask.ask(task);
  }

  cancelAfterMicros(): void {
    this.#lateTask.cancel();
  }

  /** All that was started is under way already. */
  hurry(): void {}

  nowMs(): number {
    return this.#nowMicros / 1000;
  }

  /** Virtual time since the beginning. */
  get elapsedMs(): number {
    return (this.#nowMicros - START_MICROS) / 1000;
  }

  after(delayMs: number, callback: () => void): CancelTimer {
    const timer = { dueMicros: this.#nowMicros + delayMs * 1000, callback };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  crash(): void {
    this.#pending = [];
    this.#tasks = [];
    this.#lateTask.cancel();
    this.#timers.clear();
  }

  /** One turn. False when there was nothing to do but to wait for a timer. */
  async turn(): Promise<boolean> {
    this.turns++;
    while (this.#fireDue()) {
      // One after the other: what one of them does may cancel the next.
    }
    const idle = this.#pending.length === 0 && this.#tasks.length === 0;
    if (!idle) this.#nowMicros += TURN_MICROS;
    const count = this.#pending.length === 0 ? 0 : 1 + this.#random.below(this.#pending.length);
    for (let i = 0; i < count && this.#pending.length > 0; i++) {
      const at = this.#random.below(this.#pending.length);
      const completion = this.#pending[at];
      this.#pending[at] = this.#pending[this.#pending.length - 1];
      this.#pending.pop();
      completion();
    }
    await settled();
    if (this.#tasks.length > 0) {
      const tasks = this.#tasks;
      this.#tasks = [];
      for (const task of tasks) task.runAtEndOfTurn();
      await settled();
    }
    // A timer that was due may have begun something: then there is more to do than to wait for the next one.
    return !idle || this.#pending.length > 0 || this.#tasks.length > 0;
  }

  /** Time passes until the next timer fires; false when there is none. */
  passTime(): boolean {
    const next = this.#nextTimer();
    if (next === undefined) return false;
    this.#nowMicros = Math.max(this.#nowMicros, next.dueMicros);
    return this.#fireDue();
  }

  #fireDue(): boolean {
    const next = this.#nextTimer();
    if (next === undefined || next.dueMicros > this.#nowMicros) return false;
    this.#timers.delete(next);
    next.callback();
    return true;
  }

  #nextTimer(): Timer | undefined {
    let next: Timer | undefined;
    for (const timer of this.#timers) if (next === undefined || timer.dueMicros < next.dueMicros) next = timer;
    return next;
  }

  /** Turns until the promise is settled. Throws when everything waits and no timer is left, or only timers fire. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let done = false;
    const mark = () => {
      done = true;
    };
    promise.then(mark, mark);
    await settled();
    let idleTurns = 0;
    while (!done) {
      if (await this.turn()) idleTurns = 0;
      else if (done) break;
      else if (!this.passTime() || ++idleTurns > 1000) throw new Error('the simulation hangs: nothing is under way');
    }
    return promise;
  }
}

/** Resolves when every promise that can go on without I/O has done so. */
export function settled(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve));
}
