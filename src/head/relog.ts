/**
 * Carries blocks forward in the log whose device is aside: they are appended again, so that the log can be cut in front
 * of them without waiting for the device. What is appended is an ordinary operation with a number of its own, which writes
 * what the block holds already; recovery and everybody else need not know of it.
 *
 * Invariants:
 * - A block is appended again only while its newest operation is committed, and only with the data of that one: between
 *   the last look at the overlay and the append nothing else happens, and a block with operations on their way is left
 *   until they are committed. So what is appended again never takes the place of something newer.
 * - Only data that matches its checksum is appended again.
 * - Blocks that are appended again take no further rows of the overlay.
 */
import { NO_SUM } from '../base/checksum.ts';
import { Gather } from '../base/io-wait.ts';
import { inlineOpBytesMax } from '../base/limits.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import type { BlockNumber, ChunkNumber, LogPosition, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES, MIB } from '../base/units.ts';
import type { OpOwner } from '../oplog/logged-op.ts';
import { RECORD_HEADER_BYTES, RecordKind, writeDataOffset, writeRecordBytes } from '../oplog/record.ts';
import type { Volume } from '../volume/volume.ts';
import { BlockSource } from './block-source.ts';
import { DestageStuck } from './destage-store.ts';
import type { Head } from './head.ts';

/** Blocks whose data is brought together at a time. */
const BLOCKS_AT_ONCE = MIB / BLOCK_BYTES;
const RUN_BLOCKS_MAX = inlineOpBytesMax / BLOCK_BYTES;

/** A chunk of a volume. */
export interface ChunkOf {
  readonly volume: Volume;
  readonly chunk: ChunkNumber;
}

/** A block as it was found, behind an operation before the cut. */
interface OldBlock extends ChunkOf {
  readonly block: BlockNumber;
  readonly position: number;
  readonly sum: number;
}

/** Told of each block that was appended again: where in the log its newest data lay, and where it will lie. */
export type Moved = (volume: Volume, block: BlockNumber, from: number, to: number) => void;

export class Relog implements OpOwner {
  readonly #head: Head;
  readonly #source: BlockSource;
  readonly #moved: Moved;
  readonly #region: Region;
  #pending = 0;
  #errno = 0;
  #settled: (() => void) | undefined;

  constructor(head: Head, regions: RegionSource, moved: Moved) {
    this.#head = head;
    this.#source = new BlockSource(head);
    this.#moved = moved;
    this.#region = regions.allocate(BLOCKS_AT_ONCE * BLOCK_BYTES);
  }

  /**
   * Resolves with true when no block of the chunks has its newest operation before the cut, with false when the log has
   * no room for that. Rejects with `DestageStuck`.
   */
  async forward(chunks: readonly ChunkOf[], cut: LogPosition): Promise<boolean> {
    for (;;) {
      const blocks = chunks.flatMap(chunk => this.#oldBlocks(chunk, cut));
      if (blocks.length === 0) return true;
      for (let from = 0; from < blocks.length; from += BLOCKS_AT_ONCE) {
        const some = blocks.slice(from, from + BLOCKS_AT_ONCE);
        await this.#fetch(some);
        if (!(await this.#append(some))) return false;
      }
      // Blocks that had operations on their way are looked at again behind those.
      await this.#committed();
    }
  }

  /** What the log takes for that, at most. */
  neededBytes(chunks: readonly ChunkOf[], cut: LogPosition): number {
    return chunks.reduce((sum, chunk) => sum + this.#oldBlocks(chunk, cut).length, 0) * writeRecordBytes(1);
  }

  completed(errno: number): void {
    if (errno !== 0) this.#errno = errno;
    if (--this.#pending === 0) this.#settled?.();
  }

  #oldBlocks({ volume, chunk }: ChunkOf, cut: LogPosition): OldBlock[] {
    const { overlay } = this.#head;
    const found: OldBlock[] = [];
    const chunkRow = overlay.findChunk(volume.number, chunk);
    if (chunkRow < 0) return found;
    for (let row = overlay.firstBlock(chunkRow); row >= 0; row = overlay.nextBlock(row)) {
      const position = overlay.positionOf(row);
      if (position < cut) {
        found.push({ volume, chunk, block: overlay.blockOf(row), position, sum: overlay.sumOf(row) });
      }
    }
    return found.sort((a, b) => a.block - b.block);
  }

  /** Brings the data of the blocks into the region, each to its place in the list, and checks it. */
  async #fetch(blocks: readonly OldBlock[]): Promise<void> {
    const gather = new Gather();
    for (const [i, { volume, block, position, sum }] of blocks.entries()) {
      if (sum === NO_SUM) continue;
      this.#source.fetch(volume.number, block, position, this.#region, i * BLOCK_BYTES, gather);
    }
    await this.#source.fetched(gather);
    for (const [i, old] of blocks.entries()) {
      const offset = i * BLOCK_BYTES;
      if (old.sum === NO_SUM || this.#source.matches(old.sum, this.#region, offset) || !this.#isNewest(old)) continue;
      if (await this.#source.fetchAgain(old.position, old.sum, this.#region, offset)) continue;
      const { volume, block, position } = old;
      this.#head.corruptionFound(volume, block, { kind: 'log', position });
      throw new DestageStuck('a block of the op log is damaged, and the device that it is for is aside');
    }
  }

  #isNewest({ volume, block, position }: OldBlock): boolean {
    const { overlay } = this.#head;
    const row = overlay.findBlock(volume.number, block);
    return row >= 0 && overlay.positionOf(row) === position;
  }

  /** Appends those blocks that are the newest still; false when the log is full. */
  async #append(blocks: readonly OldBlock[]): Promise<boolean> {
    const { log } = this.#head;
    let underWay = new BlocksUnderWay(this.#head);
    const isDue = (old: OldBlock) => this.#isNewest(old) && !underWay.has(old.volume, old.block);
    try {
      for (let from = 0; from < blocks.length; ) {
        let to = from;
        while (to < blocks.length && to - from < RUN_BLOCKS_MAX && isDue(blocks[to])) {
          if (to > from && !follows(blocks[to - 1], blocks[to])) break;
          to++;
        }
        if (to === from) {
          from++;
          continue;
        }
        if (log.failure !== 0) throw new DestageStuck('the op log cannot be written');
        if (log.hasRoom(blocks[from].sum === NO_SUM ? RECORD_HEADER_BYTES : writeRecordBytes(to - from))) {
          this.#appendRun(blocks, from, to);
          from = to;
          continue;
        }
        if (log.isFull) return false;
        await new Promise<void>(resolve => this.#head.holdWritersBack(resolve));
        underWay = new BlocksUnderWay(this.#head);
      }
      return true;
    } finally {
      this.#head.letWritersOn();
    }
  }

  #appendRun(blocks: readonly OldBlock[], from: number, to: number): void {
    const { log, overlay } = this.#head;
    const { volume, block, sum } = blocks[from];
    const count = to - from;
    const position = log.nextPosition;
    this.#pending++;
    if (sum === NO_SUM) {
      overlay.reserveReplaced(volume.rowsOfDrop(block, count));
      log.appendRange(RecordKind.zero, volume.number, volume.takeOpNumber(), block, count, this, false);
      for (let i = from; i < to; i++) this.#moved(volume, blocks[i].block, blocks[i].position, position);
      return;
    }
    overlay.reserveReplaced(count);
    const { bytes } = this.#region;
    log.appendWrite(volume.number, volume.takeOpNumber(), block, count, bytes, from * BLOCK_BYTES, this, false);
    const data = position + writeDataOffset(count);
    for (let i = from; i < to; i++) {
      this.#moved(volume, blocks[i].block, blocks[i].position, data + (i - from) * BLOCK_BYTES);
    }
  }

  async #committed(): Promise<void> {
    if (this.#pending > 0) {
      await new Promise<void>(resolve => {
        this.#settled = resolve;
      });
      this.#settled = undefined;
    } else {
      await this.#head.appendedIsCommitted();
    }
    if (this.#errno !== 0 || this.#head.log.failure !== 0) throw new DestageStuck('the op log cannot be written');
  }
}

/** Blocks with operations that have been appended and are not committed yet. */
class BlocksUnderWay {
  readonly #blocks = new Map<VolumeNumber, Set<number>>();
  readonly #ranges: { readonly volume: VolumeNumber; readonly from: number; readonly to: number }[] = [];

  constructor(head: Head) {
    head.log.forUncommitted(({ kind, volume, first, count }) => {
      if (kind === RecordKind.write) {
        const blocks = this.#blocks.get(volume) ?? new Set();
        this.#blocks.set(volume, blocks);
        for (let block = first as number; block < first + count; block++) blocks.add(block);
      } else {
        const unit = kind === RecordKind.bulk ? (head.volume(volume)?.blocksPerChunk ?? 1) : 1;
        this.#ranges.push({ volume, from: first * unit, to: (first + count) * unit });
      }
    });
  }

  has({ number }: Volume, block: BlockNumber): boolean {
    if (this.#blocks.get(number)?.has(block)) return true;
    return this.#ranges.some(({ volume, from, to }) => volume === number && block >= from && block < to);
  }
}

function follows(before: OldBlock, after: OldBlock): boolean {
  if (after.volume !== before.volume || after.chunk !== before.chunk || after.block !== before.block + 1) return false;
  return (after.sum === NO_SUM) === (before.sum === NO_SUM);
}
