/**
 * What a command of the command line is: its options stand in one table, from which both the parser and the help text
 * are made, so that neither can forget one. Commands live in a file each; `command-line.ts` picks and runs them.
 */
import { parseArgs } from 'node:util';
import { SledgeError } from '../base/errors.ts';
import type { NodeOptions, RunningNode } from '../node/options.ts';
import { nearest } from './nearest.ts';

export interface OptionSpec {
  readonly name: string;
  /** How the value shows in the help, such as SIZE; without it the option takes none. */
  readonly value?: string;
  readonly multiple?: boolean;
  /** What the help calls the default, if there is one. */
  readonly default?: string;
  readonly help: string;
}

/** What a command has of the world: handed in, so that tests run commands in their own process. */
export interface CommandContext {
  out(text: string): void;
  error(text: string): void;
  readonly env: NodeJS.ProcessEnv;
  readonly pid: number;
  /** SIGINT and SIGTERM arrive here. */
  readonly signals: SignalSource;
  startNode(options: NodeOptions): Promise<RunningNode>;
  /** Ends the process now, without waiting for anything. */
  exitNow(code: number): void;
}

export interface SignalSource {
  on(signal: 'SIGINT' | 'SIGTERM', listener: () => void): unknown;
  off(signal: 'SIGINT' | 'SIGTERM', listener: () => void): unknown;
}

export interface Command {
  /** All words of it: `serve`, `volume create`. */
  readonly name: string;
  readonly summary: string;
  /** Names of the positional arguments, all of which are needed. */
  readonly positionals: readonly string[];
  /** Further ones, that may be left out. */
  readonly optionalPositionals?: readonly string[];
  readonly options: readonly OptionSpec[];
  /** Paragraphs below the options. */
  readonly notes?: string;
  /** Resolves with the exit code; rejects with a SledgeError, which is printed. */
  run(input: CommandInput, context: CommandContext): Promise<number>;
}

export const EXIT_DONE = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

const COMMON: readonly OptionSpec[] = [
  { name: 'json', help: 'print JSON, for programs' },
  { name: 'help', help: 'print this' },
];

/** Parsed arguments of a command; asking for an option that its table does not have is a bug and throws. */
export class CommandInput {
  readonly json: boolean;
  readonly help: boolean;
  readonly positionals: readonly string[];
  readonly #specs: readonly OptionSpec[];
  readonly #values: Record<string, string | boolean | (string | boolean)[] | undefined>;

  /** Throws `usage` for what the table does not have, missing values, and missing or surplus positionals. */
  constructor(command: Command, argv: readonly string[]) {
    this.#specs = [...command.options, ...COMMON];
    const parsed = parse(command, this.#specs, argv);
    this.#values = parsed.values;
    this.positionals = parsed.positionals;
    this.json = this.flag('json');
    this.help = this.flag('help');
    if (this.help) return;
    const [missing] = command.positionals.slice(this.positionals.length);
    if (missing !== undefined) throw usage(command, `${missing} is missing`);
    const most = command.positionals.length + (command.optionalPositionals?.length ?? 0);
    const [surplus] = this.positionals.slice(most);
    if (surplus !== undefined) throw usage(command, `${JSON.stringify(surplus)} is one argument too many`);
  }

  flag(name: string): boolean {
    return this.#value(name) === true;
  }

  text(name: string): string | undefined {
    const value = this.#value(name);
    return typeof value === 'string' ? value : undefined;
  }

  texts(name: string): string[] {
    const value = this.#value(name);
    return Array.isArray(value) ? value.filter(item => typeof item === 'string') : [];
  }

  #value(name: string): string | boolean | (string | boolean)[] | undefined {
    if (!this.#specs.some(spec => spec.name === name)) throw new TypeError(`no option ${name}`);
    return this.#values[name];
  }
}

export function usage(command: Command, message: string): SledgeError {
  return new SledgeError('usage', message, { hint: `See: sledge ${command.name} --help` });
}

type ParseOptions = Record<string, { type: 'string' | 'boolean'; multiple?: boolean; short?: string }>;

function parse(command: Command, specs: readonly OptionSpec[], argv: readonly string[]) {
  const options: ParseOptions = {};
  for (const spec of specs) {
    options[spec.name] = {
      type: spec.value === undefined ? 'boolean' : 'string',
      multiple: spec.multiple === true,
      ...(spec.name === 'help' ? { short: 'h' } : {}),
    };
  }
  // An unknown option is found first and by hand, since this knows what may have been meant.
  for (const argument of argv) {
    if (argument === '--') break;
    const name = /^--([^=]+)/.exec(argument)?.[1];
    if (name === undefined || Object.hasOwn(options, name)) continue;
    const meant = nearest(name, Object.keys(options));
    const suggestion = meant === undefined ? '' : ` (did you mean --${meant}?)`;
    throw usage(command, `there is no option --${name}${suggestion}`);
  }
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: true, strict: true });
  } catch (error) {
    // parseArgs explains at length; its first sentence says what is wrong.
    const text = error instanceof Error ? error.message : String(error);
    throw usage(command, (text.split(/\.\s|\n/)[0] ?? text).replace(/\.$/, ''));
  }
}

const HELP_WIDTH = 100;
const HELP_INDENT = 27;

/** The help of one command. */
export function commandHelp(command: Command): string {
  const optional = (command.optionalPositionals ?? []).map(name => `[${name}]`);
  const positionals = [...command.positionals, ...optional].map(name => ` ${name}`).join('');
  const lines = [
    `Usage: sledge ${command.name}${positionals} [OPTION]...`,
    '',
    sentence(command.summary),
    '',
    'Options:',
  ];
  for (const spec of [...command.options, ...COMMON]) {
    const left = `  --${spec.name}${spec.value === undefined ? '' : ` ${spec.value}`}`;
    const more = spec.multiple === true ? ' (may be given more than once)' : '';
    const preset = spec.default === undefined ? '' : ` [${spec.default}]`;
    lines.push(...column(left, `${spec.help}${more}${preset}`));
  }
  if (command.notes !== undefined) lines.push('', command.notes.trim());
  return `${lines.join('\n')}\n`;
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

/** Two columns; the right one is broken at spaces, and begins on a line of its own below a long left one. */
export function column(left: string, right: string): string[] {
  const lines: string[] = [];
  let line = left.length < HELP_INDENT - 1 ? left.padEnd(HELP_INDENT) : '';
  if (line === '') lines.push(left);
  line = line.padEnd(HELP_INDENT);
  let isEmpty = true;
  for (const word of right.split(' ')) {
    if (!isEmpty && line.length + 1 + word.length > HELP_WIDTH) {
      lines.push(line);
      line = ' '.repeat(HELP_INDENT);
      isEmpty = true;
    }
    line += isEmpty ? word : ` ${word}`;
    isEmpty = false;
  }
  lines.push(line);
  return lines;
}
