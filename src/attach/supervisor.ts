/**
 * Keeps one device alive: told by the kernel that a connection has died, it makes a new one and hands it over; when the
 * volume has grown, the device grows. Made by `bin/attach-supervisor.ts`, which gives it the ports; tests simulate them.
 *
 * | state | what happens |
 * |---|---|
 * | connected | the size is asked for from time to time; LINK_DEAD leads to reconnecting |
 * | reconnecting | tries, with pauses between them, until each dead connection has a successor |
 * | ended | the device is gone, or this supervisor is no longer the one that keeps it; nothing is done any more |
 *
 * Invariants: at most one connection is being made, and at most one inquiry runs; every connection that was made is
 * handed over or closed, and in either case released; a device never gets a connection to a volume that is smaller than
 * the device, since its last blocks would be missing; nothing happens after the end.
 */
import { errnoName } from '../base/errno.ts';
import type { CancelTimer, Clock } from '../base/io.ts';
import type { ReconnectPolicy } from '../base/reconnect-policy.ts';

/** A connection past its handshake, which the kernel can go on with. */
export interface Connection {
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  readonly socket: number;
  /** Ends our hold on the socket. The kernel's stays, if it took one. */
  release(): void;
}

export interface Connector {
  /** Takes a limited time. */
  connect(): Promise<Connection>;
  /** The volume's size now. */
  inquire(): Promise<number>;
}

/** The device, as the kernel has it. */
export interface KernelDevice {
  /** 0 or a negative errno. */
  reconfigure(change: { sizeBytes?: number; sockets?: readonly number[] }): number;
  /** Whether the device is connected and still the one that was made for this supervisor. */
  isAttached(): boolean;
}

export type SupervisorState = 'connected' | 'reconnecting' | 'ended';

/** `detached`: the device is gone. `replaced`: another supervisor has taken over. `stopped`: asked to. */
export type SupervisorEnd = 'detached' | 'replaced' | 'stopped';

export interface SupervisorReport {
  readonly state: SupervisorState;
  readonly sizeBytes: number;
  /** Connections handed to the kernel since the start, the first ones left out. */
  readonly reconnects: number;
  /** Why the last try failed; empty when it did not. */
  readonly lastError: string;
}

export interface SupervisorPorts {
  readonly kernel: KernelDevice;
  readonly connector: Connector;
  readonly clock: Clock;
  readonly policy: ReconnectPolicy;
  /** False once somebody else keeps the device. */
  isInCharge(): boolean;
  changed(report: SupervisorReport): void;
  ended(end: SupervisorEnd): void;
  log(level: 'info' | 'warn' | 'error', message: string): void;
}

export interface SupervisedDevice {
  readonly connections: number;
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  /** Of an adopted device nobody knows which connections live: each is offered a successor. */
  readonly isAdopted: boolean;
  /** How often the volume's size is asked for, and the device looked at. */
  readonly inquiryMs: number;
}

export class Supervisor {
  readonly #ports: SupervisorPorts;
  readonly #connections: number;
  readonly #transmissionFlags: number;
  readonly #inquiryMs: number;
  #state: SupervisorState = 'connected';
  #sizeBytes: number;
  /** Connections that have died and have no successor yet. */
  #missing: number;
  #reconnects = 0;
  #lastError = '';
  #isConnecting = false;
  #isInquiring = false;
  #cancelTry: CancelTimer = () => {};
  #cancelTick: CancelTimer = () => {};
  /** A size that was complained about, so that the log says it once. */
  #refusedSize = -1;

  constructor(ports: SupervisorPorts, device: SupervisedDevice) {
    this.#ports = ports;
    this.#connections = device.connections;
    this.#sizeBytes = device.sizeBytes;
    this.#transmissionFlags = device.transmissionFlags;
    this.#inquiryMs = device.inquiryMs;
    this.#missing = device.isAdopted ? device.connections : 0;
  }

  get report(): SupervisorReport {
    return {
      state: this.#state,
      sizeBytes: this.#sizeBytes,
      reconnects: this.#reconnects,
      lastError: this.#lastError,
    };
  }

  start(): void {
    this.#scheduleTick();
    if (this.#missing === 0) return;
    this.#state = 'reconnecting';
    this.#try();
  }

  /** The kernel says that one of the device's connections has died. */
  linkDied(): void {
    this.#lost(1, 'a connection was lost');
  }

  /** What the kernel said was lost: each connection may have died, and is offered a successor, as with an adopted device. */
  eventsLost(): void {
    this.#lost(this.#connections, 'events of the kernel were lost');
  }

  /** The device stays as it is; nobody reconnects it any more. */
  stop(): void {
    this.#end('stopped');
  }

  #lost(connections: number, message: string): void {
    if (this.#state === 'ended') return;
    this.#missing = Math.min(this.#missing + connections, this.#connections);
    if (this.#state === 'reconnecting') return;
    this.#state = 'reconnecting';
    this.#ports.log('warn', message);
    this.#schedule(this.#ports.policy.lost(this.#ports.clock.nowMs()));
    this.#changed();
  }

  #schedule(delayMs: number): void {
    if (delayMs > 0) this.#cancelTry = this.#ports.clock.after(delayMs, () => this.#try());
    else this.#try();
  }

  #try(): void {
    if (this.#isConnecting || this.#state !== 'reconnecting') return;
    this.#isConnecting = true;
    this.#ports.connector.connect().then(
      connection => {
        this.#isConnecting = false;
        this.#connected(connection);
      },
      (error: unknown) => {
        this.#isConnecting = false;
        this.#failed(error instanceof Error ? error.message : String(error));
      },
    );
  }

  #connected(connection: Connection): void {
    if (this.#state !== 'reconnecting') {
      connection.release();
      return;
    }
    const { sizeBytes } = connection;
    if (sizeBytes < this.#sizeBytes) {
      connection.release();
      this.#failed(`the volume has ${sizeBytes} bytes now, less than the device's ${this.#sizeBytes}`);
      return;
    }
    const isLarger = sizeBytes > this.#sizeBytes;
    const change = { sockets: [connection.socket], ...(isLarger ? { sizeBytes } : {}) };
    const result = this.#ports.kernel.reconfigure(change);
    connection.release();
    if (result < 0) {
      this.#refused(result);
      return;
    }
    if (isLarger) this.#grown(sizeBytes);
    this.#warnOfFlags(connection.transmissionFlags);
    this.#reconnects++;
    this.#missing--;
    this.#ports.policy.connected(this.#ports.clock.nowMs());
    if (this.#missing > 0) {
      this.#try();
      return;
    }
    this.#state = 'connected';
    this.#lastError = '';
    this.#ports.log('info', 'connected again');
    this.#changed();
  }

  #refused(errno: number): void {
    if (this.#isOver()) return;
    this.#failed(`the kernel refused the connection: ${errnoName(errno)}`);
  }

  #failed(reason: string): void {
    if (this.#state !== 'reconnecting') return;
    if (this.#isOver()) return;
    if (reason !== this.#lastError) {
      this.#lastError = reason;
      this.#ports.log('warn', `cannot connect: ${reason}`);
      this.#changed();
    }
    this.#schedule(this.#ports.policy.failed());
  }

  /** What the kernel was told of the volume when the device was made cannot be changed while it lives. */
  #warnOfFlags(flags: number): void {
    const lost = this.#transmissionFlags & ~flags;
    if (lost !== 0) this.#ports.log('warn', `the server no longer offers all it did (flags 0x${lost.toString(16)})`);
  }

  #scheduleTick(): void {
    this.#cancelTick = this.#ports.clock.after(this.#inquiryMs, () => this.#tick());
  }

  #tick(): void {
    if (this.#isOver()) return;
    this.#scheduleTick();
    if (this.#state !== 'connected' || this.#isInquiring) return;
    this.#isInquiring = true;
    this.#ports.connector.inquire().then(
      sizeBytes => {
        this.#isInquiring = false;
        this.#sizeTold(sizeBytes);
      },
      () => {
        // Whether the server is there is for the connection to say; the size has time.
        this.#isInquiring = false;
      },
    );
  }

  #sizeTold(sizeBytes: number): void {
    if (this.#state === 'ended' || sizeBytes === this.#sizeBytes) return;
    if (sizeBytes < this.#sizeBytes) {
      this.#complain(sizeBytes, `the volume has ${sizeBytes} bytes now: the device keeps its ${this.#sizeBytes}`);
      return;
    }
    const result = this.#ports.kernel.reconfigure({ sizeBytes });
    if (result === 0) {
      this.#grown(sizeBytes);
      this.#changed();
    } else if (!this.#isOver()) {
      // It is tried again with the next inquiry.
      this.#complain(sizeBytes, `the kernel refused the size ${sizeBytes}: ${errnoName(result)}`);
    }
  }

  #complain(sizeBytes: number, message: string): void {
    if (sizeBytes === this.#refusedSize) return;
    this.#refusedSize = sizeBytes;
    this.#ports.log('error', message);
  }

  #grown(sizeBytes: number): void {
    this.#ports.log('info', `the device has grown from ${this.#sizeBytes} to ${sizeBytes} bytes`);
    this.#sizeBytes = sizeBytes;
  }

  /** Ends when the device is gone or somebody else's. */
  #isOver(): boolean {
    if (!this.#ports.kernel.isAttached()) this.#end('detached');
    else if (!this.#ports.isInCharge()) this.#end('replaced');
    return this.#state === 'ended';
  }

  #end(end: SupervisorEnd): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#cancelTry();
    this.#cancelTick();
    this.#ports.ended(end);
  }

  #changed(): void {
    this.#ports.changed(this.report);
  }
}
