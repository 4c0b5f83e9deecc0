/**
 * One connection to another node over a stream: the hello, then messages in frames (`frame.ts`), until it ends. Whose it is
 * and what comes after it are its owner's: `PeerLink`, and before the hello the side that dialed or the acceptor.
 *
 * ```
 *  dialed:    hello sent ──hello──▶ open ──close, end of stream, error, silence──▶ closed
 *                │ refusal, time limit                                                ▲
 *                └────────────────────────────────────────────────────────────────────┤
 *  accepted:  waiting ──hello──▶ open …                                               │
 *                └ foreign hello ──▶ refusing ──refusal sent, time limit──────────────┘
 * ```
 * Invariants:
 * - The stream is closed exactly once; after that the owner hears nothing. It hears of an end that it did not ask for,
 *   once, after the stream was closed.
 * - The owner is called from completions, timers and tasks of a turn, never from inside of a call of its own.
 * - At most one receive and one send are under way; no receive is posted while paused, so that the stream fills up and the
 *   other side's queue behind it.
 * - Before the hello no byte beyond it is read, and no more than a page is held: anybody may connect.
 * - What was put into the queue in one turn leaves in one send.
 *
 * Silence is counted in beats of our own timer, and not while paused: a process that was stopped for a minute does not take
 * its own sleep for the other's.
 *
 * A message is copied once on each side, into the buffer that fills and out of it by its receiver, and summed once on each.
 * Measured with both ends in one process over a Unix socket: about 3 GiB/s with messages of 4 KiB and of 64 KiB.
 */
import { assert } from '../base/assert.ts';
import type { Checksums } from '../base/checksum.ts';
import type { CancelTimer, Clock, IoRequest, Turns, TurnTask } from '../base/io.ts';
import {
  linkBufferBytes,
  linkHeartbeatMs,
  linkHelloTimeoutMs,
  linkMessageBytesMax,
  linkSilenceMs,
} from '../base/limits.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import { ReceiveBuffer } from '../base/receive-buffer.ts';
import type { Stream } from '../base/stream.ts';
import {
  emptyFrame,
  FRAME_HEADER_BYTES,
  FrameKind,
  getHello,
  getRefusal,
  HELLO_BYTES,
  type LinkIdentity,
  type ParsedFrame,
  parseFrame,
  putHello,
  putRefusal,
  REFUSAL_BYTES,
  type Refusal,
  sealFrame,
} from './frame.ts';
import type { DisconnectReason } from './link.ts';

const GREETING_BYTES = 4096;
/** What is sent before the connection is open lies behind what is received. */
const GREETING_SEND_OFFSET = GREETING_BYTES / 2;
/** The first of them may come right after something was heard. */
const SILENT_BEATS_MAX = Math.ceil(linkSilenceMs / linkHeartbeatMs) + 1;

export interface StreamLinkPorts {
  readonly turns: Turns;
  readonly clock: Clock;
  readonly regions: RegionSource;
  readonly checksums: Checksums;
}

export type ConnectionEnd = DisconnectReason | Refusal;

/** Whose an open connection is. */
export interface ConnectionOwner {
  opened(connection: StreamLink): void;
  messageArrived(message: Uint8Array): void;
  roomAgain(): void;
  ended(reason: DisconnectReason): void;
}

/** Whose a connection is until it is open. */
export interface Greeter {
  /** Who takes the connection to `node`, of the same cluster; undefined refuses it. */
  greeted(connection: StreamLink, node: string): ConnectionOwner | undefined;
  greetingFailed(connection: StreamLink, reason: ConnectionEnd): void;
}

type Phase = 'greeting' | 'refusing' | 'open' | 'closed';

export class StreamLink implements TurnTask {
  readonly #ports: StreamLinkPorts;
  readonly #stream: Stream;
  readonly #role: 'dialed' | 'accepted';
  readonly #self: LinkIdentity;
  readonly #greeter: Greeter;
  #owner: ConnectionOwner | undefined;
  #phase: Phase = 'greeting';
  #input: ReceiveBuffer;
  readonly #frame = emptyFrame();
  readonly #received: IoRequest = { ioCompleted: result => this.#receiveEnded(result) };
  readonly #sent: IoRequest = { ioCompleted: result => this.#sendEnded(result) };
  #receiving = false;
  #sending = false;
  /** Of the two buffers for sending the one that fills, and how far it has. */
  #filling: Region;
  #spare: Region | undefined;
  #filledBytes = 0;
  #roomWanted = false;
  #paused = false;
  #turnAsked = false;
  #silentBeats = 0;
  #refusal: Refusal = 'foreign-version';
  #cancelTimer: CancelTimer;

  constructor(
    ports: StreamLinkPorts,
    stream: Stream,
    role: 'dialed' | 'accepted',
    self: LinkIdentity,
    greeter: Greeter,
  ) {
    this.#ports = ports;
    this.#stream = stream;
    this.#role = role;
    this.#self = self;
    this.#greeter = greeter;
    const region = ports.regions.allocate(GREETING_BYTES);
    this.#input = new ReceiveBuffer(region);
    this.#filling = region;
    this.#cancelTimer = ports.clock.after(linkHelloTimeoutMs, () => this.#timeOut());
    if (role === 'dialed') {
      putHello(region.bytes, GREETING_SEND_OFFSET + FRAME_HEADER_BYTES, self);
      this.#sendGreeting(FrameKind.hello, HELLO_BYTES);
    }
    this.#receive();
  }

  /** For the log: where the other side is. */
  get peer(): string {
    return this.#stream.peer;
  }

  send(message: Uint8Array): 'accepted' | 'full' {
    assert(this.#phase === 'open', 'messages are sent on an open connection');
    assert(message.length >= 1 && message.length <= linkMessageBytesMax, 'a message has a length within its limits');
    if (this.#filledBytes + FRAME_HEADER_BYTES + message.length > linkBufferBytes) {
      this.#roomWanted = true;
      return 'full';
    }
    this.#filling.bytes.set(message, this.#filledBytes + FRAME_HEADER_BYTES);
    this.#put(FrameKind.message, message.length);
    return 'accepted';
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#silentBeats = 0;
    if (this.#phase === 'open') this.#askForTurn();
  }

  close(): void {
    assert(this.#phase !== 'closed', 'a connection is closed once');
    this.#phase = 'closed';
    this.#cancelTimer();
    this.#stream.close();
  }

  runAtEndOfTurn(): void {
    this.#turnAsked = false;
    if (this.#phase !== 'open') return;
    this.#flush();
    this.#consume();
  }

  // --- the hello -------------------------------------------------------------------------------------------------------

  #greet(parsed: ParsedFrame): void {
    const { region, start } = this.#input;
    const payload = start + FRAME_HEADER_BYTES;
    if (parsed === 'incomplete') {
      this.#receive();
    } else if (parsed === 'foreign-version') {
      this.#refuse('foreign-version');
    } else if (parsed === 'invalid') {
      this.#end('invalid');
    } else if (this.#frame.kind === FrameKind.hello) {
      this.#judge(getHello(region.bytes, payload));
    } else if (this.#frame.kind === FrameKind.refusal && this.#role === 'dialed') {
      this.#failGreeting(getRefusal(region.view, payload));
    } else {
      this.#end('invalid');
    }
  }

  #judge({ cluster, node }: LinkIdentity): void {
    if (cluster !== this.#self.cluster) {
      this.#refuse('foreign-cluster');
      return;
    }
    const owner = this.#greeter.greeted(this, node);
    if (owner === undefined) this.#refuse('foreign-node');
    else this.#open(owner);
  }

  /** Says why before it closes; the side that dialed just closes. */
  #refuse(refusal: Refusal): void {
    if (this.#role === 'dialed') {
      this.#failGreeting(refusal);
      return;
    }
    this.#phase = 'refusing';
    this.#refusal = refusal;
    putRefusal(this.#filling.view, GREETING_SEND_OFFSET + FRAME_HEADER_BYTES, refusal);
    this.#sendGreeting(FrameKind.refusal, REFUSAL_BYTES);
  }

  #sendGreeting(kind: FrameKind, payloadBytes: number): void {
    const { view, bytes } = this.#filling;
    const length = sealFrame(view, bytes, GREETING_SEND_OFFSET, kind, payloadBytes, this.#ports.checksums);
    this.#sending = true;
    this.#stream.send(this.#filling, GREETING_SEND_OFFSET, length, this.#sent);
  }

  #open(owner: ConnectionOwner): void {
    const { regions, clock } = this.#ports;
    this.#cancelTimer();
    this.#phase = 'open';
    this.#owner = owner;
    this.#input = new ReceiveBuffer(regions.allocate(linkBufferBytes));
    this.#filling = regions.allocate(linkBufferBytes);
    this.#spare = regions.allocate(linkBufferBytes);
    this.#cancelTimer = clock.after(linkHeartbeatMs, () => this.#beat());
    if (this.#role === 'accepted') {
      putHello(this.#filling.bytes, FRAME_HEADER_BYTES, this.#self);
      this.#put(FrameKind.hello, HELLO_BYTES);
    }
    owner.opened(this);
    this.#receive();
  }

  /** A refusal that cannot be sent stays one. */
  #timeOut(): void {
    this.#failGreeting(this.#phase === 'refusing' ? this.#refusal : 'silent');
  }

  // --- receiving -------------------------------------------------------------------------------------------------------

  #receive(): void {
    const input = this.#input;
    if (this.#receiving || this.#paused || this.#phase === 'closed' || this.#phase === 'refusing') return;
    let wanted = this.#frame.frameBytes - input.available;
    if (this.#phase === 'open') {
      input.makeRoom();
      wanted = input.room;
    }
    assert(wanted > 0, 'there is room to receive');
    this.#receiving = true;
    this.#stream.receive(input.region, input.end, wanted, this.#received);
  }

  #receiveEnded(result: number): void {
    this.#receiving = false;
    if (this.#phase === 'closed' || this.#phase === 'refusing') return;
    if (result <= 0) {
      this.#end(result === 0 ? 'ended' : 'failed');
      return;
    }
    this.#input.end += result;
    this.#silentBeats = 0;
    if (this.#phase === 'greeting') this.#greet(this.#parse(HELLO_BYTES));
    else this.#consume();
  }

  #consume(): void {
    const input = this.#input;
    const frame = this.#frame;
    while (this.#phase === 'open' && !this.#paused) {
      const parsed = this.#parse(linkMessageBytesMax);
      if (parsed === 'incomplete') break;
      if (parsed !== 'whole' || frame.kind === FrameKind.hello || frame.kind === FrameKind.refusal) {
        this.#end('invalid');
        return;
      }
      const at = input.start + FRAME_HEADER_BYTES;
      input.start += frame.frameBytes;
      if (frame.kind === FrameKind.message) {
        this.#owner!.messageArrived(input.region.bytes.subarray(at, at + frame.payloadBytes));
      }
    }
    this.#receive();
  }

  #parse(payloadBytesMax: number): ParsedFrame {
    const { region, start, available } = this.#input;
    const { checksums } = this.#ports;
    return parseFrame(region.view, region.bytes, start, available, payloadBytesMax, this.#frame, checksums);
  }

  // --- sending ---------------------------------------------------------------------------------------------------------

  #put(kind: FrameKind, payloadBytes: number): void {
    const { view, bytes } = this.#filling;
    this.#filledBytes += sealFrame(view, bytes, this.#filledBytes, kind, payloadBytes, this.#ports.checksums);
    assert(this.#filledBytes <= linkBufferBytes, 'a frame was put where there was room');
    this.#askForTurn();
  }

  #flush(): void {
    if (this.#sending || this.#filledBytes === 0) return;
    assert(this.#spare !== undefined, 'an open connection has two buffers for sending');
    const region = this.#filling;
    const length = this.#filledBytes;
    this.#filling = this.#spare;
    this.#spare = region;
    this.#filledBytes = 0;
    this.#sending = true;
    this.#stream.send(region, 0, length, this.#sent);
    if (!this.#roomWanted) return;
    this.#roomWanted = false;
    this.#owner!.roomAgain();
  }

  #sendEnded(result: number): void {
    this.#sending = false;
    if (this.#phase === 'closed') return;
    if (this.#phase === 'refusing') {
      if (result > 0) this.#stream.shutdown();
      this.#failGreeting(this.#refusal);
    } else if (result < 0) {
      this.#end('failed');
    } else if (this.#filledBytes > 0) {
      this.#askForTurn();
    }
  }

  // --- time, and the end -----------------------------------------------------------------------------------------------

  #beat(): void {
    this.#silentBeats = this.#paused ? 0 : this.#silentBeats + 1;
    if (this.#silentBeats >= SILENT_BEATS_MAX) {
      this.#end('silent');
      return;
    }
    if (!this.#sending && this.#filledBytes === 0) this.#put(FrameKind.heartbeat, 0);
    this.#cancelTimer = this.#ports.clock.after(linkHeartbeatMs, () => this.#beat());
  }

  #askForTurn(): void {
    if (this.#turnAsked) return;
    this.#turnAsked = true;
    this.#ports.turns.atEndOfTurn(this);
  }

  #end(reason: DisconnectReason): void {
    if (this.#owner === undefined) {
      this.#failGreeting(reason);
    } else {
      this.close();
      this.#owner.ended(reason);
    }
  }

  #failGreeting(reason: ConnectionEnd): void {
    this.close();
    this.#greeter.greetingFailed(this, reason);
  }
}
