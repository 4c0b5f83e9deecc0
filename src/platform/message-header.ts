/**
 * What the kernel reads of a SENDMSG: a `struct msghdr` and behind it its `struct iovec`s, in the layout of 64-bit Linux. One
 * page, laid anew for each send; nobody changes it while that is under way.
 *
 * | word (32 bits) | field | | word | field |
 * |---|---|---|---|---|
 * | 0 … 3 | name and its length: none | | 8 … 12 | control data and flags: none |
 * | 4, 5 | address of the iovecs | | 16, 17 | address of the first piece |
 * | 6, 7 | count of the iovecs | | 18, 19 | its length; the others follow |
 */
import { assert } from '../base/assert.ts';
import type { MemoryPiece, Region } from '../base/memory.ts';
import { sendPiecesMax } from '../base/stream.ts';
import { addressWithin, allocateRegion } from './io-memory.ts';

const HEADER_WORDS = 16;
const IOVEC_WORDS = 4;
const BYTES = 4096;
const TWO_32 = 2 ** 32;
assert(sendPiecesMax === (BYTES / 4 - HEADER_WORDS) / IOVEC_WORDS, 'all pieces of a send fit');

export class MessageHeader {
  readonly region: Region = allocateRegion(BYTES);
  readonly #words = new Uint32Array(this.region.bytes.buffer);
  #pieces: readonly MemoryPiece[] = [];
  #count = 0;

  constructor() {
    this.#putAddress(4, this.region.address + HEADER_WORDS * 4);
  }

  /** Lays the header of all of the first `count` pieces; returns how many bytes they are. They stay as they are meanwhile. */
  begin(pieces: readonly MemoryPiece[], count: number): number {
    assert(count > 0 && count <= sendPiecesMax, 'as many pieces as fit');
    this.#pieces = pieces;
    this.#count = count;
    return this.layFrom(0);
  }

  /** Lays the header of what is left behind the first `done` bytes; returns how many those are. */
  layFrom(done: number): number {
    let laid = 0;
    let skip = done;
    let at = HEADER_WORDS;
    for (let index = 0; index < this.#count; index++) {
      const { region, offset, length } = this.#pieces[index];
      if (skip >= length) {
        skip -= length;
        continue;
      }
      this.#putAddress(at, addressWithin(region, offset, length) + skip);
      this.#words[at + 2] = length - skip;
      at += IOVEC_WORDS;
      laid += length - skip;
      skip = 0;
    }
    this.#words[6] = (at - HEADER_WORDS) / IOVEC_WORDS;
    return laid;
  }

  #putAddress(at: number, address: number): void {
    this.#words[at] = address;
    this.#words[at + 1] = address / TWO_32;
  }
}
