/**
 * The records of attached devices: `/run/sledge/nbdN.json`, one each, beside the log of its supervisor, `NAME.log`. Gone
 * with a reboot, as the devices are. A record is replaced in one step, so that a reader never meets half of one.
 */
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type DeviceRecord, parseDeviceRecord } from '../attach/device-record.ts';
import { SledgeError } from '../base/errors.ts';
import { lockFile } from './file-lock.ts';
import { deviceBackend, isConnected, processStart } from './nbd-devices.ts';

export const ATTACH_DIRECTORY = '/run/sledge';
/** Making a device takes some handshakes, each with an end to its waiting. */
const LOCK_MS = 30_000;

export class AttachDirectory {
  readonly path: string;

  /** Made with the first record. */
  constructor(path: string = ATTACH_DIRECTORY) {
    this.path = path;
  }

  /** Of the device that is called so: its number is not known before the supervisor has made it. */
  logPath(name: string): string {
    return join(this.path, `${name}.log`);
  }

  /** Throws `not-permitted` or `io`. */
  prepare(): void {
    try {
      mkdirSync(this.path, { recursive: true, mode: 0o755 });
    } catch (error) {
      throw writeError(this.path, error);
    }
  }

  /**
   * Resolves when no other process makes a device, with the call that lets the next one. From the look at who is attached to
   * the record of a new device: otherwise two could make one of the same volume. The lock is on the directory itself.
   */
  async lock(): Promise<() => void> {
    let fd: number;
    try {
      fd = openSync(this.path, 'r');
    } catch (error) {
      throw writeError(this.path, error);
    }
    for (const end = performance.now() + LOCK_MS; ; await pause(20)) {
      try {
        lockFile(fd);
        return () => closeSync(fd);
      } catch (cause) {
        if (performance.now() < end) continue;
        closeSync(fd);
        throw new SledgeError('device-in-use', 'another `sledge attach` does not come to an end', { cause });
      }
    }
  }

  write(record: DeviceRecord): void {
    const path = this.#recordPath(record.index);
    try {
      // The record may name files of keys, but holds no secret itself.
      writeFileSync(`${path}.${record.pid}`, `${JSON.stringify(record)}\n`, { mode: 0o644 });
      renameSync(`${path}.${record.pid}`, path);
    } catch (error) {
      throw writeError(path, error);
    }
  }

  read(index: number): DeviceRecord | undefined {
    try {
      const record = parseDeviceRecord(readFileSync(this.#recordPath(index), 'utf8'));
      return record?.index === index ? record : undefined;
    } catch {
      return undefined;
    }
  }

  /** Of devices that are still connected as they were; records of others are left alone. */
  list(): DeviceRecord[] {
    return this.#indexes()
      .map(index => this.read(index))
      .filter(record => record !== undefined)
      .filter(isCurrent)
      .sort((a, b) => a.index - b.index);
  }

  /** Without the log, in which it may stand why the device went. */
  remove(index: number): void {
    rmSync(this.#recordPath(index), { force: true });
  }

  #indexes(): number[] {
    try {
      return readdirSync(this.path)
        .map(name => /^nbd(\d+)\.json$/.exec(name)?.[1])
        .filter(number => number !== undefined)
        .map(Number);
    } catch {
      return [];
    }
  }

  #recordPath(index: number): string {
    return join(this.path, `nbd${index}.json`);
  }
}

/** Whether the device is connected, and the one that the record was written for. */
export function isCurrent(record: DeviceRecord): boolean {
  if (!isConnected(record.index)) return false;
  const backend = deviceBackend(record.index);
  // Kernels before 5.14 know no backends.
  return backend === undefined || backend === record.backend;
}

export function isSupervised(record: DeviceRecord): boolean {
  return processStart(record.pid) === record.pidStart;
}

/** `not-permitted` or `io`. */
export function writeError(path: string, cause: unknown): SledgeError {
  const code = (cause as NodeJS.ErrnoException).code;
  const text = cause instanceof Error ? cause.message : String(cause);
  if (code === 'EACCES' || code === 'EPERM') {
    return new SledgeError('not-permitted', `${path} may not be written: ${text}`, { cause });
  }
  return new SledgeError('io', `${path} cannot be written: ${text}`, {
    cause,
    hint: 'Its file system has to be writable, and to have room.',
  });
}
