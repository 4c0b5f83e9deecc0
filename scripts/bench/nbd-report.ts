/** From the runs of one row and engine to their median, and from the medians to a table and to ratios. */
import type { EngineClass } from './nbd-engines.ts';
import type { Row } from './nbd-rows.ts';

/** One run, in the units of the table. */
export interface Sample {
  /** In the row's unit. */
  readonly rate: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  /** Of the server with its children; none for fio on the bare file. */
  readonly serverCpuUsPerOp?: number;
  readonly serverRssBytes?: number;
  readonly errors: number;
}

export interface Result {
  readonly row: string;
  readonly engine: string;
  readonly class: EngineClass | 'raw';
  readonly unit: Row['unit'];
  readonly median: Sample;
  /** (highest − lowest) / median of the rate. */
  readonly spread: number;
  readonly samples: readonly Sample[];
}

export interface Ratio {
  readonly row: string;
  readonly class: EngineClass;
  readonly peer: string;
  /** Sledge's rate over that of the best peer of the class. */
  readonly ratio: number;
}

export function summarize(row: Row, engine: string, class_: Result['class'], samples: readonly Sample[]): Result {
  const rates = samples.map(sample => sample.rate);
  const rate = median(rates);
  const optional = (values: readonly (number | undefined)[]): number | undefined => {
    const known = values.filter(value => value !== undefined);
    return known.length === 0 ? undefined : median(known);
  };
  const cpu = optional(samples.map(sample => sample.serverCpuUsPerOp));
  const rss = optional(samples.map(sample => sample.serverRssBytes));
  return {
    row: row.name,
    engine,
    class: class_,
    unit: row.unit,
    median: {
      rate,
      p50Us: median(samples.map(sample => sample.p50Us)),
      p99Us: median(samples.map(sample => sample.p99Us)),
      p999Us: median(samples.map(sample => sample.p999Us)),
      ...(cpu === undefined ? {} : { serverCpuUsPerOp: cpu }),
      ...(rss === undefined ? {} : { serverRssBytes: rss }),
      errors: samples.reduce((sum, sample) => sum + sample.errors, 0),
    },
    spread: rate === 0 ? 0 : (Math.max(...rates) - Math.min(...rates)) / rate,
    samples,
  };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The best of a class in a row; undefined when none was measured. */
function best(results: readonly Result[], row: string, class_: EngineClass): Result | undefined {
  return results
    .filter(result => result.row === row && result.class === class_)
    .reduce<Result | undefined>(
      (top, result) => (top === undefined || result.median.rate > top.median.rate ? result : top),
      undefined,
    );
}

export function ratios(results: readonly Result[]): Ratio[] {
  const found: Ratio[] = [];
  for (const ours of results.filter(result => result.class === 'sledge')) {
    for (const class_ of ['page cache', 'direct'] as const) {
      const peer = best(results, ours.row, class_);
      if (peer === undefined) continue;
      found.push({ row: ours.row, class: class_, peer: peer.engine, ratio: ours.median.rate / peer.median.rate });
    }
  }
  return found;
}

const HEADINGS = ['', 'rate', '', 'spread', 'p50 µs', 'p99 µs', 'p99.9 µs', 'CPU µs/op', 'RSS MiB', ''] as const;

/** One table of all; `*` marks the best peer of each class in a row. */
export function formatTable(rows: readonly Row[], results: readonly Result[]): string {
  const lines: (readonly string[] | string)[] = [HEADINGS];
  for (const row of rows) {
    const ofRow = results.filter(result => result.row === row.name);
    if (ofRow.length === 0) continue;
    lines.push(`${row.name}: ${row.title}`);
    for (const result of ofRow) {
      const isBest =
        result.class !== 'raw' && result.class !== 'sledge' && best(results, row.name, result.class) === result;
      const { median: m } = result;
      lines.push([
        `  ${result.engine} (${result.class === 'sledge' ? 'ours' : result.class})`,
        format(m.rate),
        result.unit,
        `${Math.round(result.spread * 100)} %`,
        format(m.p50Us),
        format(m.p99Us),
        format(m.p999Us),
        m.serverCpuUsPerOp === undefined ? '' : m.serverCpuUsPerOp.toFixed(1),
        m.serverRssBytes === undefined ? '' : format(m.serverRssBytes / 2 ** 20),
        (isBest ? '*' : '') + (m.errors > 0 ? ` ${m.errors} failed` : ''),
      ]);
    }
    for (const ratio of ratios(ofRow)) {
      lines.push(`  sledge / best ${ratio.class} (${ratio.peer}): ${ratio.ratio.toFixed(2)}`);
    }
  }
  return align(lines);
}

function format(value: number): string {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

/** Cells in columns, the first one to the left and numbers to the right; whole lines stand as they are. */
function align(lines: readonly (readonly string[] | string)[]): string {
  const tables = lines.filter(line => typeof line !== 'string');
  const widths = HEADINGS.map((_, i) => Math.max(...tables.map(cells => cells[i].length)));
  return lines
    .map(line => {
      if (typeof line === 'string') return line;
      const cells = line.map((cell, i) =>
        i === 0 || i === 2 || i === 9 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]),
      );
      return cells.join('  ').trimEnd();
    })
    .join('\n');
}
