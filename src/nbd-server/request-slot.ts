/**
 * One request between its arrival and its reply, as the volume sees it. Slots belong to a connection and are reused; the
 * transmission fills one, submits it, and takes it back when the volume calls `completed`.
 *
 * Where a slot's bytes are:
 *
 * | request | memory |
 * |---|---|
 * | small write | the connection's receive buffer, until `submit` returns |
 * | large write | a block of the pool, payload at its start |
 * | small read | the connection's reply buffer, from `place` to `completed` |
 * | large read | a block of the pool: a page of head room, in whose end the reply's header will stand, then the data |
 * | large read, lent | the same, but the data stays where the volume has it |
 * | block status | a block of the pool: a page of head room, then the extents in the form of the wire |
 */
import { assert } from '../base/assert.ts';
import type { Region } from '../base/memory.ts';
import { encodeExtent, extentBytes } from '../nbd-server-protocol/index.ts';
import type { Loan, VolumeCommand, VolumeRequest } from './exported-volume.ts';

/** Room in front of a large read's data, a page so that the data stays aligned. */
export const HEAD_ROOM_BYTES = 4096;
/** Zero runs reported beyond this many are sent as data. */
export const HOLES_PER_READ_MAX = 64;
/** The longest extent that 32 bits can tell and that ends at a block. */
const COMPACT_EXTENT_BYTES_MAX = 0xfffff000;
export const NO_BLOCK = -1;

export interface SlotOwner {
  placeSmall(slot: RequestSlot): void;
  /** With `loan`, a large read's data lies there. */
  slotCompleted(slot: RequestSlot, errno: number, loan?: Loan): void;
  hurryReplies(): void;
}

export class RequestSlot implements VolumeRequest {
  readonly #owner: SlotOwner;

  command: VolumeCommand = 'flush';
  offsetBytes = 0;
  lengthBytes = 0;
  fua = false;
  noHole = false;
  fastZero = false;
  oneExtent = false;
  holesWanted = false;
  region: Region;
  regionOffset = 0;

  // What the reply needs: the transmission's, not the volume's.
  commandNumber = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offsetHigh = 0;
  offsetLow = 0;
  startedMs = 0;
  reservedBytes = 0;
  /** Block of the pool that this request holds, or −1. */
  block = NO_BLOCK;
  /** Small read: where its header will stand in the reply buffer, or −1 before `place`. */
  placedAt = -1;
  inUse = false;

  readonly holeOffsets: number[] = [];
  readonly holeLengths: number[] = [];
  holeCount = 0;

  /** Extents written out, besides the one that may still grow. */
  extentCount = 0;
  #extentCountMax = 0;
  #extended = false;
  #extentLength = 0;
  #extentFlags = 0;
  /** Bytes that the extents cover, the growing one included. */
  #coveredBytes = 0;
  #extentsComplete = false;

  constructor(owner: SlotOwner, region: Region) {
    this.#owner = owner;
    this.region = region;
  }

  /** Readies the collection of extents, to be written at `regionOffset`. */
  beginExtents(extended: boolean, extentCountMax: number): void {
    this.extentCount = 0;
    this.#extentCountMax = extentCountMax;
    this.#extended = extended;
    this.#extentLength = 0;
    this.#coveredBytes = 0;
    this.#extentsComplete = false;
  }

  place(): void {
    assert(this.inUse && this.command === 'read', 'only a read in flight asks for room');
    // A large read had its block from the start.
    if (this.block === NO_BLOCK && this.placedAt < 0) this.#owner.placeSmall(this);
  }

  addHole(offset: number, lengthBytes: number): void {
    assert(this.inUse && this.holesWanted, 'holes are wanted');
    const last = this.holeCount - 1;
    const end = last < 0 ? 0 : this.holeOffsets[last] + this.holeLengths[last];
    assert(offset >= end && lengthBytes > 0 && offset + lengthBytes <= this.lengthBytes, 'holes ascend in the request');
    if (last >= 0 && offset === end) {
      this.holeLengths[last] += lengthBytes;
      return;
    }
    if (this.holeCount === HOLES_PER_READ_MAX) {
      // Only a large read has room for so many holes of a sensible size, and its room is there from the start.
      this.place();
      this.region.bytes.fill(0, this.regionOffset + offset, this.regionOffset + offset + lengthBytes);
      return;
    }
    this.holeOffsets[this.holeCount] = offset;
    this.holeLengths[this.holeCount] = lengthBytes;
    this.holeCount += 1;
  }

  addExtent(lengthBytes: number, flags: number): void {
    assert(this.inUse && this.command === 'blockStatus', 'only a block status in flight takes extents');
    assert(lengthBytes > 0, 'an extent has a length');
    if (this.#extentsComplete) return;
    if (this.#extentLength > 0 && flags === this.#extentFlags) {
      this.#extentLength += lengthBytes;
      this.#coveredBytes += lengthBytes;
      return;
    }
    if (this.#coveredBytes >= this.lengthBytes || this.extentCount + 1 >= this.#extentCountMax) {
      // The first extent always finds its place; any other would be one too many.
      if (this.#extentLength > 0) {
        this.#extentsComplete = true;
        return;
      }
    }
    if (this.#extentLength > 0) this.#writeExtent();
    if (this.#extentsComplete) return;
    this.#extentLength = lengthBytes;
    this.#extentFlags = flags;
    this.#coveredBytes += lengthBytes;
  }

  /** Writes the last extent. The count is at least 1. */
  endExtents(): void {
    assert(this.#extentLength > 0 || this.extentCount > 0, 'a block status has an extent');
    if (this.#extentLength === 0) return;
    if (this.oneExtent) this.#extentLength = Math.min(this.#extentLength, this.lengthBytes);
    this.#writeExtent();
  }

  #writeExtent(): void {
    let length = this.#extentLength;
    if (!this.#extended && length > COMPACT_EXTENT_BYTES_MAX) {
      // What lies behind could not follow without a gap, so the answer ends here.
      length = COMPACT_EXTENT_BYTES_MAX;
      this.#extentsComplete = true;
    }
    const at = this.regionOffset + this.extentCount * extentBytes(this.#extended);
    encodeExtent(this.region.view, at, this.#extended, length, this.#extentFlags);
    this.extentCount += 1;
    this.#extentLength = 0;
  }

  completed(errno: number): void {
    assert(this.inUse, 'a request completes once');
    this.#owner.slotCompleted(this, errno);
  }

  hurryReply(): void {
    assert(!this.inUse, 'nothing was submitted since the request was completed');
    this.#owner.hurryReplies();
  }

  completedFrom(loan: Loan): void {
    assert(this.inUse && this.command === 'read' && this.block !== NO_BLOCK, 'a large read in flight is lent its data');
    assert(this.holeCount === 0, 'all of a loan is data');
    this.#owner.slotCompleted(this, 0, loan);
  }
}
