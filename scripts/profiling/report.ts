/** The text of a profile: what was measured, then where the time went, by category, by thread and by function. */
import { formatLatency, formatTable } from '../../src/bin/table.ts';
import type { Sample as LoadSample } from '../bench/nbd-results.ts';
import type { Row } from '../bench/nbd-rows.ts';
import type { FunctionTime, GroupTime, Part, Summary } from './summary.ts';

export interface Profile {
  readonly row: Row;
  /** One line about the machine and the volume. */
  readonly setting: string;
  readonly sampler: string;
  readonly blindSpots: readonly string[];
  /** The same load with nobody looking, and while samples were taken. */
  readonly unwatched: LoadSample;
  readonly watched: LoadSample;
  readonly summary: Summary;
}

const FUNCTION_COUNT = 30;
const NAME_LENGTH_MAX = 56;
/** Smaller parts are added up. */
const SMALLEST_SHARE = 0.002;
/** A native function that works for one caller this much needs no figure for that; below the other, no caller stands out. */
const NEARLY_ALL = 0.95;
const STANDS_OUT = 0.25;

export function reportText(profile: Profile): string {
  const { row, setting, sampler, blindSpots, summary } = profile;
  return [
    `profile of ${row.name}: ${row.title}\n${setting}\n\n`,
    loadTable(profile),
    `\n${sampler}\n${blindSpots.map(sentence => `${sentence}\n`).join('')}`,
    `\n${categoryTable(profile)}`,
    `\n${threadTable(summary)}`,
    `\n${functionTable(summary)}`,
  ].join('');
}

function loadTable({ row, unwatched, watched }: Profile): string {
  const rows = [['', 'RATE', 'CPU/OP', 'P50', 'P99', 'P99.9']];
  for (const [name, load] of [
    ['not sampled', unwatched],
    ['sampled', watched],
  ] as const) {
    rows.push([
      name,
      `${Math.round(load.rate)} ${row.unit}`,
      load.serverCpuUsPerOp === undefined ? '' : `${load.serverCpuUsPerOp.toFixed(2)} µs`,
      ...[load.p50Us, load.p99Us, load.p999Us].map(formatLatency),
    ]);
  }
  return formatTable(rows, [0]);
}

/** The third column spreads the CPU time of an operation as the samples say: that of the run that nobody disturbed. */
function categoryTable({ summary, unwatched }: Profile): string {
  const { busySeconds, mainSeconds, seconds } = summary;
  const cpuUs = unwatched.serverCpuUsPerOp;
  const line = (name: string, part: number): string[] => {
    const each = cpuUs === undefined || busySeconds === 0 ? '' : ((cpuUs * part) / busySeconds).toFixed(2);
    return [name, percent(part, busySeconds), each];
  };
  const rows = [['CATEGORY', 'CPU TIME', 'µs/OP']];
  for (const group of summary.groups) {
    rows.push(line(group.name, group.seconds));
    for (const part of largeParts(group, busySeconds)) rows.push(line(`  ${part.name}`, part.seconds));
  }
  const idle = `idle: the main thread slept ${percent(Math.max(0, seconds - mainSeconds), seconds)} of the time`;
  return `${formatTable(rows, [0])}${idle}; all threads together used ${(busySeconds / seconds).toFixed(2)} processors\n`;
}

function largeParts({ parts }: GroupTime, all: number): Part[] {
  const large = parts.filter(part => part.seconds >= all * SMALLEST_SHARE);
  const small = parts.slice(large.length);
  if (small.length === 0) return large;
  const name = `${small.length} more`;
  return [...large, { name, seconds: small.reduce((sum, part) => sum + part.seconds, 0) }];
}

function threadTable({ threads, busySeconds, seconds }: Summary): string {
  const rows = [['THREADS', 'CPU TIME', 'PROCESSORS']];
  for (const thread of threads) {
    rows.push([thread.name, percent(thread.seconds, busySeconds), (thread.seconds / seconds).toFixed(2)]);
  }
  return formatTable(rows, [0]);
}

function functionTable({ functions, busySeconds }: Summary): string {
  const rows = [['SELF', 'TOTAL', 'FUNCTION', 'WHERE']];
  for (const time of functions.slice(0, FUNCTION_COUNT)) {
    rows.push([
      percent(time.selfSeconds, busySeconds),
      percent(time.totalSeconds, busySeconds),
      shortened(time.frame.name),
      whereOf(time),
    ]);
  }
  return formatTable(rows, [2, 3]);
}

/** A file and line, or what it belongs to and the JavaScript that it works for most. */
function whereOf({ frame, caller, selfSeconds }: FunctionTime): string {
  if (frame.kind === 'javascript') return `${frame.file}:${frame.line}`;
  if (caller === undefined || selfSeconds === 0) return frame.kind;
  const share = caller.seconds / selfSeconds;
  if (share < STANDS_OUT) return `${frame.kind}, for many`;
  const { name, file, line } = caller.frame;
  const often = share >= NEARLY_ALL ? '' : ` (${percent(caller.seconds, selfSeconds)})`;
  return `${frame.kind}, for ${shortened(name)} ${file}:${line}${often}`;
}

function shortened(name: string): string {
  return name.length <= NAME_LENGTH_MAX ? name : `${name.slice(0, NAME_LENGTH_MAX - 1)}…`;
}

function percent(part: number, all: number): string {
  return all === 0 ? '0.0 %' : `${((100 * part) / all).toFixed(1)} %`;
}
