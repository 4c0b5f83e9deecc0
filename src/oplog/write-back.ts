/**
 * Has what was appended through the page cache written to the disk soon, bit by bit, so that a sync finds little left to
 * do: without it the first flush after a burst waits for all of it, and so does everybody else who needs the disk
 * meanwhile (measured: 1.2 GiB of a log, 2.4 s). It promises nothing: only a sync makes anything durable.
 *
 * Invariants:
 * - One range is under way at a time, so that reads never queue behind more than that.
 * - The last page, which the next batch writes again, is left out.
 */
import type { BlockFile, IoRequest } from '../base/io.ts';
import { MIB } from '../base/units.ts';

/** Worth a call, and not longer than others can wait for the disk. */
const RANGE_BYTES_MIN = MIB;
const RANGE_BYTES_MAX = 2 * MIB;

/** Positions within the file. */
interface Range {
  readonly file: BlockFile;
  from: number;
  to: number;
}

export class WriteBack implements IoRequest {
  readonly #failed: (errno: number) => void;
  /** Oldest first; the last one grows. */
  #pending: Range[] = [];
  #isUnderWay = false;
  #ended: (() => void) | undefined;

  /** `failed` is told the positive errno of a range that could not be written. */
  constructor(failed: (errno: number) => void) {
    this.#failed = failed;
  }

  /** [from, to) of a file was written; `to` is where its last whole page ends. */
  written(file: BlockFile, from: number, to: number): void {
    const last = this.#pending.at(-1);
    if (last?.file === file && last.to >= from) last.to = Math.max(last.to, to);
    else if (to > from) this.#pending.push({ file, from, to });
    this.#begin();
  }

  /** A sync begins, which writes all that there is. */
  syncBegins(): void {
    this.#pending = [];
  }

  /** Begins nothing new; resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.#pending = [];
    if (!this.#isUnderWay) return;
    await new Promise<void>(resolve => {
      this.#ended = resolve;
    });
  }

  ioCompleted(result: number): void {
    this.#isUnderWay = false;
    this.#ended?.();
    if (result < 0) this.#failed(-result);
    else this.#begin();
  }

  #begin(): void {
    while (!this.#isUnderWay) {
      const range = this.#pending[0];
      if (range === undefined) return;
      const length = Math.min(range.to - range.from, RANGE_BYTES_MAX);
      if (this.#pending.length === 1 && length < RANGE_BYTES_MIN) return;
      if (length === 0) {
        this.#pending.shift();
        continue;
      }
      this.#isUnderWay = true;
      range.file.writeBack(range.from, length, this);
      range.from += length;
    }
  }
}
