/**
 * What happened to the files and the index of a simulated node, step by step, so that the state of each moment can be
 * rebuilt: what was on stable storage, and what was between the node and there. A power cut at a moment leaves the first and
 * any part of the second. The trace is gone through once, from the beginning to the end; at each step the disks that a cut
 * would leave are made over the state, without a copy of it.
 *
 * Steps that change what a cut may leave are *boundaries*: the beginning and the end of each write, discard, sync and
 * index commit, and a new segment. Other steps tell what clients have asked for and what they were answered. A cut right
 * before a boundary therefore knows all answers that this state of the disks has to keep.
 */
import { assert } from '../../src/base/assert.ts';
import { IndexContents } from './memory-index.ts';
import { type FileWatcher, SimFile } from './sim-file.ts';
import type { SimLoop } from './sim-loop.ts';
import type { NodeWatcher, SimDisks } from './sim-node.ts';
import { type PageChange, Pages } from './sim-pages.ts';
import type { SimRandom } from './sim-random.ts';

/**
 * What becomes of that which is not on stable storage: all lost, all there, each sector by coin (torn and out of order), or
 * one of these for each file and the index.
 */
export const CUTS = ['lost', 'kept', 'torn', 'mixed'] as const;
export type Cut = (typeof CUTS)[number];

interface Step {
  /** What is done, when it is a boundary. */
  readonly boundary: string | undefined;
  readonly take: () => void;
}

interface TracedFile {
  readonly file: SimFile;
  readonly stable: Pages;
  /** Begun and not on stable storage, by number, in the order of the calls. */
  readonly changes: Map<number, PageChange>;
}

export class SimTrace implements NodeWatcher {
  readonly #steps: Step[] = [];
  #at = 0;
  #changeCount = 0;
  boundaryCount = 0;
  // The state at step `#at`.
  readonly #files: TracedFile[] = [];
  readonly #index = new IndexContents();
  readonly #commits: ((contents: IndexContents) => void)[] = [];

  readonly #lies: SimFile['mode'] | undefined;

  /** Syncs of files of the mode `lies` do nothing: for tests of those who judge cuts. */
  constructor(lies?: SimFile['mode']) {
    this.#lies = lies;
  }

  // --- recording ---------------------------------------------------------------------------------------------------------

  /** Something that a cut does not change, but its judge has to know. */
  note(take: () => void): void {
    this.#steps.push({ boundary: undefined, take });
  }

  fileMade(file: SimFile): void {
    const traced: TracedFile = { file, stable: new Pages(), changes: new Map() };
    file.watcher = this.#watch(traced);
    const take = () => void this.#files.push(traced);
    // Devices are there before the node.
    if (file.mode === 'direct') this.note(take);
    else this.#boundary(`${file.name} is made`, take);
  }

  commitBegan(apply: (contents: IndexContents) => void): void {
    this.#boundary('an index commit begins', () => void this.#commits.push(apply));
  }

  commitEnded(): void {
    this.#boundary('an index commit ends', () => {
      const apply = this.#commits.shift();
      assert(apply !== undefined, 'a commit that ends has begun');
      apply(this.#index);
    });
  }

  #watch({ file: { name, mode }, stable, changes }: TracedFile): FileWatcher {
    const settle = (number: number) => {
      const change = changes.get(number);
      // A sync may have covered a durable write before it ended.
      if (change === undefined) return;
      stable.apply(change);
      changes.delete(number);
    };
    return {
      changeBegan: change => {
        const number = ++this.#changeCount;
        const what = change.bytes === undefined ? 'discard' : 'write';
        this.#boundary(
          `a ${what} of ${change.length} at ${change.position} of ${name} begins`,
          () => void changes.set(number, change),
        );
        return number;
      },
      changeEnded: (number, durable) => {
        this.#boundary(`a change of ${name} ends`, () => {
          if (durable) settle(number);
        });
      },
      syncBegan: () => this.#boundary(`a sync of ${name} begins`, () => {}),
      syncEnded: numbers =>
        this.#boundary(`a sync of ${name} ends`, () => {
          if (mode !== this.#lies) numbers.forEach(settle);
        }),
    };
  }

  #boundary(boundary: string, take: () => void): void {
    this.boundaryCount++;
    this.#steps.push({ boundary, take });
  }

  // --- going through it ----------------------------------------------------------------------------------------------------

  /** Goes on to right before the next boundary and says which that is; undefined at the end, with all steps taken. */
  advance(): string | undefined {
    if (this.#steps[this.#at]?.boundary !== undefined) this.#take();
    while (this.#at < this.#steps.length && this.#steps[this.#at].boundary === undefined) this.#take();
    return this.#steps[this.#at]?.boundary;
  }

  #take(): void {
    this.#steps[this.#at].take();
    // Its data is needed no longer.
    this.#steps[this.#at] = { boundary: undefined, take: () => {} };
    this.#at++;
  }

  /** What a cut right now leaves. To be dropped before the next `advance`. */
  disksAfter(cut: Cut, loop: SimLoop, random: SimRandom): SimDisks {
    const files = this.#files.map(traced => forkOf(traced, fateOf(cut, random), loop, random));
    const contents = this.#index.fork();
    const fate = fateOf(cut, random);
    const count = this.#commits.length;
    const survivors = fate === 'lost' ? 0 : fate === 'kept' ? count : random.below(count + 1);
    for (const apply of this.#commits.slice(0, survivors)) apply(contents);
    return {
      devices: files.filter(file => file.mode === 'direct'),
      segments: files.filter(file => file.mode === 'buffered'),
      contents,
    };
  }
}

function fateOf(cut: Cut, random: SimRandom): Exclude<Cut, 'mixed'> {
  return cut === 'mixed' ? random.oneOf(['lost', 'kept', 'torn']) : cut;
}

function forkOf(traced: TracedFile, fate: Exclude<Cut, 'mixed'>, loop: SimLoop, random: SimRandom): SimFile {
  const { file, changes } = traced;
  const content = new Pages(traced.stable);
  if (fate === 'kept') for (const change of changes.values()) content.apply(change);
  if (fate === 'torn') for (const change of changes.values()) content.applySome(change, () => random.chance(50));
  const fork = new SimFile(file.name, file.sizeBytes, file.mode, loop, random, content);
  fork.canDiscard = file.canDiscard;
  return fork;
}
