/**
 * One connection from accept to end: the stream, its memory, and the phases that it goes through.
 *
 * ```
 *  handshake ──GO──▶ transmission ──DISC, end of stream, drain──▶ finishing ──all answered, all sent──▶ lingering
 *      │ ▲                 │                                          │                                    │
 *      ▼ │ TLS             └──────── violation, I/O error, time limit ┴────────────▶ closing ◀─────────────┘
 *  upgrading                                                                            │
 *                                                                                       ▼ no I/O, nothing in flight
 *                                                                                     ended: memory and blocks are back
 * ```
 * - finishing: no request is taken any more; those in flight are answered and sent.
 * - lingering: our half is shut down; what the client still sends is dropped until it closes or a second has passed, since
 *   closing on unread bytes would make TCP throw away the last replies.
 * - closing: the stream is closed; what is under way completes with an error, what is in flight is not answered.
 *
 * The session does its work in turns of the loop: bytes are parsed as they arrive, replies of one turn leave in one send
 * at its end. Or some leave before: see `readAnswered` and `hurryReplies`. At most one receive and one send are under way; no receive is posted while the
 * transmission is blocked.
 *
 * A request is not carried out when it has waited here for long and its client has hung up meanwhile: it was not answered,
 * and the client may have sent it again elsewhere, and then something newer.
 */
import { assert } from '../base/assert.ts';
import type { CancelTimer, Clock, IoRequest, Turns, TurnTask } from '../base/io.ts';
import { nbdHandshakeTimeoutMs } from '../base/limits.ts';
import type { Logger } from '../base/logger.ts';
import { ReceiveBuffer } from '../base/receive-buffer.ts';
import type { Stream } from '../base/stream.ts';
import type { BusySessions } from './busy-sessions.ts';
import type { ExportTable, SessionHandle } from './exported-volume.ts';
import { type Agreement, Handshake, type HandshakePorts } from './handshake.ts';
import type { PayloadPool } from './payload-pool.ts';
import { ReplyQueue, type ReplyQueueOwner } from './reply-queue.ts';
import type { SessionMemory } from './session-memory.ts';
import type { ConnectionSnapshot, ServerStatistics } from './statistics.ts';
import {
  BLOCKED,
  DISCONNECT,
  DRAINED,
  NEEDS_BYTES,
  NEEDS_PAYLOAD,
  type SmallWrites,
  Transmission,
  type TransmissionOwner,
} from './transmission.ts';

/** Fewer replies are not worth a send of their own. */
const EARLY_REPLIES_MIN = 2;
/** How long the client may take to close after we have. */
const LINGER_MS = 1000;
/** A client that neither takes its replies nor sends its payload for so long holds memory for nothing. */
export const STALL_TIMEOUT_MS = 60_000;
/** A payload that brings less than this in that time counts as stopped: it holds up to 32 MiB that others wait for. */
const STALL_BYTES = 64 * 1024;
/**
 * What has waited for longer may have been given up by the client, and sent again on another connection. The shortest
 * such time limit of the kernel's driver is a second.
 */
const BACKLOG_MS = 500;

export interface SessionPorts {
  readonly turns: Turns;
  readonly clock: Clock;
  readonly exports: ExportTable;
  readonly handshake: HandshakePorts;
  readonly pool: PayloadPool;
  readonly smallWrites: SmallWrites;
  readonly busy: BusySessions;
  readonly statistics: ServerStatistics;
  readonly log: Logger;
  /** Takes the stream over; rejects after having closed it. */
  readonly upgrade: ((stream: Stream) => Promise<Stream>) | undefined;
  readonly ended: (session: Session) => void;
}

type Phase = 'handshake' | 'upgrading' | 'transmission' | 'finishing' | 'lingering' | 'closing' | 'ended';

export class Session implements SessionHandle, TurnTask, IoRequest, ReplyQueueOwner, TransmissionOwner {
  readonly memory: SessionMemory;
  readonly #ports: SessionPorts;
  readonly #input: ReceiveBuffer;
  readonly #queue: ReplyQueue;
  readonly #handshake: Handshake;
  #stream: Stream;
  #transmission: Transmission | undefined;
  #phase: Phase = 'handshake';
  /** STARTTLS was acknowledged: the upgrade begins when the reply is out. */
  #upgradeWanted = false;
  /** The stream is the upgrade's: not ours to close. */
  #streamLent = false;
  #receiving = false;
  /** The receive under way goes into the pool. */
  #receivingPayload = false;
  /** How much the receive under way, or the last one, could bring, and (only with a backlog) when it began. */
  #receiveBytes = 0;
  #receiveMs = 0;
  /** Parsing waits for a request to complete, a reply to be sent or a block of the pool. */
  #blocked = false;
  /** Since when something of the client's may wait, in the buffer or behind it in the socket; -1: nothing does. */
  #backlogSinceMs = -1;
  #inputEnded = false;
  #draining = false;
  #turnAsked = false;
  #turnMs = -1;
  /** Reads that were answered in this turn. */
  #readsAnswered = 0;
  /** What `busy` has returned. */
  #busyWindow = 0;
  #cancelTimer: CancelTimer;
  /** Sum of what has moved, and when it last changed: see `checkStall`. */
  #progressSeen = 0;
  #progressMs = 0;
  #receivedBytes = 0;

  constructor(ports: SessionPorts, stream: Stream, memory: SessionMemory) {
    this.#ports = ports;
    this.#stream = stream;
    this.memory = memory;
    this.#input = new ReceiveBuffer(memory.receive);
    this.#queue = new ReplyQueue(this, ports.pool, memory.replies);
    this.#handshake = new Handshake(ports.handshake, stream.encrypted);
    this.#cancelTimer = ports.clock.after(nbdHandshakeTimeoutMs, () => this.#timeOut());
    this.#progressMs = ports.clock.nowMs();
  }

  get peer(): string {
    return this.#stream.peer;
  }

  snapshot(): ConnectionSnapshot {
    return {
      peer: this.peer,
      encrypted: this.#stream.encrypted,
      phase: this.#phase,
      exportName: this.#transmission?.volume.name ?? '',
      inFlight: this.#transmission?.inFlight ?? 0,
    };
  }

  get inFlight(): number {
    return this.#transmission?.inFlight ?? 0;
  }

  start(): void {
    this.#handshake.greet(this.#queue.filling);
    this.#askForTurn();
    this.#receive();
  }

  // --- turns ---------------------------------------------------------------------------------------------------------

  /** Time of this turn, read once: latencies are exact to a turn. */
  turnMs(): number {
    if (this.#turnMs < 0) {
      this.#turnMs = this.#ports.clock.nowMs();
      this.#askForTurn();
    }
    return this.#turnMs;
  }

  progressed(): void {
    this.#askForTurn();
  }

  /**
   * When at least as many reads have been answered as requests are under way, and there is more to do, the replies leave
   * before the turn ends, if nobody else is at work: else the client has nothing to do until the server has done it all, and
   * then the server and the disk have nothing to do. Reads from the cache are answered as they are taken, so that the first
   * two leave, and the others behind them. Measured at depth 16: reads from the disk 45 000 a second -> 51 000, from the cache
   * 280 000 -> 340 000. (With four connections those from the cache would lose a seventh by it.)
   *
   * Not so for writes, which leave together: what was committed together is to be committed together again. Nor under TLS,
   * where each send is enciphered by itself, and the loop hears of its end only when Node has had its turn.
   */
  readAnswered(): void {
    this.#askForTurn();
    this.#readsAnswered++;
    const left = this.inFlight;
    if (this.#readsAnswered < EARLY_REPLIES_MIN || this.#readsAnswered < left) return;
    if (left === 0 && this.#input.available === 0) return;
    if (this.#phase !== 'transmission' || this.#queue.sending || this.#stream.encrypted) return;
    if (!this.#ports.busy.isOne) return;
    if (this.#queue.flush(this.#stream)) this.#ports.turns.hurry();
  }

  /** See `VolumeRequest.hurryReply`. With several connections it pays, too: each still has its one send. */
  hurryReplies(): void {
    if (this.#phase === 'transmission' && !this.#stream.encrypted) this.#queue.flush(this.#stream);
  }

  repliesSent(): void {
    this.#askForTurn();
  }

  #askForTurn(): void {
    if (this.#turnAsked || this.#phase === 'ended') return;
    this.#turnAsked = true;
    this.#busyWindow = this.#ports.busy.note(this.turnMs(), this.#busyWindow);
    this.#ports.turns.atEndOfTurn(this);
  }

  runAtEndOfTurn(): void {
    if (this.#phase === 'ended') return;
    // Until the last line `#turnAsked` stays set: what happens in here is looked at in here.
    if (this.#blocked) this.#consume();
    // What was consumed may have closed the stream.
    if (this.#phase !== 'closing' && this.#queue.flush(this.#stream) && this.#blocked) this.#consume();
    this.#turnAsked = false;
    this.#turnMs = -1;
    this.#readsAnswered = 0;
    if (this.#upgradeWanted && this.#queue.idle && !this.#receiving) this.#upgrade();
    if (this.#draining && this.#phase === 'transmission' && this.inFlight === 0) this.#finish();
    if (this.#phase === 'finishing') this.#checkFinished();
    if (this.#phase === 'closing') this.#checkEnded();
    // A consume after the flush may have laid more.
    else if (!this.#queue.sending && !this.#queue.idle) this.#askForTurn();
  }

  // --- receiving -----------------------------------------------------------------------------------------------------

  #receive(): void {
    if (this.#receiving || this.#inputEnded) return;
    const input = this.#input;
    input.makeRoom();
    assert(input.room > 0, 'there is room to receive');
    this.#receiving = true;
    this.#receivingPayload = false;
    this.#beginReceive(input.room);
    this.#stream.receive(input.region, input.end, input.room, this);
  }

  #receivePayload(transmission: Transmission): void {
    if (this.#receiving || this.#inputEnded) return;
    this.#receiving = true;
    this.#receivingPayload = true;
    const { payloadRegion, payloadOffset, payloadMissing } = transmission;
    this.#beginReceive(payloadMissing);
    this.#stream.receive(payloadRegion, payloadOffset, payloadMissing, this);
  }

  #beginReceive(bytes: number): void {
    this.#receiveBytes = bytes;
    if (this.#backlogSinceMs >= 0) this.#receiveMs = this.turnMs();
  }

  ioCompleted(result: number): void {
    this.#receiving = false;
    if (this.#phase === 'closing') {
      this.#askForTurn();
    } else if (result <= 0) {
      this.#endOfInput(result);
    } else if (this.#phase === 'finishing' || this.#phase === 'lingering') {
      this.#input.clear();
      this.#receive();
    } else {
      this.#receivedBytes += result;
      // It waited for the client, and not the other way round.
      if (this.#backlogSinceMs >= 0 && this.turnMs() - this.#receiveMs >= BACKLOG_MS) this.#backlogSinceMs = -1;
      if (this.#isGivenUp()) return;
      if (this.#receivingPayload) this.#transmission!.payloadReceived(result);
      else this.#input.end += result;
      // Under TLS less than there was room for does not mean that the socket has no more.
      const socketWasEmptied = result < this.#receiveBytes && !this.#stream.encrypted;
      this.#consume();
      if (socketWasEmptied && !this.#blocked) this.#backlogSinceMs = -1;
    }
  }

  #endOfInput(result: number): void {
    this.#inputEnded = true;
    if (result < 0 || this.#phase === 'lingering') this.#close();
    else this.#finish();
  }

  /** Takes what can be taken of the input, and receives more unless blocked. */
  #consume(): void {
    this.#blocked = false;
    if (this.#isGivenUp()) return;
    if (this.#phase === 'handshake') this.#consumeHandshake();
    if (this.#phase === 'transmission') this.#consumeRequests(this.#transmission!);
  }

  /** See `BACKLOG_MS`. Asked each time before something is carried out, and in the same turn; when it is, it is over. */
  #isGivenUp(): boolean {
    if (this.#backlogSinceMs < 0 || this.turnMs() - this.#backlogSinceMs < BACKLOG_MS) return false;
    if (!this.#stream.peerHasEnded) return false;
    this.#ports.log.info({ peer: this.peer }, 'connection lost while requests waited');
    this.#close();
    return true;
  }

  #consumeRequests(transmission: Transmission): void {
    switch (transmission.consume(this.#input)) {
      case NEEDS_BYTES:
        this.#receive();
        break;
      case NEEDS_PAYLOAD:
        this.#receivePayload(transmission);
        break;
      case BLOCKED:
        this.#blocked = true;
        if (this.#backlogSinceMs < 0) this.#backlogSinceMs = this.turnMs();
        this.#askForTurn();
        break;
      case DISCONNECT:
        this.#finish();
        break;
      case DRAINED:
        // With the last request in flight the session is over: see `runAtEndOfTurn`.
        this.#askForTurn();
        break;
      default:
        this.#violation('a request that breaks the protocol');
    }
  }

  #consumeHandshake(): void {
    const input = this.#input;
    const { view, bytes } = input.region;
    for (;;) {
      const outcome = this.#handshake.step(view, bytes, input.start, input.available, this.#queue.filling);
      input.start += this.#handshake.consumed;
      this.#askForTurn();
      switch (outcome.kind) {
        case 'continue':
          break;
        case 'needsBytes':
          this.#receive();
          return;
        case 'needsRoom':
          this.#blocked = true;
          return;
        case 'startTls':
          // Anything behind STARTTLS in clear was put there by someone who hopes that it counts as encrypted.
          if (input.available > 0) this.#violation('bytes in clear behind STARTTLS');
          else this.#upgradeWanted = true;
          return;
        case 'transmission':
          this.#enter(outcome.agreement);
          return;
        case 'abort':
          this.#finish();
          return;
        default:
          this.#violation(outcome.reason);
          return;
      }
    }
  }

  // --- phases --------------------------------------------------------------------------------------------------------

  #enter(agreement: Agreement): void {
    this.#cancelTimer();
    this.#phase = 'transmission';
    const { pool, smallWrites, statistics, log, exports } = this.#ports;
    const ports = { owner: this, queue: this.#queue, pool, smallWrites, statistics };
    this.#transmission = new Transmission(ports, agreement);
    this.#progressMs = this.#ports.clock.nowMs();
    exports.opened(agreement.volume, this);
    const { structured, extended, volume } = agreement;
    log.info({ peer: this.peer, export: volume.name, structured, extended }, 'client connected');
  }

  #upgrade(): void {
    this.#upgradeWanted = false;
    this.#phase = 'upgrading';
    this.#streamLent = true;
    assert(this.#ports.upgrade !== undefined, 'STARTTLS is acknowledged only where TLS is offered');
    this.#ports.upgrade(this.#stream).then(
      stream => this.#upgraded(stream),
      (error: unknown) => {
        this.#ports.log.warn(
          { peer: this.peer, error: error instanceof Error ? error.message : String(error) },
          'TLS handshake failed',
        );
        if (this.#phase === 'upgrading') this.#phase = 'closing';
        this.#cancelTimer();
        this.#streamLent = false;
        this.#askForTurn();
      },
    );
  }

  #upgraded(stream: Stream): void {
    this.#stream = stream;
    this.#streamLent = false;
    if (this.#phase !== 'upgrading') {
      stream.close();
      this.#askForTurn();
      return;
    }
    this.#phase = 'handshake';
    this.#handshake.tlsStarted();
    this.#input.clear();
    this.#receive();
  }

  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    if (this.#phase === 'handshake' || this.#phase === 'upgrading') {
      this.#handshake.drain();
      // The next option is answered with ERR_SHUTDOWN; whoever does not leave upon that is put out.
      this.#cancelTimer();
      this.#cancelTimer = this.#ports.clock.after(LINGER_MS, () => this.#close());
      return;
    }
    if (this.#phase !== 'transmission') return;
    // Later requests are left alone; with the last in flight the session is over.
    this.#transmission!.drain();
    this.#cancelTimer = this.#ports.clock.after(LINGER_MS, () => {
      if (this.#transmission!.payloadArriving) this.#close();
    });
    this.#askForTurn();
  }

  #finish(): void {
    this.#phase = 'finishing';
    this.#blocked = false;
    this.#cancelTimer();
    this.#transmission?.inputEnded();
    this.#askForTurn();
  }

  #checkFinished(): void {
    if (this.inFlight > 0 || !this.#queue.idle) return;
    this.#stream.shutdown();
    if (this.#inputEnded) {
      this.#close();
      return;
    }
    this.#phase = 'lingering';
    this.#cancelTimer = this.#ports.clock.after(LINGER_MS, () => this.#close());
    this.#input.clear();
    this.#receive();
  }

  #violation(reason: string): void {
    this.#ports.log.warn({ peer: this.peer, reason }, 'connection ended: protocol violation');
    // Under TLS the client learns that it was us (a close_notify); in clear the half-close would tell nothing more.
    if (this.#stream.encrypted && !this.#queue.sending) this.#stream.shutdown();
    this.#close();
  }

  #timeOut(): void {
    this.#ports.log.warn({ peer: this.peer }, 'connection ended: the handshake took too long');
    this.#close();
  }

  sendFailed(errno: number): void {
    if (this.#phase !== 'closing') {
      this.#ports.log.info({ peer: this.peer, errno }, 'connection lost while sending');
      this.#close();
    }
    this.#askForTurn();
  }

  #close(): void {
    if (this.#phase === 'closing' || this.#phase === 'ended') return;
    this.#phase = 'closing';
    this.#blocked = false;
    this.#upgradeWanted = false;
    this.#cancelTimer();
    this.#transmission?.abandon();
    if (!this.#receiving || !this.#receivingPayload) this.#transmission?.inputEnded();
    if (!this.#streamLent) this.#stream.close();
    this.#askForTurn();
  }

  /** Memory goes back only when no I/O and no volume can touch it any more. */
  #checkEnded(): void {
    if (this.#receiving || this.#queue.sending || this.#streamLent) return;
    const transmission = this.#transmission;
    transmission?.inputEnded();
    if (this.inFlight > 0) return;
    this.#queue.discard();
    transmission?.assertReleased();
    assert(this.#queue.reservedBytes === 0, 'all reply room is back');
    this.#phase = 'ended';
    if (transmission !== undefined) {
      this.#ports.exports.closed(transmission.volume, this);
      this.#ports.log.info({ peer: this.peer, export: transmission.volume.name }, 'client disconnected');
    }
    this.#ports.ended(this);
  }

  /** Called now and then by the server: ends a connection whose client has stopped to take or give. */
  checkStall(nowMs: number): void {
    const stuck = this.#queue.sending || (this.#transmission?.payloadArriving ?? false);
    const progress = this.#queue.progress + Math.floor(this.#receivedBytes / STALL_BYTES);
    if (!stuck || progress !== this.#progressSeen) {
      this.#progressSeen = progress;
      this.#progressMs = nowMs;
    } else if (nowMs - this.#progressMs >= STALL_TIMEOUT_MS && this.#phase !== 'closing') {
      this.#ports.log.warn({ peer: this.peer }, 'connection ended: the client takes no data');
      this.#close();
    }
  }
}
