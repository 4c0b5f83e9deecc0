/** The table of the README: one line a row, with the best of each class of servers and what the gates say. */
import type { EngineSpec } from './nbd-engines.ts';
import { type Figure, formatFigure, isMet } from './nbd-figures.ts';
import { LOWEST_WINDOW_MS, type Verdict } from './nbd-gates.ts';
import { bestIn, oursIn, type Result, type Rivals } from './nbd-results.ts';
import type { Row } from './nbd-rows.ts';

export interface Measured {
  readonly rows: readonly Row[];
  /** Those that were measured: the columns are named by them. */
  readonly engines: readonly EngineSpec[];
  readonly results: readonly Result[];
  readonly verdicts: readonly Verdict[];
  readonly figures: readonly Figure[];
}

const NONE = '–';

export function formatMarkdown(measured: Measured): string {
  const { rows, results, figures } = measured;
  const rowsFound = rows.filter(row => results.some(result => result.row === row.name));
  const tables: string[] = [];
  if (rowsFound.length > 0) {
    const headings = [
      'work (rates: higher is better)',
      'Sledge',
      bestOf(measured, 'page cache'),
      bestOf(measured, 'direct'),
      'raw file',
      'Sledge to the best, and what it has to be',
    ];
    tables.push(
      table(
        headings,
        rowsFound.map(row => lineOf(row, measured)),
      ),
    );
  }
  if (figures.length > 0) {
    const lines = figures.map(figure => {
      const word = isMet(figure) ? 'met' : '**missed**';
      return [figure.title, formatFigure(figure), `< ${figure.below} ${figure.unit}: ${word}`];
    });
    tables.push(table(['Sledge alone', 'measured', 'what it has to be'], lines));
  }
  return `${tables.join('\n\n')}\n`;
}

function bestOf({ engines }: Measured, class_: 'page cache' | 'direct'): string {
  const names = engines.filter(engine => engine.class === class_).map(engine => engine.name);
  return names.length === 0 ? `no peer (${class_})` : `best of ${names.join(', ')} (${class_})`;
}

function lineOf(row: Row, { results, verdicts }: Measured): string[] {
  const ours = oursIn(results, row.name);
  // The unit stands once, with Sledge's own rate, where it is not the usual one.
  const unit = row.unit === 'IOPS' ? '' : ` ${row.unit}`;
  const gates = verdicts.filter(verdict => verdict.row === row.name).map(gateCell);
  return [
    row.title,
    ours === undefined ? NONE : `${grouped(ours.median.rate)}${unit}`,
    peerCell(results, row.name, 'page cache'),
    peerCell(results, row.name, 'direct'),
    [peerCell(results, row.name, 'raw'), limitCell(row, results)].filter(Boolean).join('; '),
    gates.length === 0 ? NONE : gates.join('; '),
  ];
}

function peerCell(results: readonly Result[], row: string, rivals: Rivals): string {
  const best = bestIn(results, row, rivals);
  if (best === undefined) return NONE;
  return rivals === 'raw' ? grouped(best.median.rate) : `${grouped(best.median.rate)} (${best.engine})`;
}

/** `at once 33 500` */
function limitCell(row: Row, results: readonly Result[]): string {
  const limit = bestIn(results, row.name, 'limit');
  return limit === undefined ? '' : `at once ${grouped(limit.median.rate)}`;
}

/** `1.35 × all (≥ 1.2): met` */
function gateCell({ gate, value, state }: Verdict): string {
  if (gate === undefined || value === undefined) return state;
  const limit = 'least' in gate ? `≥ ${gate.least.toFixed(1)}` : `≤ ${gate.most.toFixed(1)}`;
  const word = state === 'missed' ? '**missed**' : state;
  const ratio = value.toFixed(2);
  switch (gate.measure) {
    case 'rate':
      return `${ratio} × ${gate.over} (${limit}): ${word}`;
    case 'p99':
      return `p99 ${ratio} × (${limit}): ${word}`;
    case 'cpu':
      return `CPU ${ratio} × (${limit}): ${word}`;
    case 'lowest':
      return `lowest ${LOWEST_WINDOW_MS} ms ${ratio} × mean (${limit}): ${word}`;
  }
}

/** `8130` → `8 130`. */
export function grouped(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(?:\d{3})+$)/g, ' ');
}

function table(headings: readonly string[], lines: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(headings), `|${'---|'.repeat(headings.length)}`, ...lines.map(line)].join('\n');
}
