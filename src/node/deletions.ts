/**
 * The deletions that are under way: takes back what deleted volumes have, one after the other, while the node serves. What a
 * stop or a crash cuts short goes on after the next start.
 */
import { SledgeError } from '../base/errors.ts';
import type { Destage } from '../head/destage.ts';
import { DestageStuck } from '../head/destage-store.ts';
import type { Head } from '../head/head.ts';
import { purge } from '../head/purge.ts';
import type { Volume } from '../volume/volume.ts';
import type { NodeLog } from './options.ts';

export class Deletions {
  readonly #head: Head;
  readonly #destage: Destage;
  readonly #log: NodeLog;
  readonly #queue: Volume[] = [];
  #isRunning = false;

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
    while (this.#queue.length > 0) {
      for (const volume of this.#queue.splice(0)) {
        const stuck = await this.#attempt(() => purge(this.#head, this.#destage, volume));
        const fields = { volume: volume.name, why: stuck?.message };
        if (stuck !== undefined) this.#log.warn(fields, 'the deletion of a volume is left to the next start');
      }
      // What they had is free once the log does not name it any more. That may have to wait: the volumes are gone all the same.
      await this.#attempt(() => this.#destage.cutAll());
    }
    this.#isRunning = false;
  }

  async #attempt(work: () => Promise<void>): Promise<DestageStuck | undefined> {
    try {
      await work();
    } catch (error) {
      if (error instanceof DestageStuck) return error;
      if (!(error instanceof SledgeError && error.code === 'shutting-down')) throw error;
    }
    return undefined;
  }
}
