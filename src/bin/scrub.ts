/**
 * `sledge scrub VOLUME`: has the running node read all that a volume has in mass storage and check it, shows how far that
 * is, and reports what is damaged. The scrub lives as long as this command waits for it: ^C, or any other end, cancels it.
 */
import { ControlClient } from '../admin/control-client.ts';
import type { ScrubProgress, ScrubReport } from '../admin/node-control.ts';
import { checkVolumeName } from '../admin/volume-rules.ts';
import { SledgeError } from '../base/errors.ts';
import { scrubRateDefault, scrubRateMin } from '../base/limits.ts';
import { formatBytes } from '../base/units.ts';
import { parseSize } from './arguments.ts';
import { type Command, type CommandContext, EXIT_DONE, EXIT_FAILED } from './command.ts';
import { formatCount, formatDuration, formatRate, formatTable } from './table.ts';

/** Shorter scrubs just end; in longer ones a line comes with every percent, and now and then where those take long. */
const QUIET_MS = 2000;
const LOOK_MS = 500;
const LINE_MS = 10_000;

export const scrubCommand: Command = {
  name: 'scrub',
  summary: 'check all that a volume has stored against its checksums',
  positionals: ['VOLUME'],
  options: [
    { name: 'data', value: 'DIR', default: './data', help: 'data directory of the running server' },
    {
      name: 'rate',
      value: 'SIZE',
      default: formatBytes(scrubRateDefault).replace(' ', ''),
      help: 'read so many bytes a second at most',
    },
  ],
  notes: `
The volume stays in use meanwhile. What is in the log only is not read: it has not come to a device
yet. ^C cancels the scrub. The exit code is 1 when damage was found.`,
  async run(input, context) {
    const name = input.positionals[0] as string;
    checkVolumeName(name);
    const rate = input.text('rate');
    const bytesPerSecond = rate === undefined ? scrubRateDefault : parseSize(rate, '--rate', scrubRateMin);
    const client = new ControlClient(input.text('data') ?? './data');
    const cancelled = new AbortController();
    const cancel = () => cancelled.abort();
    const progress = input.json ? undefined : new ProgressLines(client, name, context);
    context.signals.on('SIGINT', cancel);
    context.signals.on('SIGTERM', cancel);
    try {
      const report = await client.scrubVolume(name, bytesPerSecond, cancelled.signal);
      context.out(input.json ? `${JSON.stringify(report)}\n` : reportText(report));
      return report.damagedBlocks === 0 ? EXIT_DONE : EXIT_FAILED;
    } finally {
      progress?.stop();
      context.signals.off('SIGINT', cancel);
      context.signals.off('SIGTERM', cancel);
    }
  },
};

/** Asks the node now and then how far it is, and prints that. */
class ProgressLines {
  readonly #client: ControlClient;
  readonly #name: string;
  readonly #context: CommandContext;
  readonly #timer: NodeJS.Timeout;
  readonly #startedMs = performance.now();
  #printedMs = Number.NEGATIVE_INFINITY;
  #percent = -1;
  #looking = false;
  #stopped = false;

  constructor(client: ControlClient, name: string, context: CommandContext) {
    this.#client = client;
    this.#name = name;
    this.#context = context;
    this.#timer = setInterval(() => void this.#look(), LOOK_MS);
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    if (this.#looking || performance.now() - this.#startedMs < QUIET_MS) return;
    this.#looking = true;
    try {
      const progress = await this.#client.scrubProgress(this.#name);
      if (progress !== undefined && !this.#stopped) this.#print(progress);
    } catch (error) {
      // The scrub itself says what is wrong.
      if (!(error instanceof SledgeError)) throw error;
    } finally {
      this.#looking = false;
    }
  }

  #print(progress: ScrubProgress): void {
    const now = performance.now();
    const percent = Math.floor((100 * progress.bytesDone) / Math.max(1, progress.bytesTotal));
    if (percent === this.#percent && now - this.#printedMs < LINE_MS) return;
    this.#percent = percent;
    this.#printedMs = now;
    this.#context.error(`${progressLine(this.#name, progress)}\n`);
  }
}

/** `vol0: 5 GiB of 10 GiB (50 %), 0 damaged blocks, 1 min 20 s left`. */
export function progressLine(name: string, progress: ScrubProgress): string {
  const { bytesDone, bytesTotal, damagedBlocks, seconds } = progress;
  const percent = Math.floor((100 * bytesDone) / Math.max(1, bytesTotal));
  const left = bytesDone === 0 ? undefined : (seconds * (bytesTotal - bytesDone)) / bytesDone;
  const eta = left === undefined ? '' : `, ${formatDuration(Math.ceil(left))} left`;
  return `${name}: ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)} (${percent} %), ${blocks(damagedBlocks)}${eta}`;
}

export function reportText(report: ScrubReport): string {
  const { volume, seconds, bytesRead, damagedBlocks, damage } = report;
  const time = seconds < 10 ? `${seconds.toFixed(1)} s` : formatDuration(seconds);
  const rate = seconds > 0 ? ` (${formatRate(bytesRead / seconds)})` : '';
  const lines = [`${volume}: ${formatBytes(bytesRead)} read in ${time}${rate}, ${blocks(damagedBlocks)}\n`];
  if (damagedBlocks === 0) return lines[0];
  const rows = damage.map(({ block, offsetBytes, fault, path, pathOffsetBytes }) => [
    String(block),
    String(offsetBytes),
    fault,
    String(pathOffsetBytes),
    path,
  ]);
  lines.push(formatTable([['BLOCK', 'BYTE OF VOLUME', 'FAULT', 'BYTE OF FILE', 'FILE'], ...rows], [2, 4], '  '));
  if (damagedBlocks > damage.length) lines.push(`  and ${formatCount(damagedBlocks - damage.length)} more\n`);
  lines.push(
    'Reads of these blocks fail until they are written again: restore them from a copy, and check the disk.\n',
  );
  return lines.join('');
}

function blocks(count: number): string {
  return `${formatCount(count)} damaged block${count === 1 ? '' : 's'}`;
}
