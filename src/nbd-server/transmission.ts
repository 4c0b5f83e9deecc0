/**
 * The transmission phase of one connection: requests out of the receive buffer, to the volume, and their replies into the
 * queue. The session owns the stream and calls `consume` whenever something has changed: bytes arrived, a request
 * completed, replies were sent.
 *
 * A request is admitted only with all that it will ever need: a slot, room for its reply, and a block of the pool when
 * its payload is large. Until then it stays where it is, unparsed, nothing is received, and the socket slows the client
 * down. So nothing on the way back can fail or wait.
 *
 * Back of the envelope: at 100 000 requests a second a request has 10 µs of a core in all, of which the kernel's socket
 * work takes half. Nothing here allocates: requests, slots and segments are reused, cookies stay two 32-bit halves.
 */
import { assert } from '../base/assert.ts';
import { nbdExtentsMax, nbdInlineBytesMax, nbdPayloadBytesMax, nbdRequestsInFlightMax } from '../base/limits.ts';
import type { Region } from '../base/memory.ts';
import type { ReceiveBuffer } from '../base/receive-buffer.ts';
import * as nbd from '../nbd-server-protocol/index.ts';
import type { ExportedVolume, Loan, VolumeCommand } from './exported-volume.ts';
import type { Agreement } from './handshake.ts';
import type { PayloadPool, PoolShare, PoolWaiter } from './payload-pool.ts';
import { type Refusal, refusalOfErrno } from './refusal.ts';
import type { ReplyQueue } from './reply-queue.ts';
import { BARE_REPLY_BYTES, ReplyWriter, smallReadReplyBytes } from './reply-writer.ts';
import { HEAD_ROOM_BYTES, NO_BLOCK, RequestSlot, type SlotOwner } from './request-slot.ts';
import type { ServerStatistics } from './statistics.ts';
import { refusalOf, type TransmissionTerms } from './validate-request.ts';

/** What `consume` returns: what the session has to do. */
export const NEEDS_BYTES = 0;
/** As NEEDS_BYTES, but into `payloadRegion` at `payloadOffset`, at most `payloadMissing`. */
export const NEEDS_PAYLOAD = 1;
/** Nothing may be received until a request completes, replies are sent, or the pool grants a block. */
export const BLOCKED = 2;
export const DISCONNECT = 3;
export const BROKEN = 4;
/** The server is stopping: nothing more is taken. The session ends when what is in flight has been answered. */
export const DRAINED = 5;

/** A refused payload up to this is received and dropped; a longer one ends the connection, being no mistake. */
const REFUSED_PAYLOAD_BYTES_MAX = 2 * nbdPayloadBytesMax;
/** Extents are rarely shorter than this: it bounds what a short range's answer can need. */
const EXTENT_BYTES_USUAL = 512;

const COMMANDS: readonly VolumeCommand[] = (() => {
  const names: VolumeCommand[] = new Array(nbd.CMD_BLOCK_STATUS + 1).fill('flush');
  names[nbd.CMD_READ] = 'read';
  names[nbd.CMD_WRITE] = 'write';
  names[nbd.CMD_TRIM] = 'trim';
  names[nbd.CMD_CACHE] = 'cache';
  names[nbd.CMD_WRITE_ZEROES] = 'writeZeroes';
  names[nbd.CMD_BLOCK_STATUS] = 'blockStatus';
  return names;
})();

export interface TransmissionOwner {
  /** A request has completed, or the pool has granted a block: look again at the end of the turn. */
  progressed(): void;
  /** What has been laid need not wait for the end of the turn. */
  hurryReplies(): void;
  /** A read has completed; its reply is laid unless the connection is gone. */
  readAnswered(): void;
  /** Milliseconds, the same throughout a turn. */
  turnMs(): number;
}

/** Payloads of small writes in flight, of all connections: how much they are, and may be. */
export interface SmallWrites {
  bytes: number;
  readonly bytesMax: number;
}

export interface TransmissionPorts {
  readonly smallWrites: SmallWrites;
  readonly owner: TransmissionOwner;
  readonly queue: ReplyQueue;
  readonly pool: PayloadPool;
  readonly statistics: ServerStatistics;
}

export class Transmission implements SlotOwner, PoolWaiter {
  readonly volume: ExportedVolume;
  readonly #owner: TransmissionOwner;
  readonly #queue: ReplyQueue;
  readonly #pool: PayloadPool;
  readonly #smallWrites: SmallWrites;
  readonly #share: PoolShare;
  readonly #statistics: ServerStatistics;
  readonly #writer: ReplyWriter;
  readonly #terms: TransmissionTerms;
  readonly #extended: boolean;
  /** Structured replies or extended headers. */
  readonly #chunks: boolean;
  readonly #allocationContextId: number;
  readonly #request = new nbd.Request();
  readonly #slots: RequestSlot[] = [];
  readonly #freeSlots: RequestSlot[] = [];
  #inFlight = 0;
  #draining = false;
  /** The connection is gone: what completes now is not answered. */
  #dead = false;

  /** A block that the pool granted after a wait, for the request at the head of the buffer; or −1. */
  #grantedBlock = NO_BLOCK;
  #waiting = false;
  /** The large write whose payload is arriving. */
  #filling: RequestSlot | undefined;
  payloadRegion: Region;
  payloadOffset = 0;
  payloadMissing = 0;
  /** Bytes of a refused payload still to be dropped, and the answer that follows it. */
  #dropBytes = 0;
  #dropRefusal: Refusal | undefined;
  #dropTarget: nbd.ReplyTarget = { cookieHigh: 0, cookieLow: 0, offsetHigh: 0, offsetLow: 0 };
  #dropCommand = 0;

  constructor(ports: TransmissionPorts, agreement: Agreement) {
    this.volume = agreement.volume;
    this.#owner = ports.owner;
    this.#queue = ports.queue;
    this.#pool = ports.pool;
    this.#smallWrites = ports.smallWrites;
    this.#share = ports.pool.shareOf(agreement.volume);
    this.#statistics = ports.statistics;
    this.#extended = agreement.extended;
    this.#chunks = agreement.structured || agreement.extended;
    this.#writer = new ReplyWriter(ports.queue, this.#chunks, this.#extended);
    this.#allocationContextId = agreement.contexts[0]?.id ?? 0;
    this.#terms = {
      structured: this.#chunks,
      extended: this.#extended,
      readOnly: agreement.volume.readOnly,
      minimumBlockBytes: agreement.volume.minimumBlockBytes,
      blockStatus: agreement.contexts.length > 0,
    };
    this.payloadRegion = ports.pool.region;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** A payload is on its way that holds a block of the pool. */
  get payloadArriving(): boolean {
    return this.#filling !== undefined;
  }

  /**
   * From now on no request is taken; those in flight are answered. Those that come too late get no answer at all, rather
   * than ESHUTDOWN: a client that connects again sends them again, while an error would go up to whoever asked for the
   * I/O (the kernel's client knows no difference between the errors of a server).
   */
  drain(): void {
    this.#draining = true;
  }

  /** Consumes all that can be consumed; see the constants for what it returns. */
  consume(input: ReceiveBuffer): number {
    if (this.#filling !== undefined) return NEEDS_PAYLOAD;
    const { region } = input;
    const request = this.#request;
    for (;;) {
      if (this.#dropRefusal !== undefined && !this.#drop(input)) return NEEDS_BYTES;
      const available = input.end - input.start;
      const header = nbd.parseRequest(region.view, input.start, available, this.#extended, request);
      if (header === nbd.REQUEST_INCOMPLETE) return NEEDS_BYTES;
      if (header === nbd.REQUEST_MALFORMED) return BROKEN;
      if (request.command === nbd.CMD_DISC && request.payloadBytes === 0) return DISCONNECT;
      if (this.#draining) {
        // It may have waited for a block.
        this.#forgetBlock();
        return DRAINED;
      }

      const refusal = refusalOf(request, this.#terms, this.volume.sizeBytes);
      if (refusal !== undefined) {
        if (request.payloadBytes > REFUSED_PAYLOAD_BYTES_MAX) return BROKEN;
        if (!this.#queue.reserve(BARE_REPLY_BYTES)) return BLOCKED;
        input.start += header;
        this.#refuse(refusal);
        continue;
      }
      const outcome = this.#admit(input, header);
      if (outcome !== NEEDS_BYTES) return outcome;
      // An inline payload that has not all arrived leaves the request where it is.
      if (input.end - input.start === available) return NEEDS_BYTES;
    }
  }

  /**
   * Takes a valid request out of the buffer, or leaves it there. NEEDS_BYTES: go on if something was consumed;
   * NEEDS_PAYLOAD and BLOCKED as for `consume`.
   */
  #admit(input: ReceiveBuffer, header: number): number {
    const request = this.#request;
    const { command, lengthBytes } = request;
    if (lengthBytes === 0 && command !== nbd.CMD_FLUSH) return this.#answerEmpty(input, header);

    const inline = lengthBytes <= nbdInlineBytesMax;
    if (command === nbd.CMD_WRITE && inline && input.end - input.start < header + lengthBytes) return NEEDS_BYTES;
    if (this.#freeSlots.length === 0 && this.#slots.length === nbdRequestsInFlightMax) return BLOCKED;
    const smallWriteBytes = command === nbd.CMD_WRITE && inline ? lengthBytes : 0;
    const { bytes, bytesMax } = this.#smallWrites;
    // Never blocked by others alone: nobody would tell.
    if (smallWriteBytes > 0 && bytes + smallWriteBytes > bytesMax && this.#inFlight > 0) return BLOCKED;
    const replyBytes = command === nbd.CMD_READ && inline ? smallReadReplyBytes(lengthBytes) : BARE_REPLY_BYTES;
    if (!this.#queue.reserve(replyBytes)) return BLOCKED;
    let block = NO_BLOCK;
    const blockBytes = this.#blockBytesOf(command, lengthBytes, inline);
    if (blockBytes > 0) {
      block = this.#takeBlock(blockBytes);
      if (block < 0) {
        this.#queue.unreserve(replyBytes);
        return BLOCKED;
      }
    }
    input.start += header;
    const slot = this.#takeSlot(replyBytes, block);
    if (command === nbd.CMD_WRITE) {
      if (!inline) return this.#beginPayload(input, slot);
      this.#smallWrites.bytes += lengthBytes;
      slot.region = input.region;
      slot.regionOffset = input.start;
      input.start += lengthBytes;
    }
    this.volume.submit(slot);
    return NEEDS_BYTES;
  }

  /** Bytes of the pool that a request needs; 0 for none. */
  #blockBytesOf(command: number, lengthBytes: number, inline: boolean): number {
    if (command === nbd.CMD_BLOCK_STATUS) {
      return HEAD_ROOM_BYTES + this.#extentCountMaxOf(lengthBytes) * nbd.extentBytes(this.#extended);
    }
    if (inline) return 0;
    if (command === nbd.CMD_WRITE) return lengthBytes;
    return command === nbd.CMD_READ ? HEAD_ROOM_BYTES + lengthBytes : 0;
  }

  #extentCountMaxOf(lengthBytes: number): number {
    if ((this.#request.flags & nbd.CMD_FLAG_REQ_ONE) !== 0) return 1;
    return Math.min(nbdExtentsMax, Math.ceil(lengthBytes / EXTENT_BYTES_USUAL) + 1);
  }

  #takeBlock(bytes: number): number {
    if (this.#grantedBlock !== NO_BLOCK) {
      const granted = this.#grantedBlock;
      this.#grantedBlock = NO_BLOCK;
      return granted;
    }
    if (this.#waiting) return NO_BLOCK;
    const block = this.#pool.take(this.#share, bytes);
    if (block < 0) {
      this.#waiting = true;
      this.#pool.wait(this.#share, this, bytes);
    }
    return block;
  }

  poolGranted(offset: number): void {
    this.#waiting = false;
    this.#grantedBlock = offset;
    this.#owner.progressed();
  }

  /** Fills a slot from the parsed request. */
  #takeSlot(replyBytes: number, block: number): RequestSlot {
    const request = this.#request;
    const { command, flags } = request;
    const slot = this.#freeSlots.pop() ?? this.#makeSlot();
    slot.inUse = true;
    slot.commandNumber = command;
    slot.command = COMMANDS[command];
    slot.offsetBytes = request.offsetBytes;
    slot.lengthBytes = request.lengthBytes;
    slot.fua = (flags & nbd.CMD_FLAG_FUA) !== 0;
    slot.noHole = (flags & nbd.CMD_FLAG_NO_HOLE) !== 0;
    slot.fastZero = (flags & nbd.CMD_FLAG_FAST_ZERO) !== 0;
    slot.oneExtent = (flags & nbd.CMD_FLAG_REQ_ONE) !== 0;
    slot.holesWanted = this.#chunks && command === nbd.CMD_READ && (flags & nbd.CMD_FLAG_DF) === 0;
    slot.cookieHigh = request.cookieHigh;
    slot.cookieLow = request.cookieLow;
    slot.offsetHigh = request.offsetHigh;
    slot.offsetLow = request.offsetLow;
    slot.startedMs = this.#owner.turnMs();
    slot.reservedBytes = replyBytes;
    slot.block = block;
    slot.placedAt = -1;
    slot.holeCount = 0;
    slot.region = this.#pool.region;
    slot.regionOffset = command === nbd.CMD_WRITE ? block : block + HEAD_ROOM_BYTES;
    if (command === nbd.CMD_BLOCK_STATUS) {
      slot.beginExtents(this.#extended, this.#extentCountMaxOf(request.lengthBytes));
    }
    this.#inFlight += 1;
    return slot;
  }

  #makeSlot(): RequestSlot {
    const slot = new RequestSlot(this, this.#pool.region);
    this.#slots.push(slot);
    return slot;
  }

  // --- payloads of large writes --------------------------------------------------------------------------------------

  /** Copies what has arrived of a large payload; the rest is received straight into its block. */
  #beginPayload(input: ReceiveBuffer, slot: RequestSlot): number {
    const arrived = Math.min(input.end - input.start, slot.lengthBytes);
    const { bytes } = this.#pool.region;
    bytes.set(input.region.bytes.subarray(input.start, input.start + arrived), slot.block);
    input.start += arrived;
    this.payloadOffset = slot.block + arrived;
    this.payloadMissing = slot.lengthBytes - arrived;
    if (this.payloadMissing > 0) {
      this.#filling = slot;
      return NEEDS_PAYLOAD;
    }
    this.volume.submit(slot);
    return NEEDS_BYTES;
  }

  payloadReceived(bytes: number): void {
    const slot = this.#filling;
    assert(slot !== undefined && bytes <= this.payloadMissing, 'a payload is awaited');
    this.payloadOffset += bytes;
    this.payloadMissing -= bytes;
    if (this.payloadMissing > 0) return;
    this.#filling = undefined;
    this.volume.submit(slot);
  }

  // --- requests that never reach the volume --------------------------------------------------------------------------

  /** No bytes are asked for, and none can fail. The document leaves the outcome open and asks to stay connected (X14). */
  #answerEmpty(input: ReceiveBuffer, header: number): number {
    if (!this.#queue.reserve(BARE_REPLY_BYTES)) return BLOCKED;
    input.start += header;
    const { command } = this.#request;
    if (command === nbd.CMD_READ) this.#writer.emptyRead(this.#request);
    else this.#writer.success(this.#request);
    this.#statistics.recordAnswered(command, false, 0, 0);
    this.#queue.unreserve(BARE_REPLY_BYTES);
    this.#owner.progressed();
    return NEEDS_BYTES;
  }

  /** Answers the parsed request with an error, behind its payload if there is one. Room for the reply is reserved. */
  #refuse(refusal: Refusal): void {
    const request = this.#request;
    // It may have waited for a block before the volume changed.
    this.#forgetBlock();
    this.#dropRefusal = refusal;
    this.#dropBytes = request.payloadBytes;
    this.#dropCommand = request.command;
    const target = this.#dropTarget;
    target.cookieHigh = request.cookieHigh;
    target.cookieLow = request.cookieLow;
    target.offsetHigh = request.offsetHigh;
    target.offsetLow = request.offsetLow;
  }

  /** Drops what has arrived of a refused payload; true once its answer is laid. */
  #drop(input: ReceiveBuffer): boolean {
    const arrived = Math.min(this.#dropBytes, input.end - input.start);
    input.start += arrived;
    this.#dropBytes -= arrived;
    if (this.#dropBytes > 0) return false;
    this.#writer.refusal(this.#dropTarget, this.#dropRefusal!);
    this.#dropRefusal = undefined;
    this.#queue.unreserve(BARE_REPLY_BYTES);
    this.#statistics.recordRefused(this.#dropCommand);
    this.#owner.progressed();
    return true;
  }

  // --- completions ---------------------------------------------------------------------------------------------------

  placeSmall(slot: RequestSlot): void {
    this.#writer.placeSmall(slot);
  }

  slotCompleted(slot: RequestSlot, errno: number, loan?: Loan): void {
    if (!this.#dead) {
      this.#reply(slot, errno, loan);
    } else {
      if (slot.placedAt >= 0) this.#queue.closeSmall();
      loan?.returned();
    }
    const isRead = slot.command === 'read';
    this.#releaseSlot(slot);
    if (isRead) this.#owner.readAnswered();
    else this.#owner.progressed();
  }

  hurryReplies(): void {
    this.#owner.hurryReplies();
  }

  #reply(slot: RequestSlot, errno: number, loan: Loan | undefined): void {
    const latencyMs = this.#owner.turnMs() - slot.startedMs;
    this.#statistics.recordAnswered(slot.commandNumber, errno !== 0, slot.lengthBytes, latencyMs);
    if (errno !== 0) {
      assert(slot.placedAt < 0, 'a failed read never asks for room');
      this.#writer.refusal(slot, refusalOfErrno(errno, slot.fastZero));
    } else if (loan !== undefined) {
      this.#writer.lentRead(slot, loan);
    } else if (slot.command === 'read') {
      this.#writer.read(slot);
    } else if (slot.command === 'blockStatus') {
      this.#writer.blockStatus(slot, this.#allocationContextId);
    } else {
      this.#writer.success(slot);
    }
  }

  #releaseSlot(slot: RequestSlot): void {
    if (slot.block !== NO_BLOCK) {
      this.#pool.release(slot.block);
      slot.block = NO_BLOCK;
    } else if (slot.command === 'write') {
      this.#smallWrites.bytes -= slot.lengthBytes;
    }
    this.#queue.unreserve(slot.reservedBytes);
    slot.inUse = false;
    this.#freeSlots.push(slot);
    this.#inFlight -= 1;
  }

  // --- the end -------------------------------------------------------------------------------------------------------

  /** Nothing more arrives: what is half here is dropped whole, and never reaches the volume (X19). */
  inputEnded(): void {
    if (this.#filling !== undefined) {
      const slot = this.#filling;
      this.#filling = undefined;
      this.#releaseSlot(slot);
    }
    if (this.#dropRefusal !== undefined) {
      this.#dropRefusal = undefined;
      this.#queue.unreserve(BARE_REPLY_BYTES);
    }
    this.#forgetBlock();
  }

  #forgetBlock(): void {
    if (this.#waiting) {
      this.#waiting = false;
      this.#pool.cancel(this.#share, this);
    }
    if (this.#grantedBlock !== NO_BLOCK) {
      this.#pool.release(this.#grantedBlock);
      this.#grantedBlock = NO_BLOCK;
    }
  }

  /** The connection is gone: requests in flight still complete, unanswered. */
  abandon(): void {
    this.#dead = true;
  }

  /** Holds once nothing is in flight. */
  assertReleased(): void {
    assert(this.#inFlight === 0 && this.#freeSlots.length === this.#slots.length, 'all slots are back');
    assert(this.#grantedBlock === NO_BLOCK && !this.#waiting && this.#filling === undefined, 'no block is held');
  }
}
