/**
 * One connection of `sledge bench`: keeps a number of requests on the way and measures each from its sending to its
 * reply. Speaks NBD through `nbd-server-protocol`, over TCP, a Unix socket, or TLS.
 *
 * It has to be light, since it shares the machine with the server it measures: what arrives lands in one buffer that is
 * used again, a request is sent from a buffer of its slot, and all requests of one turn leave with one call. Only simple
 * replies are asked for, where a request has one reply and data needs no chunk header.
 */
import { type NetConnectOpts, connect as netConnect, type Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import { SledgeError } from '../base/errors.ts';
import type { LatencyHistogram } from '../base/latency-histogram.ts';
import { parseReplyHeader, REPLY_INCOMPLETE, REPLY_MALFORMED, ReplyHeader } from '../nbd-server-protocol/client.ts';
import { type ClientAgreement, ClientHandshake } from '../nbd-server-protocol/client-handshake.ts';
import { CMD_DISC, CMD_READ, CMD_WRITE, REQUEST_BYTES, SIMPLE_REPLY_BYTES } from '../nbd-server-protocol/constants.ts';
import { encodeRequest } from '../nbd-server-protocol/request.ts';
import type { NbdUri } from '../nbd-server-protocol/uri.ts';

const RECEIVE_BYTES = 256 * 1024;
const CONNECT_TIMEOUT_MS = 10_000;

export interface BenchTls {
  /** PEM of who may have signed the server's certificate; absent: whom Node trusts. */
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

/** What all connections of a run share. */
export interface BenchLoad {
  readonly isWrite: boolean;
  readonly requestBytes: number;
  readonly depth: number;
  readonly latencies: LatencyHistogram;
  /** Counts by errno of the protocol. */
  readonly errors: Map<number, number>;
  /** Where the next request goes. */
  nextOffset(): number;
}

export class BenchConnection {
  readonly agreement: ClientAgreement;
  readonly #socket: Socket;
  /** What arrived behind the handshake or in pieces: a header that is not whole yet. */
  readonly #header = new Uint8Array(SIMPLE_REPLY_BYTES);
  readonly #headerView = new DataView(this.#header.buffer);
  #headerBytes = 0;
  /** Data of a read that still has to arrive. */
  #dataBytesLeft = 0;
  readonly #reply = new ReplyHeader();
  #load: BenchLoad | undefined;
  #slots: { request: Buffer; view: DataView; sentAt: number; busy: boolean }[] = [];
  #inFlight = 0;
  #draining = false;
  #done: () => void = () => {};
  #failed: (error: Error) => void = () => {};
  #ended = false;
  /** Why it broke, for a `run` that comes later. */
  #failure: Error | undefined;

  private constructor(socket: Socket, agreement: ClientAgreement) {
    this.#socket = socket;
    this.agreement = agreement;
    socket.on('error', error => this.#fail(new SledgeError('connection-failed', error.message, { cause: error })));
    socket.on('close', () => this.#fail(new SledgeError('connection-failed', 'the server closed the connection')));
  }

  /** Rejects with `connection-failed` or `protocol-error`. */
  static async open(uri: NbdUri, tls: BenchTls): Promise<BenchConnection> {
    const handshake = new ClientHandshake({
      exportName: uri.exportName,
      tls: uri.tls,
      structuredReplies: false,
      extendedHeaders: false,
      blockStatus: false,
    });
    // The receiver changes hands after the handshake; the buffer stays.
    const receiver: Receiver = { take: bytes => handshake.input(bytes) };
    const timer = new Deadline(CONNECT_TIMEOUT_MS);
    let socket: Socket | undefined;
    try {
      socket = await timer.race(connectPlain(uri, receiver));
      await timer.race(negotiate(socket, handshake, receiver));
      if (handshake.state === 'tls') {
        socket = await timer.race(connectTls(socket, uri, tls, receiver));
        handshake.tlsStarted();
        await timer.race(negotiate(socket, handshake, receiver));
      }
    } catch (error) {
      socket?.destroy();
      if (error instanceof SledgeError) throw error;
      throw new SledgeError('connection-failed', error instanceof Error ? error.message : String(error), {
        cause: error,
      });
    } finally {
      timer.clear();
    }
    const connection = new BenchConnection(socket, handshake.agreement);
    receiver.take = bytes => connection.#received(bytes);
    return connection;
  }

  /** Sends until `drain`; resolves when the last reply is there. Rejects when the connection breaks. */
  run(load: BenchLoad): Promise<void> {
    this.#load = load;
    return new Promise((done, failed) => {
      this.#done = done;
      this.#failed = failed;
      if (this.#failure !== undefined) {
        failed(this.#failure);
        return;
      }
      this.#socket.cork();
      for (let number = 0; number < load.depth; number++) {
        const request = Buffer.alloc(REQUEST_BYTES + (load.isWrite ? load.requestBytes : 0), number + 1);
        const view = new DataView(request.buffer, request.byteOffset, request.byteLength);
        this.#slots.push({ request, view, sentAt: 0, busy: false });
        this.#send(number);
      }
      this.#socket.uncork();
    });
  }

  drain(): void {
    this.#draining = true;
    if (this.#inFlight === 0) this.#done();
  }

  close(): void {
    if (this.#ended) return;
    this.#ended = true;
    const request = new Uint8Array(REQUEST_BYTES);
    encodeRequest(new DataView(request.buffer), 0, false, 0, CMD_DISC, 0, 0, 0, 0);
    this.#socket.end(request);
    this.#socket.resume();
  }

  #send(number: number): void {
    const load = this.#load as BenchLoad;
    const slot = this.#slots[number];
    if (slot === undefined) return;
    const command = load.isWrite ? CMD_WRITE : CMD_READ;
    encodeRequest(slot.view, 0, false, 0, command, 0, number, load.nextOffset(), load.requestBytes);
    slot.busy = true;
    slot.sentAt = performance.now();
    this.#inFlight++;
    this.#socket.write(slot.request);
  }

  #received(bytes: Uint8Array): void {
    this.#socket.cork();
    let at = 0;
    while (at < bytes.length && !this.#ended) {
      if (this.#dataBytesLeft > 0) {
        const taken = Math.min(this.#dataBytesLeft, bytes.length - at);
        at += taken;
        this.#dataBytesLeft -= taken;
        if (this.#dataBytesLeft === 0) this.#replied();
        continue;
      }
      const taken = Math.min(SIMPLE_REPLY_BYTES - this.#headerBytes, bytes.length - at);
      this.#header.set(bytes.subarray(at, at + taken), this.#headerBytes);
      at += taken;
      this.#headerBytes += taken;
      this.#parseHeader();
    }
    this.#socket.uncork();
  }

  #parseHeader(): void {
    const length = parseReplyHeader(this.#headerView, 0, this.#headerBytes, this.#reply);
    if (length === REPLY_INCOMPLETE) return;
    const slot = this.#slots[this.#reply.cookieLow];
    const known = slot?.busy === true && this.#reply.cookieHigh === 0;
    if (length === REPLY_MALFORMED || this.#reply.kind !== 'simple' || !known) {
      this.#fail(new SledgeError('protocol-error', 'the server sent a reply that nobody asked for'));
      return;
    }
    this.#headerBytes = 0;
    const load = this.#load as BenchLoad;
    if (!load.isWrite && this.#reply.error === 0) this.#dataBytesLeft = load.requestBytes;
    else this.#replied();
  }

  #replied(): void {
    const load = this.#load as BenchLoad;
    const number = this.#reply.cookieLow;
    const slot = this.#slots[number];
    if (slot === undefined) return;
    slot.busy = false;
    this.#inFlight--;
    const { error } = this.#reply;
    if (error === 0) load.latencies.record((performance.now() - slot.sentAt) * 1000);
    else load.errors.set(error, (load.errors.get(error) ?? 0) + 1);
    if (!this.#draining) this.#send(number);
    else if (this.#inFlight === 0) this.#done();
  }

  #fail(error: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#failure = error;
    this.#socket.destroy();
    this.#failed(error);
  }
}

/** Whoever takes what arrives at the moment. `bytes` are good until it returns. */
interface Receiver {
  take(bytes: Uint8Array): void;
}

function connectPlain(uri: NbdUri, receiver: Receiver): Promise<Socket> {
  return new Promise((done, failed) => {
    const { endpoint } = uri;
    const where: NetConnectOpts =
      endpoint.kind === 'unix' ? { path: endpoint.path } : { host: endpoint.host, port: endpoint.port, noDelay: true };
    // A TLS socket on top needs the ordinary way of reading.
    const onread = {
      buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
      callback(count: number, buffer: Uint8Array) {
        receiver.take(buffer.subarray(0, count));
        return true;
      },
    };
    const socket = netConnect(uri.tls ? where : { ...where, onread });
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.off('error', failed);
      done(socket);
    });
  });
}

function connectTls(plain: Socket, uri: NbdUri, tls: BenchTls, receiver: Receiver): Promise<Socket> {
  return new Promise((done, failed) => {
    plain.removeAllListeners('data');
    const host = uri.tlsHostname ?? (uri.endpoint.kind === 'tcp' ? uri.endpoint.host : 'localhost');
    const socket = tlsConnect({ socket: plain, host, rejectUnauthorized: uri.tlsVerifyPeer !== false, ...tls });
    socket.once('error', failed);
    socket.once('secureConnect', () => {
      socket.off('error', failed);
      socket.on('data', bytes => receiver.take(bytes));
      done(socket);
    });
  });
}

/** Feeds the handshake until it is ready or waits for TLS. */
function negotiate(socket: Socket, handshake: ClientHandshake, receiver: Receiver): Promise<void> {
  return new Promise((done, failed) => {
    const onError = (error: Error) => finish(() => failed(error));
    const onClose = () => onError(new SledgeError('connection-failed', 'the server closed the connection'));
    const onData = (bytes: Uint8Array) => receiver.take(bytes);
    const finish = (settle: () => void) => {
      socket.off('error', onError);
      socket.off('close', onClose);
      receiver.take = () => {};
      settle();
    };
    const advance = () => {
      const output = handshake.output();
      if (output.length > 0) socket.write(output);
      if (handshake.state === 'failed') onError(new SledgeError('protocol-error', handshake.failure));
      else if (handshake.state !== 'negotiating') finish(done);
    };
    receiver.take = bytes => {
      handshake.input(bytes);
      advance();
    };
    socket.on('error', onError);
    socket.on('close', onClose);
    // Without a buffer of ours (below TLS), bytes come as events.
    if (!('encrypted' in socket)) socket.on('data', onData);
    socket.resume();
    advance();
  });
}

/** One time limit over several waits. */
class Deadline {
  readonly #expired: Promise<never>;
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number) {
    this.#expired = new Promise((_, failed) => {
      this.#timer = setTimeout(
        () => failed(new SledgeError('connection-failed', `the server did not answer for ${ms / 1000} s`)),
        ms,
      );
    });
    // Nobody may be waiting when it expires.
    this.#expired.catch(() => {});
  }

  race<Value>(value: Promise<Value>): Promise<Value> {
    return Promise.race([value, this.#expired]);
  }

  clear(): void {
    clearTimeout(this.#timer);
  }
}
