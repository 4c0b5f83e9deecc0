/**
 * The I/O memory of connections: one buffer to receive into and two to lay replies in. Regions are never given back to
 * the system, so the memory of a connection that ended serves the next one; at most as many sets exist as there were
 * connections at one time.
 */
import { nbdReceiveBytes, nbdReplyBytes } from '../base/limits.ts';
import type { Region, RegionSource } from '../base/memory.ts';

export interface SessionMemory {
  readonly receive: Region;
  /** One is filled while the other is sent. */
  readonly replies: readonly [Region, Region];
}

export class SessionMemoryPool {
  readonly #regions: RegionSource;
  readonly #free: SessionMemory[] = [];
  #made = 0;

  constructor(regions: RegionSource) {
    this.#regions = regions;
  }

  get inUse(): number {
    return this.#made - this.#free.length;
  }

  take(): SessionMemory {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    this.#made += 1;
    const replies: [Region, Region] = [this.#regions.allocate(nbdReplyBytes), this.#regions.allocate(nbdReplyBytes)];
    return { receive: this.#regions.allocate(nbdReceiveBytes), replies };
  }

  /** No I/O may be under way on any of its regions. */
  release(memory: SessionMemory): void {
    this.#free.push(memory);
  }
}
