/**
 * The segment files of a log: those that hold a part of it, by number, and spare ones. Files are made ahead of need, up
 * to the log's limit, and used again when the cut has passed them.
 */
import type { BlockFile } from '../base/io.ts';
import type { SegmentSource } from './log-ports.ts';

export class SegmentSet {
  readonly #source: SegmentSource;
  readonly #countMax: number;
  readonly #live: Map<number, BlockFile>;
  readonly #spare: BlockFile[];
  readonly #provided: () => void;
  /** The one that is being made. */
  #creating: Promise<void> | undefined;
  /** The last one could not be made. */
  #hasFailed = false;
  #closed = false;

  /** At most `countMax` files; `provided` is called when it is worth to ask for one again. */
  constructor(
    source: SegmentSource,
    countMax: number,
    live: ReadonlyMap<number, BlockFile>,
    spare: readonly BlockFile[],
    provided: () => void,
  ) {
    this.#source = source;
    this.#countMax = countMax;
    this.#live = new Map(live);
    this.#spare = [...spare];
    this.#provided = provided;
    this.#provide();
  }

  get count(): number {
    return this.#live.size + this.#spare.length;
  }

  /** A file is being made, in all likelihood: `provided` is called when it is there, or when that has failed. */
  get isGrowing(): boolean {
    return this.#creating !== undefined && !this.#hasFailed;
  }

  get(number: number): BlockFile | undefined {
    return this.#live.get(number);
  }

  files(): Iterable<BlockFile> {
    return this.#live.values();
  }

  /** Makes sure that there is a file for this segment; `firstLive` is the oldest one that is in use. */
  ensure(number: number, firstLive: number): boolean {
    if (this.#live.has(number)) return true;
    if (number - firstLive + 1 > this.#countMax) return false;
    const file = this.#spare.pop();
    if (file !== undefined) this.#live.set(number, file);
    this.#provide();
    return file !== undefined;
  }

  /** Segments before this one may be used again. */
  freeBefore(firstLive: number): void {
    for (const [number, file] of this.#live) {
      if (number >= firstLive) continue;
      this.#live.delete(number);
      this.#spare.push(file);
    }
  }

  /** Makes no further file; resolves when the one that is being made is there. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#creating;
  }

  /** Has a next file made before the current one is full. */
  #provide(): void {
    if (this.#creating !== undefined || this.#closed || this.#spare.length > 1) return;
    if (this.count + 1 > this.#countMax) return;
    this.#creating = this.#source.create().then(
      file => {
        this.#creating = undefined;
        this.#hasFailed = false;
        this.#spare.push(file);
        this.#provide();
        this.#provided();
      },
      () => {
        // No space for a further one: the log goes round in those that it has. Tried again with the next need.
        this.#creating = undefined;
        if (this.#hasFailed) return;
        this.#hasFailed = true;
        this.#provided();
      },
    );
  }
}
