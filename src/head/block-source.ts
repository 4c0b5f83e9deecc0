/** Where the destage has the data of blocks from that the overlay holds: the cache, or else the log. All of it is checked. */
import { takeSums } from '../base/checksum.ts';
import { completion, type Gather } from '../base/io-wait.ts';
import type { Region } from '../base/memory.ts';
import type { BlockNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import { DestageStuck } from './destage-store.ts';
import type { Head } from './head.ts';

export class BlockSource {
  readonly #head: Head;
  readonly #sum = new Uint32Array(1);

  constructor(head: Head) {
    this.#head = head;
  }

  /** Brings a block to `offset` of `region`; what has to be waited for is announced to `gather`. */
  fetch(volume: VolumeNumber, block: BlockNumber, position: number, region: Region, offset: number, gather: Gather) {
    const { cache, log } = this.#head;
    const slot = cache.peek(volume, block);
    if (slot >= 0) cache.copyOut(slot, 0, BLOCK_BYTES, region.bytes, offset);
    else log.read(position, region, offset, BLOCK_BYTES, gather.expect());
  }

  /** Resolves when everything that was announced is there. Rejects with `DestageStuck`. */
  async fetched(gather: Gather): Promise<void> {
    if ((await gather.close()) < 0) throw new DestageStuck('the op log cannot be read');
  }

  matches(sum: number, region: Region, offset: number): boolean {
    takeSums(this.#head.checksums, region.bytes, offset, 1, this.#sum, 0);
    return this.#sum[0] === sum;
  }

  /**
   * For a copy that does not match its checksum: the cache may have had a newer one. The log's copy decides; says whether
   * that matches. Rejects with `DestageStuck`.
   */
  async fetchAgain(position: number, sum: number, region: Region, offset: number): Promise<boolean> {
    const result = await completion(request => this.#head.log.read(position, region, offset, BLOCK_BYTES, request));
    if (result < 0) throw new DestageStuck('the op log cannot be read');
    return this.matches(sum, region, offset);
  }
}
