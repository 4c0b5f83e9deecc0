/**
 * Which of two ways a durable write goes on io_uring. *Direct*, with O_DIRECT and O_DSYNC, is the shorter one while a
 * processor is idle. But the kernel goes on with it, behind the disk's write, in a worker that is bound to the processor
 * which took the interrupt, and that waits there for the time slice of whoever runs. The way through the page cache, by a
 * worker of the ring, has one more change of threads, and the worker goes where there is room.
 *
 * Measured on two virtual processors, FUA at depth 1 and 16: direct 2700 and 31 000 a second, by a worker 2100 and 21 000;
 * while two other programs want all of both processors, 220 and 3400 against 500 and 6000.
 *
 * So the direct way is taken unless the other one took clearly less time lately (single writes differ by more than the two
 * ways do), and the one that is not taken is tried now and then, some writes in a row.
 */
export const DIRECT = 0;
export const BY_WORKER = 1;
export type DurableWay = typeof DIRECT | typeof BY_WORKER;

const WRITES_PER_TRIAL = 256;
const TRIAL_WRITES = 4;
const WEIGHT_OF_MORE = 1 / 8;
const WEIGHT_OF_LESS = 1 / 2;
/** Of the time that the direct way takes, what the other one may take at most to be taken. */
const CLEARLY_LESS = 0.8;
/** A single write that takes long says little: it counts as so many times what is usual at the most. */
const OUTLIER = 2;

export class DurableWays {
  /** By way; 0 is one that was never taken. */
  readonly #ms: [number, number] = [0, 0];
  #writes = 0;

  /** For the next write, whose end `took` has to be told of. */
  next(): DurableWay {
    const [direct, byWorker] = this.#ms;
    const better = byWorker < direct * CLEARLY_LESS ? BY_WORKER : DIRECT;
    const other = better === DIRECT ? BY_WORKER : DIRECT;
    return this.#writes++ % WRITES_PER_TRIAL < TRIAL_WRITES ? other : better;
  }

  took(way: DurableWay, ms: number): void {
    const usual = this.#ms[way];
    if (usual === 0) this.#ms[way] = ms;
    else if (ms < usual) this.#ms[way] -= (usual - ms) * WEIGHT_OF_LESS;
    else this.#ms[way] += (Math.min(ms, OUTLIER * usual) - usual) * WEIGHT_OF_MORE;
  }
}
