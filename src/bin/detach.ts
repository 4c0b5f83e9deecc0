/**
 * `sledge detach`: disconnects a device that `sledge attach` made, and ends its supervisor. A device that is in use is
 * refused: what uses it would see I/O errors.
 *
 * First the kernel lets go of the device, then the supervisor ends: under TLS it is the supervisor through whom the last
 * requests go.
 */
import { rmSync } from 'node:fs';
import { type DeviceRecord, deviceIndex, devicePath } from '../attach/device-record.ts';
import { EPERM, errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import { AttachDirectory, isSupervised, notAttached } from '../platform/attach-directory.ts';
import { deviceUsers, isConnected } from '../platform/nbd-devices.ts';
import { NbdKernel } from '../platform/nbd-kernel.ts';
import { forgetUnit } from './attach-unit.ts';
import { type Command, type CommandContext, type CommandInput, EXIT_DONE } from './command.ts';

const RELEASE_MS = 10_000;
const SUPERVISOR_END_MS = 3000;

export const detachCommand: Command = {
  name: 'detach',
  summary: 'remove a block device that attach made',
  positionals: ['DEVICE|NAME'],
  options: [
    { name: 'force', help: 'also if it is in use, or was connected by another program: I/O on it fails' },
    { name: 'forget', help: 'do not attach it at boot any more' },
  ],
  run: detach,
};

async function detach(input: CommandInput, context: CommandContext): Promise<number> {
  const directory = new AttachDirectory(context.env['SLEDGE_RUN_DIRECTORY']);
  const text = input.positionals[0] as string;
  const force = input.flag('force');
  const record = directory.find(text);
  const index = record?.index ?? strangersIndex(text, force);
  if (index === undefined) {
    // Nothing is attached: what is left to do is to forget it.
    if (!input.flag('forget') || !forgetUnit(text)) throw notAttached(text);
    context.out(input.json ? `${JSON.stringify({ forgotten: text })}\n` : `${text}: not attached at boot any more\n`);
    return EXIT_DONE;
  }
  const users = deviceUsers(index);
  if (users.length > 0 && !force) {
    throw new SledgeError('device-in-use', `${devicePath(index)} is ${users.join(', ')}`, {
      hint: 'Unmount it first.',
    });
  }
  // Of a stranger's device, what is left of one that had its number before.
  const left = record ?? directory.read(index);
  disconnect(index);
  if (record !== undefined) await endSupervisor(record);
  await released(index);
  if (left !== undefined) await directory.remove(left);
  if (record !== undefined) rmSync(directory.logPath(record.options.name), { force: true });
  const forgotten = input.flag('forget') && forgetUnit(record?.options.name ?? text);
  if (input.json) context.out(`${JSON.stringify({ detached: devicePath(index), forgotten })}\n`);
  else context.out(`${devicePath(index)}: detached${forgotten ? ', and not attached at boot any more' : ''}\n`);
  return EXIT_DONE;
}

/** A connected device that has no record. */
function strangersIndex(text: string, force: boolean): number | undefined {
  const index = deviceIndex(text);
  if (index === undefined || !isConnected(index)) return undefined;
  if (force) return index;
  throw new SledgeError('not-attached', `${devicePath(index)} was connected by another program`, {
    hint: `Use that one (nbd-client -d ${devicePath(index)}), or --force.`,
  });
}

function disconnect(index: number): void {
  const kernel = new NbdKernel();
  try {
    const result = kernel.disconnect(index);
    if (result === -EPERM) {
      throw new SledgeError('not-permitted', `${devicePath(index)} may not be disconnected by this user`);
    }
    if (result < 0 && isConnected(index)) {
      throw new SledgeError('io', `the kernel refused to disconnect ${devicePath(index)}: ${errnoName(result)}`);
    }
  } finally {
    kernel.close();
  }
}

async function endSupervisor(record: DeviceRecord): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!isSupervised(record)) return;
    try {
      process.kill(record.pid, signal);
    } catch {
      return;
    }
    await until(() => !isSupervised(record), SUPERVISOR_END_MS);
  }
}

/** The last one who has it open keeps it, though it gives nothing but errors any more. */
async function released(index: number): Promise<void> {
  if (await until(() => !isConnected(index), RELEASE_MS)) return;
  throw new SledgeError('device-in-use', `${devicePath(index)} is disconnected, but some process still has it open`, {
    hint: `End that process (fuser -v ${devicePath(index)}): the device is free once it is closed.`,
  });
}

async function until(condition: () => boolean, timeoutMs: number): Promise<boolean> {
  for (const end = performance.now() + timeoutMs; !condition(); ) {
    if (performance.now() > end) return false;
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  return true;
}
