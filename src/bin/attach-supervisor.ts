/**
 * The process that keeps a device: makes it, or adopts it, and supervises it until it is detached. This is the wiring of
 * `attach/supervisor.ts`: kernel, sockets, clock and record. Called by `sledge attach --foreground`, which is also what
 * runs in the background.
 *
 * The device's record is written as soon as the device is there, and by its supervisor only. When it ends by a signal the
 * record stays, for whoever adopts the device.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { ServerLog } from '../admin/log.ts';
import { deviceGeometry, type Geometry } from '../attach/device-geometry.ts';
import { type AttachOptions, type DeviceRecord, devicePath } from '../attach/device-record.ts';
import { TIMEOUT_SECONDS_MAX } from '../attach/nbd-netlink.ts';
import { type Connection, Supervisor, type SupervisorEnd, type SupervisorReport } from '../attach/supervisor.ts';
import { type ErrorCode, SledgeError } from '../base/errors.ts';
import { ReconnectPolicy } from '../base/reconnect-policy.ts';
import { formatNbdUri } from '../nbd-server-protocol/uri.ts';
import { AttachConnector } from '../platform/attach-connector.ts';
import { type AttachDirectory, isCurrent, isSupervised } from '../platform/attach-directory.ts';
import { runTool } from '../platform/child-process.ts';
import { hasDeviceNode, isConnected, processStart } from '../platform/nbd-devices.ts';
import { NbdKernel } from '../platform/nbd-kernel.ts';
import { SystemClock } from '../platform/system-clock.ts';
import { TlsRelay } from '../platform/tls-relay.ts';
import { findServer, tlsMaterial } from './attach-server.ts';

/** A grown volume is seen after this time at the latest. A handshake of TLS costs more than one in clear. */
const INQUIRY_MS = 2000;
const TLS_INQUIRY_MS = 5000;

/** A server that is not there, or not for long any more. */
const ABSENT: ReadonlySet<ErrorCode> = new Set(['not-running', 'connection-failed', 'shutting-down']);

export interface SupervisedProcess {
  readonly directory: AttachDirectory;
  readonly pid: number;
  readonly log: ServerLog;
  /** Nobody looks on: a server that is not there yet is waited for. */
  readonly isService: boolean;
  /** Aborted by SIGINT and SIGTERM; its reason is for when there is no device yet. */
  readonly signal: AbortSignal;
  /** The device can be used. */
  ready(record: DeviceRecord): void;
}

/** Makes a device and supervises it to its end. */
export async function superviseNew(
  options: AttachOptions,
  index: number | undefined,
  around: SupervisedProcess,
): Promise<SupervisorEnd> {
  const { directory, log, pid, signal } = around;
  const refuse = () => {
    refuseTwice(options, directory);
    refuseConnected(index);
  };
  refuse();
  const kernel = openKernel();
  try {
    const device = new SupervisedKernelDevice(kernel, around);
    const connector = await whenServed(around, async () => {
      const found = await AttachConnector.make(() => findServer(options), tlsMaterial(options));
      await whileConnected(found, options, signal, async parts => {
        directory.prepare();
        const unlock = await directory.lock();
        try {
          refuse();
          signal.throwIfAborted();
          device.record = makeDevice(kernel, parts, options, index, pid);
          writeFirst(kernel, directory, device.record);
        } finally {
          unlock();
        }
      });
      return found;
    });
    log.info({ device: devicePath(device.record.index), server: formatNbdUri(connector.uri) }, 'attached');
    return await device.supervise(connector, false);
  } finally {
    kernel.close();
  }
}

/** Tries again what fails because the server is not there, where that is to be waited for; until the signal is aborted. */
export async function whenServed<T>(
  { isService, log, signal }: Pick<SupervisedProcess, 'isService' | 'log' | 'signal'>,
  attach: () => Promise<T>,
): Promise<T> {
  const policy = new ReconnectPolicy(Math.random);
  for (;;) {
    try {
      return await attach();
    } catch (error) {
      if (!isService || !(error instanceof SledgeError) || !ABSENT.has(error.code)) throw error;
      log.debug({ err: error }, 'the server is not there yet');
      await pause(policy.failed(), undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }
}

/** A device without a record would have nobody who takes care of it. */
function writeFirst(kernel: NbdKernel, directory: AttachDirectory, record: DeviceRecord): void {
  try {
    directory.write(record);
  } catch (error) {
    kernel.disconnect(record.index);
    throw error;
  }
}

/** Takes over a device whose supervisor is gone. Throws `already-attached` where it is not. */
export async function superviseAdopted(record: DeviceRecord, around: SupervisedProcess): Promise<SupervisorEnd> {
  if (isSupervised(record)) {
    throw new SledgeError('already-attached', `process ${record.pid} takes care of ${devicePath(record.index)}`, {
      hint: 'A device has one supervisor: end that one first if another is to take over.',
    });
  }
  const kernel = openKernel();
  try {
    const { options, volumeMade } = record;
    const connector = await AttachConnector.again(volumeMade, () => findServer(options), tlsMaterial(options));
    const device = new SupervisedKernelDevice(kernel, around);
    device.record = { ...record, pid: around.pid, pidStart: processStart(around.pid) ?? 0 };
    around.log.info({ device: devicePath(record.index) }, 'adopted');
    return await device.supervise(connector, true);
  } finally {
    kernel.close();
  }
}

/** Loads the module where it is missing and may be loaded. */
function openKernel(): NbdKernel {
  try {
    return new NbdKernel();
  } catch (error) {
    if (!(error instanceof SledgeError) || error.code !== 'no-nbd-driver') throw error;
    if (!runTool('modprobe', 'nbd')) throw error;
    return new NbdKernel();
  }
}

/** Two devices of one volume, each with a cache of its own in the kernel, would ruin a file system. */
function refuseTwice(options: AttachOptions, directory: AttachDirectory): void {
  for (const record of directory.list()) {
    const isSame = JSON.stringify(record.options.target) === JSON.stringify(options.target);
    if (record.options.name === options.name || (isSame && !(options.readOnly && record.options.readOnly))) {
      throw new SledgeError('already-attached', `${options.name} is attached as ${devicePath(record.index)}`);
    }
  }
}

function refuseConnected(index: number | undefined): void {
  if (index === undefined || !isConnected(index)) return;
  throw new SledgeError('device-in-use', `${devicePath(index)} is connected already`, {
    hint: 'Detach it first, or leave the device out to get one that is free.',
  });
}

/** What a device is made of. */
interface DeviceParts extends Geometry {
  readonly sizeBytes: number;
  readonly volumeMade: string | undefined;
  readonly sockets: readonly number[];
}

/** Makes the connections of a device. When `use` is over, only the kernel holds them, if it took them. */
async function whileConnected(
  connector: AttachConnector,
  options: AttachOptions,
  signal: AbortSignal,
  use: (parts: DeviceParts) => Promise<void>,
): Promise<void> {
  const connections: Connection[] = [];
  try {
    const first = await connector.connect();
    connections.push(first);
    const geometry = deviceGeometry(first, options.connections, options.readOnly);
    while (connections.length < options.connections) {
      signal.throwIfAborted();
      connections.push(await connector.connect());
    }
    const sockets = connections.map(connection => connection.socket);
    await use({ ...geometry, sizeBytes: first.sizeBytes, volumeMade: connector.volumeMade, sockets });
  } finally {
    for (const connection of connections) connection.release();
  }
}

function makeDevice(
  kernel: NbdKernel,
  { sizeBytes, blockBytes, transmissionFlags, volumeMade, sockets }: DeviceParts,
  options: AttachOptions,
  wantedIndex: number | undefined,
  pid: number,
): DeviceRecord {
  const backend = `sledge:${randomUUID()}`;
  const index = kernel.connect({
    index: wantedIndex,
    sizeBytes,
    blockBytes,
    transmissionFlags,
    requestTimeoutSeconds: options.requestTimeoutSeconds,
    deadTimeoutSeconds: options.deadTimeoutSeconds ?? TIMEOUT_SECONDS_MAX,
    backend,
    sockets,
  });
  const now = new Date().toISOString();
  return {
    format: 1,
    index,
    backend,
    options,
    volumeMade,
    sizeBytes,
    transmissionFlags,
    pid,
    pidStart: processStart(pid) ?? 0,
    state: 'connected',
    stateSince: now,
    reconnects: 0,
    lastError: '',
    attachedAt: now,
  };
}

/** One device under supervision. Listens for dead connections from its making on, so that none is missed. */
class SupervisedKernelDevice {
  /** Set once, before `supervise`. */
  record!: DeviceRecord;
  readonly #kernel: NbdKernel;
  readonly #around: SupervisedProcess;
  readonly #clock = new SystemClock();
  #supervisor: Supervisor | undefined;
  /** Events that came before there was a supervisor to tell, by device; and whether some were lost. */
  readonly #early: number[] = [];
  #wereEventsLost = false;

  constructor(kernel: NbdKernel, around: SupervisedProcess) {
    this.#kernel = kernel;
    this.#around = around;
    kernel.watchLinks(
      index => this.#linkDied(index),
      () => this.#eventsLost(),
    );
  }

  async supervise(connector: AttachConnector, isAdopted: boolean): Promise<SupervisorEnd> {
    const { directory, log, signal } = this.#around;
    const { index, backend, options } = this.record;
    directory.write(this.record);
    await this.#deviceNode();
    const end = await new Promise<SupervisorEnd>(resolve => {
      const supervisor = new Supervisor(
        {
          kernel: {
            reconfigure: change => this.#kernel.reconfigure({ index, backend, ...change }),
            isAttached: () => isCurrent(this.record),
          },
          connector,
          clock: this.#clock,
          policy: new ReconnectPolicy(Math.random),
          isInCharge: () => this.#isInCharge(),
          changed: report => this.#changed(report),
          ended: resolve,
          log: (level, message) => log[level]({ device: devicePath(index) }, message),
        },
        {
          connections: options.connections,
          sizeBytes: this.record.sizeBytes,
          transmissionFlags: this.record.transmissionFlags,
          isAdopted,
          inquiryMs: connector.uri.tls ? TLS_INQUIRY_MS : INQUIRY_MS,
        },
      );
      this.#supervisor = supervisor;
      signal.addEventListener('abort', () => supervisor.stop());
      supervisor.start();
      for (const early of this.#early) this.#linkDied(early);
      if (this.#wereEventsLost) this.#eventsLost();
      this.#around.ready(this.record);
      if (signal.aborted) supervisor.stop();
    });
    TlsRelay.endAll();
    if (end === 'detached') await this.#forget();
    log.info({ device: devicePath(index) }, end);
    return end;
  }

  #linkDied(index: number): void {
    TlsRelay.endThoseShut();
    if (this.#supervisor === undefined) this.#early.push(index);
    else if (index === this.record.index) this.#supervisor.linkDied();
  }

  #eventsLost(): void {
    TlsRelay.endThoseShut();
    if (this.#supervisor === undefined) this.#wereEventsLost = true;
    else this.#supervisor.eventsLost();
  }

  #isInCharge(): boolean {
    const record = this.#around.directory.read(this.record.index);
    return record === undefined || (record.pid === this.record.pid && record.pidStart === this.record.pidStart);
  }

  #changed(report: SupervisorReport): void {
    if (report.state === 'ended') return;
    const isNew = report.state !== this.record.state;
    this.record = {
      ...this.record,
      state: report.state,
      stateSince: isNew ? new Date().toISOString() : this.record.stateSince,
      sizeBytes: report.sizeBytes,
      reconnects: report.reconnects,
      lastError: report.lastError,
    };
    // Under the device's number there may be another one by now, with a supervisor of its own.
    if (!this.#isInCharge()) return;
    try {
      this.#around.directory.write(this.record);
    } catch (error) {
      // The device matters, its record does not.
      this.#around.log.warn({ err: error }, 'the record could not be written');
    }
  }

  async #forget(): Promise<void> {
    try {
      await this.#around.directory.remove(this.record);
    } catch (error) {
      // What is left of it counts for nothing: the device is gone.
      this.#around.log.warn({ err: error }, 'the record could not be removed');
    }
  }

  /** udev or devtmpfs makes the node; in a container nobody may. */
  async #deviceNode(): Promise<void> {
    for (let tries = 0; tries < 100 && !hasDeviceNode(this.record.index); tries++) {
      await new Promise<void>(resolve => this.#clock.after(20, resolve));
    }
    if (hasDeviceNode(this.record.index)) return;
    this.#around.log.warn({ device: devicePath(this.record.index) }, 'the device has no node in /dev');
  }
}
