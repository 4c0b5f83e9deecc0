/**
 * The records of attached devices: `/run/sledge/nbdN.json`, one each, beside the log of its supervisor, `NAME.log`. Gone
 * with a reboot, as the devices are. A record is replaced in one step, so that a reader never meets half of one.
 */
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type DeviceRecord, deviceIndex, parseDeviceRecord } from '../attach/device-record.ts';
import { EAGAIN } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import { lockFile, lockHolder } from './file-lock.ts';
import { deviceBackend, isConnected, processStart } from './nbd-devices.ts';
import { errnoOf, systemError } from './system-error.ts';

export const ATTACH_DIRECTORY = '/run/sledge';
/** Nobody waits for a server under the lock: what is done there takes milliseconds. */
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
   * Rejects with `device-in-use` after `timeoutMs`, `not-permitted` or `io`.
   */
  async lock(timeoutMs = LOCK_MS): Promise<() => void> {
    let fd: number;
    try {
      fd = openSync(this.path, 'r');
    } catch (error) {
      throw writeError(this.path, error);
    }
    for (const end = performance.now() + timeoutMs; ; await pause(20)) {
      try {
        lockFile(fd);
        return () => closeSync(fd);
      } catch (cause) {
        const isHeld = errnoOf(cause) === EAGAIN;
        if (isHeld && performance.now() < end) continue;
        const holder = lockHolder(fd);
        closeSync(fd);
        if (!isHeld) throw systemError('io', `${this.path} cannot be locked`, errnoOf(cause), cause);
        throw new SledgeError('device-in-use', `another process holds the lock of ${this.path} and does not let go`, {
          cause,
          hint: `End it (${holder === undefined ? `fuser -v ${this.path} names it` : `kill ${holder}`}), and try again.`,
        });
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

  /** By device or by name. */
  find(text: string): DeviceRecord | undefined {
    const index = deviceIndex(text);
    return this.list().find(record => (index === undefined ? record.options.name === text : record.index === index));
  }

  /**
   * For a device that is gone; by now another one may have its number, and a record of its own, which stays. The log stays
   * as well: it may say why the device went. Rejects as `lock` does.
   */
  async remove({ index, backend }: DeviceRecord): Promise<void> {
    if (this.read(index)?.backend !== backend) return;
    const unlock = await this.lock();
    try {
      if (this.read(index)?.backend === backend) rmSync(this.#recordPath(index), { force: true });
    } finally {
      unlock();
    }
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

export function notAttached(text: string): SledgeError {
  return new SledgeError('not-attached', `${text} is not attached`);
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
