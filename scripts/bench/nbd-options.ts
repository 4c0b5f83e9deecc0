/** The command line of the benchmark: what to measure, on what, for how long, and where to write it. */
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { MIB, parseBytes } from '../../src/base/units.ts';
import { type EngineSpec, engines, type Transport } from './nbd-engines.ts';
import { type FigureSpec, figures } from './nbd-figures.ts';
import { type Client, groupOf, matches, type Row, rows, viaFio } from './nbd-rows.ts';

export interface Options {
  /** With the seconds that each is measured for. */
  readonly rows: readonly Row[];
  readonly figures: readonly FigureSpec[];
  readonly engines: readonly EngineSpec[];
  /** The bare file, too. */
  readonly raw: boolean;
  readonly repeat: number;
  readonly transport: Transport;
  readonly sizeBytes: number;
  /** Where the directory with the volumes is made. */
  readonly parentDirectory: string;
  readonly json: string | undefined;
  readonly markdown: string | undefined;
}

/** The command line makes no sense; the message says why. */
export class UsageError extends Error {}

const QUICK_SECONDS = 0.5;
const QUICK_SIZE = '1GiB';
const FULL_SIZE = '4GiB';

function isQuick(thing: { readonly quick: boolean }): boolean {
  return thing.quick;
}

function namesOf(things: readonly { readonly name: string }[]): string {
  return [...new Set(things.map(thing => thing.name))].join(', ');
}

const longer = rows.filter(row => row.seconds !== 5).map(row => `${row.name} ${row.seconds}`);

export const USAGE = `Usage: scripts/bench/nbd [OPTION]...

Measures Sledge and other NBD servers on this machine in one run, and prints one table: rates, latencies, CPU time an
operation, memory, and what Sledge reaches of the best peer. Under each row stands whether it passes its gates. Servers
that are not installed are skipped.

  --rows LIST        rows, or groups of them by their first word (hot, miss-*): of
                     ${wrap([...new Set(rows.map(row => row.name)), ...figures.map(figure => figure.name)], 21)}
  --engines LIST     servers, and raw for the file without one: of
                     ${wrap([...engines.map(engine => engine.name), 'raw'], 21)}
  --client C         nbdload, fio, or both: nbdload for all rows, and some (${namesOf(rows.filter(row => row.alsoFio))})
                     once more with fio, as extra rows without gates [nbdload]
  --seconds N        of each measurement [5; ${longer.join(', ')}]
  --repeat N         measurements of which the median counts [3]
  --transport T      unix or tcp [unix]
  --size SIZE        of the volume [${FULL_SIZE}]
  --directory DIR    on the disk that is to be measured; volumes and logs are made in it and removed
                     [the system's temporary directory]
  --json FILE        also write everything that was measured
  --markdown FILE    also write the table for the README
  --quick            at most five minutes: ${QUICK_SECONDS} s a measurement, a volume of ${QUICK_SIZE}, and the rows
                     ${wrap(
                       [...rows.filter(isQuick), ...figures].map(({ name }) => name),
                       21,
                     )}, without the servers
                     ${namesOf(engines.filter(engine => !engine.quick))}. Half a second says little about servers that
                     are still being compiled, or about what comes after a burst
  --help             print this

A full run takes about two and a half hours, a third of it for sustain. Measurements on one machine wait for each other.
The exit code is 0 when all was measured, whether the gates are met or not; 1 when something could not be; 2 for wrong
use.
`;

/** Words with commas, in lines that begin as far in as the first one. */
function wrap(words: readonly string[], indent: number): string {
  const lines = [''];
  for (const [i, word] of words.entries()) {
    const text = i === words.length - 1 ? word : `${word},`;
    const last = lines.length - 1;
    if (lines[last] === '') lines[last] = text;
    else if (lines[last].length + text.length < 95 - indent) lines[last] += ` ${text}`;
    else lines.push(text);
  }
  return lines.join(`\n${' '.repeat(indent)}`);
}

/** Undefined when only help was asked for. */
export function parseOptions(argv: readonly string[]): Options | undefined {
  const values = parse(argv);
  if (values.help) return undefined;
  const sizeBytes = parseBytes(values.size ?? (values.quick ? QUICK_SIZE : FULL_SIZE));
  if (sizeBytes === undefined || sizeBytes < 256 * MIB) throw new UsageError('--size: give at least 256MiB');
  const { transport, client } = values;
  if (transport !== 'unix' && transport !== 'tcp') throw new UsageError('--transport is unix or tcp');
  if (client !== 'nbdload' && client !== 'fio' && client !== 'both') {
    throw new UsageError('--client is nbdload, fio or both');
  }
  const seconds = values.seconds === undefined ? undefined : number('--seconds', values.seconds, 0.1);
  const names = values.engines?.split(',');
  const selection = values.rows?.split(',');
  const chosen = selectRows(selection, values.quick);
  return {
    rows: withClient(chosen, client).map(row =>
      withSeconds(row, seconds ?? (values.quick ? QUICK_SECONDS : undefined)),
    ),
    figures: selectFigures(selection),
    engines: selectEngines(names, values.quick),
    raw: names === undefined || names.includes('raw'),
    repeat: Math.floor(number('--repeat', values.repeat, 1)),
    transport,
    sizeBytes,
    parentDirectory: values.directory,
    json: values.json,
    markdown: values.markdown,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        quick: { type: 'boolean', default: false },
        rows: { type: 'string' },
        engines: { type: 'string' },
        client: { type: 'string', default: 'nbdload' },
        seconds: { type: 'string' },
        repeat: { type: 'string', default: '3' },
        transport: { type: 'string', default: 'unix' },
        size: { type: 'string' },
        directory: { type: 'string', default: tmpdir() },
        json: { type: 'string' },
        markdown: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function number(option: string, text: string, least: number): number {
  const value = Number(text);
  if (!(value >= least) || !Number.isFinite(value)) throw new UsageError(`${option}: a number, ${least} or more`);
  return value;
}

function selectRows(selection: readonly string[] | undefined, quick: boolean): Row[] {
  if (selection === undefined) return rows.filter(row => row.quick || !quick);
  const known = [...rows, ...figures].map(({ name }) => name);
  for (const word of selection) {
    if (!known.some(name => matches(word, name))) {
      throw new UsageError(
        `--rows: there is no row ${word}; groups are ${[...new Set(known.map(groupOf))].join(', ')}`,
      );
    }
  }
  return rows.filter(row => selection.some(word => matches(word, row.name)));
}

function selectFigures(selection: readonly string[] | undefined): FigureSpec[] {
  return figures.filter(({ name }) => selection === undefined || selection.some(word => matches(word, name)));
}

function selectEngines(names: readonly string[] | undefined, quick: boolean): EngineSpec[] {
  if (names === undefined) return engines.filter(engine => engine.quick || !quick);
  const unknown = names.find(name => name !== 'raw' && !engines.some(engine => engine.name === name));
  if (unknown !== undefined) {
    throw new UsageError(`--engines: there is no server ${unknown}; there are ${namesOf(engines)}, raw`);
  }
  return engines.filter(engine => names.includes(engine.name));
}

function withClient(chosen: readonly Row[], client: Client | 'both'): Row[] {
  return chosen.flatMap(row => {
    if (client === 'nbdload' || (client === 'both' && !row.alsoFio)) return [row];
    const other = viaFio(row);
    const others = other === undefined ? [] : [other];
    return client === 'both' ? [row, ...others] : others;
  });
}

function withSeconds(row: Row, seconds: number | undefined): Row {
  return seconds === undefined ? row : { ...row, seconds };
}
