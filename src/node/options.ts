/**
 * What it takes to start a node and what one gets: `startNode(options: NodeOptions): Promise<RunningNode>` of
 * `start.ts`. `sledge serve` fills the options from its arguments; integration tests fill them by hand. Values have
 * been checked by whoever fills them (sizes are whole blocks within the limits, names are valid); whether they fit what
 * the data directory holds is for `startNode` to find out.
 */
import type { NodeControl } from '../admin/node-control.ts';
import type { NodeLog } from '../admin/node-log.ts';
import type { ListenAddress } from '../platform/io-platform.ts';

export type { NodeLog } from '../admin/node-log.ts';

export interface DeviceOption {
  readonly path: string;
  /** For a file: made or grown to this size. Absent: as large as it is (or a default for a new file). */
  readonly sizeBytes?: number;
}

export interface VolumeOption {
  readonly name: string;
  readonly sizeBytes: number;
}

export interface TlsOption {
  /** `offer`: clients may go without; `require`: they are refused before any export name is answered. */
  readonly mode: 'offer' | 'require';
  /** A directory with ca-cert.pem, server-cert.pem and server-key.pem. */
  readonly certificates?: string;
  /** A file with lines NAME:HEXKEY. Exactly one of the two is given. */
  readonly psk?: string;
}

export interface NodeOptions {
  /** Made when it is missing. */
  readonly dataDirectory: string;
  /** Further devices, besides those that the data directory knows; with none at all, a file in it is made. */
  readonly devices: readonly DeviceOption[];
  /** Made when they are missing; one that exists with another size is kept as it is, with a warning in the log. */
  readonly volumes: readonly VolumeOption[];
  readonly cacheBytes: number;
  /** Default: what `logBytesDefault` says of the file system that the log is on. */
  readonly logBytes?: number;
  readonly listen: readonly ListenAddress[];
  readonly tls?: TlsOption;
  readonly log: NodeLog;
  /**
   * Aborted when the node is no longer wanted before it is up: `startNode` then gives back what it has taken and rejects
   * with `shutting-down`, or finishes as usual when that is quicker (the caller stops it right away).
   */
  readonly signal?: AbortSignal;
}

export interface RunningNode {
  readonly control: NodeControl;
  /** As bound, in the order of `listen`: with the real port where 0 was asked for. */
  readonly addresses: readonly ListenAddress[];
  /**
   * Takes no new client, answers what is in flight, disconnects, makes everything durable, releases the directory. Rejects
   * with `io` when not every request could be answered, or when what was written last is not durable.
   */
  stop(): Promise<void>;
}
