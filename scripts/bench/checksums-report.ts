/** What checksums cost: from the results with and without them to ratios, and to the table that people read. */
import { formatTable } from '../../src/bin/table.ts';
import type { Result } from './nbd-results.ts';
import type { Row } from './nbd-rows.ts';

/** One row, measured both ways. */
export interface Cost {
  readonly row: string;
  readonly title: string;
  readonly on: Result;
  readonly off: Result;
  /** The rate with checksums over that without. */
  readonly rateRatio: number;
  /** The server's CPU time an operation, with checksums over without; undefined where it was too short to be seen. */
  readonly cpuRatio: number | undefined;
}

export function costOf(row: Row, on: Result, off: Result): Cost {
  const cpuOn = on.median.serverCpuUsPerOp ?? 0;
  const cpuOff = off.median.serverCpuUsPerOp ?? 0;
  return {
    row: row.name,
    title: row.title,
    on,
    off,
    rateRatio: on.median.rate / off.median.rate,
    cpuRatio: cpuOn > 0 && cpuOff > 0 ? cpuOn / cpuOff : undefined,
  };
}

const HEADINGS = ['', 'rate', '', 'spread', 'p50 µs', 'p99 µs', 'CPU µs/op', 'others'] as const;
const LEFT: readonly number[] = [0, 2];

/** Two lines a row, and the ratios of the first to the second. */
export function formatCosts(costs: readonly Cost[]): string {
  const lines: (readonly string[])[] = [HEADINGS];
  for (const cost of costs) {
    const cpu = cost.cpuRatio === undefined ? '' : cost.cpuRatio.toFixed(2);
    lines.push(cellsOf(`${cost.title}: on`, cost.on), cellsOf('  off', cost.off));
    lines.push(['  on / off', cost.rateRatio.toFixed(2), '', '', '', '', cpu, '']);
  }
  return formatTable(lines, LEFT);
}

function cellsOf(name: string, { median, spread, unit }: Result): readonly string[] {
  return [
    name,
    format(median.rate),
    unit,
    `${Math.round(spread * 100)} %`,
    format(median.p50Us),
    format(median.p99Us),
    median.serverCpuUsPerOp?.toFixed(2) ?? '',
    median.foreignCores === undefined ? '' : `${median.foreignCores.toFixed(1)} cores`,
  ];
}

function format(value: number): string {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}
