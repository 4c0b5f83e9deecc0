/**
 * Carries out read requests. Those that are in the cache are answered on the spot, large ones from where they lie there;
 * others are read as spans, large aligned ones straight into the reply.
 *
 * Invariants:
 * - A small request asks for its place only when everything is there, and completes in the same call.
 * - A read waits for memory in order of arrival, and holds none while it waits.
 */
import { assert } from '../base/assert.ts';
import type { BufferWaiter } from '../base/bounce-pool.ts';
import { bounceBufferBytes, nbdInlineBytesMax } from '../base/limits.ts';
import type { BlockNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { ReadPorts, Span, SpanOwner } from './span.ts';
import { SpanPool } from './span.ts';
import type { Volume } from './volume.ts';

const SMALL_BLOCKS_MAX = nbdInlineBytesMax / BLOCK_BYTES + 1;
const BOUNCE_BLOCKS = bounceBufferBytes / BLOCK_BYTES;

export class Reader {
  readonly #ports: ReadPorts;
  readonly spans: SpanPool;
  readonly #jobs: ReadJob[] = [];
  readonly #slots = new Int32Array(SMALL_BLOCKS_MAX);

  constructor(ports: ReadPorts) {
    this.#ports = ports;
    this.spans = new SpanPool(ports);
  }

  read(volume: Volume, request: VolumeRequest): void {
    if (request.lengthBytes === 0) {
      request.place();
      request.completed(0);
      return;
    }
    const isLarge = request.lengthBytes > nbdInlineBytesMax;
    if (isLarge ? this.#lent(volume, request) : this.#fromCache(volume, request)) return;
    (this.#jobs.pop() ?? new ReadJob(this.#ports, this.spans, this.#jobs)).start(volume, request);
  }

  /** Answers a large read of which every block is in the cache. */
  #lent(volume: Volume, request: VolumeRequest): boolean {
    const { cache } = this.#ports;
    const { offsetBytes, lengthBytes } = request;
    const loan = cache.lend(volume.number, offsetBytes, lengthBytes);
    if (loan === undefined) return false;
    cache.hits += Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES) - Math.floor(offsetBytes / BLOCK_BYTES);
    volume.stream.add(offsetBytes, lengthBytes);
    request.completedFrom(loan);
    return true;
  }

  /** Answers a small read of which every block is in the cache. */
  #fromCache(volume: Volume, request: VolumeRequest): boolean {
    const { cache } = this.#ports;
    const start = request.offsetBytes;
    const end = start + request.lengthBytes;
    const first = Math.floor(start / BLOCK_BYTES);
    const count = Math.ceil(end / BLOCK_BYTES) - first;
    for (let i = 0; i < count; i++) {
      const slot = cache.find(volume.number, (first + i) as BlockNumber);
      if (slot < 0) return false;
      this.#slots[i] = slot;
    }
    cache.hits += count;
    request.place();
    const target = request.region.bytes;
    let at = request.regionOffset;
    let position = start;
    for (let i = 0; i < count; i++) {
      const from = position - (first + i) * BLOCK_BYTES;
      const length = Math.min(BLOCK_BYTES - from, end - position);
      cache.copyOut(this.#slots[i], from, length, target, at);
      at += length;
      position += length;
    }
    request.completed(0);
    return true;
  }
}

/** One read request that takes more than a look into the cache; a reused object. */
class ReadJob implements SpanOwner, BufferWaiter {
  readonly #ports: ReadPorts;
  readonly #spans: SpanPool;
  readonly #free: ReadJob[];
  #volume: Volume | undefined;
  #request: VolumeRequest | undefined;
  /** Bytes from the start of the request that are done. */
  #done = 0;
  /** Bounce buffer of the span that is being read; -1 when it goes straight to its place. */
  #buffer = -1;
  #spanLength = 0;

  constructor(ports: ReadPorts, spans: SpanPool, free: ReadJob[]) {
    this.#ports = ports;
    this.#spans = spans;
    this.#free = free;
  }

  start(volume: Volume, request: VolumeRequest): void {
    this.#volume = volume;
    this.#request = request;
    this.#done = 0;
    if (request.lengthBytes > nbdInlineBytesMax) request.place();
    this.#next();
  }

  bufferReady(offset: number): void {
    this.#readBounced(offset);
  }

  spanRead(span: Span, errno: number): void {
    if (errno === 0) this.#deliver(span);
    span.release();
    const { bounceShare } = this.#volume!;
    const buffer = this.#buffer;
    this.#buffer = -1;
    this.#done += this.#spanLength;
    const goesOn = errno === 0 && this.#done < this.#request!.lengthBytes;
    // First: whoever gets the buffer may complete at once, and a small read that was placed has to be completed before another
    // is placed.
    if (!goesOn) this.#finish(errno);
    if (buffer >= 0) this.#ports.bounce.give(bounceShare, buffer);
    if (goesOn) this.#next();
  }

  #next(): void {
    const request = this.#request!;
    const position = request.offsetBytes + this.#done;
    const remaining = request.lengthBytes - this.#done;
    const placed = request.regionOffset + this.#done;
    const large = request.lengthBytes > nbdInlineBytesMax;
    if (large && position % BLOCK_BYTES === 0 && placed % BLOCK_BYTES === 0 && remaining >= BLOCK_BYTES) {
      const count = Math.floor(remaining / BLOCK_BYTES);
      this.#spanLength = count * BLOCK_BYTES;
      const caches = !this.#isLongStream(position, remaining);
      this.#spans.take().start(this.#volume!, position / BLOCK_BYTES, count, request.region, placed, this, caches);
      return;
    }
    const { bounceShare } = this.#volume!;
    const buffer = this.#ports.bounce.take(bounceShare);
    if (buffer < 0) this.#ports.bounce.wait(bounceShare, this);
    else this.#readBounced(buffer);
  }

  /** A stream of large reads that is longer than half of the cache would only push out what is read again. */
  #isLongStream(position: number, length: number): boolean {
    return this.#volume!.stream.add(position, length) > (this.#ports.cache.capacity / 2) * BLOCK_BYTES;
  }

  #readBounced(buffer: number): void {
    const request = this.#request!;
    const position = request.offsetBytes + this.#done;
    const first = Math.floor(position / BLOCK_BYTES);
    const last = Math.ceil((request.offsetBytes + request.lengthBytes) / BLOCK_BYTES);
    const count = Math.min(last - first, BOUNCE_BLOCKS);
    const end = Math.min((first + count) * BLOCK_BYTES, request.offsetBytes + request.lengthBytes);
    this.#buffer = buffer;
    this.#spanLength = end - position;
    this.#spans.take().start(this.#volume!, first, count, this.#ports.bounce.region, buffer, this);
  }

  /** Brings what the span has read to its place; runs of zeroes are reported, or written where they can't be. */
  #deliver(span: Span): void {
    const request = this.#request!;
    if (request.lengthBytes <= nbdInlineBytesMax) request.place();
    const start = request.offsetBytes + this.#done;
    const end = start + this.#spanLength;
    for (let i = 0; i < span.count; ) {
      const zero = span.isZero(i);
      let j = i + 1;
      while (j < span.count && span.isZero(j) === zero) j++;
      const from = Math.max(start, (span.first + i) * BLOCK_BYTES);
      const to = Math.min(end, (span.first + j) * BLOCK_BYTES);
      const at = from - request.offsetBytes;
      if (zero && request.holesWanted) {
        request.addHole(at, to - from);
      } else if (zero) {
        request.region.bytes.fill(0, request.regionOffset + at, request.regionOffset + at + to - from);
      } else if (this.#buffer >= 0) {
        const source = this.#buffer + from - span.first * BLOCK_BYTES;
        const bytes = this.#ports.bounce.region.bytes.subarray(source, source + to - from);
        request.region.bytes.set(bytes, request.regionOffset + at);
      }
      i = j;
    }
  }

  #finish(errno: number): void {
    const request = this.#request!;
    assert(this.#buffer < 0, 'a finished read holds no memory');
    this.#request = undefined;
    this.#volume = undefined;
    this.#free.push(this);
    request.completed(errno);
  }
}
