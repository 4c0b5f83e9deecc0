/**
 * Carries out the CACHE command: reads a range so that what of it was not in the cache is there afterwards.
 *
 * Invariant: of one request a turn of the loop does one span, even where nothing has to be read. A client may ask for
 * terabytes, as often as it likes, and the others are served meanwhile.
 */
import type { BufferWaiter } from '../base/bounce-pool.ts';
import type { Turns, TurnTask } from '../base/io.ts';
import { bounceBufferBytes } from '../base/limits.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { ReadPorts, Span, SpanOwner, SpanPool } from './span.ts';
import type { Volume } from './volume.ts';

const BLOCKS_AT_A_TIME = bounceBufferBytes / BLOCK_BYTES;

export class Prefetch implements BufferWaiter, SpanOwner, TurnTask {
  readonly #ports: ReadPorts;
  readonly #spans: SpanPool;
  readonly #turns: Turns;
  readonly #volume: Volume;
  readonly #request: VolumeRequest;
  #block: number;
  readonly #end: number;
  #buffer = -1;

  constructor(ports: ReadPorts, spans: SpanPool, turns: Turns, volume: Volume, request: VolumeRequest) {
    this.#ports = ports;
    this.#spans = spans;
    this.#turns = turns;
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
    this.#turns.atEndOfTurn(this);
  }

  runAtEndOfTurn(): void {
    const count = Math.min(BLOCKS_AT_A_TIME, this.#end - this.#block);
    if (count <= 0) this.#finish(0);
    else this.#spans.take().start(this.#volume, this.#block, count, this.#ports.bounce.region, this.#buffer, this);
  }

  spanRead(span: Span, errno: number): void {
    this.#block += span.count;
    span.release();
    if (errno !== 0) this.#finish(errno);
    else this.#turns.atEndOfTurn(this);
  }

  #finish(errno: number): void {
    this.#ports.bounce.give(this.#volume.bounceShare, this.#buffer);
    this.#request.completed(errno);
  }
}
