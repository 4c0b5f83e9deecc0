/**
 * Lays the replies of one connection into its queue, in the format that it agreed on:
 *
 * | agreed | success without data | READ | BLOCK_STATUS | errors |
 * |---|---|---|---|---|
 * | nothing | simple | simple, data behind | (not offered) | simple |
 * | structured replies | simple | OFFSET_DATA and OFFSET_HOLE chunks | BLOCK_STATUS | ERROR chunk with a text |
 * | extended headers | NONE | the same in 32-byte headers | BLOCK_STATUS_EXT | the same |
 *
 * Data is in memory in full before its first chunk is laid, so DONE may stand on the last content chunk. The caller has
 * reserved room: none of these can fail.
 */
import { assert } from '../base/assert.ts';
import {
  chunkHeaderBytes,
  EXTENDED_REPLY_BYTES,
  encodeBlockStatus,
  encodeError,
  encodeNone,
  encodeOffsetData,
  encodeOffsetHole,
  encodeSimpleReply,
  type ReplyTarget,
  SIMPLE_REPLY_BYTES,
} from '../nbd-server-protocol/index.ts';
import type { Loan } from './exported-volume.ts';
import { REFUSAL_TEXT_BYTES_MAX, type Refusal } from './refusal.ts';
import type { ReplyQueue } from './reply-queue.ts';
import { NO_BLOCK, type RequestSlot } from './request-slot.ts';

/** The most that a reply without data takes: an error chunk with the longest text in the longest format. */
export const BARE_REPLY_BYTES = EXTENDED_REPLY_BYTES + 6 + REFUSAL_TEXT_BYTES_MAX;
/** A shorter run of zeroes is sent as data: its chunk would save little, and its place holds two headers. */
const HOLE_BYTES_MIN = 4096;

export class ReplyWriter {
  readonly #queue: ReplyQueue;
  readonly #structured: boolean;
  readonly #extended: boolean;
  /** What stands in front of a data run: 16, 28 or 40 bytes. */
  readonly #dataHeaderBytes: number;
  readonly #holeChunkBytes: number;

  /** `structured` is true with extended headers, too. */
  constructor(queue: ReplyQueue, structured: boolean, extended: boolean) {
    this.#queue = queue;
    this.#structured = structured;
    this.#extended = extended;
    this.#dataHeaderBytes = structured ? chunkHeaderBytes(extended) + 8 : SIMPLE_REPLY_BYTES;
    this.#holeChunkBytes = chunkHeaderBytes(extended) + 12;
  }

  refusal(target: ReplyTarget, refusal: Refusal): void {
    const filling = this.#queue.filling;
    const { view, bytes, used } = filling;
    filling.used += this.#structured
      ? encodeError(view, bytes, used, this.#extended, target, refusal.error, refusal.text)
      : encodeSimpleReply(view, used, target, refusal.error);
  }

  success(target: ReplyTarget): void {
    const filling = this.#queue.filling;
    filling.used += this.#extended
      ? encodeNone(filling.view, filling.used, true, target)
      : encodeSimpleReply(filling.view, filling.used, target, 0);
  }

  /** A READ of no bytes at all: there is no content chunk to be had. */
  emptyRead(target: ReplyTarget): void {
    const filling = this.#queue.filling;
    filling.used += this.#structured
      ? encodeNone(filling.view, filling.used, this.#extended, target)
      : encodeSimpleReply(filling.view, filling.used, target, 0);
  }

  /** Room for a small read's data, behind where its header will stand. */
  placeSmall(slot: RequestSlot): void {
    const filling = this.#queue.filling;
    slot.placedAt = filling.used;
    slot.region = filling.region;
    slot.regionOffset = filling.used + this.#dataHeaderBytes;
    filling.used = slot.regionOffset + slot.lengthBytes;
    this.#queue.openSmall();
  }

  read(slot: RequestSlot): void {
    if (slot.holeCount > 0 && this.#wholeHole(slot)) return;
    if (slot.block !== NO_BLOCK) this.#largeRead(slot);
    else this.#smallRead(slot);
  }

  #smallRead(slot: RequestSlot): void {
    assert(slot.placedAt >= 0, 'a read that is no hole was placed');
    this.#queue.closeSmall();
    const filling = this.#queue.filling;
    if (slot.holeCount > 0) {
      // Only the last reply of the buffer can shrink without leaving a gap.
      const last = filling.used === slot.regionOffset + slot.lengthBytes;
      this.#keepHoles(slot, last ? HOLE_BYTES_MIN : Number.MAX_SAFE_INTEGER);
      if (slot.holeCount > 0) {
        this.#compactSmallRead(slot);
        return;
      }
    }
    this.#dataHeader(filling.view, slot.placedAt, slot, true, 0, slot.lengthBytes);
  }

  /** Chunks one behind another; each hole frees more than its chunk and the next header take, so data only moves down. */
  #compactSmallRead(slot: RequestSlot): void {
    const filling = this.#queue.filling;
    const { view, bytes } = filling;
    let to = slot.placedAt;
    let position = 0;
    for (let index = 0; index <= slot.holeCount; index += 1) {
      const runEnd = index < slot.holeCount ? slot.holeOffsets[index] : slot.lengthBytes;
      if (runEnd > position) {
        const from = slot.regionOffset + position;
        const header = this.#dataHeader(view, to, slot, runEnd === slot.lengthBytes, position, runEnd - position);
        if (to + header !== from) bytes.copyWithin(to + header, from, from + runEnd - position);
        to += header + runEnd - position;
      }
      if (index === slot.holeCount) break;
      position = runEnd + slot.holeLengths[index];
      to += this.#holeChunk(view, to, slot, position === slot.lengthBytes, runEnd, slot.holeLengths[index]);
    }
    filling.used = to;
  }

  /** Each data run is a segment of its own; headers stand in the head room or in the hole before the run. */
  #largeRead(slot: RequestSlot): void {
    const { region, regionOffset: data, lengthBytes: length, block } = slot;
    this.#keepHoles(slot, HOLE_BYTES_MIN);
    let position = 0;
    for (let index = 0; index <= slot.holeCount; index += 1) {
      const runEnd = index < slot.holeCount ? slot.holeOffsets[index] : length;
      const nextPosition = index < slot.holeCount ? runEnd + slot.holeLengths[index] : length;
      if (runEnd > position) {
        let start = data + position - this.#dataHeaderBytes;
        this.#dataHeader(region.view, start, slot, runEnd === length, position, runEnd - position);
        if (index > 0) {
          start -= this.#holeChunkBytes;
          const hole = slot.holeLengths[index - 1];
          this.#holeChunk(region.view, start, slot, false, position - hole, hole);
        }
        let end = data + runEnd;
        // A hole at the very end has no run behind it: its chunk follows the data, within its own place.
        if (runEnd < length && nextPosition === length) {
          end += this.#holeChunk(region.view, end, slot, true, runEnd, length - runEnd);
        }
        this.#queue.pushBlock(start, end - start, nextPosition === length ? block : NO_BLOCK);
      }
      position = nextPosition;
      if (position === length) break;
    }
    slot.block = NO_BLOCK;
  }

  /** The header stands in the head room, as ever; the data goes out from where it lies. */
  lentRead(slot: RequestSlot, loan: Loan): void {
    const { region, regionOffset, lengthBytes, block } = slot;
    const start = regionOffset - this.#dataHeaderBytes;
    const header = this.#dataHeader(region.view, start, slot, true, 0, lengthBytes);
    this.#queue.pushLoan(start, header, block, loan);
    slot.block = NO_BLOCK;
  }

  /** A read that is one hole needs no data at all. */
  #wholeHole(slot: RequestSlot): boolean {
    if (slot.holeCount !== 1 || slot.holeLengths[0] !== slot.lengthBytes) return false;
    const filling = this.#queue.filling;
    if (slot.placedAt >= 0) {
      if (filling.used !== slot.regionOffset + slot.lengthBytes) return false;
      filling.used = slot.placedAt;
      this.#queue.closeSmall();
    }
    filling.used += this.#holeChunk(filling.view, filling.used, slot, true, 0, slot.lengthBytes);
    return true;
  }

  /** Turns holes shorter than `bytesMin` into zeroes, and keeps the others. */
  #keepHoles(slot: RequestSlot, bytesMin: number): void {
    let kept = 0;
    for (let index = 0; index < slot.holeCount; index += 1) {
      const offset = slot.holeOffsets[index];
      const length = slot.holeLengths[index];
      if (length >= bytesMin) {
        slot.holeOffsets[kept] = offset;
        slot.holeLengths[kept] = length;
        kept += 1;
      } else {
        slot.region.bytes.fill(0, slot.regionOffset + offset, slot.regionOffset + offset + length);
      }
    }
    slot.holeCount = kept;
  }

  blockStatus(slot: RequestSlot, contextId: number): void {
    slot.endExtents();
    const { region, regionOffset, block, extentCount } = slot;
    const fixed = this.#extended ? 8 : 4;
    const header = chunkHeaderBytes(this.#extended) + fixed;
    const start = regionOffset - header;
    encodeBlockStatus(region.view, start, this.#extended, slot, true, contextId, extentCount);
    this.#queue.pushBlock(start, header + extentCount * (this.#extended ? 16 : 8), block);
    slot.block = NO_BLOCK;
  }

  /** `position` is relative to the request. */
  #dataHeader(
    view: DataView,
    at: number,
    slot: RequestSlot,
    done: boolean,
    position: number,
    lengthBytes: number,
  ): number {
    if (!this.#structured) return encodeSimpleReply(view, at, slot, 0);
    return encodeOffsetData(view, at, this.#extended, slot, done, slot.offsetBytes + position, lengthBytes);
  }

  #holeChunk(
    view: DataView,
    at: number,
    slot: RequestSlot,
    done: boolean,
    position: number,
    lengthBytes: number,
  ): number {
    return encodeOffsetHole(view, at, this.#extended, slot, done, slot.offsetBytes + position, lengthBytes);
  }
}

/** The most that a small read's reply takes in the reply buffer. */
export function smallReadReplyBytes(lengthBytes: number): number {
  return Math.max(BARE_REPLY_BYTES, EXTENDED_REPLY_BYTES + 8 + lengthBytes);
}
