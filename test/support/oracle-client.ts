/**
 * A light NBD client over a socket that sends random requests, tells an oracle of them and has it judge what it reads:
 * what the in-process `sim-client` is to a head, this is to a server process that may die at any moment.
 *
 * Invariants: at most `depth` requests are in flight; a lost connection ends it without judging what had no answer.
 */
import { connect, type Socket } from 'node:net';
import { ESHUTDOWN } from '../../src/base/errno.ts';
import {
  ClientHandshake,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  encodeRequest,
  parseReplyHeader,
  REPLY_ERROR,
  REPLY_ERROR_OFFSET,
  REPLY_INCOMPLETE,
  REPLY_MALFORMED,
  REPLY_OFFSET_DATA,
  REPLY_OFFSET_HOLE,
  REQUEST_BYTES,
  ReplyHeader,
} from '../../src/nbd-server-protocol/index.ts';
import type { Oracle, TrackedWrite } from './oracle.ts';
import type { SimRandom } from './sim-random.ts';

const BLOCK = 4096;
/** Stands for an error number where no reply came. */
const CONNECTION_LOST = -1;
const RECEIVE_BYTES = 4 * 1024 * 1024;

interface Flight {
  readonly command: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly fua: boolean;
  readonly issuedAt: number;
  readonly write: TrackedWrite | undefined;
  /** Of a read: what has arrived. */
  readonly data: Uint8Array | undefined;
  error: number;
}

export interface OracleClientOptions {
  readonly socketPath: string;
  readonly exportName: string;
  readonly structuredReplies: boolean;
  readonly depth: number;
  /** Requests are not longer than this. */
  readonly lengthMax: number;
}

export class OracleClient {
  readonly problems: string[] = [];
  answered = 0;
  /** Writes, zeroes and trims that were answered: no fewer operations may be there afterwards. */
  changesAnswered = 0;
  sizeBytes = 0;
  readonly #oracle: Oracle;
  readonly #random: SimRandom;
  readonly #options: OracleClientOptions;
  readonly #socket: Socket;
  readonly #flights = new Map<number, Flight>();
  /** Reads of `readAll`, by their cookies. */
  readonly #plainReads = new Map<number, (error: number) => void>();
  readonly #header = new ReplyHeader();
  #input = new Uint8Array(RECEIVE_BYTES);
  #view = new DataView(this.#input.buffer);
  #start = 0;
  #end = 0;
  #nextCookie = 1;
  #sending = false;
  #idle: (() => void) | undefined;
  readonly #closed: Promise<void>;

  private constructor(oracle: Oracle, random: SimRandom, options: OracleClientOptions, socket: Socket) {
    this.#oracle = oracle;
    this.#random = random;
    this.#options = options;
    this.#socket = socket;
    this.#closed = new Promise(resolve => {
      socket.once('close', () => {
        this.#idle?.();
        for (const [, answered] of this.#plainReads) answered(CONNECTION_LOST);
        resolve();
      });
    });
    // The server dies under it: that is what the test is about.
    socket.on('error', () => {});
  }

  static async open(oracle: Oracle, random: SimRandom, options: OracleClientOptions): Promise<OracleClient> {
    const socket = connect(options.socketPath);
    const client = new OracleClient(oracle, random, options, socket);
    await client.#handshake();
    return client;
  }

  /** Keeps sending until the connection is lost or `stop` is called. */
  run(): void {
    this.#sending = true;
    this.#fill();
  }

  /** Sends nothing more; resolves when everything is answered, or the connection is gone. */
  async stop(): Promise<void> {
    this.#sending = false;
    if (this.#flights.size > 0 && !this.#socket.destroyed) {
      await new Promise<void>(resolve => {
        this.#idle = resolve;
      });
    }
  }

  async close(): Promise<void> {
    this.#sending = false;
    this.#socket.destroy();
    await this.#closed;
  }

  /** Reads the whole volume into `all`, for the verdict after a crash. */
  async readAll(all: Uint8Array): Promise<void> {
    const step = 1024 * 1024;
    let failed = 0;
    for (let at = 0; at < all.length; at += step * 8) {
      const parts: Promise<void>[] = [];
      for (let offset = at; offset < Math.min(all.length, at + step * 8); offset += step) {
        const length = Math.min(step, all.length - offset);
        parts.push(
          this.#readPlain(offset, all.subarray(offset, offset + length)).then(error => {
            if (error !== 0) failed = error;
          }),
        );
      }
      await Promise.all(parts);
    }
    if (failed !== 0) this.problems.push(`the volume cannot be read: error ${failed}`);
  }

  // --- requests ----------------------------------------------------------------------------------------------------------

  #fill(): void {
    if (!this.#sending || this.#socket.destroyed) return;
    this.#socket.cork();
    while (this.#flights.size < this.#options.depth && this.#socket.writableLength < RECEIVE_BYTES) this.#sendRandom();
    this.#socket.uncork();
  }

  #sendRandom(): void {
    const random = this.#random;
    const oracle = this.#oracle;
    const command = pickCommand(random);
    const fua = command !== CMD_READ && command !== CMD_FLUSH && random.chance(3);
    const [offsetBytes, lengthBytes] = command === CMD_FLUSH ? [0, 0] : this.#range();
    let write: TrackedWrite | undefined;
    let issuedAt = 0;
    let payload: Uint8Array | undefined;
    switch (command) {
      case CMD_WRITE:
        write = oracle.writeIssued(offsetBytes, lengthBytes, false);
        payload = new Uint8Array(lengthBytes);
        oracle.fill(write, offsetBytes, lengthBytes, payload, 0);
        break;
      case CMD_WRITE_ZEROES:
        write = oracle.writeIssued(offsetBytes, lengthBytes, true);
        break;
      case CMD_TRIM: {
        const first = Math.ceil(offsetBytes / BLOCK) * BLOCK;
        const end = Math.floor((offsetBytes + lengthBytes) / BLOCK) * BLOCK;
        if (first < end) write = oracle.writeIssued(first, end - first, true);
        break;
      }
      case CMD_FLUSH:
        issuedAt = oracle.flushIssued();
        break;
      default:
        issuedAt = oracle.readIssued();
    }
    const data = command === CMD_READ ? new Uint8Array(lengthBytes) : undefined;
    const flags = (fua ? CMD_FLAG_FUA : 0) | (command === CMD_WRITE_ZEROES && random.chance(30) ? CMD_FLAG_NO_HOLE : 0);
    const flight = { command, offsetBytes, lengthBytes, fua, issuedAt, write, data, error: 0 };
    this.#send(flight, flags, payload);
  }

  #send(flight: Flight, flags: number, payload: Uint8Array | undefined): number {
    const cookie = this.#nextCookie++;
    this.#flights.set(cookie, flight);
    const header = new Uint8Array(REQUEST_BYTES);
    const view = new DataView(header.buffer);
    encodeRequest(view, 0, false, flags, flight.command, 0, cookie, flight.offsetBytes, flight.lengthBytes);
    this.#socket.write(header);
    if (payload !== undefined) this.#socket.write(payload);
    return cookie;
  }

  #range(): [number, number] {
    const random = this.#random;
    const cell = this.#oracle.cellBytes;
    const pick = (unit: number, lengthMax: number): [number, number] => {
      const length = unit * random.between(1, Math.max(1, Math.floor(lengthMax / unit)));
      return [unit * random.below((this.sizeBytes - length) / unit + 1), length];
    };
    switch (random.below(8)) {
      case 0:
        return pick(cell, 3 * BLOCK);
      case 1:
        return pick(cell, this.#options.lengthMax);
      case 2:
        return pick(64 * 1024, this.#options.lengthMax);
      case 3:
        return pick(BLOCK, 128 * 1024);
      case 4:
        // A few hot blocks.
        return [BLOCK * random.below(16), BLOCK];
      default:
        return pick(BLOCK, 2 * BLOCK);
    }
  }

  #readPlain(offsetBytes: number, data: Uint8Array): Promise<number> {
    return new Promise(resolve => {
      const lengthBytes = data.length;
      const write = undefined;
      const flight = { command: CMD_READ, offsetBytes, lengthBytes, fua: false, issuedAt: -1, write, data, error: 0 };
      this.#plainReads.set(this.#send(flight, 0, undefined), resolve);
    });
  }

  // --- replies -----------------------------------------------------------------------------------------------------------

  #received(chunk: Uint8Array): void {
    if (this.#end + chunk.length > this.#input.length) {
      this.#input.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
      if (this.#end + chunk.length > this.#input.length) {
        const larger = new Uint8Array(2 * (this.#end + chunk.length));
        larger.set(this.#input.subarray(0, this.#end));
        this.#input = larger;
        this.#view = new DataView(larger.buffer);
      }
    }
    this.#input.set(chunk, this.#end);
    this.#end += chunk.length;
    while (this.#reply()) {
      // Each round takes one reply or chunk.
    }
    if (this.#flights.size === 0) this.#idle?.();
    this.#fill();
  }

  /** Takes one whole reply or chunk out of the input; false when it has not all arrived. */
  #reply(): boolean {
    const header = this.#header;
    const available = this.#end - this.#start;
    const headerBytes = parseReplyHeader(this.#view, this.#start, available, header);
    if (headerBytes === REPLY_INCOMPLETE) return false;
    if (headerBytes === REPLY_MALFORMED) return this.#broken('a reply with a wrong magic');
    const flight = this.#flights.get(header.cookieLow);
    if (flight === undefined) return this.#broken(`a reply with an unknown cookie ${header.cookieLow}`);
    const simpleData = header.kind === 'simple' && flight.data !== undefined && header.error === 0;
    const payloadBytes = simpleData ? flight.lengthBytes : header.payloadBytes;
    if (available < headerBytes + payloadBytes) return false;
    const at = this.#start + headerBytes;
    this.#start = at + payloadBytes;
    if (header.kind === 'simple') {
      flight.error = header.error;
      if (simpleData) flight.data?.set(this.#input.subarray(at, at + payloadBytes));
    } else this.#chunk(flight, at, payloadBytes);
    if (header.done) this.#done(header.cookieLow, flight);
    return true;
  }

  #chunk(flight: Flight, at: number, payloadBytes: number): void {
    const { type } = this.#header;
    if (type === REPLY_ERROR || type === REPLY_ERROR_OFFSET) {
      flight.error = this.#view.getUint32(at);
      return;
    }
    if (flight.data === undefined || (type !== REPLY_OFFSET_DATA && type !== REPLY_OFFSET_HOLE)) return;
    const offset = this.#view.getUint32(at) * 2 ** 32 + this.#view.getUint32(at + 4) - flight.offsetBytes;
    if (type === REPLY_OFFSET_DATA) flight.data.set(this.#input.subarray(at + 8, at + payloadBytes), offset);
    else flight.data.fill(0, offset, offset + this.#view.getUint32(at + 8));
  }

  #done(cookie: number, flight: Flight): void {
    this.#flights.delete(cookie);
    const plain = this.#plainReads.get(cookie);
    if (plain !== undefined) {
      this.#plainReads.delete(cookie);
      plain(flight.error);
      return;
    }
    this.answered++;
    if (flight.error !== 0) {
      // A server that is told to stop refuses what comes late, and has then not begun it or may have.
      if (flight.error !== ESHUTDOWN) this.problems.push(`command ${flight.command} failed with ${flight.error}`);
      if (flight.data !== undefined) this.#oracle.readDropped(flight.issuedAt);
      return;
    }
    if (flight.write !== undefined) {
      this.changesAnswered++;
      this.#oracle.writeAcked(flight.write, flight.fua);
    } else if (flight.command === CMD_FLUSH) {
      this.#oracle.flushAcked(flight.issuedAt);
    } else if (flight.data !== undefined) {
      const { issuedAt, offsetBytes, lengthBytes, data } = flight;
      const wrong = this.#oracle.readAnswered(issuedAt, offsetBytes, lengthBytes, data, 0);
      if (wrong !== undefined) this.problems.push(`read of ${lengthBytes} at ${offsetBytes}: ${wrong}`);
    }
  }

  #broken(what: string): false {
    this.problems.push(what);
    this.#socket.destroy();
    return false;
  }

  #handshake(): Promise<void> {
    const { exportName, structuredReplies } = this.#options;
    const handshake = new ClientHandshake({
      exportName,
      tls: false,
      structuredReplies,
      extendedHeaders: false,
      blockStatus: false,
    });
    return new Promise((resolve, reject) => {
      const ended = () => reject(new Error('the connection was lost during the handshake'));
      this.#socket.once('close', ended);
      const receive = (bytes: Uint8Array) => {
        handshake.input(bytes);
        const output = handshake.output();
        if (output.length > 0) this.#socket.write(output);
        if (handshake.state === 'negotiating') return;
        this.#socket.off('data', receive);
        this.#socket.off('close', ended);
        if (handshake.state !== 'ready') {
          reject(new Error(handshake.failure));
          return;
        }
        this.sizeBytes = handshake.agreement.sizeBytes;
        this.#socket.on('data', chunk => this.#received(chunk));
        if (handshake.agreement.structuredReplies !== structuredReplies)
          this.problems.push('structured replies were not agreed as wished');
        resolve();
      };
      this.#socket.on('data', receive);
    });
  }
}

function pickCommand(random: SimRandom): number {
  const at = random.below(100);
  if (at < 60) return CMD_WRITE;
  if (at < 85) return CMD_READ;
  if (at < 90) return CMD_WRITE_ZEROES;
  if (at < 96) return CMD_TRIM;
  return CMD_FLUSH;
}
