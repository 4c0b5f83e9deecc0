/**
 * The segment files of a log: those that hold a part of it, by number, and spare ones. Files are made ahead of need, up
 * to the log's limit, and used again when the cut has passed them.
 */
import type { BlockFile } from '../base/io.ts';
import type { SegmentSource } from './log-ports.ts';

/** Files made ahead of need: a burst that writes faster than files can be made goes so far before it has to wait. */
const SPARE_COUNT = 16;
/** Files that are made at a time: they share the commits of the file system's journal, which take most of the time. */
const MAKING_COUNT = 2;

export class SegmentSet {
  readonly #source: SegmentSource;
  readonly #countMax: number;
  readonly #live: Map<number, BlockFile>;
  readonly #spare: BlockFile[];
  readonly #provided: () => void;
  /** Those that are being made. */
  readonly #creating = new Set<Promise<void>>();
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
    return this.#creating.size > 0 && !this.#hasFailed;
  }

  /** Files that are there and not in use. */
  get spareCount(): number {
    return this.#spare.length;
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

  /** Makes no further file; resolves when those that are being made are there. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#creating);
  }

  /** Has next files made before the current one is full. */
  #provide(): void {
    while (this.#creating.size < MAKING_COUNT && !this.#closed) {
      if (this.#spare.length + this.#creating.size >= SPARE_COUNT) return;
      if (this.count + this.#creating.size + 1 > this.#countMax) return;
      this.#create();
    }
  }

  #create(): void {
    const creation = this.#source.create().then(
      file => {
        this.#creating.delete(creation);
        this.#hasFailed = false;
        this.#spare.push(file);
        this.#provide();
        this.#provided();
      },
      () => {
        // No space for a further one: the log goes round in those that it has. Tried again with the next need.
        this.#creating.delete(creation);
        if (this.#hasFailed) return;
        this.#hasFailed = true;
        this.#provided();
      },
    );
    this.#creating.add(creation);
  }
}
