/**
 * The scrubs of a node: starts them for the control plane, one at a time for a volume, and ends them when their caller
 * goes, the volume is deleted or the node stops. It turns what a scrub found into files and bytes.
 */
import type { ScrubProgress, ScrubReport } from '../admin/node-control.ts';
import type { NodeLog } from '../admin/node-log.ts';
import { SledgeError } from '../base/errors.ts';
import type { Clock } from '../base/io.ts';
import { scrubCountMax } from '../base/limits.ts';
import type { DamagedPlace, FilePlace } from '../base/location.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { Head } from '../head/head.ts';
import { Scrub } from '../head/scrub.ts';
import type { Volume } from '../volume/volume.ts';
import type { DamageList } from './damage-list.ts';

export interface ScrubsPorts {
  readonly head: Head;
  readonly clock: Clock;
  readonly log: NodeLog;
  readonly damage: DamageList;
  /** The file that a place is in. */
  locate(place: DamagedPlace): FilePlace;
}

interface RunningScrub {
  readonly scrub: Scrub;
  readonly startedMs: number;
  readonly ended: Promise<boolean>;
  /** Why it was cancelled. */
  reason: Error | undefined;
}

export class Scrubs {
  readonly #ports: ScrubsPorts;
  readonly #running = new Map<Volume, RunningScrub>();

  constructor(ports: ScrubsPorts) {
    this.#ports = ports;
  }

  /** Resolves when all was gone through. Rejects with `volume-busy`, or with the reason for which it was cancelled. */
  async run(volume: Volume, bytesPerSecond: number, signal: AbortSignal): Promise<ScrubReport> {
    signal.throwIfAborted();
    if (this.#running.has(volume)) throw busy(`${volume.name} is being scrubbed already`);
    if (this.#running.size >= scrubCountMax) throw busy(`${scrubCountMax} volumes are being scrubbed already`);
    const { head, clock, log, damage } = this.#ports;
    const since = damage.serial;
    const scrub = new Scrub({ head, clock }, volume, bytesPerSecond);
    const running: RunningScrub = { scrub, startedMs: clock.nowMs(), ended: scrub.run(), reason: undefined };
    this.#running.set(volume, running);
    const abort = () => cancel(running, signal.reason as Error);
    signal.addEventListener('abort', abort);
    log.info({ volume: volume.name, bytesPerSecond }, 'a scrub has begun');
    try {
      const isWhole = await running.ended;
      if (isWhole) damage.scrubbed(volume.name, since, head.log.cut);
      else if (running.reason !== undefined) throw running.reason;
      return this.#report(volume, running);
    } finally {
      signal.removeEventListener('abort', abort);
      this.#running.delete(volume);
      const { bytesRead, damagedBlocks } = scrub;
      const fields = { volume: volume.name, bytesRead, damagedBlocks };
      if (running.reason === undefined) log.info(fields, 'a scrub has ended');
      else log.info({ ...fields, why: running.reason.message }, 'a scrub was cancelled');
    }
  }

  progress(volume: Volume): ScrubProgress | undefined {
    const running = this.#running.get(volume);
    if (running === undefined) return undefined;
    const { bytesRead, bytesDone, damagedBlocks } = running.scrub;
    // What is written meanwhile may be met as well.
    const bytesTotal = Math.max(bytesDone, this.#ports.head.slots.usedBytes(volume.number));
    return { bytesRead, bytesDone, bytesTotal, damagedBlocks, seconds: this.#seconds(running) };
  }

  /** Resolves when no scrub reads the volume any more. */
  async cancel(volume: Volume, reason: SledgeError): Promise<void> {
    const running = this.#running.get(volume);
    if (running === undefined) return;
    cancel(running, reason);
    await running.ended;
  }

  /** Resolves when no scrub reads anything any more. */
  async stop(): Promise<void> {
    const reason = new SledgeError('shutting-down', 'the server is stopping: the scrub has not come to its end');
    for (const volume of [...this.#running.keys()]) await this.cancel(volume, reason);
  }

  #seconds({ startedMs }: RunningScrub): number {
    return (this.#ports.clock.nowMs() - startedMs) / 1000;
  }

  #report(volume: Volume, running: RunningScrub): ScrubReport {
    const { scrub } = running;
    return {
      volume: volume.name,
      bytesRead: scrub.bytesRead,
      seconds: this.#seconds(running),
      damagedBlocks: scrub.damagedBlocks,
      damage: scrub.damage.map(({ block, location, fault }) => {
        const { file, offsetBytes } = this.#ports.locate({ kind: 'device', location });
        return { block, offsetBytes: block * BLOCK_BYTES, fault, path: file, pathOffsetBytes: offsetBytes };
      }),
    };
  }
}

function cancel(running: RunningScrub, reason: Error): void {
  running.reason ??= reason;
  running.scrub.cancel();
}

function busy(message: string): SledgeError {
  return new SledgeError('volume-busy', message, { hint: 'Wait until that scrub has ended, or cancel it.' });
}
