/**
 * The owner of everything that a node's volumes share: log, overlay, cache, index, slots and devices. It orders
 * operations, lets them take effect when they are committed, and answers requests. One event loop, no locks.
 *
 *   request ──▶ Writer ──append──▶ OpLog ──committed──▶ overlay, cache, dropped ranges ──▶ Destage ──▶ devices, index
 *           └─▶ Reader ◀── cache, overlay (log), index (devices)
 *
 * Invariants:
 * - An operation takes effect at its commit, in order of position, and not before.
 * - A slot is retired exactly once, when the last of overlay and index lets go of it.
 * - When the log has failed nothing that changes a volume succeeds any more; what was committed stays readable.
 */
import { assert, assertNever } from '../base/assert.ts';
import type { BouncePool } from '../base/bounce-pool.ts';
import type { Checksums } from '../base/checksum.ts';
import { NO_SUM } from '../base/checksum.ts';
import { EIO, errnoName } from '../base/errno.ts';
import type { Turns } from '../base/io.ts';
import { indexEntryBytes } from '../base/limits.ts';
import type { BlockFault, DamagedPlace } from '../base/location.ts';
import type { BlockNumber, ChunkNumber, LogPosition, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { IndexStore, VolumeEntry } from '../index/index-store.ts';
import type { VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { OpLog } from '../oplog/log.ts';
import type { Committer } from '../oplog/log-ports.ts';
import type { BatchMemory, LoggedOp } from '../oplog/logged-op.ts';
import { RecordKind, writeDataOffset } from '../oplog/record.ts';
import type { Sled } from '../sled/sled.ts';
import type { BlockCache } from '../volume/block-cache.ts';
import { BlockStatus } from '../volume/block-status.ts';
import { CommitVersions } from '../volume/commit-versions.ts';
import { EntryBudget } from '../volume/entry-cache.ts';
import type { Overlay } from '../volume/overlay.ts';
import { Prefetch } from '../volume/prefetch.ts';
import { Reader } from '../volume/reader.ts';
import type { ReadPorts } from '../volume/span.ts';
import type { RequestHandler } from '../volume/volume.ts';
import { Volume } from '../volume/volume.ts';
import { Writer } from '../volume/writer.ts';
import type { SlotAllocator } from './slot-allocator.ts';

export interface HeadPorts {
  readonly turns: Turns;
  readonly index: IndexStore;
  readonly sled: Sled;
  readonly slots: SlotAllocator;
  readonly overlay: Overlay;
  readonly cache: BlockCache;
  readonly bounce: BouncePool;
  readonly checksums: Checksums;
  readonly segmentBytes: number;
  readonly events: HeadEvents;
}

/** What the head tells the rest of the node. */
export interface HeadEvents {
  logFailed(errno: number): void;
  corruptionFound(volume: string, block: BlockNumber, place: DamagedPlace, fault: BlockFault): void;
}

/** The destage, as the head calls it. */
export interface DestageControl {
  /** Something was committed: the destage may have reason to begin. */
  committed(): void;
  /** Whole chunks were trimmed or zeroed. */
  dropped(): void;
  /** A client waits for room in log or overlay. */
  hurry(): void;
  /** Whether a record of this length may be appended now; if not, `Head.roomFreed` follows. */
  admits(recordBytes: number): boolean;
  /** Devices are full: log and overlay do not empty until something is dropped. */
  readonly storageIsFull: boolean;
  /** Of log or overlay, whichever has less left. */
  readonly fill: number;
  /** The overlay lets go of this entry: whether its slot is left to a transaction that is under way. */
  takesOver(entry: ChunkEntry): boolean;
  /** Whether volumes with something on a device that is aside may take further rows of log and overlay now. */
  readonly asideHasRoom: boolean;
  /** A volume of that kind takes so many. */
  asideTakes(rows: number): void;
  /** One waits for them. */
  asideRoomWanted(): void;
}

export class Head implements Committer, RequestHandler {
  readonly index: IndexStore;
  readonly sled: Sled;
  readonly slots: SlotAllocator;
  readonly overlay: Overlay;
  readonly cache: BlockCache;
  readonly checksums: Checksums;
  readonly bounce: BouncePool;
  readonly turns: Turns;
  readonly versions = new CommitVersions();
  readonly #volumes = new Map<VolumeNumber, Volume>();
  readonly #entries = new EntryBudget(indexEntryBytes);
  readonly #events: HeadEvents;
  readonly #segmentBytes: number;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #status: BlockStatus;
  readonly #readPorts: ReadPorts;
  #log: OpLog | undefined;
  #destage: DestageControl | undefined;
  #segment = -1;
  /** During recovery operations come from records: nothing was reserved for them. */
  #replaying = true;

  constructor(ports: HeadPorts) {
    this.index = ports.index;
    this.sled = ports.sled;
    this.slots = ports.slots;
    this.overlay = ports.overlay;
    this.cache = ports.cache;
    this.checksums = ports.checksums;
    this.bounce = ports.bounce;
    this.#events = ports.events;
    this.#segmentBytes = ports.segmentBytes;
    this.turns = ports.turns;
    this.#readPorts = {
      overlay: ports.overlay,
      cache: ports.cache,
      versions: this.versions,
      log: { read: (...range) => this.log.read(...range) },
      storage: ports.sled,
      checksums: ports.checksums,
      bounce: ports.bounce,
      corruptionFound: (volume, block, place) => this.corruptionFound(volume, block, place),
    };
    this.#reader = new Reader(this.#readPorts);
    const head = this;
    this.#writer = new Writer({
      reads: this.#readPorts,
      spans: this.#reader.spans,
      get log() {
        return head.log;
      },
      storage: ports.sled,
      slots: ports.slots,
      roomWanted: () => this.#destage?.hurry(),
      isAdmitted: recordBytes => this.#destage?.admits(recordBytes) ?? true,
      liesAside: volume => this.sled.hasAside && this.slots.liesAside(volume.number),
      get asideHasRoom() {
        return head.#destage?.asideHasRoom ?? true;
      },
      asideTakes: rows => this.#destage?.asideTakes(rows),
      asideRoomWanted: () => this.#destage?.asideRoomWanted(),
      get spaceReturns() {
        return head.slots.comesFree || [...head.volumes()].some(volume => volume.isDropping);
      },
      get storageIsFull() {
        return head.#destage?.storageIsFull ?? false;
      },
      get fill() {
        return head.#destage?.fill ?? 0;
      },
    });
    this.#status = new BlockStatus(ports.overlay, ports.index);
  }

  get log(): OpLog {
    assert(this.#log !== undefined, 'the head has been started');
    return this.#log;
  }

  corruptionFound(volume: Volume, block: BlockNumber, place: DamagedPlace, fault: BlockFault = 'mismatch'): void {
    this.#events.corruptionFound(volume.name, block, place, fault);
  }

  /** Recovery is over: from here on operations come from clients. */
  start(log: OpLog, destage: DestageControl): void {
    this.#log = log;
    this.#destage = destage;
    this.#replaying = false;
  }

  // --- volumes ---------------------------------------------------------------------------------------------------------

  addVolume(entry: VolumeEntry): Volume {
    assert(!this.#volumes.has(entry.number), 'a volume is added once');
    const ports = { index: this.index, overlay: this.overlay, entries: this.#entries, requests: this };
    const volume = new Volume(entry, ports);
    this.#volumes.set(entry.number, volume);
    return volume;
  }

  removeVolume(volume: Volume): void {
    this.#volumes.delete(volume.number);
  }

  volume(number: VolumeNumber): Volume | undefined {
    return this.#volumes.get(number);
  }

  volumes(): Iterable<Volume> {
    return this.#volumes.values();
  }

  /** For room in log or overlay. */
  get waitingWrites(): number {
    return this.#writer.waitingCount;
  }

  /** The same, of volumes with something on a device that is aside. */
  get waitingAsideWrites(): number {
    return this.#writer.waitingAsideCount;
  }

  // --- requests ----------------------------------------------------------------------------------------------------------

  handle(volume: Volume, request: VolumeRequest): void {
    switch (request.command) {
      case 'read':
        this.#reader.read(volume, request);
        break;
      case 'write':
        this.#writer.write(volume, request);
        break;
      case 'writeZeroes':
      case 'trim':
        this.#writer.start(volume, request);
        break;
      case 'flush':
        this.log.flush(request);
        break;
      case 'cache':
        new Prefetch(this.#readPorts, this.#reader.spans, this.turns, volume, request).start();
        break;
      case 'blockStatus':
        this.#status.answer(volume, request);
        break;
      default:
        assertNever(request.command);
    }
  }

  /** Gives a volume a new size, as an operation; resolves with 0 when it is durable, or a positive errno. */
  resize(volume: Volume, sizeBytes: number): Promise<number> {
    return new Promise(resolve => this.#writer.resize(volume, sizeBytes, { completed: resolve }));
  }

  /** A volume is deleted and nobody uses it: the overlay forgets it. Its slots come free with the log's cut. */
  forgetOverlay(volume: Volume): void {
    this.overlay.forChunks(volume.number, 0, Number.POSITIVE_INFINITY, (chunk, row) => {
      this.#letGo(volume, chunk, this.log.appendedEnd, true);
      this.overlay.removeChunk(row);
    });
    this.cache.invalidate(volume.number, 0, Number.POSITIVE_INFINITY);
    volume.forgetEntries();
    this.#writer.resume();
  }

  /** Nobody appends for a client until `letWritersOn`; `onRoom` is called when there may be room in the log. */
  holdWritersBack(onRoom: () => void): void {
    this.#writer.holdBack(onRoom);
  }

  letWritersOn(): void {
    this.#writer.letOn();
  }

  /** Resolves when everything that was appended has been committed, or the log has failed. */
  appendedIsCommitted(): Promise<void> {
    return new Promise(resolve => this.#writer.waitForCommit({ committedSoFar: resolve }));
  }

  /** Makes everything that was committed durable. Resolves with 0 or EIO. */
  flush(): Promise<number> {
    return new Promise(resolve => this.log.waitDurable(this.log.committedEnd, { completed: resolve }));
  }

  // --- commits -----------------------------------------------------------------------------------------------------------

  committed(op: LoggedOp, memory: BatchMemory | undefined): void {
    this.#enterSegment(op.position);
    const volume = this.#volumes.get(op.volume);
    // Only recovery meets operations of volumes that are gone: deletion waits until nothing is under way.
    if (volume === undefined) return;
    assert(op.op === volume.committedOp + 1, 'operations are committed in order and without a hole');
    volume.committedOp = op.op;
    switch (op.kind) {
      case RecordKind.write:
        this.#commitWrite(volume, op, memory!);
        break;
      case RecordKind.bulk:
        this.#commitBulk(volume, op);
        break;
      case RecordKind.zero:
      case RecordKind.trim:
        this.#commitDrop(volume, op);
        break;
      case RecordKind.resize:
        volume.sizeBytes = Math.max(volume.sizeBytes, op.first * BLOCK_BYTES);
        break;
      case RecordKind.end:
      case RecordKind.mark:
        break;
      default:
        assertNever(op.kind);
    }
  }

  batchCommitted(): void {
    this.#writer.batchCommitted();
    this.#destage?.committed();
  }

  roomFreed(): void {
    this.#writer.resume();
  }

  logFailed(errno: number): void {
    this.#events.logFailed(errno);
    queueMicrotask(() => this.#writer.logFailed());
  }

  #enterSegment(position: LogPosition): void {
    const segment = Math.floor(position / this.#segmentBytes);
    if (segment === this.#segment) return;
    this.#segment = segment;
    this.overlay.enterSegment(segment);
  }

  #commitWrite(volume: Volume, op: LoggedOp, memory: BatchMemory): void {
    const { overlay, cache } = this;
    if (!this.#replaying) overlay.release(op.count);
    this.versions.committed(volume.number, op.first, op.count);
    const position = op.position + writeDataOffset(op.count);
    for (let i = 0; i < op.count; i++) {
      const block = (op.first + i) as BlockNumber;
      const sum = memory.sums[op.sumsIndex + i];
      overlay.setBlock(volume.number, block, volume.chunkOf(block), op.op, position + i * BLOCK_BYTES, sum);
      if (!this.#replaying) cache.replace(volume.number, block, memory.bytes, op.dataOffset + i * BLOCK_BYTES);
    }
  }

  #commitBulk(volume: Volume, op: LoggedOp): void {
    const { overlay, cache } = this;
    assert(op.chunks !== undefined, 'a bulk operation has its chunks');
    if (!this.#replaying) overlay.release(op.chunks.length);
    this.slots.name(op.chunks, op.end);
    const blocks = volume.blocksPerChunk;
    this.versions.committed(volume.number, (op.first * blocks) as BlockNumber, op.count * blocks);
    for (let i = 0; i < op.chunks.length; i++) {
      const chunk = (op.first + i) as number as ChunkNumber;
      const { location, sums, data, dataOffset } = op.chunks[i];
      this.#letGo(volume, chunk, op.end, false);
      overlay.setChunk(volume.number, chunk, { op: op.op, location, sums });
      if (data === undefined) {
        cache.invalidate(volume.number, chunk * blocks, blocks);
        continue;
      }
      for (let b = 0; b < blocks; b++) {
        cache.replace(volume.number, (chunk * blocks + b) as BlockNumber, data, dataOffset + b * BLOCK_BYTES);
      }
    }
  }

  /** Zeroes and trims alike make a range read as zeroes: whole chunks are dropped, the rest is entered block by block. */
  #commitDrop(volume: Volume, op: LoggedOp): void {
    const { overlay, cache } = this;
    const blocks = volume.blocksPerChunk;
    const end = op.first + op.count;
    if (!this.#replaying) overlay.release(volume.rowsOfDrop(op.first, op.count));
    this.versions.committed(volume.number, op.first, op.count);
    cache.invalidate(volume.number, op.first, op.count);
    const firstWhole = Math.ceil(op.first / blocks);
    const endWhole = Math.floor(end / blocks);
    if (firstWhole >= endWhole) {
      this.#zeroBlocks(volume, op, op.first, end);
      return;
    }
    this.#zeroBlocks(volume, op, op.first, firstWhole * blocks);
    this.#zeroBlocks(volume, op, endWhole * blocks, end);
    overlay.forChunks(volume.number, firstWhole, endWhole, (chunk, row) => {
      this.#letGo(volume, chunk, op.end, true);
      overlay.removeChunk(row);
    });
    volume.drop(firstWhole, endWhole);
    this.#destage?.dropped();
  }

  #zeroBlocks(volume: Volume, op: LoggedOp, from: number, to: number): void {
    for (let block = from; block < to; block++) {
      const number = block as BlockNumber;
      this.overlay.setBlock(volume.number, number, volume.chunkOf(number), op.op, op.position, NO_SUM);
    }
  }

  /** The overlay's entry of a chunk is about to go: its slot is retired unless the index will refer to it. */
  #letGo(volume: Volume, chunk: ChunkNumber, until: LogPosition, dropped: boolean): void {
    const row = this.overlay.findChunk(volume.number, chunk);
    const entry = row >= 0 ? this.overlay.entryOf(row) : undefined;
    if (entry === undefined || volume.indexedLocationOf(chunk) === entry.location) return;
    if (this.#destage?.takesOver(entry) === true) return;
    this.slots.retire(entry.location, until, dropped);
  }
}

/** For the log line of a failed log. */
export function logFailureText(errno: number): string {
  return `the op log failed with ${errnoName(errno === 0 ? EIO : errno)}`;
}
