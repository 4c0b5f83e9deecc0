/**
 * A volume as the head keeps it: what is on record of it, its place in its own sequence, and the chunk ranges that were
 * dropped and are still in the index. Clients see it through `ExportedVolume`; the reader and the writer do the work.
 *
 * Invariants:
 * - `lastOp` is the number of the newest operation that was appended; the next one gets `lastOp + 1`, in one place.
 * - A chunk in `dropped` or `dropping` reads as zeroes unless the overlay has something newer of it. The index entry of a
 *   chunk in `dropped` is never replaced before the range has been carried into the index.
 */
import { assert } from '../base/assert.ts';
import { BounceShare } from '../base/bounce-pool.ts';
import type { Location } from '../base/location.ts';
import type { BlockNumber, ChunkNumber, OpNumber, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { AckRule, IndexStore, VolumeEntry } from '../index/index-store.ts';
import type { ExportedVolume, VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { EntryBudget } from './entry-cache.ts';
import { EntryCache, EntryView } from './entry-cache.ts';
import type { Overlay } from './overlay.ts';
import { RangeLocks } from './range-locks.ts';
import { RangeSet } from './range-set.ts';
import { ReadStream } from './read-stream.ts';

/** Where a volume hands its clients' requests. */
export interface RequestHandler {
  handle(volume: Volume, request: VolumeRequest): void;
}

export interface VolumePorts {
  readonly index: IndexStore;
  readonly overlay: Overlay;
  readonly entries: EntryBudget;
  readonly requests: RequestHandler;
}

export class Volume implements ExportedVolume {
  readonly number: VolumeNumber;
  readonly name: string;
  readonly description = '';
  readonly chunkBytes: number;
  readonly blocksPerChunk: number;
  readonly ack: AckRule;
  readonly readOnly: boolean;
  readonly createdAt: string;
  readonly minimumBlockBytes = 1;
  readonly preferredBlockBytes = BLOCK_BYTES;
  sizeBytes: number;
  state: VolumeEntry['state'];
  lastOp: OpNumber;
  /** Of the newest operation that was committed. */
  committedOp: OpNumber;
  /** As the catalogue in the index has it: behind `committedOp` while the log holds the difference. */
  storedOp: OpNumber;
  readonly locks = new RangeLocks();
  /** The large reads of the volume, as far as they follow one another. */
  readonly stream = new ReadStream();
  readonly bounceShare = new BounceShare();
  #dropped = new RangeSet();
  #dropping = new RangeSet();
  readonly #entries: EntryCache;
  readonly #overlayView: EntryView;
  readonly #ports: VolumePorts;

  constructor(entry: VolumeEntry, ports: VolumePorts) {
    this.number = entry.number;
    this.name = entry.name;
    this.chunkBytes = entry.chunkBytes;
    this.blocksPerChunk = entry.chunkBytes / BLOCK_BYTES;
    this.ack = entry.ack;
    this.readOnly = entry.readOnly;
    this.createdAt = entry.createdAt;
    this.sizeBytes = entry.sizeBytes;
    this.state = entry.state;
    this.lastOp = entry.lastOp;
    this.committedOp = entry.lastOp;
    this.storedOp = entry.lastOp;
    this.#entries = new EntryCache(ports.entries, this.blocksPerChunk);
    this.#overlayView = new EntryView(this.blocksPerChunk);
    this.#ports = ports;
  }

  submit(request: VolumeRequest): void {
    this.#ports.requests.handle(this, request);
  }

  /** For the catalogue. */
  toEntry(lastOp: OpNumber): VolumeEntry {
    const { number, name, sizeBytes, chunkBytes, ack, readOnly, createdAt, state } = this;
    return { number, name, sizeBytes, chunkBytes, ack, readOnly, createdAt, state, lastOp };
  }

  takeOpNumber(): OpNumber {
    this.lastOp = (this.lastOp + 1) as OpNumber;
    return this.lastOp;
  }

  chunkOf(block: BlockNumber): ChunkNumber {
    return Math.floor(block / this.blocksPerChunk) as ChunkNumber;
  }

  // --- chunks ----------------------------------------------------------------------------------------------------------

  /**
   * The newest entry, committed blocks in the overlay aside, of a chunk that has this row in the overlay (-1: none), where it
   * lies: nothing is made for it, and it is good for the moment. Undefined where the chunk reads as zeroes.
   */
  viewEntry(chunk: ChunkNumber, row: number): EntryView | undefined {
    const entry = row >= 0 ? this.#ports.overlay.entryOf(row) : undefined;
    if (entry !== undefined) return this.#overlayView.set(entry.op, entry.location, entry.sums, 0);
    return this.isDropped(chunk) ? undefined : this.#viewIndexed(chunk);
  }

  /** Where the chunk's newest entry has it. */
  locationOf(chunk: ChunkNumber): Location | undefined {
    return this.viewEntry(chunk, this.#ports.overlay.findChunk(this.number, chunk))?.location;
  }

  /** Where the index has the chunk. */
  indexedLocationOf(chunk: ChunkNumber): Location | undefined {
    return this.#viewIndexed(chunk)?.location;
  }

  /** The newest entry for passes over a whole volume: the entries in memory stay those that clients use. */
  peek(chunk: ChunkNumber): ChunkEntry | undefined {
    const row = this.#ports.overlay.findChunk(this.number, chunk);
    const entry = row >= 0 ? this.#ports.overlay.entryOf(row) : undefined;
    if (entry !== undefined) return entry;
    if (this.isDropped(chunk)) return undefined;
    return this.#ports.index.chunk(this.number, chunk);
  }

  /** The chunk's entry in the index, whatever the overlay has. */
  lookupIndexed(chunk: ChunkNumber): ChunkEntry | undefined {
    return this.#viewIndexed(chunk)?.toEntry();
  }

  #viewIndexed(chunk: ChunkNumber): EntryView | undefined {
    const known = this.#entries.view(chunk);
    if (known !== undefined) return known ?? undefined;
    this.#entries.set(chunk, this.#ports.index.chunk(this.number, chunk) ?? null);
    return this.#entries.view(chunk) ?? undefined;
  }

  /** A transaction has put or removed the chunk's entry. */
  indexChanged(chunk: ChunkNumber, entry: ChunkEntry | undefined): void {
    this.#entries.set(chunk, entry ?? null);
  }

  forgetEntries(): void {
    this.#entries.clear();
  }

  /** Rows of the overlay that zeroes or a trim of a range enter: one for each block outside of chunks that go as a whole. */
  rowsOfDrop(first: BlockNumber, count: number): number {
    const blocks = this.blocksPerChunk;
    const whole = Math.floor((first + count) / blocks) - Math.ceil(first / blocks);
    return count - Math.max(0, whole) * blocks;
  }

  // --- dropped ranges ----------------------------------------------------------------------------------------------------

  isDropped(chunk: ChunkNumber): boolean {
    return (
      (!this.#dropped.isEmpty && this.#dropped.has(chunk)) || (!this.#dropping.isEmpty && this.#dropping.has(chunk))
    );
  }

  /** Whether the chunk is in a range that the destage has not begun to carry over. */
  isDropPending(chunk: ChunkNumber): boolean {
    return !this.#dropped.isEmpty && this.#dropped.has(chunk);
  }

  /** Chunks [from, to) were trimmed or zeroed as a whole. */
  drop(from: number, to: number): void {
    this.#dropped.add(from, to);
  }

  get hasDropped(): boolean {
    return !this.#dropped.isEmpty;
  }

  /** Whether anything that was dropped is in the index still. */
  get isDropping(): boolean {
    return !this.#dropped.isEmpty || !this.#dropping.isEmpty;
  }

  /** Not all of them were carried over: they are due again, with those that came meanwhile. */
  dropAgain(): void {
    for (const [from, to] of this.#dropped.ranges()) this.#dropping.add(from, to);
    this.#dropped = this.#dropping;
    this.#dropping = new RangeSet();
  }

  /** The destage begins to carry over the ranges dropped so far. */
  beginDropping(): RangeSet {
    assert(this.#dropping.isEmpty, 'one destage at a time');
    this.#dropping = this.#dropped;
    this.#dropped = new RangeSet();
    return this.#dropping;
  }

  /** The index has no entry in those ranges any more. */
  endDropping(): void {
    this.#dropping = new RangeSet();
  }
}
