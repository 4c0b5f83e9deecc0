/**
 * `sledge check`: whether what a stopped server has left in its data directory is whole and agrees with itself; with
 * `--repair` it is made so where that takes no guess.
 */
import { SledgeError } from '../base/errors.ts';
import { formatBytes } from '../base/units.ts';
import { checkDirectory } from '../node/check-directory.ts';
import { repairDirectory } from '../node/repair-directory.ts';
import { checkText } from './check-page.ts';
import { type Command, type CommandContext, EXIT_DONE, EXIT_FAILED } from './command.ts';
import { formatRate } from './table.ts';

/** How long reading may take before progress is shown, and between two lines of it. */
const PROGRESS_MS = 2000;

export const checkCommand: Command = {
  name: 'check',
  summary: 'check the data directory of a stopped server, and repair what can be repaired',
  positionals: ['DIR'],
  options: [
    { name: 'read', help: 'read all data from the devices, too, and verify the checksum of each block' },
    { name: 'repair', help: 'repair what can be repaired without guessing, then check again' },
  ],
  notes: `
Superblocks, op log and index are read and compared with one another; the data in the log is always
verified. Each finding says what it means and what to do. It is an error when data is lost or in
danger or no server could start; a warning when something is wrong and nothing is lost by it; a note
when it is what a crash leaves behind. Nothing is changed without --repair.

With --repair slots that nothing refers to become free again, slots that are in use and not marked
so are marked, and columns of volumes that do not exist any more are removed: all of it or nothing.
What would be a guess is left, and each time it is said why. Nothing at all is repaired while a device
is missing, the log or the index cannot be read, or one of them contradicts itself.

Exit codes: 0 no errors, 1 errors were found (with --repair: are left) or the check could not be
made, 2 wrong use.`,
  async run(input, context) {
    const [directory] = input.positionals as [string];
    const options = input.flag('read') ? { readProgress: progressTo(context) } : {};
    const work = input.flag('repair') ? repairDirectory : checkDirectory;
    const report = await work(directory, options).catch(refused);
    context.out(input.json ? `${JSON.stringify(report)}\n` : checkText(report));
    return report.errors === 0 ? EXIT_DONE : EXIT_FAILED;
  },
};

function refused(error: unknown): never {
  if (!(error instanceof SledgeError) || error.code !== 'data-in-use') throw error;
  const hint = 'Stop it first: a directory is checked while nobody changes it. See also: sledge status.';
  throw new SledgeError(error.code, error.message, { cause: error, hint });
}

/** A line on the error output, every two seconds. */
function progressTo(context: CommandContext): (doneBytes: number, totalBytes: number) => void {
  let startedAt: number | undefined;
  let shownAt = 0;
  return (doneBytes, totalBytes) => {
    const now = performance.now();
    startedAt ??= shownAt = now;
    if (now - shownAt < PROGRESS_MS) return;
    shownAt = now;
    const rate = formatRate((doneBytes * 1000) / (now - startedAt));
    context.error(`read ${formatBytes(doneBytes)} of about ${formatBytes(totalBytes)}, ${rate}\n`);
  };
}
