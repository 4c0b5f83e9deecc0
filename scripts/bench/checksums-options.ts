/** The command line of the measurement of checksums: which rows of the benchmark, and for how long. */
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { MIB, parseBytes } from '../../src/base/units.ts';
import { UsageError } from './nbd-options.ts';
import { type Row, rows } from './nbd-rows.ts';

export interface ChecksumOptions {
  /** With the seconds that each is measured for. */
  readonly rows: readonly Row[];
  readonly repeat: number;
  readonly sizeBytes: number;
  readonly parentDirectory: string;
  readonly json: boolean;
}

/** Each kind of request on the way through which its data is summed, and hits, where nothing is. */
const NAMES: readonly string[] = ['hot-16', 'miss-16', 'write-16', 'seqread', 'seqwrite'];

export const checksumRows: readonly Row[] = rows.filter(row => NAMES.includes(row.name));

export const USAGE = `Usage: scripts/bench/checksums [OPTION]...

Measures what checksums cost: one server as it is, and one in which each checksum is a constant, on volumes of the same
size and on the same disk, in turns. Says for each row what the one reaches of the other, in rate and in CPU time.

  --rows LIST      of ${checksumRows.map(row => row.name).join(', ')} [all]
  --seconds N      of each measurement [5]
  --repeat N       measurements of which the median counts [3]
  --size SIZE      of each of the two volumes [2GiB]
  --directory DIR  on the disk that is to be measured; volumes and logs are made in it and removed
                   [the system's temporary directory]
  --json           print everything that was measured as one line of JSON
  --help           print this

It takes about five minutes. The server without checksums is made for this: Sledge itself has no such option. The exit
code is 0 when all was measured, 1 when something could not be, 2 for wrong use.
`;

/** The rows that read hits want this much of the volume. */
const SIZE_BYTES_MIN = 128 * MIB;

/** Undefined when only help was asked for. */
export function parseChecksumOptions(argv: readonly string[]): ChecksumOptions | undefined {
  const values = parse(argv);
  if (values.help) return undefined;
  const names = values.rows?.split(',') ?? NAMES;
  const unknown = names.find(name => !NAMES.includes(name));
  if (unknown !== undefined) throw new UsageError(`--rows: there is no row ${unknown}; there are ${NAMES.join(', ')}`);
  const seconds = Number(values.seconds);
  if (!(seconds >= 0.1 && seconds <= 3600)) throw new UsageError('--seconds: from 0.1 to 3600');
  const repeat = Number(values.repeat);
  if (!(Number.isInteger(repeat) && repeat >= 1)) throw new UsageError('--repeat: a whole number, 1 or more');
  const sizeBytes = parseBytes(values.size);
  if (sizeBytes === undefined || sizeBytes < SIZE_BYTES_MIN) throw new UsageError('--size: at least 128MiB');
  return {
    rows: checksumRows.filter(row => names.includes(row.name)).map(row => ({ ...row, seconds })),
    repeat,
    sizeBytes,
    parentDirectory: values.directory,
    json: values.json,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        rows: { type: 'string' },
        seconds: { type: 'string', default: '5' },
        repeat: { type: 'string', default: '3' },
        size: { type: 'string', default: '2GiB' },
        directory: { type: 'string', default: tmpdir() },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
