/**
 * What a step of the destage leaves out: it is appended to the log again, behind the step's cut, so that the log can be cut
 * without it. That is done with
 * - what is for devices that are aside, which goes to them at their own pace (`late-lane.ts`), and
 * - what finds no slot when all devices are full, so that everything else goes on, and slots come free with the cut.
 *
 * Invariant: a chunk is left out only when no block of it has its newest operation before the cut any more.
 */
import { fullRefusalZeroesFill } from '../base/limits.ts';
import type { RegionSource } from '../base/memory.ts';
import type { ChunkNumber, LogPosition } from '../base/units.ts';
import type { DirtyList } from '../volume/overlay.ts';
import type { Volume } from '../volume/volume.ts';
import { ChunkSet } from './chunk-set.ts';
import { DestageStuck } from './destage-store.ts';
import type { Head } from './head.ts';
import type { LateLane } from './late-lane.ts';
import type { ChunkOf } from './relog.ts';
import { Relog } from './relog.ts';

export class LeftOut {
  readonly chunks = new ChunkSet();
  what: 'cut' | 'cut, some left out' | 'cut, unplaced left out' = 'cut';
}

export interface CarryForwardPorts {
  readonly head: Head;
  readonly regions: RegionSource;
  readonly late: LateLane;
}

export class CarryForward {
  readonly #head: Head;
  readonly #late: LateLane;
  readonly #regions: RegionSource;
  /** Made when it is needed first: it has a buffer. */
  #relog: Relog | undefined;

  constructor({ head, regions, late }: CarryForwardPorts) {
    this.#head = head;
    this.#regions = regions;
    this.#late = late;
  }

  /** What of the list is for devices that are aside. */
  async leaveLate(dirty: DirtyList, cut: LogPosition, left: LeftOut): Promise<void> {
    const chunks = this.#chunksOf(dirty, (volume, chunk) => this.#late.isLate(volume, chunk));
    if (await this.#forward(chunks, cut, left)) left.what = 'cut, some left out';
  }

  /**
   * What of the list finds no slot. It pays while slots wait for the cut, or when most of what is cut is something else; the
   * room that the log has for trims is not taken.
   */
  async leaveUnplaced(dirty: DirtyList, cut: LogPosition, left: LeftOut): Promise<void> {
    const { log, slots } = this.#head;
    const findsSlot = slots.forecast();
    const chunks = this.#chunksOf(dirty, (volume, chunk) => {
      if (left.chunks.has(volume, chunk) || volume.locationOf(chunk) !== undefined) return false;
      return !findsSlot(volume.number, volume.chunkBytes);
    });
    const bytes = this.#relogger().neededBytes(chunks, cut);
    const pays = slots.retiredCount > 0 || bytes <= (cut - log.cut) / 2;
    if (!pays || log.usedBytes + bytes > fullRefusalZeroesFill * log.limitBytes) return;
    if (await this.#forward(chunks, cut, left)) left.what = 'cut, unplaced left out';
  }

  #chunksOf(dirty: DirtyList, isWanted: (volume: Volume, chunk: ChunkNumber) => boolean): ChunkOf[] {
    const seen = new ChunkSet();
    const chunks: ChunkOf[] = [];
    for (let i = 0; i < dirty.chunks.length; i++) {
      const volume = this.#head.volume(dirty.volumes[i]);
      const chunk = dirty.chunks[i];
      if (volume === undefined || seen.has(volume, chunk)) continue;
      seen.add(volume, chunk);
      if (isWanted(volume, chunk)) chunks.push({ volume, chunk });
    }
    return chunks;
  }

  /** False where there are none, or the log has no room for them: then the step has to wait for them. */
  async #forward(chunks: readonly ChunkOf[], cut: LogPosition, left: LeftOut): Promise<boolean> {
    if (chunks.length === 0) return false;
    if (await this.#relogger().forward(chunks, cut)) {
      for (const { volume, chunk } of chunks) left.chunks.add(volume, chunk);
      return true;
    }
    if (!this.#late.isUnderWay) return false;
    throw new DestageStuck('the op log is full of what a device takes its time for');
  }

  #relogger(): Relog {
    this.#relog ??= new Relog(this.#head, this.#regions, (...move) => this.#late.moved(...move));
    return this.#relog;
  }
}
