/**
 * What the log holds that mass storage does not yet: for each block the place of its newest data in the log, for each
 * chunk that was written as a whole its new slot. The head enters operations when they are committed, reads look here
 * before the index, and the destage takes out what it has carried over. One overlay serves all volumes of a head.
 *
 * Invariants:
 * - An entry is of the newest committed operation on its block; entries of older ones are gone. A block entry is newer
 *   than the chunk entry beside it, because a chunk entry drops the block entries it finds.
 * - Every chunk row has a block entry or a chunk entry; it is in the dirty list of each log segment that holds one of
 *   its operations, so that when all chunks of a segment's list have been destaged nothing needs that segment.
 * - No block of a chunk lies before the chunk's `oldestOf` in the log: it may lie before all of them.
 * - The table never overflows: operations reserve their rows before they are logged (`reserve`); what recovery enters
 *   once more may take more rows than were ever in use at a time, so for it the table grows (`makeRoom`).
 *
 * Cost: 40 bytes for a block and 48 for a chunk, in arrays that are touched no further than they were ever full. A row is half
 * a cache line: to enter a random block takes six lines that the processor does not have, and a dozen where each figure has
 * a column of its own.
 */
import { assert } from '../base/assert.ts';
import { NO_SUM } from '../base/checksum.ts';
import { KeyTable, keyHigh, keyNumber, keyVolume } from '../base/key-table.ts';
import type { BlockNumber, ChunkNumber, OpNumber, VolumeNumber } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';

/** Chunks that have operations in one log segment; the n-th of each list belong together. */
export interface DirtyList {
  readonly volumes: VolumeNumber[];
  readonly chunks: ChunkNumber[];
}

const NONE = -1;
/**
 * What the rows of the two tables hold, in words of 32 bits; two of them are a number of 64 bits.
 *
 * | words | 0, 1 | 2, 3 | 4 | 5 | 6 | 7 |
 * |---|---|---|---|---|---|---|
 * | of a block | key | position | sum | next | previous | chunk's row |
 * | of a chunk | key | op number | oldest position | (of 4, 5) | first block's row | listed |
 */
const ROW_WORDS = 8;
const BLOCK_SUM = 4;
const BLOCK_NEXT = 5;
const BLOCK_PREVIOUS = 6;
const BLOCK_CHUNK = 7;
const CHUNK_FIRST = 6;
const CHUNK_LISTED = 7;
/** In numbers of 64 bits. */
const ROW_NUMBERS = 4;
const BLOCK_POSITION = 1;
const CHUNK_OP = 1;
const CHUNK_OLDEST = 2;

export class Overlay {
  readonly #blocks: KeyTable;
  readonly #chunks: KeyTable;
  readonly #entries: (ChunkEntry | undefined)[] = [];
  readonly #dirty = new Map<number, DirtyList>();
  #list: DirtyList = { volumes: [], chunks: [] };
  /** Rises with each new list: what CHUNK_LISTED is compared with. */
  #listNumber = 0;
  #reserved = 0;

  /** Room for `capacity` blocks and as many chunks. */
  constructor(capacity: number) {
    this.#blocks = new KeyTable(capacity, ROW_WORDS);
    this.#chunks = new KeyTable(capacity, ROW_WORDS);
  }

  get capacity(): number {
    return this.#blocks.capacity;
  }

  get blockCount(): number {
    return this.#blocks.count;
  }

  get chunkCount(): number {
    return this.#chunks.count;
  }

  /** Rows that are in use or reserved. */
  get usedRows(): number {
    return this.enteredRows + this.#reserved;
  }

  /** Without those that operations under way have reserved, more of them than they may come to need. */
  get enteredRows(): number {
    return Math.max(this.#blocks.count, this.#chunks.count);
  }

  /** Share of the table that is in use or reserved, 0 to 1. */
  get fill(): number {
    return this.usedRows / this.#blocks.capacity;
  }

  /** Takes `rows` out of what others may use, until `release`. False when there are not as many. */
  reserve(rows: number): boolean {
    if (this.usedRows + rows > this.#blocks.capacity) return false;
    this.#reserved += rows;
    return true;
  }

  /** For operations on blocks that have rows already: they take no further ones, but are released like the others. */
  reserveReplaced(rows: number): void {
    this.#reserved += rows;
  }

  release(rows: number): void {
    this.#reserved -= rows;
    assert(this.#reserved >= 0, 'only what was reserved is released');
  }

  /** For recovery, which cannot wait for a destage: grows the table where `rows` more might not fit. */
  makeRoom(rows: number): void {
    const needed = this.usedRows + rows;
    if (needed <= this.#blocks.capacity) return;
    const capacity = Math.max(needed, 2 * this.#blocks.capacity);
    this.#blocks.grow(capacity);
    this.#chunks.grow(capacity);
  }

  /** Operations that are entered from now on lie in this log segment. */
  enterSegment(segment: number): void {
    let list = this.#dirty.get(segment);
    if (list === undefined) {
      list = { volumes: [], chunks: [] };
      this.#dirty.set(segment, list);
    }
    this.#list = list;
    this.#listNumber++;
  }

  /** Takes the lists of segments [from, to). Chunks may be in it that have been destaged meanwhile, and some twice. */
  takeDirty(from: number, to: number): DirtyList {
    const taken: DirtyList = { volumes: [], chunks: [] };
    for (let segment = from; segment < to; segment++) {
      const list = this.#dirty.get(segment);
      if (list === undefined) continue;
      this.#dirty.delete(segment);
      append(taken, list, 0);
      if (list === this.#list) this.enterSegment(segment);
    }
    return taken;
  }

  /** Gives back a list that was taken, from `from` on, in front of what has come to its segment meanwhile. */
  putBackDirty(segment: number, list: DirtyList, from: number): void {
    const since = this.#dirty.get(segment);
    const merged: DirtyList = { volumes: [], chunks: [] };
    append(merged, list, from);
    if (since !== undefined) append(merged, since, 0);
    this.#dirty.set(segment, merged);
    if (since === this.#list) this.enterSegment(segment);
  }

  /** How many blocks of some volumes it holds, and how many of those have data in the log. */
  blocksOf(volumes: ReadonlySet<VolumeNumber>): { readonly rows: number; readonly withData: number } {
    let rows = 0;
    let withData = 0;
    for (let row = 0; row < this.#blocks.rowsTouched; row++) {
      if (!volumes.has(keyVolume(this.#blocks.highOf(row)) as VolumeNumber) || !this.#blocks.isUsed(row)) continue;
      rows++;
      if (this.sumOf(row) !== NO_SUM) withData++;
    }
    return { rows, withData };
  }

  // --- blocks ----------------------------------------------------------------------------------------------------------

  /** Row of the block's entry, or -1. */
  findBlock(volume: VolumeNumber, block: BlockNumber): number {
    return this.#blocks.find(keyHigh(volume, block), block >>> 0);
  }

  /** Position of the block's data in the log; of its record where the block was zeroed. */
  positionOf(row: number): number {
    return this.#blocks.numbers[row * ROW_NUMBERS + BLOCK_POSITION];
  }

  /** Checksum of the block's data; NO_SUM: it reads as zeroes. */
  sumOf(row: number): number {
    return this.#blocks.words[row * ROW_WORDS + BLOCK_SUM] >>> 0;
  }

  blockOf(row: number): BlockNumber {
    return keyNumber(this.#blocks.highOf(row), this.#blocks.lowOf(row)) as BlockNumber;
  }

  /** Enters a block whose data lies at `position` of the log, or that reads as zeroes (`sum` NO_SUM). */
  setBlock(
    volume: VolumeNumber,
    block: BlockNumber,
    chunk: ChunkNumber,
    op: OpNumber,
    position: number,
    sum: number,
  ): void {
    const { words } = this.#blocks;
    let row = this.#blocks.find(keyHigh(volume, block), block >>> 0);
    let chunkRow: number;
    if (row >= 0) {
      chunkRow = words[row * ROW_WORDS + BLOCK_CHUNK];
    } else {
      row = this.#blocks.insert(keyHigh(volume, block), block >>> 0);
      chunkRow = this.#chunkRow(volume, chunk);
      const next = this.firstBlock(chunkRow);
      const at = row * ROW_WORDS;
      words[at + BLOCK_NEXT] = next;
      words[at + BLOCK_PREVIOUS] = NONE;
      words[at + BLOCK_CHUNK] = chunkRow;
      if (next !== NONE) words[next * ROW_WORDS + BLOCK_PREVIOUS] = row;
      this.#setFirstBlock(chunkRow, row);
    }
    this.#blocks.numbers[row * ROW_NUMBERS + BLOCK_POSITION] = position;
    words[row * ROW_WORDS + BLOCK_SUM] = sum;
    const { numbers } = this.#chunks;
    const at = chunkRow * ROW_NUMBERS;
    numbers[at + CHUNK_OP] = op;
    if (position < numbers[at + CHUNK_OLDEST]) numbers[at + CHUNK_OLDEST] = position;
    this.#touch(chunkRow, volume, chunk);
  }

  /** Takes a block's entry out, and its chunk's row when nothing else is in it. */
  removeBlock(row: number): void {
    const { words } = this.#blocks;
    const chunkRow = words[row * ROW_WORDS + BLOCK_CHUNK];
    const next = words[row * ROW_WORDS + BLOCK_NEXT];
    const previous = words[row * ROW_WORDS + BLOCK_PREVIOUS];
    if (previous === NONE) this.#setFirstBlock(chunkRow, next);
    else words[previous * ROW_WORDS + BLOCK_NEXT] = next;
    if (next !== NONE) words[next * ROW_WORDS + BLOCK_PREVIOUS] = previous;
    this.#blocks.remove(row);
    if (previous === NONE && next === NONE && this.#entries[chunkRow] === undefined) this.#chunks.remove(chunkRow);
  }

  // --- chunks ----------------------------------------------------------------------------------------------------------

  /** Row of a chunk that has any entry, or -1. */
  findChunk(volume: VolumeNumber, chunk: ChunkNumber): number {
    return this.#chunks.find(keyHigh(volume, chunk), chunk >>> 0);
  }

  entryOf(chunkRow: number): ChunkEntry | undefined {
    return this.#entries[chunkRow];
  }

  /** Op number of the newest operation on the chunk. */
  opOf(chunkRow: number): OpNumber {
    return this.#chunks.numbers[chunkRow * ROW_NUMBERS + CHUNK_OP] as OpNumber;
  }

  /** Where in the log the chunk's blocks lie, or behind it: most of those that a step looks at need no further look. */
  oldestOf(chunkRow: number): number {
    return this.#chunks.numbers[chunkRow * ROW_NUMBERS + CHUNK_OLDEST];
  }

  /** A look at all of the chunk's blocks has found that none lies before `position`. */
  learnOldest(chunkRow: number, position: number): void {
    this.#chunks.numbers[chunkRow * ROW_NUMBERS + CHUNK_OLDEST] = position;
  }

  /** First row of the chunk's blocks, in no order, or -1; `nextBlock` goes on. */
  firstBlock(chunkRow: number): number {
    return this.#chunks.words[chunkRow * ROW_WORDS + CHUNK_FIRST];
  }

  nextBlock(row: number): number {
    return this.#blocks.words[row * ROW_WORDS + BLOCK_NEXT];
  }

  /** Enters a chunk that was written as a whole: the entries of its blocks are older and go. */
  setChunk(volume: VolumeNumber, chunk: ChunkNumber, entry: ChunkEntry): void {
    const chunkRow = this.#chunkRow(volume, chunk);
    this.#entries[chunkRow] = entry;
    this.#chunks.numbers[chunkRow * ROW_NUMBERS + CHUNK_OP] = entry.op;
    while (this.firstBlock(chunkRow) !== NONE) this.removeBlock(this.firstBlock(chunkRow));
    this.#touch(chunkRow, volume, chunk);
  }

  /** Takes a chunk's own entry out, and its row when it has no blocks. */
  removeEntry(chunkRow: number): void {
    assert(this.#entries[chunkRow] !== undefined, 'the chunk has an entry');
    this.#entries[chunkRow] = undefined;
    if (this.firstBlock(chunkRow) === NONE) this.#chunks.remove(chunkRow);
  }

  /** Takes all there is of a chunk out. */
  removeChunk(chunkRow: number): void {
    const hadEntry = this.#entries[chunkRow] !== undefined;
    this.#entries[chunkRow] = undefined;
    if (this.firstBlock(chunkRow) === NONE) {
      assert(hadEntry, 'a chunk row has something in it');
      this.#chunks.remove(chunkRow);
      return;
    }
    for (let row = this.firstBlock(chunkRow); row !== NONE; ) {
      const next = this.nextBlock(row);
      this.removeBlock(row);
      row = next;
    }
  }

  /** Calls `visit` with each chunk of [from, to) of the volume that has any entry, in no order; it may remove them. */
  forChunks(volume: VolumeNumber, from: number, to: number, visit: (chunk: ChunkNumber, row: number) => void): void {
    if (to - from <= this.#chunks.count) {
      for (let chunk = from; chunk < to; chunk++) {
        const row = this.findChunk(volume, chunk as ChunkNumber);
        if (row >= 0) visit(chunk as ChunkNumber, row);
      }
      return;
    }
    for (let row = 0; row < this.#chunks.rowsTouched; row++) {
      const high = this.#chunks.highOf(row);
      if (keyVolume(high) !== volume) continue;
      const chunk = keyNumber(high, this.#chunks.lowOf(row));
      if (chunk >= from && chunk < to && this.#chunks.isUsed(row)) visit(chunk as ChunkNumber, row);
    }
  }

  #chunkRow(volume: VolumeNumber, chunk: ChunkNumber): number {
    const high = keyHigh(volume, chunk);
    const found = this.#chunks.find(high, chunk >>> 0);
    if (found >= 0) return found;
    const row = this.#chunks.insert(high, chunk >>> 0);
    this.#entries[row] = undefined;
    this.#setFirstBlock(row, NONE);
    this.learnOldest(row, Number.POSITIVE_INFINITY);
    this.#chunks.words[row * ROW_WORDS + CHUNK_LISTED] = 0;
    return row;
  }

  #setFirstBlock(chunkRow: number, row: number): void {
    this.#chunks.words[chunkRow * ROW_WORDS + CHUNK_FIRST] = row;
  }

  #touch(chunkRow: number, volume: VolumeNumber, chunk: ChunkNumber): void {
    const { words } = this.#chunks;
    const at = chunkRow * ROW_WORDS + CHUNK_LISTED;
    if (words[at] === this.#listNumber) return;
    words[at] = this.#listNumber;
    this.#list.volumes.push(volume);
    this.#list.chunks.push(chunk);
  }
}

function append(to: DirtyList, list: DirtyList, from: number): void {
  for (let i = from; i < list.chunks.length; i++) {
    to.volumes.push(list.volumes[i]);
    to.chunks.push(list.chunks[i]);
  }
}
