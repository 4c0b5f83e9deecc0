/** The text of `sledge check`, in the manner of `sledge status`. Pure: from a report to text. */
import { formatBytes } from '../base/units.ts';
import type { CheckReport } from '../node/check-directory.ts';
import type { RepairReport } from '../node/repair-directory.ts';

export function checkText(report: CheckReport | RepairReport): string {
  const { directory, errors, warnings, findings, summary } = report;
  const health = errors > 0 ? 'damaged' : warnings > 0 ? 'usable, with warnings' : 'ok';
  return [
    line('health', health),
    ...findings.flatMap(({ severity, what, why, todo }) => [line(severity, what), line('why', why), line('do', todo)]),
    ...(findings.length === 0 ? [line('findings', 'none')] : []),
    ...('repaired' in report ? repairLines(report) : []),
    line('data', directory),
    ...(summary === null ? [] : summaryLines(summary)),
  ].join('');
}

function repairLines({ repaired, left, refusedBy }: RepairReport): string[] {
  return [
    ...(refusedBy.length > 0 ? [line('refused', `nothing is repaired while there is ${refusedBy.join(', ')}`)] : []),
    ...(repaired.length === 0 ? [line('repaired', 'nothing')] : repaired.map(({ what }) => line('repaired', what))),
    ...left.map(({ kind, why }) => line('left', `${kind}: ${why}`)),
  ];
}

function summaryLines({ devices, volumes, columns, chunks, log, data }: NonNullable<CheckReport['summary']>): string[] {
  const read = data === null ? 'not read: --read verifies every block' : readText(data);
  return [
    line('devices', String(devices)),
    line('volumes', String(volumes)),
    line('index', `${count(chunks, 'chunk')} in ${count(columns, 'column')}`),
    line('log', log === null ? 'unreadable' : `${log.row}: ${count(log.records, 'record')}, ${log.cut} to ${log.end}`),
    line('blocks', read),
  ];
}

function readText(data: { readonly readBytes: number; readonly verifiedBlocks: number }): string {
  return `${count(data.verifiedBlocks, 'block')} verified, ${formatBytes(data.readBytes)} read`;
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

function line(name: string, text: string): string {
  return `${name.padStart(9)}: ${text}\n`;
}
