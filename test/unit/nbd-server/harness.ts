/** A server in memory with a client at hand, for the tests of this folder and the fuzz test. */

import type { Logger } from '../../../src/base/logger.ts';
import { plainRegion, type RegionSource } from '../../../src/base/memory.ts';
import { MIB } from '../../../src/base/units.ts';
import type { ExportedVolume } from '../../../src/nbd-server/exported-volume.ts';
import { NbdServer, type NbdServerOptions } from '../../../src/nbd-server/server.ts';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { MemoryStream } from '../../support/memory-stream.ts';
import { MemoryExports, MemoryVolume } from '../../support/memory-volume.ts';

export const regions: RegionSource = { allocate: plainRegion };

export class TestLog implements Logger {
  readonly lines: string[] = [];
  info(_fields: object, message: string): void {
    this.lines.push(message);
  }
  warn(fields: object, message: string): void {
    this.lines.push(`${message} ${JSON.stringify(fields)}`);
  }
  error(fields: object, message: string): void {
    this.lines.push(`${message} ${JSON.stringify(fields)}`);
  }
}

export interface Reply {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly kind: 'simple' | 'structured' | 'extended';
  error: number;
  text: string;
  /** Of READ: assembled from the content chunks. */
  data: Uint8Array;
  holes: [number, number][];
  dataChunks: number;
  extents: readonly nbd.BlockStatusExtent[];
  chunkTypes: number[];
  done: boolean;
}

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Uint8Array;
}

type HarnessOptions = Partial<Pick<NbdServerOptions, 'tls' | 'limits' | 'contexts'>> & {
  readonly volumes?: readonly ExportedVolume[];
};

export class Harness {
  readonly loop = new MemoryLoop();
  readonly log = new TestLog();
  readonly exports: MemoryExports;
  readonly server: NbdServer;
  readonly poolBytes: number;
  readonly volume: MemoryVolume;

  constructor(options: HarnessOptions = {}) {
    this.volume = new MemoryVolume();
    this.exports = new MemoryExports(...(options.volumes ?? [this.volume]));
    const { volumes: _volumes, ...rest } = options;
    this.server = new NbdServer({
      turns: this.loop,
      clock: this.loop,
      regions,
      exports: this.exports,
      log: this.log,
      ...rest,
    });
    this.poolBytes = options.limits?.payloadPoolBytes ?? 128 * MIB;
  }

  connect(encrypted = false): TestClient {
    const stream = new MemoryStream(this.loop, encrypted);
    this.server.accept(stream);
    return new TestClient(this.loop, stream);
  }

  /** A client that has reached the transmission phase. */
  enter(wishes: Partial<nbd.ClientWishes> = {}): TestClient {
    const client = this.connect();
    client.handshake(wishes);
    return client;
  }

  /** Nothing is held any more by anybody: the check at the end of each test. */
  leaks(): string[] {
    this.loop.run();
    const found: string[] = [];
    const now = this.server.statistics();
    if (now.connections.length > 0) found.push(`${now.connections.length} connections: ${now.connections[0].phase}`);
    if (now.payloadPoolFreeBytes !== this.poolBytes) found.push('blocks of the pool are out');
    if (now.payloadPoolWaiters > 0) found.push('somebody waits for the pool');
    if (now.inFlight > 0) found.push('requests are in flight');
    if (this.exports.open.size > 0) found.push('a volume is still open');
    const loansOut = this.exports.volumes.map(volume => (volume instanceof MemoryVolume ? volume.loansOut : 0));
    if (loansOut.some(count => count > 0)) found.push(`loans are out: ${loansOut}`);
    if (this.loop.timerCount > 0) found.push(`${this.loop.timerCount} timers`);
    return found;
  }
}

export interface RequestOptions {
  readonly flags?: number;
  readonly cookie?: readonly [number, number];
  readonly payload?: Uint8Array;
  /** Of the header, where it differs from the payload's. */
  readonly length?: number;
}

export class TestClient {
  readonly stream: MemoryStream;
  readonly #loop: MemoryLoop;
  #received: Uint8Array = new Uint8Array(0);
  #agreement: nbd.ClientAgreement | undefined;
  #extended = false;
  #cookie = 0;
  /** READs that were asked for: how much data follows a simple reply. */
  readonly #reads = new Map<string, { offset: number; length: number }[]>();
  readonly #partial = new Map<string, Reply>();

  constructor(loop: MemoryLoop, stream: MemoryStream) {
    this.#loop = loop;
    this.stream = stream;
  }

  get agreement(): nbd.ClientAgreement {
    return this.#agreement!;
  }

  get extended(): boolean {
    return this.#extended;
  }

  handshake(wishes: Partial<nbd.ClientWishes> = {}): nbd.ClientAgreement {
    const handshake = new nbd.ClientHandshake({
      exportName: '',
      tls: false,
      structuredReplies: false,
      extendedHeaders: false,
      blockStatus: false,
      ...wishes,
    });
    for (let round = 0; round < 50 && handshake.state === 'negotiating'; round += 1) {
      this.#loop.run();
      handshake.input(this.stream.read());
      this.stream.write(handshake.output());
    }
    if (handshake.state !== 'ready') throw new Error(`handshake: ${handshake.state} ${handshake.failure}`);
    this.#agreement = handshake.agreement;
    this.#extended = handshake.agreement.extendedHeaders;
    this.#received = handshake.rest();
    return handshake.agreement;
  }

  /** All that came since the last look, run to rest first. */
  bytes(): Uint8Array {
    this.#loop.run();
    const more = this.stream.read();
    const all = new Uint8Array(this.#received.length + more.length);
    all.set(this.#received);
    all.set(more, this.#received.length);
    this.#received = new Uint8Array(0);
    return all;
  }

  /** Sends greeting flags (after taking the greeting) and options, raw. */
  hello(flags = 3): void {
    this.bytes();
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, flags);
    this.stream.write(bytes);
  }

  /** Sends one option and returns all replies to it. */
  option(option: number, data: Uint8Array = new Uint8Array(0)): OptionReply[] {
    this.stream.write(nbd.encodeOption(option, data));
    return this.optionReplies();
  }

  optionReplies(): OptionReply[] {
    const bytes = this.bytes();
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const out: OptionReply[] = [];
    let at = 0;
    while (at + 20 <= bytes.length) {
      if (view.getUint32(at) !== nbd.OPTION_REPLY_MAGIC_HIGH || view.getUint32(at + 4) !== nbd.OPTION_REPLY_MAGIC_LOW) {
        throw new Error('wrong magic of an option reply');
      }
      const length = view.getUint32(at + 16);
      const data = bytes.slice(at + 20, at + 20 + length);
      out.push({ option: view.getUint32(at + 8), type: view.getUint32(at + 12), data });
      at += 20 + length;
    }
    this.#received = bytes.slice(at);
    return out;
  }

  encode(command: number, offset: number, length: number, options: RequestOptions = {}): Uint8Array {
    this.#cookie += 1;
    const { payload = new Uint8Array(0), cookie = [0, this.#cookie] } = options;
    let { flags = 0 } = options;
    if (this.#extended && command === nbd.CMD_WRITE) flags |= nbd.CMD_FLAG_PAYLOAD_LEN;
    const bytes = new Uint8Array((this.#extended ? 32 : 28) + payload.length);
    const view = new DataView(bytes.buffer);
    const header = nbd.encodeRequest(view, 0, this.#extended, flags, command, cookie[0], cookie[1], offset, length);
    bytes.set(payload, header);
    if (command === nbd.CMD_READ) {
      const key = cookie.join();
      this.#reads.set(key, [...(this.#reads.get(key) ?? []), { offset, length }]);
    }
    return bytes;
  }

  request(command: number, offset: number, length: number, options: RequestOptions = {}): void {
    this.stream.write(this.encode(command, offset, length, options));
  }

  read(offset: number, length: number, options: RequestOptions = {}): Reply {
    this.request(nbd.CMD_READ, offset, length, options);
    return this.reply();
  }

  write(offset: number, payload: Uint8Array, options: RequestOptions = {}): Reply {
    this.request(nbd.CMD_WRITE, offset, options.length ?? payload.length, { ...options, payload });
    return this.reply();
  }

  command(command: number, offset: number, length: number, flags = 0): Reply {
    this.request(command, offset, length, { flags });
    return this.reply();
  }

  /** Exactly one reply has to be there. */
  reply(): Reply {
    const all = this.replies();
    if (all.length !== 1) throw new Error(`${all.length} replies, not 1${this.stream.closed ? ' (closed)' : ''}`);
    return all[0];
  }

  /** All complete replies. Throws on anything that breaks the protocol. */
  replies(): Reply[] {
    const bytes = this.bytes();
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const header = new nbd.ReplyHeader();
    const out: Reply[] = [];
    let at = 0;
    for (;;) {
      const length = nbd.parseReplyHeader(view, at, bytes.length - at, header);
      if (length === nbd.REPLY_MALFORMED) throw new Error(`wrong magic of a reply at ${at}`);
      if (length === nbd.REPLY_INCOMPLETE) break;
      const taken = this.#take(view, bytes, at + length, header);
      if (taken < 0) break;
      at += length + taken;
      const key = `${header.cookieHigh},${header.cookieLow}`;
      if (header.done) {
        const reply = this.#partial.get(key)!;
        this.#partial.delete(key);
        reply.done = true;
        const reads = this.#reads.get(key);
        if (reads !== undefined) {
          const read = reads.shift()!;
          if (reply.error === 0 && reply.data.length !== read.length) throw new Error('a read is not covered');
          if (reads.length === 0) this.#reads.delete(key);
        }
        out.push(reply);
      }
    }
    this.#received = bytes.slice(at);
    return out;
  }

  /** Takes one chunk's payload into its reply; the bytes taken, or −1 when it has not all arrived. */
  #take(view: DataView, bytes: Uint8Array, at: number, header: nbd.ReplyHeader): number {
    const key = `${header.cookieHigh},${header.cookieLow}`;
    const read = this.#reads.get(key)?.[0];
    let payload = header.payloadBytes;
    if (header.kind === 'simple') payload = header.error === 0 && read !== undefined ? read.length : 0;
    if (bytes.length - at < payload) return -1;
    if (this.#extended !== (header.kind === 'extended')) throw new Error(`a ${header.kind} reply was not agreed on`);
    let reply = this.#partial.get(key);
    if (reply === undefined) {
      reply = {
        cookieHigh: header.cookieHigh,
        cookieLow: header.cookieLow,
        kind: header.kind,
        error: 0,
        text: '',
        data: new Uint8Array(0),
        holes: [],
        dataChunks: 0,
        extents: [],
        chunkTypes: [],
        done: false,
      };
      this.#partial.set(key, reply);
    }
    reply.chunkTypes.push(header.type);
    if (header.kind === 'simple') {
      reply.error = header.error;
      reply.data = bytes.slice(at, at + payload);
      return payload;
    }
    this.#takeChunk(view, bytes, at, payload, header, reply, read);
    return payload;
  }

  #takeChunk(
    view: DataView,
    bytes: Uint8Array,
    at: number,
    payload: number,
    header: nbd.ReplyHeader,
    reply: Reply,
    read: { offset: number; length: number } | undefined,
  ): void {
    const position = (): number => view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4) - (read?.offset ?? 0);
    const append = (data: Uint8Array): void => {
      if (position() !== reply.data.length) throw new Error('content chunks are not in order');
      const joined = new Uint8Array(reply.data.length + data.length);
      joined.set(reply.data);
      joined.set(data, reply.data.length);
      reply.data = joined;
    };
    switch (header.type) {
      case nbd.REPLY_NONE:
        if (payload !== 0 || !header.done) throw new Error('a NONE chunk is empty and the last');
        break;
      case nbd.REPLY_OFFSET_DATA:
        if (payload < 9) throw new Error('a data chunk holds data');
        append(bytes.slice(at + 8, at + payload));
        reply.dataChunks += 1;
        break;
      case nbd.REPLY_OFFSET_HOLE: {
        if (payload !== 12) throw new Error('a hole chunk has 12 bytes');
        const length = view.getUint32(at + 8);
        if (length === 0) throw new Error('a hole has a length');
        reply.holes.push([position(), length]);
        append(new Uint8Array(length));
        break;
      }
      case nbd.REPLY_BLOCK_STATUS:
      case nbd.REPLY_BLOCK_STATUS_EXT: {
        const extended = header.type === nbd.REPLY_BLOCK_STATUS_EXT;
        if (extended !== this.#extended) throw new Error('block status in the wrong format');
        const status = nbd.parseBlockStatus(view, at, payload, extended);
        if (status === undefined) throw new Error('a block status chunk is malformed');
        reply.extents = status.extents;
        break;
      }
      case nbd.REPLY_ERROR: {
        const error = nbd.parseChunkError(view, bytes, at, payload);
        if (error === undefined || !nbd.isNbdError(error.error)) throw new Error('an error chunk is malformed');
        reply.error = error.error;
        reply.text = error.text;
        break;
      }
      default:
        throw new Error(`chunk type ${header.type}`);
    }
  }

  /** Leaves as a client should. */
  leave(): void {
    this.request(nbd.CMD_DISC, 0, 0);
    this.stream.end();
    this.#loop.run();
  }
}

/** Bytes that differ from place to place and from seed to seed. */
export function pattern(length: number, seed = 1): Uint8Array {
  const out = new Uint8Array(length);
  let state = seed * 2654435761;
  for (let index = 0; index < length; index += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    // Never zero, so that zeroes are seen for what they are.
    out[index] = (state >>> 24) | 1;
  }
  return out;
}

/** A small random source (mulberry32), for tests that print their seed. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Much quicker than `t.same` on long arrays. */
export function sameBytes(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}
