/**
 * Which function lay at an address of compiled JavaScript, at a given time. `node --perf-basic-prof` writes a map for
 * this, a line for each function as it is compiled: `START LENGTH NAME`, in hexadecimal. perf reads it as if it were true
 * for all time, but V8 throws code away and uses its room again: after some seconds hundreds of lines overlap others, and
 * perf shows an `fsync` of the start of the server in the middle of a write.
 *
 * So the map is read along with the samples. Its length is noted while they are taken (`Mark`), and before a sample is
 * looked at, all lines are taken in that were there by the next mark; each drives out what it overlaps. That is early by
 * up to the time between two marks, which does no harm: what was driven out was dead by then.
 */
import type { Frame } from './sample.ts';
import type { PlaceFinder } from './source-places.ts';

export interface Mark {
  /** Of the clock of the samples. */
  readonly atSeconds: number;
  /** How long the map was then. */
  readonly bytes: number;
}

interface Entry {
  readonly start: number;
  readonly end: number;
  readonly frame: Frame;
}

const LINE = /^([0-9a-f]+) ([0-9a-f]+) (.+)$/;
/** JS:*name file:///…:LINE:COLUMN; the mark says which compiler made it (~ is the interpreter). */
const SCRIPT = /^(?:JS|Script|LazyCompile|Function|Eval):[*^~+]*(.*?) ?((?:file:\/\/|node:|\/)\S*):(\d+):(\d+)$/;
const LINE_FEED = 10;

export class CompiledCode {
  readonly #map: Uint8Array;
  readonly #marks: readonly Mark[];
  readonly #placeOf: PlaceFinder;
  /** In the order of addresses, none over another. */
  readonly #entries: Entry[] = [];
  #readBytes = 0;
  #markIndex = 0;

  /** The marks are in the order of time; the first is from before the samples. */
  constructor(map: Uint8Array, marks: readonly Mark[], placeOf: PlaceFinder) {
    this.#map = map;
    this.#marks = marks;
    this.#placeOf = placeOf;
  }

  /** From now on answers are for this time, which only goes forwards. */
  advanceTo(seconds: number): void {
    const marks = this.#marks;
    while (
      this.#markIndex < marks.length &&
      (this.#markIndex === 0 || marks[this.#markIndex - 1].atSeconds < seconds)
    ) {
      this.#read(marks[this.#markIndex].bytes);
      this.#markIndex += 1;
    }
  }

  /** Undefined where nothing with a name lies. */
  find(address: number): Frame | undefined {
    const entry = this.#entries[firstFrom(this.#entries, address + 1) - 1];
    return entry !== undefined && address < entry.end ? entry.frame : undefined;
  }

  /** Takes in the lines that are whole within this length. */
  #read(bytes: number): void {
    const end = this.#map.lastIndexOf(LINE_FEED, Math.min(bytes, this.#map.length) - 1) + 1;
    if (end <= this.#readBytes) return;
    const text = new TextDecoder().decode(this.#map.subarray(this.#readBytes, end));
    this.#readBytes = end;
    for (const line of text.split('\n')) this.#add(line);
  }

  #add(line: string): void {
    const match = LINE.exec(line);
    if (match === null) return;
    const start = Number.parseInt(match[1], 16);
    const end = start + Number.parseInt(match[2], 16);
    const entries = this.#entries;
    let from = firstFrom(entries, start);
    if (from > 0 && entries[from - 1].end > start) from -= 1;
    let to = from;
    while (to < entries.length && entries[to].start < end) to += 1;
    entries.splice(from, to - from, { start, end, frame: compiledFrame(match[3], this.#placeOf) });
  }
}

function compiledFrame(name: string, placeOf: PlaceFinder): Frame {
  const script = SCRIPT.exec(name);
  if (script === null) return { kind: 'builtin', name };
  return {
    kind: 'javascript',
    name: script[1] === '' ? '(anonymous)' : script[1],
    ...placeOf(script[2], Number(script[3]), Number(script[4])),
  };
}

/** Where the first entry is that begins there or later. */
function firstFrom(entries: readonly Entry[], start: number): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (entries[middle].start < start) low = middle + 1;
    else high = middle;
  }
  return low;
}
