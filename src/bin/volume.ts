/**
 * `sledge volume create | list | show | grow | delete`: looks at and changes the volumes of the node that runs in a data
 * directory, by way of its control socket.
 */
import { ControlClient } from '../admin/control-client.ts';
import type { VolumeInfo } from '../admin/node-control.ts';
import { checkChunkSize, checkVolumeName } from '../admin/volume-rules.ts';
import { SledgeError } from '../base/errors.ts';
import { chunkBytesDefault } from '../base/limits.ts';
import { formatBytes } from '../base/units.ts';
import { parseChoice, parseSize, parseVolumeSize } from './arguments.ts';
import { type Command, type CommandContext, type CommandInput, EXIT_DONE, type OptionSpec, usage } from './command.ts';
import { formatCount, formatTable } from './table.ts';

const DATA: OptionSpec = {
  name: 'data',
  value: 'DIR',
  default: './data',
  help: 'data directory of the running server',
};
const SIZE: OptionSpec = { name: 'size', value: 'SIZE', help: 'whole blocks of 4 KiB, such as 10GiB (needed)' };

export const volumeCreateCommand: Command = {
  name: 'volume create',
  summary: 'make a volume',
  positionals: ['NAME'],
  options: [
    DATA,
    SIZE,
    {
      name: 'chunk',
      value: 'SIZE',
      default: '64KiB',
      help: 'unit of placement and snapshots: a power of two, 16KiB to 4MiB',
    },
    {
      name: 'ack',
      value: 'RULE',
      default: 'written',
      help: 'when a write is answered: written (survives a crash of the process; FLUSH and FUA survive power loss) or durable (every write survives power loss)',
    },
    { name: 'read-only', help: 'refuse writes' },
  ],
  async run(input, context) {
    const name = nameOf(input);
    const volume = await clientOf(input).createVolume({
      name,
      sizeBytes: sizeOf(volumeCreateCommand, input),
      chunkBytes: chunkOf(input),
      ack: parseChoice(input.text('ack') ?? 'written', '--ack', ['written', 'durable']),
      readOnly: input.flag('read-only'),
    });
    printVolume(volume, input, context);
    return EXIT_DONE;
  },
};

export const volumeListCommand: Command = {
  name: 'volume list',
  summary: 'list the volumes',
  positionals: [],
  options: [DATA],
  async run(input, context) {
    const volumes = await clientOf(input).volumes();
    if (input.json) context.out(`${JSON.stringify({ volumes })}\n`);
    else if (volumes.length === 0) context.out('no volumes\n');
    else context.out(volumeTable(volumes));
    return EXIT_DONE;
  },
};

export const volumeShowCommand: Command = {
  name: 'volume show',
  summary: 'show one volume',
  positionals: ['NAME'],
  options: [DATA],
  async run(input, context) {
    printVolume(await clientOf(input).volume(nameOf(input)), input, context);
    return EXIT_DONE;
  },
};

export const volumeGrowCommand: Command = {
  name: 'volume grow',
  summary: 'make a volume larger, also while it is in use',
  positionals: ['NAME'],
  options: [DATA, SIZE],
  notes: `
Devices of \`sledge attach\` grow within seconds; other clients see the new size when they connect
again. A volume never gets smaller.`,
  async run(input, context) {
    const sizeBytes = sizeOf(volumeGrowCommand, input);
    printVolume(await clientOf(input).growVolume(nameOf(input), sizeBytes), input, context);
    return EXIT_DONE;
  },
};

export const volumeDeleteCommand: Command = {
  name: 'volume delete',
  summary: 'delete a volume and all of its data',
  positionals: ['NAME'],
  options: [DATA],
  notes: `
Refused while clients are connected to it.`,
  async run(input, context) {
    const name = nameOf(input);
    await clientOf(input).deleteVolume(name);
    context.out(input.json ? `${JSON.stringify({ deleted: name })}\n` : `deleted ${name}\n`);
    return EXIT_DONE;
  },
};

function clientOf(input: CommandInput): ControlClient {
  return new ControlClient(input.text('data') ?? './data');
}

function nameOf(input: CommandInput): string {
  const name = input.positionals[0] as string;
  checkVolumeName(name);
  return name;
}

function sizeOf(command: Command, input: CommandInput): number {
  const text = input.text('size');
  if (text === undefined) throw usage(command, '--size is missing');
  return parseVolumeSize(text);
}

function chunkOf(input: CommandInput): number {
  const text = input.text('chunk');
  if (text === undefined) return chunkBytesDefault;
  const bytes = parseSize(text, '--chunk');
  checkChunkSize(bytes);
  return bytes;
}

/** One row a volume. */
export function volumeTable(volumes: readonly VolumeInfo[], indent = ''): string {
  const rows = [['NAME', 'SIZE', 'ALLOCATED', 'CHUNK', 'ACK', 'OPERATIONS', 'EPOCH', 'CLIENTS', 'NOTES']];
  for (const volume of volumes) {
    const notes = [
      ...(volume.readOnly ? ['read-only'] : []),
      ...(volume.problems.length > 0
        ? [`${volume.problems.length} problem${volume.problems.length > 1 ? 's' : ''}`]
        : []),
    ];
    rows.push([
      volume.name,
      formatBytes(volume.sizeBytes),
      formatBytes(volume.allocatedBytes),
      formatBytes(volume.chunkBytes),
      volume.ack,
      formatCount(volume.lastOp),
      String(volume.epoch),
      String(volume.connections),
      notes.join(', '),
    ]);
  }
  return formatTable(rows, [0, 4, 8], indent);
}

function printVolume(volume: VolumeInfo, input: CommandInput, context: CommandContext): void {
  if (input.json) {
    context.out(`${JSON.stringify(volume)}\n`);
    return;
  }
  if (typeof volume.sizeBytes !== 'number') throw new SledgeError('protocol-error', 'the server gave no volume');
  const rows = [
    ['name', volume.name],
    ['number', String(volume.number)],
    ['size', `${formatBytes(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    ['allocated', formatBytes(volume.allocatedBytes)],
    ['chunk', formatBytes(volume.chunkBytes)],
    ['ack', volume.ack],
    ['access', volume.readOnly ? 'read-only' : 'read and write'],
    ['operations', String(volume.lastOp)],
    ['epoch', String(volume.epoch)],
    ['clients', String(volume.connections)],
    ['created', volume.createdAt],
    ...volume.problems.flatMap(problem => [
      [problem.severity, problem.what],
      ['why', problem.why],
      ['do', problem.todo],
    ]),
  ];
  context.out(formatTable(rows, [0, 1]));
}
