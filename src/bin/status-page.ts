/**
 * The text of `sledge status`, in the manner of `zpool status`: first how it is and what to do, then what there is, then
 * numbers. Pure: from a NodeStatus to text.
 */
import { formatAddress } from '../admin/nbd-uri.ts';
import type { CommandStatus, DelaySummary, DeviceStatus, NodeStatus, Problem } from '../admin/node-control.ts';
import { formatBytes } from '../base/units.ts';
import { formatCount, formatDuration, formatLatency, formatRate, formatTable } from './table.ts';
import { volumeTable } from './volume.ts';

const INDENT = '           ';

export function statusText(status: NodeStatus): string {
  // Those of volumes may stand in the node's list, too.
  const listed = new Set(status.problems.map(problem => problem.what));
  const ofVolumes = status.volumes.flatMap(volume => volume.problems);
  const problems = [...status.problems, ...ofVolumes.filter(problem => !listed.has(problem.what))];
  return [
    line('health', status.health),
    ...problems.flatMap(problemLines),
    ...(problems.length === 0 ? [line('problems', 'none known')] : []),
    line('server', `sledge ${status.version}, process ${status.pid}, up ${formatDuration(status.uptimeSeconds)}`),
    line('data', `${status.dataDirectory} (format ${status.formatVersion})`),
    line('io', `${status.io.kind} (${status.io.why})`),
    line('listen', `${status.addresses.map(formatAddress).join(', ')}; TLS ${status.tls}`),
    line('clients', String(status.connections)),
    '\n',
    section('volumes', status.volumes.length === 0 ? `${INDENT}none\n` : volumeTable(status.volumes, INDENT)),
    section('devices', status.devices.length === 0 ? `${INDENT}none\n` : deviceTable(status.devices)),
    line('log', logText(status)),
    line('cache', cacheText(status)),
    line('index', formatBytes(status.index.sizeBytes)),
    line('loop', `late by ${delayText(status.eventLoopDelayMs.lastMinute)} in the last minute`),
    `${INDENT}${delayText(status.eventLoopDelayMs.sinceStart)} since the start\n`,
    ...(status.commands.length === 0 ? [] : ['\n', section('load', commandTable(status.commands))]),
  ].join('');
}

function line(name: string, text: string): string {
  return `${name.padStart(9)}: ${text}\n`;
}

function section(name: string, table: string): string {
  return `${name.padStart(9)}:\n${table}\n`;
}

function problemLines(problem: Problem): string[] {
  return [line(problem.severity, problem.what), line('why', problem.why), line('do', problem.todo)];
}

function deviceTable(devices: readonly DeviceStatus[]): string {
  const rows = [['NAME', 'STATE', 'SIZE', 'USED', 'READ', 'WRITE', 'CKSUM', 'PATH']];
  for (const device of devices) {
    rows.push([
      device.name,
      device.state,
      formatBytes(device.sizeBytes),
      formatBytes(device.usedBytes),
      String(device.errors.read),
      String(device.errors.write),
      String(device.errors.checksum),
      `${device.path} (${device.kind}, ${device.alignmentBytes}-byte blocks)`,
    ]);
  }
  return formatTable(rows, [0, 1, 7], INDENT);
}

function logText({ log }: NodeStatus): string {
  const sync = log.lastSyncAt === null ? 'never synced' : `last synced ${log.lastSyncAt}`;
  const errors = log.checksumErrors === 0 ? '' : `, ${formatCount(log.checksumErrors)} checksum errors`;
  const segments = `${log.segments} segment${log.segments === 1 ? '' : 's'}`;
  return `${formatBytes(log.usedBytes)} of ${formatBytes(log.limitBytes)} used, ${segments}, ${sync}${errors}`;
}

function cacheText({ cache }: NodeStatus): string {
  const looks = cache.hits + cache.misses;
  const share =
    looks === 0 ? 'not used yet' : `${((100 * cache.hits) / looks).toFixed(1)} % of ${formatCount(looks)} reads hit`;
  return `${formatBytes(cache.usedBytes)} of ${formatBytes(cache.limitBytes)} used, ${share}`;
}

function delayText({ p50, p99, p999, max }: DelaySummary): string {
  const [half, most, nearlyAll, longest] = [p50, p99, p999, max].map(ms => formatLatency(ms * 1000));
  return `p50 ${half}, p99 ${most}, p99.9 ${nearlyAll}, max ${longest}`;
}

function commandTable(commands: readonly CommandStatus[]): string {
  const rows = [['COMMAND', 'PER S', 'BYTES/S', 'P50', 'P95', 'P99', 'P99.9', 'MAX', 'TOTAL', 'ERRORS']];
  for (const command of commands) {
    const { p50, p95, p99, p999, max } = command.latencyUs;
    rows.push([
      command.command,
      formatCount(command.perSecond),
      formatRate(command.bytesPerSecond),
      ...[p50, p95, p99, p999, max].map(formatLatency),
      formatCount(command.count),
      String(command.errors),
    ]);
  }
  return formatTable(rows, [0], INDENT);
}
