/**
 * Page-aligned buffers of one size for I/O that cannot go straight to its destination. The pool is bounded; who finds it
 * empty waits in order of asking, and so slows down the client it works for.
 */
import { assert } from './assert.ts';
import { bounceBufferBytes } from './limits.ts';
import type { Region, RegionSource } from './memory.ts';
import { RingQueue } from './ring-queue.ts';

/** Told, once, that a buffer is there for it. */
export interface BufferWaiter {
  bufferReady(offset: number): void;
}

export class BouncePool {
  readonly region: Region;
  readonly #free: number[] = [];
  readonly #count: number;
  readonly #waiting = new RingQueue<BufferWaiter>();
  #fresh = 0;
  #serving = false;

  constructor(regions: RegionSource, count: number) {
    this.region = regions.allocate(count * bounceBufferBytes);
    this.#count = count;
  }

  get inUse(): number {
    return this.#fresh - this.#free.length;
  }

  /** Offset of a buffer in `region`, or -1 when none is free or others wait. */
  take(): number {
    if (this.#waiting.length > 0) return -1;
    const offset = this.#free.pop();
    if (offset !== undefined) return offset;
    if (this.#fresh === this.#count) return -1;
    return this.#fresh++ * bounceBufferBytes;
  }

  /** Gives `waiter` the next buffer that comes free. `take` has just failed. */
  wait(waiter: BufferWaiter): void {
    this.#waiting.push(waiter);
  }

  give(offset: number): void {
    assert(offset % bounceBufferBytes === 0, 'a buffer is given back as it was taken');
    this.#free.push(offset);
    // A waiter may give its buffer back inside of the call: the next one is served from here, not on top of its stack.
    if (this.#serving) return;
    this.#serving = true;
    while (this.#waiting.length > 0) {
      const next = this.#free.pop();
      if (next === undefined) break;
      this.#waiting.shift().bufferReady(next);
    }
    this.#serving = false;
  }
}
