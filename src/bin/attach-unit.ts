/**
 * `sledge attach --persist` and `sledge detach --forget`: the systemd unit of a device, written and removed. What systemctl
 * does to enable a unit (a link in the directory of its target) is done by hand.
 */
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DeviceRecord, devicePath } from '../attach/device-record.ts';
import { unitName, unitText } from '../attach/systemd-unit.ts';
import { SledgeError } from '../base/errors.ts';
import { writeError } from '../platform/attach-directory.ts';
import { runTool } from '../platform/child-process.ts';
import { attachWords } from './attach-arguments.ts';

const UNIT_DIRECTORY = '/etc/systemd/system';
/** Made by systemd when it is what runs the system; see sd_booted(3). */
const SYSTEMD_DIRECTORY = '/run/systemd/system';

/** Throws `not-supported` where nobody would start a unit. */
export function requireSystemd(systemdDirectory: string = SYSTEMD_DIRECTORY): void {
  if (existsSync(systemdDirectory)) return;
  throw new SledgeError('not-supported', 'this system is not run by systemd: --persist would have no effect', {
    hint: 'Leave --persist out, and have your init system run the same command at boot.',
  });
}

/** Gives the unit's path. Throws `io`; the device is attached all the same. */
export function persistUnit(record: DeviceRecord, unitDirectory: string = UNIT_DIRECTORY): string {
  const { index, options } = record;
  const program = [process.execPath, process.argv[1] as string];
  const text = unitText({
    name: options.name,
    device: devicePath(index),
    attach: [...program, ...attachWords(options, index, '--adopt', '--foreground')],
    detach: [...program, 'detach', devicePath(index)],
  });
  const { path, link } = pathsOf(options.name, unitDirectory);
  try {
    mkdirSync(join(link, '..'), { recursive: true });
    writeFileSync(path, text, { mode: 0o644 });
    rmSync(link, { force: true });
    symlinkSync(path, link);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SledgeError('io', `the device is attached, but its unit cannot be written: ${reason}`, {
      cause: error,
      hint: `Make ${unitDirectory} writable, then detach the device and attach it again.`,
    });
  }
  reload();
  return path;
}

/** Whether there was one. Throws `not-permitted` or `io`. */
export function forgetUnit(name: string, unitDirectory: string = UNIT_DIRECTORY): boolean {
  const { path, link } = pathsOf(name, unitDirectory);
  if (!existsSync(path)) return false;
  try {
    rmSync(link, { force: true });
    rmSync(path, { force: true });
  } catch (error) {
    throw writeError(path, error);
  }
  reload();
  return true;
}

function pathsOf(name: string, unitDirectory: string): { path: string; link: string } {
  const unit = unitName(name);
  return { path: join(unitDirectory, unit), link: join(unitDirectory, 'multi-user.target.wants', unit) };
}

function reload(): void {
  if (existsSync(SYSTEMD_DIRECTORY)) runTool('systemctl', 'daemon-reload');
}
