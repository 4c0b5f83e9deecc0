/**
 * What runs of one row and server come to: their median, and the best of a class of servers. Called by the gates and the
 * reports; nothing here knows how a run is made.
 */
import type { EngineClass } from './nbd-engines.ts';
import type { Row } from './nbd-rows.ts';

/** `raw`: the bare file, without a server; `limit`: the same with all that is in flight as one request. */
export type ResultClass = EngineClass | 'raw' | 'limit';

/** Among which servers the best is looked for; `all` are all servers but Sledge. */
export type Rivals = 'all' | 'page cache' | 'direct' | 'raw' | 'limit';

/** One run, in the units of the table. */
export interface Sample {
  /** In the row's unit. */
  readonly rate: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  /** Of the server with its children; absent where there is no server, or where the client does not tell. */
  readonly serverCpuUsPerOp?: number;
  readonly serverRssBytes?: number;
  /** The lowest rate over 100 ms as a share of the mean, in rows that look at it. */
  readonly lowestShare?: number;
  /** Processors that were busy with what has nothing to do with the measurement; absent where the client does not tell. */
  readonly foreignCores?: number;
  readonly errors: number;
}

export interface Result {
  readonly row: string;
  readonly engine: string;
  readonly class: ResultClass;
  readonly unit: Row['unit'];
  /** Of each figure by itself, except for what must not happen even once: the lowest share, and the sum of errors. */
  readonly median: Sample;
  /** (highest − lowest) / median of the rate. */
  readonly spread: number;
  readonly samples: readonly Sample[];
}

export interface Ratio {
  readonly row: string;
  readonly class: Exclude<Rivals, 'all'>;
  readonly peer: string;
  /** Sledge's rate over that of the best peer of the class. */
  readonly ratio: number;
}

export function summarize(row: Row, engine: string, class_: ResultClass, samples: readonly Sample[]): Result {
  const rates = samples.map(sample => sample.rate);
  const rate = median(rates);
  const cpu = known(samples.map(sample => sample.serverCpuUsPerOp));
  const rss = known(samples.map(sample => sample.serverRssBytes));
  const foreign = known(samples.map(sample => sample.foreignCores));
  const shares = known(samples.map(sample => sample.lowestShare));
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
      ...(cpu.length > 0 && { serverCpuUsPerOp: median(cpu) }),
      ...(rss.length > 0 && { serverRssBytes: median(rss) }),
      ...(foreign.length > 0 && { foreignCores: median(foreign) }),
      ...(shares.length > 0 && { lowestShare: Math.min(...shares) }),
      errors: samples.reduce((sum, sample) => sum + sample.errors, 0),
    },
    spread: rate === 0 ? 0 : (Math.max(...rates) - Math.min(...rates)) / rate,
    samples,
  };
}

function known(values: readonly (number | undefined)[]): number[] {
  return values.filter(value => value !== undefined);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function oursIn(results: readonly Result[], row: string): Result | undefined {
  return results.find(result => result.row === row && result.class === 'sledge');
}

/** A server that is not ours. */
export function isPeer(class_: ResultClass): class_ is 'page cache' | 'direct' {
  return class_ === 'page cache' || class_ === 'direct';
}

export function rivalsIn(results: readonly Result[], row: string, rivals: Rivals): Result[] {
  return results.filter(result => {
    if (result.row !== row || result.class === 'sledge') return false;
    return rivals === 'all' ? isPeer(result.class) : result.class === rivals;
  });
}

/** The one with the highest rate; undefined when none was measured. */
export function bestIn(results: readonly Result[], row: string, rivals: Rivals): Result | undefined {
  return rivalsIn(results, row, rivals).reduce<Result | undefined>(
    (best, result) => (best === undefined || result.median.rate > best.median.rate ? result : best),
    undefined,
  );
}

export function ratios(results: readonly Result[]): Ratio[] {
  const found: Ratio[] = [];
  for (const ours of results.filter(result => result.class === 'sledge')) {
    for (const class_ of ['page cache', 'direct', 'raw', 'limit'] as const) {
      const peer = bestIn(results, ours.row, class_);
      if (peer === undefined || peer.median.rate === 0) continue;
      found.push({ row: ours.row, class: class_, peer: peer.engine, ratio: ours.median.rate / peer.median.rate });
    }
  }
  return found;
}
