/** Carries out the CACHE command: reads a range so that what of it was not in the cache is there afterwards. */
import type { BufferWaiter } from '../base/bounce-pool.ts';
import { bounceBufferBytes } from '../base/limits.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { ReadPorts, Span, SpanOwner, SpanPool } from './span.ts';
import type { Volume } from './volume.ts';

const BLOCKS_AT_A_TIME = bounceBufferBytes / BLOCK_BYTES;

export class Prefetch implements BufferWaiter, SpanOwner {
  readonly #ports: ReadPorts;
  readonly #spans: SpanPool;
  readonly #volume: Volume;
  readonly #request: VolumeRequest;
  #block: number;
  readonly #end: number;
  #buffer = -1;
  #reading = false;
  #looping = false;
  #errno = 0;

  constructor(ports: ReadPorts, spans: SpanPool, volume: Volume, request: VolumeRequest) {
    this.#ports = ports;
    this.#spans = spans;
    this.#volume = volume;
    this.#request = request;
    this.#block = Math.floor(request.offsetBytes / BLOCK_BYTES);
    // More than half of the cache would only push out what was brought in first.
    const end = Math.ceil((request.offsetBytes + request.lengthBytes) / BLOCK_BYTES);
    this.#end = Math.min(end, this.#block + Math.floor(ports.cache.capacity / 2));
  }

  start(): void {
    const { bounceShare } = this.#volume;
    const buffer = this.#ports.bounce.take(bounceShare);
    if (buffer < 0) this.#ports.bounce.wait(bounceShare, this);
    else this.bufferReady(buffer);
  }

  bufferReady(offset: number): void {
    this.#buffer = offset;
    this.#next();
  }

  spanRead(span: Span, errno: number): void {
    this.#block += span.count;
    this.#errno = errno;
    this.#reading = false;
    span.release();
    if (!this.#looping) this.#next();
  }

  /** A span that has nothing to wait for ends inside of its start: so this is a loop, and not as deep as it is long. */
  #next(): void {
    this.#looping = true;
    while (!this.#reading && this.#errno === 0 && this.#block < this.#end) {
      const count = Math.min(BLOCKS_AT_A_TIME, this.#end - this.#block);
      this.#reading = true;
      this.#spans.take().start(this.#volume, this.#block, count, this.#ports.bounce.region, this.#buffer, this);
    }
    this.#looping = false;
    if (!this.#reading) this.#finish(this.#errno);
  }

  #finish(errno: number): void {
    this.#ports.bounce.give(this.#volume.bounceShare, this.#buffer);
    this.#request.completed(errno);
  }
}
