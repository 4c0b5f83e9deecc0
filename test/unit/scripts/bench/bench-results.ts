/** Rows and results as the benchmark makes them, for the tests of its gates and reports. */
import type { Gate } from '../../../../scripts/bench/nbd-gates.ts';
import { type Result, type ResultClass, type Sample, summarize } from '../../../../scripts/bench/nbd-results.ts';
import type { Row } from '../../../../scripts/bench/nbd-rows.ts';

export function rowWith(gates: readonly Gate[], details: Partial<Row> = {}): Row {
  return {
    name: 'row',
    title: '4 KiB something',
    load: [],
    client: 'nbdload',
    unit: 'IOPS',
    writes: false,
    seconds: 5,
    classes: ['sledge', 'page cache', 'direct', 'raw'],
    quick: false,
    gates,
    ...details,
  };
}

export function resultOf(row: Row, engine: string, class_: ResultClass, ...samples: Partial<Sample>[]): Result {
  const whole = samples.map(sample => ({ rate: 0, p50Us: 1, p99Us: 1, p999Us: 1, errors: 0, ...sample }));
  return summarize(row, engine, class_, whole);
}
