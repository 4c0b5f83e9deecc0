/**
 * The NBD server: takes connected streams, makes a session of each, and holds what they share (the payload pool, session
 * memory, statistics). Listening is the platform's; which volumes there are is the export table's.
 *
 * Invariants:
 * - At most `limits.connectionsMax` sessions; a stream beyond that is closed at once.
 * - After `drain` no stream is taken; `drain` resolves when the last session has given everything back.
 */
import type { CancelTimer, Clock, Turns } from '../base/io.ts';
import { nbdConnectionsMax, nbdPayloadPoolBytes, nbdSmallWriteBytes } from '../base/limits.ts';
import type { Logger } from '../base/logger.ts';
import type { RegionSource } from '../base/memory.ts';
import type { Stream } from '../base/stream.ts';
import { BusySessions } from './busy-sessions.ts';
import type { ExportedVolume, ExportTable } from './exported-volume.ts';
import type { HandshakePorts } from './handshake.ts';
import { MetaContextRegistry, type MetaContextSource } from './meta-context.ts';
import { PayloadPool } from './payload-pool.ts';
import { Session, type SessionPorts, STALL_TIMEOUT_MS } from './session.ts';
import { SessionMemoryPool } from './session-memory.ts';
import { type ServerSnapshot, ServerStatistics } from './statistics.ts';
import type { SmallWrites } from './transmission.ts';

export interface ServerTls {
  /** `forced`: nothing is served in clear. `selective`: only what `tlsOnly` names needs TLS. */
  readonly mode: 'forced' | 'selective';
  /** Takes over a stream whose STARTTLS was acknowledged; rejects, having closed it, when TLS does not come about. */
  readonly upgrade: (stream: Stream) => Promise<Stream>;
  /** Selective mode: exports that do not exist without TLS. None where it is missing. */
  readonly tlsOnly?: (volume: ExportedVolume) => boolean;
}

export interface ServerLimits {
  readonly connectionsMax?: number;
  /** A power of two, at least 64 KiB. A payload larger than the pool can hold would wait forever: keep it ≥ 64 MiB. */
  readonly payloadPoolBytes?: number;
  readonly smallWriteBytes?: number;
}

export interface NbdServerOptions {
  readonly turns: Turns;
  readonly clock: Clock;
  readonly regions: RegionSource;
  readonly exports: ExportTable;
  readonly log: Logger;
  readonly tls?: ServerTls;
  readonly contexts?: readonly MetaContextSource[];
  readonly limits?: ServerLimits;
}

/** How often sessions are looked at for clients that have stopped to take data. */
const STALL_CHECK_MS = STALL_TIMEOUT_MS / 12;

export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #ports: SessionPorts;
  readonly #pool: PayloadPool;
  readonly #smallWrites: SmallWrites;
  readonly #memory: SessionMemoryPool;
  readonly #statistics = new ServerStatistics();
  readonly #sessions = new Set<Session>();
  readonly #connectionsMax: number;
  #accepted = 0;
  #refused = 0;
  #draining = false;
  #drained: (() => void)[] = [];
  #cancelStallCheck: CancelTimer | undefined;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#connectionsMax = options.limits?.connectionsMax ?? nbdConnectionsMax;
    this.#pool = new PayloadPool(options.regions, options.limits?.payloadPoolBytes ?? nbdPayloadPoolBytes);
    this.#smallWrites = { bytes: 0, bytesMax: options.limits?.smallWriteBytes ?? nbdSmallWriteBytes };
    this.#memory = new SessionMemoryPool(options.regions);
    const { tls } = options;
    const handshake: HandshakePorts = {
      exports: options.exports,
      contexts: new MetaContextRegistry(options.contexts),
      tlsMode: tls?.mode ?? 'none',
      tlsOnly: tls?.tlsOnly ?? (() => false),
    };
    this.#ports = {
      turns: options.turns,
      clock: options.clock,
      exports: options.exports,
      handshake,
      pool: this.#pool,
      smallWrites: this.#smallWrites,
      busy: new BusySessions(),
      statistics: this.#statistics,
      log: options.log,
      upgrade: tls?.upgrade,
      ended: session => this.#ended(session),
    };
  }

  accept(stream: Stream): void {
    if (this.#draining || this.#sessions.size >= this.#connectionsMax) {
      this.#refused += 1;
      this.#options.log.warn({ peer: stream.peer }, this.#draining ? 'refused: shutting down' : 'refused: too many');
      stream.close();
      return;
    }
    this.#accepted += 1;
    const session = new Session(this.#ports, stream, this.#memory.take());
    this.#sessions.add(session);
    if (this.#cancelStallCheck === undefined) this.#awaitStallCheck();
    session.start();
  }

  /** Answers what is in flight, refuses what comes, disconnects everybody. Resolves when all is over. */
  async drain(): Promise<void> {
    this.#draining = true;
    for (const session of this.#sessions) session.drain();
    if (this.#sessions.size === 0) return;
    await new Promise<void>(resolve => {
      this.#drained.push(resolve);
    });
  }

  statistics(): ServerSnapshot {
    const sessions = [...this.#sessions];
    return {
      connections: sessions.map(session => session.snapshot()),
      connectionsAccepted: this.#accepted,
      connectionsRefused: this.#refused,
      inFlight: sessions.reduce((sum, session) => sum + session.inFlight, 0),
      commands: this.#statistics.commands(),
      unknownCommands: this.#statistics.unknownCommands,
      payloadPoolFreeBytes: this.#pool.freeBytes,
      payloadPoolWaiters: this.#pool.waiterCount,
    };
  }

  #ended(session: Session): void {
    this.#sessions.delete(session);
    this.#memory.release(session.memory);
    if (this.#sessions.size > 0) return;
    this.#cancelStallCheck?.();
    this.#cancelStallCheck = undefined;
    const waiting = this.#drained;
    this.#drained = [];
    for (const resolve of waiting) resolve();
  }

  #awaitStallCheck(): void {
    this.#cancelStallCheck = this.#options.clock.after(STALL_CHECK_MS, () => {
      const nowMs = this.#options.clock.nowMs();
      for (const session of this.#sessions) session.checkStall(nowMs);
      this.#awaitStallCheck();
    });
  }
}
