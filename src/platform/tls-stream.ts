/**
 * The `Stream` port over one of Node's sockets, and the way from a plain connection to TLS. Sessions under TLS are not
 * on the ring: OpenSSL sits between, and Node drives it.
 *
 * Invariants:
 * - Little is read ahead: while more than `AHEAD_BYTES` lie here that no receive has asked for, the socket is not read.
 * - A send's memory is Node's until its completion; there is one send at a time.
 * - The descriptor is closed exactly once, by Node, with the socket, whatever becomes of the handshake.
 */
import { Socket } from 'node:net';
import { createServer } from 'node:tls';
import { assert } from '../base/assert.ts';
import { ECANCELED, ECONNRESET } from '../base/errno.ts';
import type { IoRequest } from '../base/io.ts';
import type { MemoryPiece, Region } from '../base/memory.ts';
import type { Stream } from '../base/stream.ts';
import { KIB } from '../base/units.ts';
import { addon } from './addon.ts';
import type { TlsMaterial } from './tls.ts';

/** What comes in one piece may go beyond it. */
const AHEAD_BYTES = 64 * KIB;
/** How long the last bytes may take to leave when a stream is closed after its shutdown. */
const CLOSE_MS = 1000;
const DONE = Promise.resolve();

export class NodeStream implements Stream {
  readonly peer: string;
  readonly encrypted: boolean;
  readonly #socket: Socket;
  /** The socket's, or -1 where it is not known: then an end is noticed only when all before it has been read. */
  readonly #fd: number;
  #receiving: IoRequest | undefined;
  #receiveRegion: Region | undefined;
  #receiveOffset = 0;
  #receiveLength = 0;
  /** What has arrived and was not received yet: of the first piece, that from `#arrivedOffset` on. */
  readonly #arrived: Buffer[] = [];
  #arrivedOffset = 0;
  #arrivedBytes = 0;
  readonly #deliverLater = () => this.#deliver();
  #sending: IoRequest | undefined;
  #sendLength = 0;
  #ended = false;
  #failure = 0;
  #shutDown = false;
  #closed = false;

  /** Takes over a connected socket that nobody else reads; `fd` is its descriptor, where somebody knows it. */
  constructor(socket: Socket, encrypted: boolean, peer: string, fd = -1) {
    this.#socket = socket;
    this.#fd = fd;
    this.encrypted = encrypted;
    this.peer = peer;
    // As it flows, and not on 'readable': the ticks that Node needs for that one cost a tenth of a small read over TLS.
    socket.on('data', (bytes: Buffer) => this.#arrive(bytes));
    socket.on('end', () => {
      this.#ended = true;
      this.#deliver();
    });
    socket.on('error', error => this.#fail(errnoOf(error)));
    socket.on('close', () => this.#fail(-ECONNRESET));
  }

  get peerHasEnded(): boolean {
    // A socket that is destroyed has given its descriptor back, which may be another's by now.
    if (this.#ended || this.#failure !== 0 || this.#socket.destroyed) return true;
    return this.#fd >= 0 && addon.hasHungUp(this.#fd);
  }

  receive(region: Region, offset: number, length: number, request: IoRequest): void {
    assert(!this.#closed && this.#receiving === undefined && length > 0, 'one receive at a time, on an open stream');
    this.#receiving = request;
    this.#receiveRegion = region;
    this.#receiveOffset = offset;
    this.#receiveLength = length;
    if (this.#arrivedBytes < AHEAD_BYTES && this.#socket.isPaused()) this.#socket.resume();
    // Never from inside of this call.
    if (this.#arrivedBytes > 0 || this.#ended || this.#failure !== 0) void DONE.then(this.#deliverLater);
  }

  send(region: Region, offset: number, length: number, request: IoRequest): void {
    this.#beginSend(length, request);
    this.#write(region, offset, length, error => this.#sent(error));
  }

  sendPieces(pieces: readonly MemoryPiece[], count: number, request: IoRequest): void {
    const sent = pieces.slice(0, count);
    this.#beginSend(
      sent.reduce((sum, piece) => sum + piece.length, 0),
      request,
    );
    // Handed over as one; they end one after another, and the last with the rest of them.
    const last = sent.pop()!;
    this.#socket.cork();
    for (const { region, offset, length } of sent) this.#write(region, offset, length);
    this.#write(last.region, last.offset, last.length, error => this.#sent(error));
    this.#socket.uncork();
  }

  #beginSend(length: number, request: IoRequest): void {
    assert(!this.#closed && this.#sending === undefined && length > 0, 'one send at a time, on an open stream');
    assert(!this.#shutDown, 'nothing is sent after the shutdown');
    this.#sending = request;
    this.#sendLength = length;
  }

  #write(region: Region, offset: number, length: number, written?: (error?: Error | null) => void): void {
    this.#socket.write(Buffer.from(region.bytes.buffer, region.bytes.byteOffset + offset, length), written);
  }

  shutdown(): void {
    assert(!this.#closed, 'the stream is open');
    this.#shutDown = true;
    this.#socket.end();
  }

  close(): void {
    assert(!this.#closed, 'a stream is closed once');
    this.#closed = true;
    const socket = this.#socket;
    if (this.#shutDown && !socket.writableFinished && !socket.destroyed) {
      // The close_notify is still on its way.
      const timer = setTimeout(() => socket.destroy(), CLOSE_MS);
      timer.unref();
      socket.once('close', () => clearTimeout(timer));
      socket.destroySoon();
      socket.resume();
    } else {
      socket.destroy();
    }
    process.nextTick(() => this.#fail(-ECANCELED));
  }

  #arrive(bytes: Buffer): void {
    if (this.#closed) return;
    this.#arrived.push(bytes);
    this.#arrivedBytes += bytes.length;
    this.#deliver();
    if (this.#arrivedBytes >= AHEAD_BYTES) this.#socket.pause();
  }

  #deliver(): void {
    const request = this.#receiving;
    if (request === undefined || this.#closed) return;
    if (this.#arrivedBytes > 0) {
      const length = Math.min(this.#arrivedBytes, this.#receiveLength);
      this.#takeArrived(length);
      this.#receiving = undefined;
      request.ioCompleted(length);
    } else if (this.#ended) {
      this.#receiving = undefined;
      request.ioCompleted(0);
    } else if (this.#failure !== 0) {
      this.#fail(this.#failure);
    }
  }

  /** Copies `length` bytes to where they are received. */
  #takeArrived(length: number): void {
    const target = this.#receiveRegion!.bytes;
    let done = 0;
    while (done < length) {
      const piece = this.#arrived[0];
      const from = this.#arrivedOffset;
      const to = Math.min(piece.length, from + length - done);
      target.set(from === 0 && to === piece.length ? piece : piece.subarray(from, to), this.#receiveOffset + done);
      done += to - from;
      this.#arrivedOffset = to;
      if (to < piece.length) break;
      this.#arrived.shift();
      this.#arrivedOffset = 0;
    }
    this.#arrivedBytes -= length;
  }

  #sent(error: Error | null | undefined): void {
    const request = this.#sending;
    if (request === undefined) return;
    this.#sending = undefined;
    if (this.#closed) request.ioCompleted(-ECANCELED);
    else request.ioCompleted(error ? errnoOf(error) : this.#sendLength);
  }

  /** The first failure stays; what is under way ends with it. */
  #fail(errno: number): void {
    if (this.#failure === 0) this.#failure = errno;
    const [receiving, sending] = [this.#receiving, this.#sending];
    // An end that was seen is no failure, even though 'close' follows it.
    const lost = this.#closed || !this.#ended;
    if (receiving !== undefined && lost) {
      this.#receiving = undefined;
      receiving.ioCompleted(this.#failure);
    }
    if (sending !== undefined) {
      this.#sending = undefined;
      sending.ioCompleted(this.#failure);
    }
  }
}

export interface UpgradeOptions {
  readonly handshakeMs: number;
  /** For the log and the status page. */
  readonly peer: string;
}

/**
 * Server side of STARTTLS on a connected socket: takes `fd` over, resolves with the encrypted stream, rejects when the
 * handshake fails or takes too long; the descriptor is closed then.
 *
 * A `tls.Server` of its own for each connection, since it is what checks the client's certificate; it never listens.
 */
export function upgradeToTls(fd: number, material: TlsMaterial, options: UpgradeOptions): Promise<Stream> {
  const socket = new Socket({ fd, readable: true, writable: true });
  return new Promise<Stream>((resolve, reject) => {
    const server = createServer({ ...material.options, handshakeTimeout: options.handshakeMs });
    const fail = (error: Error): void => {
      socket.destroy();
      reject(new Error(reasonOf(error), { cause: error }));
    };
    server.once('secureConnection', secure => {
      socket.removeListener('close', lost);
      // During the handshake the client's end ends it all; from now on replies still go out after it.
      secure.allowHalfOpen = true;
      resolve(new NodeStream(secure, true, options.peer, fd));
    });
    server.once('tlsClientError', fail);
    const lost = (): void => fail(new Error('the connection was lost during the TLS handshake'));
    socket.once('close', lost);
    socket.on('error', fail);
    server.emit('connection', socket);
  });
}

/** The server's `upgrade` port, for streams that `detach` can take the descriptor out of. */
export function tlsUpgrade(
  material: TlsMaterial,
  detach: (stream: Stream) => number,
  handshakeMs: number,
): (stream: Stream) => Promise<Stream> {
  return stream => {
    const { peer } = stream;
    return upgradeToTls(detach(stream), material, { handshakeMs, peer });
  };
}

/** OpenSSL's errors carry a short reason beside a message full of its source files. */
function reasonOf(error: Error): string {
  const { reason } = error as { reason?: unknown };
  return typeof reason === 'string' ? reason : error.message;
}

function errnoOf(error: Error): number {
  const { errno } = error as NodeJS.ErrnoException;
  return errno !== undefined && errno < 0 ? errno : -ECONNRESET;
}
