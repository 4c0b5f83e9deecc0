/**
 * The gates: what Sledge has to reach, as a ratio to others in the same run, since no absolute figure means anything on
 * another machine. Rows carry their gates as data; this file says whether the results meet them.
 *
 * A gate whose other side was not measured is neither met nor missed, and says so.
 */
import { bestIn, oursIn, type Result, type Rivals, rivalsIn } from './nbd-results.ts';
import type { Row } from './nbd-rows.ts';

export type Gate =
  /** Sledge's rate over the best rate of the rivals. */
  | { readonly measure: 'rate'; readonly over: Rivals; readonly least: number }
  /** Sledge's p99 over that of the rival with the best rate: a slow server answers quickly, too. */
  | { readonly measure: 'p99'; readonly over: Rivals; readonly most: number }
  /** Sledge's CPU time an operation over the lowest of the rivals. */
  | { readonly measure: 'cpu'; readonly over: Rivals; readonly most: number }
  /** The lowest rate over 100 ms as a share of the mean: a server that stalls is not saved by its mean. */
  | { readonly measure: 'lowest'; readonly least: number };

export type GateState = 'met' | 'missed' | 'not measured';

export interface Verdict {
  readonly row: string;
  /** What was asked, with the name of whom it was compared with. */
  readonly sentence: string;
  /** What was found, as it is printed. */
  readonly found: string;
  readonly value?: number;
  readonly peer?: string;
  readonly gate?: Gate;
  readonly state: GateState;
}

export const LOWEST_WINDOW_MS = 100;

export function judge(rows: readonly Row[], results: readonly Result[]): Verdict[] {
  return rows.flatMap(row => row.gates.map(gate => judgeOne(row.name, gate, results)));
}

function judgeOne(row: string, gate: Gate, results: readonly Result[]): Verdict {
  const { value, peer } = compare(row, gate, results);
  const sentence = describe(gate, peer);
  if (value === undefined) return { row, gate, sentence, found: '–', state: 'not measured' };
  const isMet = 'least' in gate ? value >= gate.least : value <= gate.most;
  const state = isMet ? 'met' : 'missed';
  return { row, gate, sentence, found: value.toFixed(2), value, ...(peer !== undefined && { peer }), state };
}

interface Comparison {
  readonly value?: number;
  readonly peer?: string;
}

function compare(row: string, gate: Gate, results: readonly Result[]): Comparison {
  const ours = oursIn(results, row)?.median;
  if (ours === undefined) return {};
  switch (gate.measure) {
    case 'rate': {
      const best = bestIn(results, row, gate.over);
      return ratio(ours.rate, best?.median.rate, best);
    }
    case 'p99': {
      const best = bestIn(results, row, gate.over);
      return ratio(ours.p99Us, best?.median.p99Us, best);
    }
    case 'cpu': {
      const least = lowestCpu(rivalsIn(results, row, gate.over));
      return ratio(ours.serverCpuUsPerOp, least?.median.serverCpuUsPerOp, least);
    }
    case 'lowest':
      return ours.lowestShare === undefined ? {} : { value: ours.lowestShare };
  }
}

/** None where one of the two is missing, or where the rival's is too small to have been seen at all. */
function ratio(ours: number | undefined, theirs: number | undefined, peer: Result | undefined): Comparison {
  if (ours === undefined || theirs === undefined || peer === undefined || theirs <= 0) return {};
  return { value: ours / theirs, peer: peer.engine };
}

function lowestCpu(results: readonly Result[]): Result | undefined {
  return results
    .filter(result => (result.median.serverCpuUsPerOp ?? 0) > 0)
    .sort((a, b) => a.median.serverCpuUsPerOp! - b.median.serverCpuUsPerOp!)[0];
}

function describe(gate: Gate, peer: string | undefined): string {
  if (gate.measure === 'lowest') return `lowest ${LOWEST_WINDOW_MS} ms ≥ ${gate.least} × its own mean`;
  const rivals = gate.over === 'raw' ? 'the raw file' : `best of ${gate.over}`;
  const name = peer === undefined || gate.over === 'raw' ? '' : ` (${peer})`;
  switch (gate.measure) {
    case 'rate':
      return `rate ≥ ${gate.least.toFixed(1)} × ${rivals}${name}`;
    case 'p99':
      return `p99 ≤ ${gate.most.toFixed(1)} × that of the ${rivals}${name}`;
    case 'cpu':
      return `CPU an operation ≤ ${gate.most.toFixed(1)} × the lowest of ${gate.over}${name}`;
  }
}

/**
 * The lowest sum of `width` neighbouring counts, as a share of what such a sum is in the mean. Counts are of intervals
 * shorter than the time of interest, so that a stall shows wherever it begins. Undefined where there is too little.
 */
export function lowestShare(counts: readonly number[], width: number): number | undefined {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (counts.length < width || total === 0) return undefined;
  let window = 0;
  let lowest = Number.POSITIVE_INFINITY;
  for (const [i, count] of counts.entries()) {
    window += count;
    if (i >= width) window -= counts[i - width];
    if (i >= width - 1) lowest = Math.min(lowest, window);
  }
  return lowest / ((total / counts.length) * width);
}
