/** What a soak has shown: from readings of the process and windows of load to verdicts with the figures they rest on. */
import { formatBytes } from '../src/base/units.ts';

/** Of the server's process, about once a second; `seconds` since the load began. */
export interface Reading {
  readonly seconds: number;
  readonly rssBytes: number;
  /** Those of log segments are made as the log grows, and apart. */
  readonly descriptors: number;
  readonly segmentDescriptors: number;
}

/** Some seconds of load, and what the server's status says after them. */
export interface Window {
  readonly seconds: number;
  readonly iops: number;
  readonly p999Us: number;
  readonly maxUs: number;
  readonly errors: number;
  readonly badData: number;
  readonly health: string;
  /** Share of the log in use. */
  readonly logFill: number;
  /** Something was carried to mass storage meanwhile. */
  readonly destaged: boolean;
  /** How late the event loop was: in the last minute, and since the server was started. */
  readonly loopP99Ms: number;
  readonly loopMaxMs: number;
  readonly loopP99MsSinceStart: number;
}

export interface Verdict {
  readonly good: boolean;
  readonly text: string;
}

const GROWTH_MAX = 0.05;
const LOOP_P99_MS_MAX = 20;
/** The share of the time in which caches fill and code is compiled. */
const WARM_UP = 0.2;
/** Figures of a moment are medians of this share of the time. */
const MOMENT = 0.1;

/** A log of full length has so many descriptors of its segments. */
export function judge(
  readings: readonly Reading[],
  windows: readonly Window[],
  segmentDescriptorsMax: number,
): Verdict[] {
  return [
    memory(readings),
    descriptors(readings, segmentDescriptorsMax),
    loop(windows),
    answers(windows),
    ...latencies(windows),
  ];
}

function memory(readings: readonly Reading[]): Verdict {
  const [before, after] = moments(readings).map(part => median(part.map(reading => reading.rssBytes)));
  const growth = after / before - 1;
  const from = `${formatBytes(before)} after warm-up, ${formatBytes(after)} at the end`;
  return {
    good: growth < GROWTH_MAX,
    text: `resident memory: ${from}: ${percent(growth)} (less than ${percent(GROWTH_MAX)})`,
  };
}

function descriptors(readings: readonly Reading[], segmentDescriptorsMax: number): Verdict {
  const [before, after] = moments(readings).map(part => median(part.map(reading => reading.descriptors)));
  const ofSegments = Math.max(...readings.map(reading => reading.segmentDescriptors));
  const segments = `of log segments ${ofSegments} at most (a full log has ${segmentDescriptorsMax})`;
  return {
    good: after <= before && ofSegments <= segmentDescriptorsMax,
    text: `descriptors: ${before} after warm-up, ${after} at the end; ${segments}`,
  };
}

function loop(windows: readonly Window[]): Verdict {
  const minutes = afterWarmUp(windows).map(window => window.loopP99Ms);
  const all = windows[windows.length - 1].loopP99MsSinceStart;
  const worst = `median of the minutes ${median(minutes).toFixed(1)} ms, worst ${Math.max(...minutes).toFixed(1)} ms`;
  const text = `event loop late, p99: ${all.toFixed(1)} ms (less than ${LOOP_P99_MS_MAX} ms); ${worst}`;
  return { good: all < LOOP_P99_MS_MAX, text };
}

function answers(windows: readonly Window[]): Verdict {
  const errors = sum(windows.map(window => window.errors));
  const badData = sum(windows.map(window => window.badData));
  const ill = windows.find(window => window.health !== 'ok')?.health;
  const iops = Math.round(sum(windows.map(window => window.iops)) / windows.length);
  return {
    good: errors === 0 && badData === 0 && ill === undefined,
    text: `${iops} IOPS on average, ${errors} errors, ${badData} wrong answers, health ${ill ?? 'ok'}`,
  };
}

/** There to know: a disk that is slower makes them worse. */
function latencies(windows: readonly Window[]): Verdict[] {
  return [true, false].flatMap(destaged => {
    const some = windows.filter(window => window.destaged === destaged);
    if (some.length === 0) return [];
    const p999 = median(some.map(window => window.p999Us)) / 1000;
    const max = Math.max(...some.map(window => window.maxUs)) / 1000;
    const what = destaged ? 'beside a destage' : 'without a destage';
    const text = `p99.9 ${p999.toFixed(1)} ms (median of ${some.length} windows), longest ${max.toFixed(1)} ms`;
    return [{ good: true, text: `latency ${what}: ${text}` }];
  });
}

function afterWarmUp<Thing extends { readonly seconds: number }>(things: readonly Thing[]): readonly Thing[] {
  const end = things.at(-1)?.seconds ?? 0;
  const rest = things.filter(thing => thing.seconds >= end * WARM_UP);
  return rest.length > 0 ? rest : things;
}

/** The first moment after warm-up, and the last one. */
function moments(readings: readonly Reading[]): [readonly Reading[], readonly Reading[]] {
  const rest = afterWarmUp(readings);
  const count = Math.max(1, Math.round(rest.length * MOMENT));
  return [rest.slice(0, count), rest.slice(-count)];
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
