/** Some chunks of a group whose data lies in one buffer: its writes have to end before the buffer is used again. */
import { NO_SUM } from '../base/checksum.ts';
import { destagePieceBytes } from '../base/limits.ts';
import type { Region } from '../base/memory.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { CarryGroup, CarryTask } from './carry-group.ts';

export class CarryPiece {
  readonly region: Region;
  readonly tasks: CarryTask[] = [];
  /** Where the data of each block lies in the buffer, from the first task's first block on; -1 where it has none. */
  readonly offsets: number[] = [];
  usedBytes = 0;
  written: Promise<number> = Promise.resolve(0);

  constructor(region: Region) {
    this.region = region;
  }

  get firstBlock(): number {
    return this.tasks[0].from;
  }

  clear(): void {
    this.tasks.length = 0;
    this.offsets.length = 0;
    this.usedBytes = 0;
  }

  /** Adds a chunk, if there is room for its data. */
  add(group: CarryGroup, task: CarryTask): boolean {
    if (this.usedBytes + group.dataCount(task) * BLOCK_BYTES > destagePieceBytes) return false;
    for (let i = task.from; i < task.to; i++) {
      const hasData = group.sums[i] !== NO_SUM;
      this.offsets.push(hasData ? this.usedBytes : -1);
      if (hasData) this.usedBytes += BLOCK_BYTES;
    }
    this.tasks.push(task);
    return true;
  }
}
