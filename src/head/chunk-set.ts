/** Some chunks of some volumes. */
import type { ChunkNumber } from '../base/units.ts';
import type { Volume } from '../volume/volume.ts';

export class ChunkSet {
  readonly #chunks = new Map<Volume, Set<ChunkNumber>>();

  add(volume: Volume, chunk: ChunkNumber): void {
    const known = this.#chunks.get(volume);
    if (known === undefined) this.#chunks.set(volume, new Set([chunk]));
    else known.add(chunk);
  }

  has(volume: Volume, chunk: ChunkNumber): boolean {
    return this.#chunks.get(volume)?.has(chunk) === true;
  }
}
