/**
 * Reads what log and index say is on the devices, and verifies each block's checksum. Blocks whose newest data is in
 * the log are left out: the log's scan has verified them, and a destage that was cut off may have written them over.
 *
 * Reads are of up to 1 MiB, as far as chunks follow one another on the device, with several under way; what is bad in
 * one is then read block by block, so that the finding names the block.
 */
import type { Checksums } from '../base/checksum.ts';
import { NO_SUM, takeSums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import type { BlockFile } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import type { Location } from '../base/location.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import { BLOCK_BYTES, MIB } from '../base/units.ts';
import type { VolumeEntry } from '../index/index-store.ts';
import { allChunks, type ReadableIndex } from './check-index.ts';
import type { ColumnTable } from './column-table.ts';
import type { FindingKind, Findings } from './finding.ts';
import type { LogReplay } from './log-replay.ts';
import { isCovered } from './log-replay.ts';

const RUN_BYTES = 1 * MIB;
const RUNS_IN_FLIGHT = 12;

export interface DataCheckPorts {
  readonly index: ReadableIndex;
  readonly columns: ColumnTable;
  readonly replay: LogReplay;
  /** Bulk operations from here on may not have reached their slots. */
  readonly durable: number;
  readonly regions: RegionSource;
  readonly checksums: Checksums;
  readonly findings: Findings;
  /** Called now and then with the bytes that were read so far. */
  progress(doneBytes: number): void;
}

export interface DataCheckResult {
  readonly readBytes: number;
  readonly verifiedBlocks: number;
}

/** Part of a chunk within a run. */
interface Piece {
  readonly volume: VolumeEntry;
  /** Of the volume: of the piece's first block. */
  readonly block: number;
  /** Checksums, NO_SUM where a block is not to be looked at. */
  readonly sums: Uint32Array;
  readonly mismatch: FindingKind;
}

interface Run {
  readonly path: string;
  readonly file: BlockFile;
  readonly position: number;
  readonly pieces: Piece[];
  bytes: number;
}

export async function checkData(ports: DataCheckPorts): Promise<DataCheckResult> {
  return new DataCheck(ports).run();
}

class DataCheck {
  readonly #ports: DataCheckPorts;
  readonly #free: Region[];
  readonly #underWay = new Set<Promise<void>>();
  #next: Run | undefined;
  #readBytes = 0;
  #verifiedBlocks = 0;

  constructor(ports: DataCheckPorts) {
    this.#ports = ports;
    this.#free = Array.from({ length: RUNS_IN_FLIGHT }, () => ports.regions.allocate(RUN_BYTES));
  }

  async run(): Promise<DataCheckResult> {
    const { index, replay, durable } = this.#ports;
    for (const logged of replay.volumes()) {
      const volume = logged.entry;
      for (const entries of allChunks(index, volume.number)) {
        for (const [chunk, { location, sums }] of entries) {
          if (logged.replaces(chunk)) continue;
          await this.#add(volume, chunk, location, sums, logged.covered(chunk), 'block-damaged');
        }
      }
      for (const { chunk, location, sums, position } of logged.bulkChunks()) {
        const mismatch = position < durable ? 'block-damaged' : 'bulk-unwritten';
        await this.#add(volume, chunk, location, sums, logged.covered(chunk), mismatch);
      }
    }
    await this.#startNext();
    await Promise.all(this.#underWay);
    return { readBytes: this.#readBytes, verifiedBlocks: this.#verifiedBlocks };
  }

  async #add(
    volume: VolumeEntry,
    chunk: number,
    location: Location,
    sums: Uint32Array,
    covered: Uint32Array | undefined,
    mismatch: FindingKind,
  ): Promise<void> {
    const blocks = volume.chunkBytes / BLOCK_BYTES;
    const place = this.#ports.columns.place(location, volume.chunkBytes);
    // What is wrong with these the check of the index has said.
    if (place.kind !== 'slot' || sums.length !== blocks) return;
    const { path, sound } = place.device;
    const blocksAtOnce = Math.min(blocks, RUN_BYTES / BLOCK_BYTES);
    for (let from = 0; from < blocks; from += blocksAtOnce) {
      const wanted = sums.slice(from, from + blocksAtOnce);
      for (let i = 0; i < blocksAtOnce; i++) if (isCovered(covered, from + i)) wanted[i] = NO_SUM;
      if (wanted.every(sum => sum === NO_SUM)) continue;
      const piece = { volume, block: chunk * blocks + from, sums: wanted, mismatch };
      await this.#append(path, sound!.file, place.position + from * BLOCK_BYTES, piece);
    }
  }

  async #append(path: string, file: BlockFile, position: number, piece: Piece): Promise<void> {
    const bytes = piece.sums.length * BLOCK_BYTES;
    const last = this.#next;
    if (last?.file === file && last.position + last.bytes === position && last.bytes + bytes <= RUN_BYTES) {
      last.pieces.push(piece);
      last.bytes += bytes;
      return;
    }
    await this.#startNext();
    this.#next = { path, file, position, pieces: [piece], bytes };
  }

  async #startNext(): Promise<void> {
    const run = this.#next;
    if (run === undefined) return;
    this.#next = undefined;
    while (this.#free.length === 0) await Promise.race(this.#underWay);
    const region = this.#free.pop()!;
    const work = this.#verify(run, region).finally(() => {
      this.#free.push(region);
      this.#underWay.delete(work);
    });
    this.#underWay.add(work);
  }

  async #verify(run: Run, region: Region): Promise<void> {
    const result = await completion(request => run.file.read(run.position, region, 0, run.bytes, request));
    const actual = new Uint32Array(run.bytes / BLOCK_BYTES);
    if (result >= 0) takeSums(this.#ports.checksums, region.bytes, 0, actual.length, actual, 0);
    let at = 0;
    for (const piece of run.pieces) {
      for (let i = 0; i < piece.sums.length; i++, at++) {
        if (piece.sums[i] === NO_SUM) continue;
        const position = run.position + at * BLOCK_BYTES;
        // Of a read that failed as a whole each block is asked for on its own.
        const errno = result >= 0 ? 0 : await this.#readBlock(run, position, region, actual, at);
        this.#verifiedBlocks++;
        if (errno < 0) this.#report('block-unreadable', run, position, piece, i, `gives ${errnoName(errno)}`);
        else if (actual[at] !== piece.sums[i]) this.#report(piece.mismatch, run, position, piece, i, 'is damaged');
      }
    }
    this.#readBytes += run.bytes;
    this.#ports.progress(this.#readBytes);
  }

  async #readBlock(run: Run, position: number, region: Region, sums: Uint32Array, index: number): Promise<number> {
    const result = await completion(request => run.file.read(position, region, 0, BLOCK_BYTES, request));
    if (result >= 0) takeSums(this.#ports.checksums, region.bytes, 0, 1, sums, index);
    return Math.min(result, 0);
  }

  #report(kind: FindingKind, run: Run, position: number, piece: Piece, index: number, state: string): void {
    const start = (piece.block + index) * BLOCK_BYTES;
    const block = `The block at byte ${position} of ${run.path} ${state}`;
    const what = `${block}: bytes ${start} to ${start + BLOCK_BYTES - 1} of ${piece.volume.name}.`;
    this.#ports.findings.add(kind, what, { file: run.path, offsetBytes: position });
  }
}
