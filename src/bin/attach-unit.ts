/**
 * `sledge attach --persist` and `sledge detach --forget`: the systemd unit of a device, written and removed. What systemctl
 * does to enable a unit (a link in the directory of its target) is done by hand, so that it works without a running systemd
 * as well, in an image that is being built.
 */
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DeviceRecord, devicePath } from '../attach/device-record.ts';
import { unitName, unitText } from '../attach/systemd-unit.ts';
import { SledgeError } from '../base/errors.ts';
import { runTool } from '../platform/child-process.ts';
import { attachWords } from './attach-arguments.ts';

const UNIT_DIRECTORY = '/etc/systemd/system';

/** Gives the unit's path. Throws `io`; the device is attached all the same. */
export function persistUnit(record: DeviceRecord): string {
  const { index, options } = record;
  const program = [process.execPath, process.argv[1] as string];
  const text = unitText({
    name: options.name,
    device: devicePath(index),
    attach: [...program, ...attachWords(options, index, '--adopt', '--foreground')],
    detach: [...program, 'detach', devicePath(index)],
  });
  const { path, link } = pathsOf(options.name);
  try {
    mkdirSync(join(link, '..'), { recursive: true });
    writeFileSync(path, text, { mode: 0o644 });
    rmSync(link, { force: true });
    symlinkSync(path, link);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SledgeError('io', `the device is attached, but its unit cannot be written: ${reason}`, { cause: error });
  }
  reload();
  return path;
}

/** Whether there was one. */
export function forgetUnit(name: string): boolean {
  const { path, link } = pathsOf(name);
  if (!existsSync(path)) return false;
  rmSync(link, { force: true });
  rmSync(path, { force: true });
  reload();
  return true;
}

function pathsOf(name: string): { path: string; link: string } {
  const unit = unitName(name);
  return { path: join(UNIT_DIRECTORY, unit), link: join(UNIT_DIRECTORY, 'multi-user.target.wants', unit) };
}

function reload(): void {
  if (existsSync('/run/systemd/system')) runTool('systemctl', 'daemon-reload');
}
