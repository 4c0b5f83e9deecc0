/**
 * A loop in virtual time for tests: completions, end-of-turn tasks and timers, in a fixed order. Nothing happens until a
 * test calls `run` or `advance`.
 */
import type { CancelTimer, Clock, Turns, TurnTask } from '../../src/base/io.ts';
import { LateTask } from './late-task.ts';

interface Timer {
  readonly dueMs: number;
  readonly callback: () => void;
  cancelled: boolean;
}

export class MemoryLoop implements Turns, Clock {
  hurries = 0;
  #nowMs = 1000;
  #completions: (() => void)[] = [];
  #tasks: TurnTask[] = [];
  readonly #lateTask = new LateTask(completion => this.post(completion));
  readonly #asked = new Set<TurnTask>();
  #timers: Timer[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, callback: () => void): CancelTimer {
    const timer: Timer = { dueMs: this.#nowMs + delayMs, callback, cancelled: false };
    this.#timers.push(timer);
    return () => {
      timer.cancelled = true;
      this.#timers = this.#timers.filter(other => other !== timer);
    };
  }

  get timerCount(): number {
    return this.#timers.length;
  }

  atEndOfTurn(task: TurnTask): void {
    if (this.#asked.has(task)) throw new Error('a task was asked for twice in a turn');
    this.#asked.add(task);
    this.#tasks.push(task);
  }

  afterMicros(task: TurnTask): void {
    this.#lateTask.ask(task);
  }

  cancelAfterMicros(): void {
    this.#lateTask.cancel();
  }

  /** All that was started is under way already. */
  hurry(): void {
    this.hurries++;
  }

  /** Has `completion` called in the next turn. */
  post(completion: () => void): void {
    this.#completions.push(completion);
  }

  /** One turn: what was posted before it, then the tasks, those that tasks ask for included. False if it was idle. */
  turn(): boolean {
    const completions = this.#completions;
    this.#completions = [];
    for (const completion of completions) completion();
    let ran = completions.length > 0;
    while (this.#tasks.length > 0) {
      const task = this.#tasks.shift()!;
      this.#asked.delete(task);
      task.runAtEndOfTurn();
      ran = true;
    }
    return ran;
  }

  /** Turns until nothing is left to do without time passing. */
  run(): void {
    for (let turns = 0; this.turn(); turns += 1) {
      if (turns > 1_000_000) throw new Error('the loop does not come to rest');
    }
  }

  /** Lets time pass, firing timers in order, and runs what they cause. */
  advance(milliseconds: number): void {
    const endMs = this.#nowMs + milliseconds;
    this.run();
    for (;;) {
      const due = this.#timers.filter(timer => timer.dueMs <= endMs).sort((a, b) => a.dueMs - b.dueMs)[0];
      if (due === undefined) break;
      this.#timers = this.#timers.filter(other => other !== due);
      this.#nowMs = Math.max(this.#nowMs, due.dueMs);
      due.callback();
      this.run();
    }
    this.#nowMs = endMs;
  }
}
