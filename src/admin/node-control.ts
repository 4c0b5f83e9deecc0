/**
 * What the control plane needs of a running node: its volumes, changes to them, and how it is doing. The node
 * implements this (`src/node/`), the control server calls it, and `sledge volume` and `sledge status` show the answers.
 *
 * Everything here is plain data that goes through JSON unchanged: numbers are safe integers or finite fractions, times
 * are ISO 8601 strings, nothing is undefined. Calls that change something reject with a `SledgeError`; calls that only
 * look are synchronous, cheap (no I/O) and never throw.
 */
import type { IoKind, ListenAddress } from '../platform/io-platform.ts';

export type AckRule = 'written' | 'durable';

/** One thing that is wrong: `what` and `why` are sentences for humans, `todo` says what to do about it. */
export interface Problem {
  readonly severity: 'warning' | 'error';
  readonly what: string;
  readonly why: string;
  readonly todo: string;
}

export interface VolumeInfo {
  readonly name: string;
  /** Of this node, from 1, never used again. */
  readonly number: number;
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly ack: AckRule;
  readonly readOnly: boolean;
  /** What it takes of mass storage. */
  readonly allocatedBytes: number;
  /** Number of the newest operation; 0 before the first. */
  readonly lastOp: number;
  readonly epoch: number;
  /** Clients in the transmission phase. */
  readonly connections: number;
  readonly createdAt: string;
  readonly problems: readonly Problem[];
}

export interface CreateVolumeRequest {
  readonly name: string;
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly ack: AckRule;
  readonly readOnly: boolean;
}

/** How far a scrub is. */
export interface ScrubProgress {
  readonly seconds: number;
  /** From devices. */
  readonly bytesRead: number;
  /** Of the space that the volume takes: gone through, and in all. */
  readonly bytesDone: number;
  readonly bytesTotal: number;
  readonly damagedBlocks: number;
}

/** What a scrub has found, having gone through all of a volume. */
export interface ScrubReport {
  readonly volume: string;
  readonly seconds: number;
  readonly bytesRead: number;
  readonly damagedBlocks: number;
  /** The first of them, 1024 at most. */
  readonly damage: readonly ScrubDamage[];
}

export interface ScrubDamage {
  /** Of the volume, in blocks of 4 KiB and in bytes. */
  readonly block: number;
  readonly offsetBytes: number;
  /** The device gives other bytes than were stored, or none. */
  readonly fault: 'mismatch' | 'unreadable';
  /** The device, and where the block begins on it. */
  readonly path: string;
  readonly pathOffsetBytes: number;
}

export interface DeviceStatus {
  readonly name: string;
  readonly path: string;
  readonly kind: 'file' | 'block device';
  readonly sizeBytes: number;
  readonly usedBytes: number;
  readonly alignmentBytes: number;
  readonly state: 'ok' | 'degraded' | 'failed' | 'missing';
  readonly errors: { readonly read: number; readonly write: number; readonly checksum: number };
}

/** Microseconds; all 0 while nothing was measured. */
export interface LatencySummary {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** Milliseconds, exact to about one of them; all 0 while nothing was measured. */
export interface DelaySummary {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export interface CommandStatus {
  /** As in NBD: `read`, `write`, `flush`, `trim`, `writeZeroes`, `cache`, `blockStatus`. */
  readonly command: string;
  /** Since the start. */
  readonly count: number;
  readonly errors: number;
  readonly bytes: number;
  /** Over the last seconds (about ten). */
  readonly perSecond: number;
  readonly bytesPerSecond: number;
  /** From the arrival of a request to its reply, since the start. */
  readonly latencyUs: LatencySummary;
}

export interface NodeStatus {
  /** `failed` with a problem that is an error; `degraded` with any other, or when a device has failed to read or write. */
  readonly health: 'ok' | 'degraded' | 'failed';
  readonly problems: readonly Problem[];
  readonly version: string;
  readonly pid: number;
  readonly dataDirectory: string;
  readonly formatVersion: number;
  readonly startedAt: string;
  readonly uptimeSeconds: number;
  /** `why` says why this one was taken: the default, asked for, or what io_uring lacks on this host. */
  readonly io: { readonly kind: IoKind; readonly why: string };
  readonly log: {
    readonly usedBytes: number;
    readonly limitBytes: number;
    readonly segments: number;
    /** Null before the first. */
    readonly lastSyncAt: string | null;
    /** Reads of records that did not match their checksum. */
    readonly checksumErrors: number;
  };
  readonly cache: {
    readonly usedBytes: number;
    readonly limitBytes: number;
    readonly hits: number;
    readonly misses: number;
  };
  readonly index: { readonly sizeBytes: number };
  readonly devices: readonly DeviceStatus[];
  readonly volumes: readonly VolumeInfo[];
  readonly addresses: readonly ListenAddress[];
  readonly tls: 'off' | 'offer' | 'require';
  readonly connections: number;
  readonly commands: readonly CommandStatus[];
  /** How late the event loop came to what waited for it: what stalls every client at once. */
  readonly eventLoopDelayMs: {
    /** The last minute, and up to another one before it. */
    readonly lastMinute: DelaySummary;
    readonly sinceStart: DelaySummary;
  };
}

export interface NodeControl {
  /** In order of name. */
  volumes(): VolumeInfo[];
  volume(name: string): VolumeInfo | undefined;
  /** Rejects with `volume-exists`, `volume-limit`, `bad-name`, `bad-size`, `no-space`, `io` or `shutting-down`. */
  createVolume(request: CreateVolumeRequest): Promise<VolumeInfo>;
  /** Rejects with `volume-unknown`, `shrink-refused`, `bad-size`, `io` or `shutting-down`; the same size is no change. */
  growVolume(name: string, sizeBytes: number): Promise<VolumeInfo>;
  /**
   * Resolves when the volume is gone for good; its space comes free behind that. Rejects with `volume-unknown`,
   * `volume-busy`, `no-space`, `io` or `shutting-down`.
   */
  deleteVolume(name: string): Promise<void>;
  /**
   * Reads all that the volume has in mass storage, at this rate at most; ends early when the signal is aborted. Rejects
   * with `volume-unknown`, `volume-busy` (one at a time), `shutting-down`, or the signal's reason.
   */
  scrubVolume(name: string, bytesPerSecond: number, signal: AbortSignal): Promise<ScrubReport>;
  /** Undefined while none runs. */
  scrubProgress(name: string): ScrubProgress | undefined;
  status(): NodeStatus;
}
