/**
 * Changes less than a block: the block is read, the bytes are put in, and the whole block is appended as an operation.
 * The caller holds the block's lock, so that nothing is appended for it in between; it is given free here.
 */
import type { BufferWaiter } from '../base/bounce-pool.ts';
import { EIO } from '../base/errno.ts';
import type { BlockNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { OpOwner } from '../oplog/logged-op.ts';
import { writeRecordBytes } from '../oplog/record.ts';
import type { Span, SpanOwner } from './span.ts';
import type { Volume } from './volume.ts';
import { type CommitWaiter, type RoomWaiter, WAITS, type WriteQueue } from './write-ports.ts';

export class PartialWrite implements BufferWaiter, CommitWaiter, RoomWaiter, SpanOwner {
  readonly #writer: WriteQueue;
  readonly volume: Volume;
  readonly #block: BlockNumber;
  readonly #from: number;
  readonly #length: number;
  readonly #source: Uint8Array | undefined;
  readonly #sourceOffset: number;
  readonly #durable: boolean;
  readonly #owner: OpOwner;
  #buffer = -1;

  /** `length` bytes from `from` within the block become those at `sourceOffset` of `source`, or zeroes without one. */
  constructor(
    writer: WriteQueue,
    volume: Volume,
    block: BlockNumber,
    from: number,
    length: number,
    source: Uint8Array | undefined,
    sourceOffset: number,
    durable: boolean,
    owner: OpOwner,
  ) {
    this.#writer = writer;
    this.volume = volume;
    this.#block = block;
    this.#from = from;
    this.#length = length;
    this.#source = source;
    this.#sourceOffset = sourceOffset;
    this.#durable = durable;
    this.#owner = owner;
  }

  start(): void {
    const { bounce } = this.#writer.ports.reads;
    const { bounceShare } = this.volume;
    const buffer = bounce.take(bounceShare);
    if (buffer < 0) bounce.wait(bounceShare, this);
    else this.bufferReady(buffer);
  }

  bufferReady(offset: number): void {
    this.#buffer = offset;
    // What was appended for the block before it was locked has to be readable before it is read.
    this.#writer.waitForCommit(this);
  }

  committedSoFar(): void {
    if (this.#writer.ports.log.failure !== 0) {
      this.#finish(EIO);
      return;
    }
    const { region } = this.#writer.ports.reads.bounce;
    this.#writer.ports.spans.take().start(this.volume, this.#block, 1, region, this.#buffer, this);
  }

  spanRead(span: Span, errno: number): void {
    const zero = span.isZero(0);
    span.release();
    if (errno !== 0) {
      this.#finish(errno);
      return;
    }
    const { bytes } = this.#writer.ports.reads.bounce.region;
    if (zero) bytes.fill(0, this.#buffer, this.#buffer + BLOCK_BYTES);
    const at = this.#buffer + this.#from;
    if (this.#source === undefined) {
      bytes.fill(0, at, at + this.#length);
    } else {
      bytes.set(this.#source.subarray(this.#sourceOffset, this.#sourceOffset + this.#length), at);
    }
    if (!this.tryAppend()) this.#writer.waitForRoom(this);
  }

  tryAppend(): boolean {
    const { log, reads } = this.#writer.ports;
    const errno = this.#writer.admitData(this.volume, writeRecordBytes(1), 1, this);
    if (errno === WAITS) return false;
    if (errno !== 0) {
      this.#finish(errno);
      return true;
    }
    const volume = this.volume;
    const op = volume.takeOpNumber();
    const { bytes } = reads.bounce.region;
    log.appendWrite(volume.number, op, this.#block, 1, bytes, this.#buffer, this.#owner, this.#durable);
    this.#release();
    return true;
  }

  #finish(errno: number): void {
    this.#release();
    this.#owner.completed(errno);
  }

  #release(): void {
    this.#writer.ports.reads.bounce.give(this.volume.bounceShare, this.#buffer);
    this.volume.locks.free(this.#block, this.#block + 1);
  }
}
