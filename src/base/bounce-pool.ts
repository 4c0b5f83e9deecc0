/**
 * Page-aligned buffers of one size for I/O that cannot go straight to its destination. The pool is bounded; who finds it
 * empty waits in order of asking, and so slows down the client it works for.
 *
 * Each volume has a share of it: it gets a further buffer only while it has fewer than are free. So one that waits for a
 * slow device ends up with half of them, two with a third each, and for the others there are some left.
 */
import { assert } from './assert.ts';
import { bounceBufferBytes } from './limits.ts';
import type { Region, RegionSource } from './memory.ts';
import { RingQueue } from './ring-queue.ts';

/** Told, once, that a buffer is there for it. */
export interface BufferWaiter {
  bufferReady(offset: number): void;
}

/** What a volume has of the pool, and who waits for more of it. */
export class BounceShare {
  held = 0;
  readonly waiting = new RingQueue<BufferWaiter>();
}

export class BouncePool {
  readonly region: Region;
  readonly #free: number[] = [];
  readonly #count: number;
  /** Shares that somebody waits for, each once. */
  readonly #waiting = new RingQueue<BounceShare>();
  #fresh = 0;
  #serving = false;

  constructor(regions: RegionSource, count: number) {
    this.region = regions.allocate(count * bounceBufferBytes);
    this.#count = count;
  }

  get inUse(): number {
    return this.#fresh - this.#free.length;
  }

  /** Offset of a buffer in `region`, or -1 when the share gets none now or others wait for it. */
  take(share: BounceShare): number {
    return share.waiting.length === 0 && this.#admits(share) ? this.#takeFor(share) : -1;
  }

  /** Gives `waiter` the next buffer that the share gets. `take` has just failed. */
  wait(share: BounceShare, waiter: BufferWaiter): void {
    if (share.waiting.length === 0) this.#waiting.push(share);
    share.waiting.push(waiter);
  }

  give(share: BounceShare, offset: number): void {
    assert(offset % bounceBufferBytes === 0, 'a buffer is given back as it was taken');
    assert(share.held > 0, 'a buffer is given back once, by who took it');
    share.held--;
    this.#free.push(offset);
    // A waiter may give its buffer back inside of the call: the next one is served from here, not on top of its stack.
    if (this.#serving) return;
    this.#serving = true;
    this.#serve();
    this.#serving = false;
  }

  /** Shares in turn, until none of those that are waited for gets one. */
  #serve(): void {
    for (let refused = 0; refused < this.#waiting.length && this.inUse < this.#count; ) {
      const share = this.#waiting.shift();
      if (!this.#admits(share)) {
        this.#waiting.push(share);
        refused++;
        continue;
      }
      refused = 0;
      const waiter = share.waiting.shift();
      if (share.waiting.length > 0) this.#waiting.push(share);
      waiter.bufferReady(this.#takeFor(share));
    }
  }

  #admits(share: BounceShare): boolean {
    return share.held < this.#count - this.inUse;
  }

  #takeFor(share: BounceShare): number {
    share.held++;
    return this.#free.pop() ?? this.#fresh++ * bounceBufferBytes;
  }
}
