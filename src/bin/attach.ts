/**
 * `sledge attach`: makes a block device of a volume. Returns when the device is ready; a supervisor goes on in the
 * background, in a process of its own, and gives the device a new connection whenever one dies.
 */
import { closeSync, writeFileSync, writeSync } from 'node:fs';
import { errorBody, errorOfBody } from '../admin/error-status.ts';
import { type AttachOptions, type DeviceRecord, deviceIndex, devicePath } from '../attach/device-record.ts';
import { SledgeError } from '../base/errors.ts';
import { formatBytes } from '../base/units.ts';
import { AttachDirectory, isSupervised, notAttached } from '../platform/attach-directory.ts';
import { READY_DESCRIPTOR, runTool, startInBackground } from '../platform/child-process.ts';
import { attachArguments, attachWords, checkCombination } from './attach-arguments.ts';
import type { SupervisedProcess } from './attach-supervisor.ts';
import { persistUnit, requireSystemd } from './attach-unit.ts';
import { type Command, type CommandContext, type CommandInput, EXIT_DONE, EXIT_FAILED, usage } from './command.ts';
import { formatDuration, formatTable } from './table.ts';

/** Set for the process in the background: it says on READY_DESCRIPTOR how it went. */
const BACKGROUND = 'SLEDGE_ATTACH_BACKGROUND';

export const attachCommand: Command = {
  name: 'attach',
  summary: 'make a block device of a volume, and keep it through restarts of the server',
  positionals: [],
  optionalPositionals: ['NAME', '/dev/nbdN'],
  options: [
    { name: 'from', value: 'URI', help: 'any NBD server; NAME is then just how the device is called' },
    {
      name: 'data',
      value: 'DIR',
      default: './data',
      help: 'data directory of the running server that has volume NAME',
    },
    { name: 'connections', value: 'N', default: '1', help: 'connections, as far as the server allows several' },
    { name: 'timeout', value: 'SECONDS', help: 'I/O fails after waiting this long for a lost server; default: never' },
    {
      name: 'request-timeout',
      value: 'SECONDS',
      default: '4',
      help: 'a request without an answer is sent again, on a new connection, after this time',
    },
    { name: 'read-only', help: 'refuse writes' },
    {
      name: 'tls-certificates',
      value: 'DIR',
      help: 'TLS: ca-cert.pem of DIR verifies the server; client-cert.pem and client-key.pem are shown to it',
    },
    { name: 'tls-psk', value: 'FILE', help: 'TLS with a pre-shared key: lines NAME:HEXKEY' },
    { name: 'persist', help: 'attach it at each boot, by a systemd unit' },
    { name: 'adopt', help: 'take over a device whose supervisor is gone; without NAME: all such devices' },
    { name: 'list', help: 'list the attached devices' },
    { name: 'foreground', help: 'stay, and supervise the device from here' },
  ],
  notes: `
While the server is away, I/O on the device waits; it goes on when the server is back, and no error is
seen. A volume that grows makes its device grow within seconds. Without its supervisor the device
works on, up to the next loss of the connection. Not so under TLS, which is the supervisor's work:
there I/O waits until --adopt.

  sledge attach vol0
  sledge attach vol0 /dev/nbd3 --from nbd://storage.example/vol0 --persist
  sledge detach vol0`,
  run: attach,
};

async function attach(input: CommandInput, context: CommandContext): Promise<number> {
  const directory = new AttachDirectory(context.env['SLEDGE_RUN_DIRECTORY']);
  checkCombination(attachCommand, input);
  if (input.flag('list')) return list(directory, input, context);
  if (input.flag('foreground')) return foreground(directory, input, context);
  if (input.flag('adopt')) return adopt(directory, input, context);
  const { options, index } = attachArguments(attachCommand, input);
  if (input.flag('persist')) requireSystemd();
  const record = await inBackground(attachWords(options, index, '--foreground'), options.name, directory, context);
  const unit = input.flag('persist') ? persistUnit(record) : undefined;
  if (input.json) context.out(`${JSON.stringify({ ...shown(record), ...(unit === undefined ? {} : { unit }) })}\n`);
  else {
    context.out(`${devicePath(record.index)}: ${options.name}, ${formatBytes(record.sizeBytes)}\n`);
    if (unit !== undefined) context.out(`attached at each boot by ${unit}\n`);
  }
  return EXIT_DONE;
}

async function adopt(directory: AttachDirectory, input: CommandInput, context: CommandContext): Promise<number> {
  const [name] = input.positionals;
  const start = async ({ index, options }: DeviceRecord): Promise<DeviceRecord> => {
    const words = ['attach', devicePath(index), '--adopt', '--foreground'];
    return await inBackground(words, options.name, directory, context);
  };
  if (name === undefined) {
    const orphans = directory.list().filter(record => !isSupervised(record));
    return report(await adoptEach(orphans, start), input, context);
  }
  const record = directory.find(name);
  if (record === undefined) throw notAttached(name);
  return report({ adopted: [await start(record)], failed: [] }, input, context);
}

export interface Adoption {
  readonly adopted: readonly DeviceRecord[];
  readonly failed: readonly { readonly record: DeviceRecord; readonly error: SledgeError }[];
}

/** One that cannot be adopted keeps none of the others from it. */
export async function adoptEach(
  records: readonly DeviceRecord[],
  start: (record: DeviceRecord) => Promise<DeviceRecord>,
): Promise<Adoption> {
  const adopted: DeviceRecord[] = [];
  const failed: { record: DeviceRecord; error: SledgeError }[] = [];
  for (const record of records) {
    try {
      adopted.push(await start(record));
    } catch (error) {
      if (!(error instanceof SledgeError)) throw error;
      failed.push({ record, error });
    }
  }
  return { adopted, failed };
}

function report({ adopted, failed }: Adoption, input: CommandInput, context: CommandContext): number {
  if (input.json) {
    const failures = failed.map(({ record, error }) => ({ device: devicePath(record.index), ...errorBody(error) }));
    context.out(`${JSON.stringify({ adopted: adopted.map(shown), failed: failures })}\n`);
  } else {
    for (const { index, options } of adopted) context.out(`${devicePath(index)}: ${options.name} adopted\n`);
    for (const { record, error } of failed) {
      context.error(`sledge: ${devicePath(record.index)} not adopted: ${error.message}\n  ${error.hint}\n`);
    }
    if (adopted.length + failed.length === 0) context.out('nothing to adopt\n');
  }
  return failed.length === 0 ? EXIT_DONE : EXIT_FAILED;
}

/** Starts this program again as a supervisor, and waits until its device is ready. */
async function inBackground(
  words: readonly string[],
  name: string,
  directory: AttachDirectory,
  context: CommandContext,
): Promise<DeviceRecord> {
  directory.prepare();
  const args = [...process.execArgv, process.argv[1] as string, ...words];
  const env = { ...context.env, [BACKGROUND]: '1' };
  const line = await startInBackground(process.execPath, args, env, directory.logPath(name));
  const answer = JSON.parse(line) as { record?: DeviceRecord };
  const error = errorOfBody(answer);
  if (error !== undefined) throw error;
  return answer.record as DeviceRecord;
}

async function foreground(directory: AttachDirectory, input: CommandInput, context: CommandContext): Promise<number> {
  const isBackground = context.env[BACKGROUND] === '1';
  const { createLog } = await import('../admin/log.ts');
  const log = createLog(input.json ? 'json' : 'text', 'info');
  const controller = new AbortController();
  const stop = (): void => controller.abort(new SledgeError('cancelled', 'stopped before there was a device'));
  context.signals.on('SIGINT', stop);
  context.signals.on('SIGTERM', stop);
  stayAlive();
  const around: SupervisedProcess = {
    directory,
    pid: context.pid,
    log,
    isService: context.env['NOTIFY_SOCKET'] !== undefined,
    signal: controller.signal,
    ready(record) {
      if (isBackground) tellReady({ record });
      else if (input.json) context.out(`${JSON.stringify({ event: 'ready', ...shown(record) })}\n`);
      else context.out(`${devicePath(record.index)}: ${record.options.name}, ${formatBytes(record.sizeBytes)}\n`);
      if (context.env['NOTIFY_SOCKET'] !== undefined) runTool('systemd-notify', '--ready', `--pid=${context.pid}`);
    },
  };
  try {
    await supervise(around, input);
    return EXIT_DONE;
  } catch (error) {
    if (!isBackground || !(error instanceof SledgeError)) throw error;
    tellReady(errorBody(error));
    throw error;
  } finally {
    context.signals.off('SIGINT', stop);
    context.signals.off('SIGTERM', stop);
    log.flush();
  }
}

async function supervise(around: SupervisedProcess, input: CommandInput): Promise<void> {
  // Whoever only starts one in the background does not wait for all that a supervisor needs.
  const { superviseAdopted, superviseNew } = await import('./attach-supervisor.ts');
  const [name] = input.positionals;
  if (input.flag('adopt')) {
    if (name === undefined) throw usage(attachCommand, 'with --foreground, --adopt needs to be told which device');
    const record = around.directory.find(name);
    if (record !== undefined) {
      await superviseAdopted(record, around);
      return;
    }
    // The systemd unit adopts what is there, and attaches what is not.
    if (deviceIndex(name) !== undefined) throw notAttached(name);
  }
  const { options, index } = attachArguments(attachCommand, input);
  await superviseNew(options, index, around);
}

/** When memory is short, this process is the way to get dirty pages out of it. Only root may ask for that. */
function stayAlive(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '-900');
  } catch {
    // It is a precaution.
  }
}

function tellReady(answer: object): void {
  try {
    writeSync(READY_DESCRIPTOR, `${JSON.stringify(answer)}\n`);
    closeSync(READY_DESCRIPTOR);
  } catch {
    // Whoever started this did not wait for it.
  }
}

function list(directory: AttachDirectory, input: CommandInput, context: CommandContext): number {
  const records = directory.list();
  if (input.json) {
    context.out(`${JSON.stringify({ devices: records.map(shown) })}\n`);
  } else if (records.length === 0) {
    context.out('no devices\n');
  } else {
    const rows = records.map(record => {
      const seconds = (Date.now() - Date.parse(record.stateSince)) / 1000;
      const reason = record.lastError === '' ? '' : ` (${record.lastError})`;
      const state = isSupervised(record)
        ? `${record.state} for ${formatDuration(Math.max(0, seconds))}${reason}`
        : 'no supervisor: run sledge attach --adopt';
      const { index, options, sizeBytes, reconnects } = record;
      return [devicePath(index), options.name, formatBytes(sizeBytes), String(reconnects), source(options), state];
    });
    context.out(formatTable([['DEVICE', 'NAME', 'SIZE', 'RECONNECTS', 'FROM', 'STATE'], ...rows], [0, 1, 4, 5]));
  }
  return EXIT_DONE;
}

function source({ target }: AttachOptions): string {
  return target.kind === 'uri' ? target.uri : target.dataDirectory;
}

/** As printed with --json. */
function shown(record: DeviceRecord): object {
  const { index, options, backend: _backend, format: _format, pidStart: _pidStart, ...rest } = record;
  const { target, ...wanted } = options;
  return { device: devicePath(index), ...wanted, from: source(options), ...rest, supervised: isSupervised(record) };
}
