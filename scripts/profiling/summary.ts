/**
 * Adds samples up: how much time went into what, into which functions, and on which threads. Shares are of the time that
 * the server spent on a processor, so that they say the same however busy it was.
 */
import { categoryOf } from './categories.ts';
import { type Frame, frameKey, MAIN_THREAD, nearestScript, type Sample, type ScriptFrame } from './sample.ts';

export interface Part {
  readonly name: string;
  readonly seconds: number;
}

export interface GroupTime extends Part {
  /** The largest first; none where there is nothing to tell apart. */
  readonly parts: readonly Part[];
}

export interface FunctionTime {
  readonly frame: Frame;
  /** In itself. */
  readonly selfSeconds: number;
  /** In itself and in what it called. */
  readonly totalSeconds: number;
  /** Of native functions: the JavaScript that most of their own time was spent for. */
  readonly caller?: { readonly frame: ScriptFrame; readonly seconds: number };
}

export interface Summary {
  readonly sampleCount: number;
  /** How long samples were taken. */
  readonly seconds: number;
  /** On a processor, all threads together. */
  readonly busySeconds: number;
  /** The main thread alone: the rest of `seconds` it slept. */
  readonly mainSeconds: number;
  readonly groups: readonly GroupTime[];
  readonly threads: readonly Part[];
  /** By their own time, the largest first. */
  readonly functions: readonly FunctionTime[];
}

export function summarize(samples: readonly Sample[], seconds: number): Summary {
  const groups = new Map<string, Times>();
  const threads = new Times();
  const functions = new Map<string, FunctionTally>();
  for (const sample of samples) {
    const { group, part } = categoryOf(sample.frames);
    const parts = entry(groups, group, () => new Times());
    parts.add(part ?? '', sample.seconds);
    threads.add(sample.thread, sample.seconds);
    countFunctions(functions, sample);
  }
  return {
    sampleCount: samples.length,
    seconds,
    busySeconds: threads.total,
    mainSeconds: threads.of(MAIN_THREAD),
    groups: [...groups]
      .map(([name, parts]) => ({ name, seconds: parts.total, parts: parts.sorted().filter(part => part.name !== '') }))
      .sort(byTime),
    threads: threads.sorted(),
    functions: [...functions.values()].map(tally => tally.result()).sort((a, b) => b.selfSeconds - a.selfSeconds),
  };
}

function countFunctions(functions: Map<string, FunctionTally>, { frames, seconds }: Sample): void {
  const seen = new Set<FunctionTally>();
  for (const [i, frame] of frames.entries()) {
    const tally = entry(functions, frameKey(frame), () => new FunctionTally(frame));
    if (i === 0) tally.addSelf(seconds, frames);
    // One that calls itself is counted once.
    if (!seen.has(tally)) tally.totalSeconds += seconds;
    seen.add(tally);
  }
}

class Times {
  readonly #byName = new Map<string, number>();
  total = 0;

  add(name: string, seconds: number): void {
    this.#byName.set(name, this.of(name) + seconds);
    this.total += seconds;
  }

  of(name: string): number {
    return this.#byName.get(name) ?? 0;
  }

  sorted(): Part[] {
    return [...this.#byName].map(([name, seconds]) => ({ name, seconds })).sort(byTime);
  }
}

class FunctionTally {
  readonly frame: Frame;
  totalSeconds = 0;
  #selfSeconds = 0;
  readonly #callers = new Map<string, { frame: ScriptFrame; seconds: number }>();

  constructor(frame: Frame) {
    this.frame = frame;
  }

  addSelf(seconds: number, frames: readonly Frame[]): void {
    this.#selfSeconds += seconds;
    const script = this.frame.kind === 'javascript' ? undefined : nearestScript(frames);
    if (script === undefined) return;
    entry(this.#callers, frameKey(script), () => ({ frame: script, seconds: 0 })).seconds += seconds;
  }

  result(): FunctionTime {
    const [caller] = [...this.#callers.values()].sort(byTime);
    const { frame, totalSeconds } = this;
    return { frame, totalSeconds, selfSeconds: this.#selfSeconds, ...(caller !== undefined && { caller }) };
  }
}

function byTime(a: { readonly seconds: number }, b: { readonly seconds: number }): number {
  return b.seconds - a.seconds;
}

function entry<Key, Value>(map: Map<Key, Value>, key: Key, make: () => Value): Value {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
