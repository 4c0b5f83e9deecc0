/** Text for terminals: tables, counts, times. Used by the commands that print for people. */
import { formatBytes } from '../base/units.ts';

/** Columns as wide as their widest cell; all but those in `left` are aligned at the right, as numbers are. */
export function formatTable(rows: readonly (readonly string[])[], left: readonly number[], indent = ''): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, index) => {
      widths[index] = Math.max(widths[index] ?? 0, cell.length);
    });
  }
  const lines = rows.map(row => {
    const cells = row.map((cell, index) => {
      const width = widths[index] as number;
      return left.includes(index) ? cell.padEnd(width) : cell.padStart(width);
    });
    return `${indent}${cells.join('  ')}`.trimEnd();
  });
  return `${lines.join('\n')}\n`;
}

/** `512` → `512`, `12345` → `12.3k`, `5000000` → `5.0M`. */
export function formatCount(count: number): string {
  if (count < 10_000) return String(Math.round(count));
  if (count < 10_000_000) return `${(count / 1000).toFixed(1)}k`;
  if (count < 10_000_000_000) return `${(count / 1_000_000).toFixed(1)}M`;
  return `${(count / 1_000_000_000).toFixed(1)}G`;
}

export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(Math.round(bytesPerSecond))}/s`;
}

/** Microseconds: `85 µs`, `1.2 ms`, `3.4 s`. */
export function formatLatency(us: number): string {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(1)} ms`;
  return `${(us / 1_000_000).toFixed(1)} s`;
}

/** `45 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`. */
export function formatDuration(seconds: number): string {
  const whole = Math.floor(seconds);
  const units: [string, number][] = [
    ['d', 86_400],
    ['h', 3600],
    ['min', 60],
    ['s', 1],
  ];
  for (const [index, [unit, length]] of units.entries()) {
    if (whole < length) continue;
    const next = units[index + 1];
    const rest = next === undefined ? 0 : Math.floor((whole % length) / next[1]);
    return `${Math.floor(whole / length)} ${unit}${next === undefined || rest === 0 ? '' : ` ${rest} ${next[0]}`}`;
  }
  return '0 s';
}
