/**
 * What a server has done, by command. Sessions record into it on the data path (a few stores a request), the status page
 * and metrics take snapshots.
 */
import { LatencyHistogram } from '../base/latency-histogram.ts';
import type { VolumeCommand } from './exported-volume.ts';

/** Commands in the order of their numbers on the wire; DISC (2) is not counted. */
const COMMANDS: readonly (VolumeCommand | 'disconnect')[] = [
  'read',
  'write',
  'disconnect',
  'flush',
  'trim',
  'cache',
  'writeZeroes',
  'blockStatus',
];

export interface CommandSnapshot {
  readonly command: VolumeCommand;
  /** Answered, with or without an error; refused ones (bad range, bad flags) included. */
  readonly answered: number;
  readonly failed: number;
  /** Of the ranges of those that succeeded. */
  readonly bytes: number;
  /** From the arrival of a request to its answer; all 0 while there was none. */
  readonly latencyUs: {
    readonly p50: number;
    readonly p95: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
}

export interface ConnectionSnapshot {
  readonly peer: string;
  readonly encrypted: boolean;
  readonly phase: string;
  readonly exportName: string;
  readonly inFlight: number;
}

export interface ServerSnapshot {
  readonly connections: readonly ConnectionSnapshot[];
  readonly connectionsAccepted: number;
  readonly connectionsRefused: number;
  readonly inFlight: number;
  readonly commands: readonly CommandSnapshot[];
  /** Requests with a command that does not exist. */
  readonly unknownCommands: number;
  readonly payloadPoolFreeBytes: number;
  readonly payloadPoolWaiters: number;
}

export class ServerStatistics {
  readonly #answered = new Float64Array(COMMANDS.length);
  readonly #failed = new Float64Array(COMMANDS.length);
  readonly #bytes = new Float64Array(COMMANDS.length);
  readonly #latency = COMMANDS.map(() => new LatencyHistogram());
  #unknown = 0;

  /** `command` is the wire's number, any 16 bits. */
  recordRefused(command: number): void {
    if (command >= COMMANDS.length) {
      this.#unknown += 1;
      return;
    }
    this.#answered[command] += 1;
    this.#failed[command] += 1;
  }

  recordAnswered(command: number, failed: boolean, bytes: number, latencyMs: number): void {
    this.#answered[command] += 1;
    if (failed) this.#failed[command] += 1;
    else this.#bytes[command] += bytes;
    this.#latency[command].record(latencyMs * 1000);
  }

  get unknownCommands(): number {
    return this.#unknown;
  }

  commands(): CommandSnapshot[] {
    const out: CommandSnapshot[] = [];
    for (const [index, command] of COMMANDS.entries()) {
      if (command === 'disconnect') continue;
      const latency = this.#latency[index];
      out.push({
        command,
        answered: this.#answered[index],
        failed: this.#failed[index],
        bytes: this.#bytes[index],
        latencyUs: {
          p50: latency.percentileUs(0.5),
          p95: latency.percentileUs(0.95),
          p99: latency.percentileUs(0.99),
          p999: latency.percentileUs(0.999),
          max: latency.maximumUs,
        },
      });
    }
    return out;
  }
}
