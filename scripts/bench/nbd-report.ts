/** What people read: one table of all that was measured, with ratios and gates under each row, and a last line. */
import { type Figure, formatFigure, isMet } from './nbd-figures.ts';
import { LOWEST_WINDOW_MS, type Verdict } from './nbd-gates.ts';
import { bestIn, isPeer, type Result, ratios } from './nbd-results.ts';
import type { Row } from './nbd-rows.ts';

const HEADINGS = ['', 'rate', '', 'spread', 'p50 µs', 'p99 µs', 'p99.9 µs', 'CPU µs/op', 'RSS MiB', ''] as const;
/** What other processes may take of the machine without a word about it. */
const FOREIGN_CORES = 0.1;
const LEFT: readonly number[] = [0, 2, 9];

/** `*` marks the best peer of each class in a row. */
export function formatTable(rows: readonly Row[], results: readonly Result[], verdicts: readonly Verdict[]): string {
  const lines: (readonly string[] | string)[] = [HEADINGS];
  for (const row of rows) {
    const ofRow = results.filter(result => result.row === row.name);
    if (ofRow.length === 0) continue;
    lines.push(`${row.name}: ${row.title}, ${row.seconds} s`);
    lines.push(...ofRow.map(result => cellsOf(result, ofRow)));
    for (const ratio of ratios(ofRow)) {
      const peer = isPeer(ratio.class) ? `best ${ratio.class} (${ratio.peer})` : ratio.peer;
      lines.push(`  sledge / ${peer}: ${ratio.ratio.toFixed(2)}`);
    }
    for (const verdict of verdicts.filter(verdict => verdict.row === row.name)) {
      lines.push(`  gate: ${formatVerdict(verdict)}`);
    }
  }
  return align(lines);
}

function cellsOf(result: Result, ofRow: readonly Result[]): readonly string[] {
  const { median: m, class: class_ } = result;
  const isBest = isPeer(class_) && bestIn(ofRow, result.row, class_) === result;
  const notes = [
    isBest ? '*' : '',
    m.lowestShare === undefined ? '' : `lowest ${LOWEST_WINDOW_MS} ms: ${m.lowestShare.toFixed(2)} × mean`,
    (m.foreignCores ?? 0) < FOREIGN_CORES ? '' : `others took ${m.foreignCores!.toFixed(1)} cores`,
    m.errors > 0 ? `${m.errors} failed` : '',
  ];
  return [
    `  ${result.engine} (${class_ === 'sledge' ? 'ours' : class_})`,
    format(m.rate),
    result.unit,
    `${Math.round(result.spread * 100)} %`,
    format(m.p50Us),
    format(m.p99Us),
    format(m.p999Us),
    m.serverCpuUsPerOp === undefined ? '' : m.serverCpuUsPerOp.toFixed(1),
    m.serverRssBytes === undefined ? '' : format(m.serverRssBytes / 2 ** 20),
    notes.filter(Boolean).join(' '),
  ];
}

/** Figures of Sledge alone, each with its gate. */
export function formatFigures(figures: readonly Figure[]): string {
  return figures
    .map(figure => {
      const state = isMet(figure) ? 'met' : 'missed';
      return `${figure.name}: ${figure.title}: ${formatFigure(figure)}; gate: < ${figure.below} ${figure.unit} ${state}`;
    })
    .join('\n');
}

export function formatVerdict(verdict: Verdict): string {
  return verdict.state === 'not measured'
    ? `${verdict.sentence}: not measured`
    : `${verdict.sentence}: ${verdict.found} ${verdict.state}`;
}

/** How many gates were met and missed, and which were missed. */
export function formatSummary(verdicts: readonly Verdict[]): string {
  const of = (state: Verdict['state']): Verdict[] => verdicts.filter(verdict => verdict.state === state);
  const counts = `gates: ${of('met').length} met, ${of('missed').length} missed, ${of('not measured').length} not measured`;
  return [
    counts,
    ...of('missed').map(verdict => `  missed: ${verdict.row}: ${verdict.sentence}: ${verdict.found}`),
  ].join('\n');
}

function format(value: number): string {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

/** Cells in columns, words to the left and numbers to the right; whole lines stand as they are. */
function align(lines: readonly (readonly string[] | string)[]): string {
  const tables = lines.filter(line => typeof line !== 'string');
  const widths = HEADINGS.map((_, i) => Math.max(...tables.map(cells => cells[i].length)));
  return lines
    .map(line => {
      if (typeof line === 'string') return line;
      const cells = line.map((cell, i) => (LEFT.includes(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])));
      return cells.join('  ').trimEnd();
    })
    .join('\n');
}
