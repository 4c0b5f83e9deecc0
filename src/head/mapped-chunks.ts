/**
 * The chunks of a volume that have a place in mass storage, in ascending order: those of the index, asked for bit by bit
 * as the walk goes on, and those that only the overlay knew when it began. What comes behind the walk is not met.
 */
import { scrubChunksAtOnce } from '../base/limits.ts';
import type { ChunkNumber } from '../base/units.ts';
import type { Volume } from '../volume/volume.ts';
import type { Head } from './head.ts';

export class MappedChunks {
  readonly #head: Head;
  readonly #volume: Volume;
  /** Of the overlay, descending: the next one is the last. */
  readonly #fresh: number[] = [];
  /** Of the index, descending, and from where on to ask for more. */
  #indexed: number[] = [];
  #from = 0;

  constructor(head: Head, volume: Volume) {
    this.#head = head;
    this.#volume = volume;
    head.overlay.forChunks(volume.number, 0, this.#end, (chunk, row) => {
      if (head.overlay.entryOf(row) !== undefined) this.#fresh.push(chunk);
    });
    this.#fresh.sort((a, b) => b - a);
  }

  /** Undefined when there is none any more. */
  next(): ChunkNumber | undefined {
    if (this.#indexed.length === 0) this.#ask();
    const indexed = this.#indexed.at(-1);
    const fresh = this.#fresh.at(-1);
    if (indexed === undefined && fresh === undefined) return undefined;
    const chunk = Math.min(indexed ?? Number.POSITIVE_INFINITY, fresh ?? Number.POSITIVE_INFINITY);
    if (chunk === indexed) this.#indexed.pop();
    if (chunk === fresh) this.#fresh.pop();
    return chunk as ChunkNumber;
  }

  /** It moves when the volume grows. */
  get #end(): number {
    return Math.ceil(this.#volume.sizeBytes / this.#volume.chunkBytes);
  }

  #ask(): void {
    const end = this.#end;
    if (this.#from >= end) return;
    for (const [chunk] of this.#head.index.chunks(this.#volume.number, this.#from, end, scrubChunksAtOnce)) {
      this.#indexed.push(chunk);
    }
    this.#from = this.#indexed.length < scrubChunksAtOnce ? end : this.#indexed.at(-1)! + 1;
    this.#indexed.reverse();
  }
}
