/**
 * From the words of a command line to an exit code: finds the command, prints help, and shows errors in one way. Called
 * by `sledge.ts` with the process around it, and by tests with arrays.
 *
 * Commands are loaded when they are called: `sledge status` does not wait for what `sledge serve` needs.
 */
import { errorBody } from '../admin/error-status.ts';
import { sledgeVersion } from '../admin/version.ts';
import { SledgeError } from '../base/errors.ts';
import {
  type Command,
  type CommandContext,
  CommandInput,
  column,
  commandHelp,
  EXIT_DONE,
  EXIT_FAILED,
  EXIT_USAGE,
} from './command.ts';
import { nearest } from './nearest.ts';

interface Entry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<Command>;
}

/** In the order of the help. */
const ENTRIES: readonly Entry[] = [
  {
    name: 'serve',
    summary: 'serve volumes over NBD until stopped',
    load: async () => (await import('./serve.ts')).serveCommand,
  },
  {
    name: 'status',
    summary: 'show what is served, what is wrong, why, and what to do about it',
    load: async () => (await import('./status.ts')).statusCommand,
  },
  {
    name: 'volume create',
    summary: 'make a volume',
    load: async () => (await import('./volume.ts')).volumeCreateCommand,
  },
  {
    name: 'volume list',
    summary: 'list the volumes',
    load: async () => (await import('./volume.ts')).volumeListCommand,
  },
  {
    name: 'volume show',
    summary: 'show one volume',
    load: async () => (await import('./volume.ts')).volumeShowCommand,
  },
  {
    name: 'volume grow',
    summary: 'make a volume larger, also while it is in use',
    load: async () => (await import('./volume.ts')).volumeGrowCommand,
  },
  {
    name: 'volume delete',
    summary: 'delete a volume and all of its data',
    load: async () => (await import('./volume.ts')).volumeDeleteCommand,
  },
  {
    name: 'scrub',
    summary: 'check all that a volume has stored against its checksums',
    load: async () => (await import('./scrub.ts')).scrubCommand,
  },
  {
    name: 'attach',
    summary: 'make a block device of a volume, and keep it through restarts of the server',
    load: async () => (await import('./attach.ts')).attachCommand,
  },
  {
    name: 'detach',
    summary: 'remove a block device that attach made',
    load: async () => (await import('./detach.ts')).detachCommand,
  },
  {
    name: 'check',
    summary: 'check the data directory of a stopped server, and repair what can be repaired',
    load: async () => (await import('./check.ts')).checkCommand,
  },
  {
    name: 'bench',
    summary: 'put a quick load on an NBD server and measure it',
    load: async () => (await import('./bench.ts')).benchCommand,
  },
];

/** Codes that mean the call itself was wrong. */
const USAGE_CODES: ReadonlySet<string> = new Set(['usage', 'bad-size', 'bad-name', 'bad-address']);

export async function runCommandLine(argv: readonly string[], context: CommandContext): Promise<number> {
  try {
    return await dispatch(argv, context);
  } catch (error) {
    if (!(error instanceof SledgeError)) throw error;
    if (argv.includes('--json')) context.out(`${JSON.stringify(errorBody(error))}\n`);
    else context.error(`sledge: ${error.message}\n  ${error.hint}\n`);
    return USAGE_CODES.has(error.code) ? EXIT_USAGE : EXIT_FAILED;
  }
}

async function dispatch(argv: readonly string[], context: CommandContext): Promise<number> {
  const [first] = argv;
  if (first === undefined) {
    context.error(overview(ENTRIES));
    return EXIT_USAGE;
  }
  if (first === '--version' || first === '-V') {
    const version = sledgeVersion();
    context.out(argv.includes('--json') ? `${JSON.stringify({ version })}\n` : `sledge ${version}\n`);
    return EXIT_DONE;
  }
  if (first === '--help' || first === '-h') {
    context.out(overview(ENTRIES));
    return EXIT_DONE;
  }
  if (first === 'help')
    return help(
      argv.slice(1).filter(word => !word.startsWith('-')),
      context,
    );

  const { entry, group, rest } = find(argv);
  if (entry === undefined) {
    const wantsHelp = rest.includes('--help') || rest.includes('-h');
    (wantsHelp ? context.out : context.error)(overview(group));
    return wantsHelp ? EXIT_DONE : EXIT_USAGE;
  }
  const command = await entry.load();
  const input = new CommandInput(command, rest);
  if (input.help) {
    context.out(commandHelp(command));
    return EXIT_DONE;
  }
  return command.run(input, context);
}

async function help(words: readonly string[], context: CommandContext): Promise<number> {
  if (words.length === 0) {
    context.out(overview(ENTRIES));
    return EXIT_DONE;
  }
  const { entry, group } = find(words);
  context.out(entry === undefined ? overview(group) : commandHelp(await entry.load()));
  return EXIT_DONE;
}

/** The command that the first word or two name; no entry when they name just a group, such as `volume`. */
function find(words: readonly string[]): {
  entry: Entry | undefined;
  group: readonly Entry[];
  rest: readonly string[];
} {
  const [first = '', second] = words;
  const single = ENTRIES.find(entry => entry.name === first);
  if (single !== undefined) return { entry: single, group: ENTRIES, rest: words.slice(1) };
  const group = ENTRIES.filter(entry => entry.name.startsWith(`${first} `));
  if (group.length === 0) {
    const firstWords = ENTRIES.map(entry => entry.name.split(' ')[0] as string);
    throw unknown(`there is no command ${JSON.stringify(first)}`, nearest(first, [...firstWords, 'help']));
  }
  if (second === undefined || second.startsWith('-')) return { entry: undefined, group, rest: words.slice(1) };
  const entry = group.find(candidate => candidate.name === `${first} ${second}`);
  if (entry === undefined) {
    const seconds = group.map(candidate => candidate.name.slice(first.length + 1));
    const meant = nearest(second, seconds);
    throw unknown(
      `there is no command ${JSON.stringify(`${first} ${second}`)}`,
      meant === undefined ? undefined : `${first} ${meant}`,
    );
  }
  return { entry, group, rest: words.slice(2) };
}

function unknown(message: string, meant: string | undefined): SledgeError {
  const hint = meant === undefined ? 'See: sledge help' : `Did you mean: sledge ${meant}?`;
  return new SledgeError('usage', message, { hint });
}

function overview(entries: readonly Entry[]): string {
  const lines = ['Usage: sledge COMMAND [OPTION]...', ''];
  if (entries === ENTRIES) lines.push('Block storage over NBD: real block devices from files or disks.', '');
  lines.push('Commands:');
  for (const entry of entries) lines.push(...column(`  ${entry.name}`, entry.summary));
  if (entries === ENTRIES) {
    lines.push(...column('  help COMMAND', 'show how a command is used (as does --help)'));
    lines.push('', 'Exit codes: 0 done, 1 failed, 2 wrong use. Sizes are written as 10GiB, 512MiB, 64KiB or in bytes.');
  }
  return `${lines.join('\n')}\n`;
}
