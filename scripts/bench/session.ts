/**
 * What the NBD session code costs by itself: requests through a stream and a volume in memory, no kernel beneath. Run as
 * `node dist/scripts/bench/session.js [SECONDS]`; prints nanoseconds a request for 4 KiB reads and writes at a depth of
 * 64, in each reply format. The copies of the data are included (one a read, as from a cache; one a write).
 */
import type { CancelTimer, Clock, IoRequest, Turns, TurnTask } from '../../src/base/io.ts';
import { type MemoryPiece, plainRegion, type Region } from '../../src/base/memory.ts';
import type { Stream } from '../../src/base/stream.ts';
import { MIB } from '../../src/base/units.ts';
import type { ExportedVolume, ExportTable, VolumeRequest } from '../../src/nbd-server/exported-volume.ts';
import { NbdServer } from '../../src/nbd-server/server.ts';
import * as nbd from '../../src/nbd-server-protocol/index.ts';

const DEPTH = 64;
const BLOCK_BYTES = 4096;

/** A cache that has everything: each request completes inside of `submit`. */
class CachedVolume implements ExportedVolume {
  readonly name = 'bench';
  readonly description = '';
  readonly sizeBytes = 64 * MIB;
  readonly readOnly = false;
  readonly minimumBlockBytes = 1;
  readonly preferredBlockBytes = BLOCK_BYTES;
  readonly #data = new Uint8Array(64 * MIB).fill(1);

  submit(request: VolumeRequest): void {
    const { offsetBytes, lengthBytes } = request;
    if (request.command === 'read') {
      request.place();
      copy(request.region.bytes, request.regionOffset, this.#data, offsetBytes, lengthBytes);
    } else if (request.command === 'write') {
      copy(this.#data, offsetBytes, request.region.bytes, request.regionOffset, lengthBytes);
    }
    request.completed(0);
  }
}

/** The product copies in native code, once a batch; here `set` is the quickest there is. */
function copy(to: Uint8Array, at: number, from: Uint8Array, start: number, length: number): void {
  to.set(from.subarray(start, start + length), at);
}

/** Repeats one batch of requests for as long as it is told to, and drops the replies. */
class LoopStream implements Stream, Turns, Clock {
  readonly peer = 'bench';
  readonly encrypted = false;
  readonly peerHasEnded = false;
  readonly #tasks: TurnTask[] = [];
  #batch: Uint8Array = new Uint8Array(0);
  #receive: { region: Region; offset: number; request: IoRequest } | undefined;
  readonly #posted = { region: plainRegion(4096), offset: 0, request: undefined as IoRequest | undefined };
  #send: IoRequest | undefined;
  #sendLength = 0;
  /** Replies of the handshake, collected until the transmission begins. */
  collected: Uint8Array[] | undefined = [];
  sentBytes = 0;

  receive(region: Region, offset: number, _length: number, request: IoRequest): void {
    const posted = this.#posted;
    posted.region = region;
    posted.offset = offset;
    posted.request = request;
    this.#receive = posted as { region: Region; offset: number; request: IoRequest };
  }

  send(region: Region, offset: number, length: number, request: IoRequest): void {
    this.sendPieces([{ region, offset, length }], 1, request);
  }

  sendPieces(pieces: readonly MemoryPiece[], count: number, request: IoRequest): void {
    this.#sendLength = 0;
    for (let index = 0; index < count; index++) {
      const { region, offset, length } = pieces[index];
      this.collected?.push(region.bytes.slice(offset, offset + length));
      this.#sendLength += length;
    }
    this.sentBytes += this.#sendLength;
    this.#send = request;
  }

  /** One turn: completes the send and, with `batch`, the receive; then the end of the turn. */
  turn(batch: Uint8Array | undefined): void {
    const send = this.#send;
    if (send !== undefined) {
      this.#send = undefined;
      send.ioCompleted(this.#sendLength);
    }
    const receive = this.#receive;
    if (batch !== undefined && receive !== undefined) {
      this.#receive = undefined;
      this.#batch = batch;
      receive.region.bytes.set(this.#batch, receive.offset);
      receive.request.ioCompleted(batch.length);
    }
    for (;;) {
      const task = this.#tasks.pop();
      if (task === undefined) break;
      task.runAtEndOfTurn();
    }
  }

  atEndOfTurn(task: TurnTask): void {
    this.#tasks.push(task);
  }
  afterMicros(task: TurnTask): void {
    this.#tasks.push(task);
  }
  cancelAfterMicros(): void {}
  hurry(): void {}
  nowMs(): number {
    return performance.now();
  }
  after(): CancelTimer {
    return () => {};
  }
  shutdown(): void {}
  close(): void {}
}

function connect(wishes: Partial<nbd.ClientWishes>): LoopStream {
  const stream = new LoopStream();
  const volume = new CachedVolume();
  const exports: ExportTable = { find: () => volume, list: () => [volume], opened() {}, closed() {} };
  const log = { info() {}, warn() {}, error() {} };
  const server = new NbdServer({ turns: stream, clock: stream, regions: { allocate: plainRegion }, exports, log });
  server.accept(stream);
  const defaults = { exportName: '', tls: false, structuredReplies: false, extendedHeaders: false, blockStatus: false };
  const handshake = new nbd.ClientHandshake({ ...defaults, ...wishes });
  while (handshake.state === 'negotiating') {
    stream.turn(undefined);
    for (const part of stream.collected!.splice(0)) handshake.input(part);
    const output = handshake.output();
    if (output.length > 0) stream.turn(output);
  }
  if (handshake.state !== 'ready') throw new Error(handshake.failure);
  stream.collected = undefined;
  return stream;
}

function batchOf(command: number, extended: boolean): Uint8Array {
  const payload = command === nbd.CMD_WRITE ? BLOCK_BYTES : 0;
  const each = (extended ? nbd.EXTENDED_REQUEST_BYTES : nbd.REQUEST_BYTES) + payload;
  // A batch larger than the receive buffer would never arrive at once.
  const count = Math.min(DEPTH, Math.floor((256 * 1024) / each));
  const bytes = new Uint8Array(count * each);
  const view = new DataView(bytes.buffer);
  for (let index = 0; index < count; index += 1) {
    const flags = extended && payload > 0 ? nbd.CMD_FLAG_PAYLOAD_LEN : 0;
    const offset = (index * 7919 * BLOCK_BYTES) % (64 * MIB);
    nbd.encodeRequest(view, index * each, extended, flags, command, 0, index, offset, BLOCK_BYTES);
  }
  return bytes;
}

function measure(name: string, command: number, wishes: Partial<nbd.ClientWishes>, seconds: number): void {
  const stream = connect(wishes);
  const extended = wishes.extendedHeaders === true;
  const batch = batchOf(command, extended);
  const each =
    (extended ? nbd.EXTENDED_REQUEST_BYTES : nbd.REQUEST_BYTES) + (command === nbd.CMD_WRITE ? BLOCK_BYTES : 0);
  const count = batch.length / each;
  const runFor = (milliseconds: number): number => {
    const end = performance.now() + milliseconds;
    let batches = 0;
    while (performance.now() < end) {
      for (let round = 0; round < 100; round += 1) stream.turn(batch);
      batches += 100;
    }
    return batches;
  };
  runFor(300);
  const heapBefore = process.memoryUsage().heapUsed;
  const start = performance.now();
  const batches = runFor(seconds * 1000);
  const nanoseconds = ((performance.now() - start) * 1e6) / (batches * count);
  const heap = (process.memoryUsage().heapUsed - heapBefore) / (batches * count);
  const rate = Math.round(1e6 / nanoseconds);
  console.log(
    `${name.padEnd(24)} ${nanoseconds.toFixed(0).padStart(6)} ns  ${rate} k requests/s  ${heap.toFixed(2)} heap bytes`,
  );
}

const seconds = Number(process.argv[2] ?? 1);
for (const [format, wishes] of [
  ['simple', {}],
  ['structured', { structuredReplies: true }],
  ['extended', { extendedHeaders: true }],
] as const) {
  measure(`read 4 KiB, ${format}`, nbd.CMD_READ, wishes, seconds);
  measure(`write 4 KiB, ${format}`, nbd.CMD_WRITE, wishes, seconds);
}
