/**
 * The deletions that are under way: takes back what deleted volumes have, one after the other, while the node serves. What
 * cannot be done for now is tried again; what a stop or a crash cuts short goes on after the next start.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { SledgeError } from '../base/errors.ts';
import { destageRetryMs } from '../base/limits.ts';
import type { Destage } from '../head/destage.ts';
import { DestageStuck } from '../head/destage-store.ts';
import type { Head } from '../head/head.ts';
import { purge } from '../head/purge.ts';
import type { Volume } from '../volume/volume.ts';
import type { NodeLog } from './options.ts';

/** `over`: nothing more is done before the next start. */
type Outcome = 'done' | 'again' | 'over';

export class Deletions {
  readonly #head: Head;
  readonly #destage: Destage;
  readonly #log: NodeLog;
  readonly #queue: Volume[] = [];
  #isRunning = false;
  /** Why it could not go on when that was told last. */
  #told = '';

  constructor(head: Head, destage: Destage, log: NodeLog) {
    this.#head = head;
    this.#destage = destage;
    this.#log = log;
  }

  /** Nobody reaches the volume any more, and that it is being deleted is on record. */
  add(volume: Volume): void {
    this.#queue.push(volume);
    if (!this.#isRunning) void this.#run();
  }

  /** Ends soon after the destage has stopped: then no further batch begins. */
  async #run(): Promise<void> {
    this.#isRunning = true;
    for (let volume = this.#queue.shift(); volume !== undefined; volume = this.#queue.shift()) {
      const outcome = await this.#purge(volume);
      if (outcome === 'over') this.#queue.length = 0;
      if (outcome !== 'again') continue;
      this.#queue.push(volume);
      await pause(destageRetryMs, undefined, { ref: false });
    }
    this.#isRunning = false;
  }

  async #purge(volume: Volume): Promise<Outcome> {
    try {
      await purge(this.#head, this.#destage, volume);
    } catch (error) {
      const outcome = outcomeOf(error);
      if (error instanceof DestageStuck) this.#tell(volume, outcome, error.message);
      return outcome;
    }
    // What it had is free once the log does not name it any more. That may have to wait: the volume is gone all the same.
    if (this.#queue.length === 0) await this.#destage.cutAll().catch(outcomeOf);
    return 'done';
  }

  #tell({ name }: Volume, outcome: Outcome, why: string): void {
    if (why === this.#told) return;
    this.#told = why;
    const when = outcome === 'again' ? 'is tried again' : 'is left to the next start';
    this.#log.warn({ volume: name, why }, `what a deleted volume had cannot be given back: it ${when}`);
  }
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof SledgeError && error.code === 'shutting-down') return 'over';
  if (!(error instanceof DestageStuck)) throw error;
  return error.lasts === 'for now' ? 'again' : 'over';
}
