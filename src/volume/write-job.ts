/**
 * One request that changes a volume in more than one step. It is cut into pieces, each of them one operation:
 *
 *   partial   less than a block: the block is read, changed and appended whole, under a lock
 *   inline    whole blocks, appended with their data
 *   bulk      whole chunks: data to fresh slots first, then a record that names them, under a lock
 *   range     whole blocks that are zeroed or trimmed, of any count
 *
 * The pieces do not overlap, so they may take effect in any order. The request is answered when all of them have.
 */
import { assert } from '../base/assert.ts';
import { ENOSPC } from '../base/errno.ts';
import { bulkChunksMax, inlineOpBytesMax, nbdInlineBytesMax } from '../base/limits.ts';
import type { Location } from '../base/location.ts';
import type { BlockNumber } from '../base/units.ts';
import { BLOCK_BYTES, MIB, roundUp } from '../base/units.ts';
import type { VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { OpOwner } from '../oplog/logged-op.ts';
import { RECORD_HEADER_BYTES, RecordKind, writeRecordBytes } from '../oplog/record.ts';
import { BulkWrite } from './bulk-write.ts';
import { PartialWrite } from './partial-write.ts';
import type { LockWaiter } from './range-locks.ts';
import type { Volume } from './volume.ts';
import type { Change, RoomWaiter, WriteQueue } from './write-ports.ts';

/** What writes of zeroes that have to stay allocated take their data from. */
const ZEROES = new Uint8Array(inlineOpBytesMax);
const BULK_BYTES_MAX = 8 * MIB;
/** Zeroes have no payload that would limit their length: of one request so many pieces are under way. */
const ZERO_PIECES_MAX = 16;

export class WriteJob implements OpOwner, LockWaiter, RoomWaiter {
  readonly #writer: WriteQueue;
  readonly #free: WriteJob[];
  #volume: Volume | undefined;
  #request: VolumeRequest | undefined;
  /** The payload; undefined where zeroes are written. */
  #source: Uint8Array | undefined;
  #sourceOffset = 0;
  /** Of what has been handed on as pieces, as bytes of the volume. */
  #position = 0;
  #end = 0;
  #durable = false;
  #pending = 0;
  /** The next piece waits for one of those under way. */
  #paused = false;
  #errno = 0;

  constructor(writer: WriteQueue, free: WriteJob[]) {
    this.#writer = writer;
    this.#free = free;
  }

  start(volume: Volume, request: VolumeRequest): void {
    assert(this.#request === undefined, 'a job does one thing at a time');
    this.#volume = volume;
    this.#request = request;
    this.#durable = request.fua || volume.ack === 'durable';
    this.#position = request.offsetBytes;
    this.#end = request.offsetBytes + request.lengthBytes;
    this.#errno = 0;
    this.#pending = 1;
    this.#source = undefined;
    if (request.command === 'write') {
      const { bytes } = request.region;
      const small = request.lengthBytes <= nbdInlineBytesMax;
      this.#source = small ? bytes.slice(request.regionOffset, request.regionOffset + request.lengthBytes) : bytes;
      this.#sourceOffset = small ? 0 : request.regionOffset;
    } else if (request.command === 'trim') {
      // A hint: what is less than a block stays as it is.
      this.#position = Math.min(roundUp(this.#position, BLOCK_BYTES), this.#end);
      this.#end = Math.max(this.#end - (this.#end % BLOCK_BYTES), this.#position);
    }
    this.#goOn();
  }

  get volume(): Volume {
    assert(this.#volume !== undefined, 'who waits has a request');
    return this.#volume;
  }

  lockFreed(): void {
    this.#goOn();
  }

  tryAppend(): boolean {
    const refusal = this.#writer.refusal(this.#change());
    if (refusal !== 0) this.#abandon(refusal);
    while (this.#position < this.#end && this.#errno === 0) {
      if (this.#source === undefined && this.#pending > ZERO_PIECES_MAX) {
        this.#paused = true;
        return true;
      }
      const verdict = this.#piece();
      if (verdict === 'locked') {
        this.#volume!.locks.wait(this);
        return true;
      }
      if (verdict === 'no room') return false;
    }
    this.completed(0);
    return true;
  }

  /** A piece has taken effect, or failed. */
  completed(errno: number): void {
    if (errno !== 0 && this.#errno === 0) this.#errno = errno;
    this.#pending--;
    if (this.#paused) {
      this.#paused = false;
      this.#goOn();
      return;
    }
    if (this.#pending > 0) return;
    const request = this.#request!;
    this.#request = undefined;
    this.#volume = undefined;
    this.#source = undefined;
    this.#free.push(this);
    request.completed(this.#errno);
  }

  #goOn(): void {
    if (!this.tryAppend()) this.#writer.waitForRoom(this);
  }

  #abandon(errno: number): void {
    this.#errno = errno;
  }

  /** Hands on the next piece. */
  #piece(): 'done' | 'locked' | 'no room' {
    const volume = this.#volume!;
    const first = Math.floor(this.#position / BLOCK_BYTES);
    const inBlock = this.#position % BLOCK_BYTES;
    const remaining = this.#end - this.#position;
    if (inBlock !== 0 || remaining < BLOCK_BYTES) {
      const length = Math.min(BLOCK_BYTES - inBlock, remaining);
      if (volume.locks.overlaps(first, first + 1)) return 'locked';
      volume.locks.hold(first, first + 1);
      this.#pending++;
      const source = this.#source;
      const from = this.#sourceAt();
      new PartialWrite(
        this.#writer,
        volume,
        first as BlockNumber,
        inBlock,
        length,
        source,
        from,
        this.#durable,
        this,
      ).start();
      this.#position += length;
      return 'done';
    }
    if (this.#change() !== 'data') return this.#range(first, Math.floor(remaining / BLOCK_BYTES));
    const chunks = this.#bulkChunks(remaining);
    return chunks > 0 ? this.#bulk(first, chunks, remaining) : this.#inline(first, remaining);
  }

  #change(): Change {
    const { command, noHole } = this.#request!;
    if (command === 'trim') return 'trim';
    return command === 'writeZeroes' && !noHole ? 'zeroes' : 'data';
  }

  /** Of a record that was not admitted. */
  #notAdmitted(admission: 'waits' | 'refused'): 'done' | 'no room' {
    if (admission === 'waits') return 'no room';
    this.#abandon(ENOSPC);
    return 'done';
  }

  #range(first: number, count: number): 'done' | 'locked' | 'no room' {
    const volume = this.#volume!;
    if (volume.locks.overlaps(first, first + count)) return 'locked';
    const rows = volume.rowsOfDrop(first as BlockNumber, count);
    const admission = this.#writer.admit(volume, RECORD_HEADER_BYTES, rows, this);
    if (admission !== 'admitted') return this.#notAdmitted(admission);
    const kind = this.#request!.command === 'trim' ? RecordKind.trim : RecordKind.zero;
    this.#pending++;
    const op = volume.takeOpNumber();
    this.#writer.ports.log.appendRange(kind, volume.number, op, first as BlockNumber, count, this, this.#durable);
    this.#position += count * BLOCK_BYTES;
    return 'done';
  }

  #inline(first: number, remaining: number): 'done' | 'locked' | 'no room' {
    const volume = this.#volume!;
    // Up to the next chunk, from which on whole chunks may follow.
    const toChunk = volume.chunkBytes - (this.#position % volume.chunkBytes);
    const whole = remaining - (remaining % BLOCK_BYTES);
    const bytes = Math.min(whole, toChunk, inlineOpBytesMax);
    const count = bytes / BLOCK_BYTES;
    if (volume.locks.overlaps(first, first + count)) return 'locked';
    const admission = this.#writer.admit(volume, writeRecordBytes(count), count, this);
    if (admission !== 'admitted') return this.#notAdmitted(admission);
    this.#pending++;
    const op = volume.takeOpNumber();
    const source = this.#source ?? ZEROES;
    const from = this.#sourceAt();
    this.#writer.ports.log.appendWrite(
      volume.number,
      op,
      first as BlockNumber,
      count,
      source,
      from,
      this,
      this.#durable,
    );
    this.#position += bytes;
    return 'done';
  }

  /** Count of whole chunks, from the position on, that go straight to fresh slots. */
  #bulkChunks(remaining: number): number {
    const { chunkBytes } = this.#volume!;
    if (this.#position % chunkBytes !== 0 || remaining < chunkBytes) return 0;
    // O_DIRECT wants aligned memory: payloads of their own are, small ones and odd offsets within a request are not.
    if (this.#source !== undefined && (this.#sourceAt() % BLOCK_BYTES !== 0 || this.#isSmall())) return 0;
    return Math.min(Math.floor(remaining / chunkBytes), bulkChunksMax, Math.max(1, BULK_BYTES_MAX / chunkBytes));
  }

  #bulk(first: number, chunks: number, remaining: number): 'done' | 'locked' | 'no room' {
    const volume = this.#volume!;
    if (volume.locks.overlaps(first, first + chunks * volume.blocksPerChunk)) return 'locked';
    const locations = this.#freshSlots(chunks);
    if (locations.length === 0) return this.#withoutSlot(first, remaining);
    const count = locations.length * volume.blocksPerChunk;
    volume.locks.hold(first, first + count);
    this.#pending++;
    const region = this.#source === undefined ? undefined : this.#request!.region;
    const from = this.#sourceAt();
    new BulkWrite(this.#writer, volume, first as BlockNumber, locations, region, from, this.#durable, this).start();
    this.#position += count * BLOCK_BYTES;
    return 'done';
  }

  /** As many as there are of so many. */
  #freshSlots(count: number): Location[] {
    const { number, chunkBytes } = this.#volume!;
    const locations: Location[] = [];
    while (locations.length < count) {
      const location = this.#writer.ports.slots.allocate(number, chunkBytes);
      if (location === undefined) break;
      locations.push(location);
    }
    return locations;
  }

  /**
   * There is no slot. A chunk that has one can be overwritten there, by way of the log like a small write, and where space is
   * on its way back others can wait in the log for it.
   */
  #withoutSlot(first: number, remaining: number): 'done' | 'locked' | 'no room' {
    const volume = this.#volume!;
    const { spaceReturns, storageIsFull } = this.#writer.ports;
    const hasSlot = volume.locationOf(volume.chunkOf(first as BlockNumber)) !== undefined;
    const refusal = hasSlot || (spaceReturns && !storageIsFull) ? this.#writer.refusal('data') : ENOSPC;
    if (refusal === 0) return this.#inline(first, remaining);
    this.#abandon(refusal);
    return 'done';
  }

  #isSmall(): boolean {
    return this.#request!.lengthBytes <= nbdInlineBytesMax;
  }

  /** Where the position's byte lies in the source. */
  #sourceAt(): number {
    return this.#source === undefined ? 0 : this.#sourceOffset + this.#position - this.#request!.offsetBytes;
  }
}
