/**
 * Writes whole chunks: the data goes to fresh slots, and when it is there a record that names them is appended. The data
 * is so written once, and a crash in between leaves the old chunks as they were. The caller holds the chunks' lock, so
 * that nothing is appended for them in between; it is given free here.
 *
 * A flush waits for the devices that records name. Where one takes long to sync, this waits for it instead, before there is
 * a record: a device that is slow is slow for those who write to it.
 */
import { assert } from '../base/assert.ts';
import { takeSums } from '../base/checksum.ts';
import { EIO, ENOSPC, isNoSpace } from '../base/errno.ts';
import type { IoRequest } from '../base/io.ts';
import type { Location } from '../base/location.ts';
import type { Region } from '../base/memory.ts';
import type { BlockNumber } from '../base/units.ts';
import type { BulkChunk, OpOwner } from '../oplog/logged-op.ts';
import { bulkRecordBytes } from '../oplog/record.ts';
import type { Volume } from './volume.ts';
import { type RoomWaiter, WAITS, type WriteQueue } from './write-ports.ts';

/** A write of slots that follow one another. */
class SlotWrite implements IoRequest {
  readonly #bulk: BulkWrite;
  readonly #location: Location;

  constructor(bulk: BulkWrite, location: Location) {
    this.#bulk = bulk;
    this.#location = location;
  }

  ioCompleted(result: number): void {
    this.#bulk.slotsWritten(this.#location, result);
  }
}

export class BulkWrite implements IoRequest, RoomWaiter {
  readonly #writer: WriteQueue;
  readonly volume: Volume;
  readonly #first: BlockNumber;
  readonly #locations: readonly Location[];
  readonly #region: Region | undefined;
  readonly #regionOffset: number;
  readonly #durable: boolean;
  readonly #owner: OpOwner;
  readonly #chunks: BulkChunk[] = [];
  #pending = 1;
  #errno = 0;
  /** The data was written, and on a device that takes long to sync it was synced or is. */
  #isSecure = false;

  /**
   * The chunks from block `first` on become what lies in `region`, or allocated zeroes without one; `locations` are slots for
   * them that no record has named yet.
   */
  constructor(
    writer: WriteQueue,
    volume: Volume,
    first: BlockNumber,
    locations: readonly Location[],
    region: Region | undefined,
    regionOffset: number,
    durable: boolean,
    owner: OpOwner,
  ) {
    this.#writer = writer;
    this.volume = volume;
    this.#first = first;
    this.#locations = locations;
    this.#region = region;
    this.#regionOffset = regionOffset;
    this.#durable = durable;
    this.#owner = owner;
  }

  start(): void {
    const { chunkBytes, blocksPerChunk } = this.volume;
    for (const [i, location] of this.#locations.entries()) {
      const dataOffset = this.#regionOffset + i * chunkBytes;
      const sums = new Uint32Array(blocksPerChunk);
      this.#chunks.push({ location, sums, data: this.#region?.bytes, dataOffset });
    }
    if (this.#region !== undefined) this.#writeData(this.#region);
    this.#writeDone();
  }

  slotsWritten(location: Location, result: number): void {
    if (result < 0 && !isNoSpace(result)) this.#writer.ports.storage.writeFailed(location);
    this.ioCompleted(result);
  }

  ioCompleted(result: number): void {
    if (result < 0 && this.#errno !== EIO) this.#errno = isNoSpace(result) ? ENOSPC : EIO;
    this.#writeDone();
  }

  tryAppend(): boolean {
    const { log } = this.#writer.ports;
    const volume = this.volume;
    const errno = this.#writer.admitData(
      volume,
      bulkRecordBytes(this.#locations.length, volume.blocksPerChunk),
      this.#locations.length,
      this,
    );
    if (errno === WAITS) return false;
    if (errno !== 0) {
      this.#fail(errno);
      return true;
    }
    const op = volume.takeOpNumber();
    const firstChunk = volume.chunkOf(this.#first);
    log.appendBulk(volume.number, op, firstChunk, this.#chunks, this.#owner, this.#durable);
    this.#unlock();
    return true;
  }

  /** Chunks whose slots follow one another are written as one. */
  #writeData(region: Region): void {
    const { reads, storage } = this.#writer.ports;
    const { chunkBytes, blocksPerChunk } = this.volume;
    const locations = this.#locations;
    for (let i = 0; i < locations.length; ) {
      let j = i + 1;
      while (j < locations.length && locations[j] === locations[j - 1] + blocksPerChunk) j++;
      this.#pending++;
      const offset = this.#regionOffset + i * chunkBytes;
      const request = new SlotWrite(this, locations[i]);
      storage.write(locations[i], region, offset, (j - i) * chunkBytes, request);
      i = j;
    }
    // While the device works.
    for (let i = 0; i < locations.length; i++) {
      const offset = this.#regionOffset + i * chunkBytes;
      takeSums(reads.checksums, region.bytes, offset, blocksPerChunk, this.#chunks[i].sums, 0);
    }
  }

  #writeDone(): void {
    if (--this.#pending > 0) return;
    const { storage } = this.#writer.ports;
    if (this.#errno !== 0) {
      this.#fail(this.#errno);
      return;
    }
    if (this.#region !== undefined && !this.#isSecure) {
      this.#isSecure = true;
      this.#pending = 1;
      if (storage.secure(this.#chunks, this)) return;
      for (const chunk of this.#chunks) storage.wrote(chunk.location);
    }
    if (!this.tryAppend()) this.#writer.waitForRoom(this);
  }

  #fail(errno: number): void {
    assert(errno > 0, 'a failure has an errno');
    const { slots } = this.#writer.ports;
    for (const location of this.#locations) slots.release(location);
    this.#unlock();
    this.#owner.completed(errno);
  }

  #unlock(): void {
    this.volume.locks.free(this.#first, this.#first + this.#locations.length * this.volume.blocksPerChunk);
  }
}
