/**
 * What sysfs and procfs say about NBD devices: connected or not, whose, how large, and who uses them. Nothing here opens a
 * device: opening one whose server is gone may wait for that server.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { devicePath } from '../attach/device-record.ts';

/** A device is connected from the moment its connections are handed over until the last user of it has closed it. */
export function isConnected(index: number): boolean {
  return existsSync(`/sys/block/nbd${index}/pid`);
}

/** What CONNECT named as the backend; undefined where it named none, or the device is not connected. */
export function deviceBackend(index: number): string | undefined {
  return read(`/sys/block/nbd${index}/backend`)?.trim();
}

/** What a device is used for, in words for a message; empty when nothing is known to use it. */
export function deviceUsers(index: number): string[] {
  const name = `nbd${index}`;
  const names = [name, ...list(`/sys/block/${name}`).filter(entry => entry.startsWith(`${name}p`))];
  const users: string[] = [];
  for (const part of names) {
    const directory = part === name ? `/sys/block/${name}` : `/sys/block/${name}/${part}`;
    const number = read(`${directory}/dev`)?.trim();
    for (const line of (read('/proc/self/mountinfo') ?? '').split('\n')) {
      const fields = line.split(' ');
      if (number !== undefined && fields[2] === number) users.push(`mounted on ${unescapeOctal(fields[4] as string)}`);
    }
    const swaps = (read('/proc/swaps') ?? '').split('\n').map(line => line.split(/\s/)[0]);
    if (swaps.includes(`/dev/${part}`)) users.push('used as swap');
    for (const holder of list(`${directory}/holders`)) users.push(`held by ${holder}`);
  }
  return users;
}

export function hasDeviceNode(index: number): boolean {
  return existsSync(devicePath(index));
}

/** When a process was started, in the kernel's ticks: with the number, it names a process for ever. Undefined: none. */
export function processStart(pid: number): number | undefined {
  const stat = read(`/proc/${pid}/stat`);
  if (stat === undefined) return undefined;
  // The second field is the program's name in brackets, and may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return Number(fields[19]);
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Spaces and the like are octal in mountinfo. */
function unescapeOctal(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
