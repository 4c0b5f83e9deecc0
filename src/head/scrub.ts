/**
 * Reads every block of a volume that lies in mass storage and checks it against its checksum, while the volume is in use.
 * The node starts it for `sledge scrub`, one at a time for a volume.
 *
 * Invariants:
 * - Nothing comes into the block cache, and no index entry into the memory of those that clients use.
 * - A chunk is looked up in the moment in which it is read. A block that the overlay has something newer of is left out:
 *   the destage may be writing its place anew, and no client reads it from there.
 * - A block counts as damaged only if its place, its checksum and the commits to it were the same after the read as
 *   before; otherwise it was moved or rewritten meanwhile and is read again. Each block is found damaged once.
 * - Memory is waited for in the same line as clients do, and none is held meanwhile but by reads under way.
 * - At most `scrubReadsInFlight` reads are under way, and no more bytes begin to be read than the rate allows; what was
 *   missed while the loop was late is caught up with for `CATCH_UP_MS` at most.
 *
 * Cost of 64 KiB: two look-ups 4 µs, one submission, checksums 5 µs; at the usual rate a thousand of them a second.
 */
import { assert } from '../base/assert.ts';
import { NO_SUM, takeSums } from '../base/checksum.ts';
import type { CancelTimer, Clock } from '../base/io.ts';
import { completion, IoWindow } from '../base/io-wait.ts';
import { bounceBufferBytes, damagedBlocksMax, readRetriesMax, scrubReadsInFlight } from '../base/limits.ts';
import type { BlockFault, Location } from '../base/location.ts';
import type { BlockNumber, ChunkNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { Volume } from '../volume/volume.ts';
import type { Head } from './head.ts';
import { MappedChunks } from './mapped-chunks.ts';

export interface ScrubPorts {
  readonly head: Head;
  readonly clock: Clock;
}

/** A block that is not what it should be. */
export interface DamagedBlock {
  readonly block: BlockNumber;
  readonly location: Location;
  readonly fault: BlockFault;
}

/** A timer tells no shorter time well: what is due within it is read at once. */
const EARLY_MS = 4;
const CATCH_UP_MS = 50;
/** A chunk that has nothing to read costs its look-up: others get their turn between many of those, at any rate. */
const NOTHING_MS = 0.05;
const PIECE_BLOCKS = bounceBufferBytes / BLOCK_BYTES;

/** Blocks of one chunk that are read together. */
class Piece {
  /** Offset in the region of the bounce pool. */
  buffer = -1;
  first = 0 as BlockNumber;
  count = 0;
  location = 0 as Location;
  version = 0;
  /** For each block its checksum, or NO_SUM where there is nothing to check. */
  readonly sums = new Uint32Array(PIECE_BLOCKS);
}

export class Scrub {
  readonly #head: Head;
  readonly #clock: Clock;
  readonly #volume: Volume;
  readonly #bytesPerMs: number;
  readonly #free = Array.from({ length: scrubReadsInFlight }, () => new Piece());
  readonly #window = new IoWindow();
  readonly #ended = this.#window.joinedBy({ ioCompleted() {} });
  readonly #damage: DamagedBlock[] = [];
  #damagedBlocks = 0;
  #bytesRead = 0;
  #bytesDone = 0;
  /** When the next read may begin. */
  #dueMs = 0;
  #hasBegun = false;
  #cancelled = false;
  #wake: (() => void) | undefined;

  constructor(ports: ScrubPorts, volume: Volume, bytesPerSecond: number) {
    assert(bytesPerSecond > 0, 'a scrub has a rate');
    this.#head = ports.head;
    this.#clock = ports.clock;
    this.#volume = volume;
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  /** What was read from devices so far. */
  get bytesRead(): number {
    return this.#bytesRead;
  }

  /** Of the space that the volume takes, how much has been gone through. */
  get bytesDone(): number {
    return this.#bytesDone;
  }

  get damagedBlocks(): number {
    return this.#damagedBlocks;
  }

  /** In the order in which they were found, `damagedBlocksMax` at most. */
  get damage(): readonly DamagedBlock[] {
    return this.#damage;
  }

  /** Begins no further read; `run` resolves when those under way have ended. */
  cancel(): void {
    this.#cancelled = true;
    this.#wake?.();
  }

  /** Resolves when nothing is under way any more: with true when all was gone through, or false after `cancel`. */
  async run(): Promise<boolean> {
    assert(!this.#hasBegun, 'a scrub runs once');
    this.#hasBegun = true;
    this.#dueMs = this.#clock.nowMs();
    await this.#readAll();
    await this.#window.drained();
    return !this.#cancelled;
  }

  async #readAll(): Promise<void> {
    const { chunkBytes, blocksPerChunk } = this.#volume;
    const chunks = new MappedChunks(this.#head, this.#volume);
    for (let chunk = chunks.next(); chunk !== undefined; chunk = chunks.next()) {
      let isRead = false;
      for (let from = 0; from < blocksPerChunk; from += PIECE_BLOCKS) {
        if (await this.#readPiece(chunk, from, Math.min(from + PIECE_BLOCKS, blocksPerChunk))) isRead = true;
        if (this.#cancelled) return;
      }
      this.#bytesDone += chunkBytes;
      if (!isRead) this.#dueMs += NOTHING_MS;
    }
  }

  #takeBuffer(): number | Promise<number> {
    const { bounce } = this.#head;
    const { bounceShare } = this.#volume;
    const buffer = bounce.take(bounceShare);
    return buffer >= 0 ? buffer : new Promise(resolve => bounce.wait(bounceShare, { bufferReady: resolve }));
  }

  #giveBack(piece: Piece): void {
    this.#free.push(piece);
    this.#head.bounce.give(this.#volume.bounceShare, piece.buffer);
  }

  /** Has blocks [from, to) of a chunk read and checked, when there is room for that and time; false if there are none. */
  async #readPiece(chunk: ChunkNumber, from: number, to: number): Promise<boolean> {
    await this.#window.room(scrubReadsInFlight);
    await this.#untilDue();
    if (this.#cancelled) return false;
    const piece = this.#free.pop();
    assert(piece !== undefined, 'who has room has a piece');
    // The wait may be long: what there is to read is found out behind it.
    piece.buffer = await this.#takeBuffer();
    if (this.#cancelled || !this.#lookUp(piece, chunk, from, to)) {
      this.#giveBack(piece);
      return false;
    }
    this.#window.begin();
    void this.#check(piece).then(() => {
      this.#giveBack(piece);
      this.#ended.ioCompleted(0);
    });
    return true;
  }

  async #untilDue(): Promise<void> {
    const now = this.#clock.nowMs();
    this.#dueMs = Math.max(this.#dueMs, now - CATCH_UP_MS);
    const waitMs = this.#dueMs - now;
    if (waitMs < EARLY_MS || this.#cancelled) return;
    await new Promise<void>(resolve => {
      const stopTimer: CancelTimer = this.#clock.after(waitMs, resolve);
      this.#wake = () => {
        stopTimer();
        resolve();
      };
    });
    this.#wake = undefined;
  }

  // --- blocks ------------------------------------------------------------------------------------------------------------

  /** Fills the piece with what there is to check of blocks [from, to) of the chunk; false when that is nothing. */
  #lookUp(piece: Piece, chunk: ChunkNumber, from: number, to: number): boolean {
    const volume = this.#volume;
    const entry = volume.peek(chunk);
    if (entry === undefined || volume.state !== 'present') return false;
    const start = chunk * volume.blocksPerChunk;
    let first = -1;
    let end = -1;
    for (let i = from; i < to; i++) {
      const isNewest = entry.sums[i] !== NO_SUM && this.#overlayRow((start + i) as BlockNumber) < 0;
      if (isNewest && first < 0) first = i;
      if (isNewest) end = i + 1;
      if (first >= 0) piece.sums[i - first] = isNewest ? entry.sums[i] : NO_SUM;
    }
    if (first < 0) return false;
    piece.first = (start + first) as BlockNumber;
    piece.count = end - first;
    piece.location = (entry.location + first) as Location;
    piece.version = this.#versionOf(piece.first, piece.count);
    return true;
  }

  /** Reads the blocks of a piece; what is not as it should be is looked at block by block. */
  async #check(piece: Piece): Promise<void> {
    const { first, count, location, version } = piece;
    const wanted = piece.sums.slice(0, count);
    const sums = new Uint32Array(count);
    const isRead = await this.#read(piece, location, sums);
    for (let i = 0; i < count; i++) {
      if (wanted[i] === NO_SUM || (isRead && sums[i] === wanted[i])) continue;
      const block = (first + i) as BlockNumber;
      const place = (location + i) as Location;
      const isSame = version === this.#versionOf(first, count) && this.#isAt(block, place, wanted[i]);
      if (isRead && isSame) this.#found(block, place, 'mismatch');
      else await this.#examine(piece, block);
    }
  }

  /** Reads one block by itself, until it is what it should be at that moment or stays what it should not. */
  async #examine(piece: Piece, block: BlockNumber): Promise<void> {
    const volume = this.#volume;
    const chunk = volume.chunkOf(block);
    const index = block - chunk * volume.blocksPerChunk;
    const sums = new Uint32Array(1);
    for (let attempt = 0; attempt <= readRetriesMax && !this.#cancelled; attempt++) {
      if (!this.#lookUp(piece, chunk, index, index + 1)) return;
      const { location, version } = piece;
      const sum = piece.sums[0];
      const isRead = await this.#read(piece, location, sums);
      if (isRead && sums[0] === sum) return;
      if (!this.#isAt(block, location, sum)) continue;
      // Commits to its neighbours look like commits to the block itself: they do not put it off for ever.
      if (version !== this.#versionOf(block, 1) && attempt < readRetriesMax) continue;
      this.#found(block, location, isRead ? 'mismatch' : 'unreadable');
      return;
    }
  }

  /** Reads as many blocks as `sums` is long into the piece's buffer, and takes their checksums. */
  async #read(piece: Piece, location: Location, sums: Uint32Array): Promise<boolean> {
    const { sled, bounce, checksums } = this.#head;
    const { region } = bounce;
    const bytes = sums.length * BLOCK_BYTES;
    this.#dueMs += bytes / this.#bytesPerMs;
    const result = await completion(request => sled.read(location, region, piece.buffer, bytes, request));
    this.#bytesRead += bytes;
    if (result < 0) return false;
    takeSums(checksums, region.bytes, piece.buffer, sums.length, sums, 0);
    return true;
  }

  #found(block: BlockNumber, location: Location, fault: BlockFault): void {
    const { sled } = this.#head;
    this.#damagedBlocks++;
    if (this.#damage.length < damagedBlocksMax) this.#damage.push({ block, location, fault });
    if (fault === 'unreadable') sled.readFailed(location);
    else sled.checksumFailed(location);
    this.#head.corruptionFound(this.#volume, block, { kind: 'device', location }, fault);
  }

  /** Whether clients would read the block from this place now, and expect this checksum. */
  #isAt(block: BlockNumber, location: Location, sum: number): boolean {
    const volume = this.#volume;
    if (volume.state !== 'present' || this.#overlayRow(block) >= 0) return false;
    const chunk = volume.chunkOf(block);
    const entry = volume.peek(chunk);
    const index = block - chunk * volume.blocksPerChunk;
    return entry !== undefined && entry.location + index === location && entry.sums[index] === sum;
  }

  #overlayRow(block: BlockNumber): number {
    return this.#head.overlay.findBlock(this.#volume.number, block);
  }

  #versionOf(first: BlockNumber, count: number): number {
    return this.#head.versions.of(this.#volume.number, first, count);
  }
}
