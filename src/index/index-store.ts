/**
 * The port of the index: a persistent, ordered map with atomic, durable transactions. LMDB implements it in the product,
 * sorted maps in simulations; `test/contract` holds both to the rules below.
 *
 * It holds three kinds of entries and two records:
 *   (volume, chunk) → ChunkEntry     (device, column) → ColumnEntry     volume → VolumeEntry
 *   the IndexState, the next volume's number
 *
 * Rules:
 * - A transaction's changes become visible and durable together, in the order in which transactions were committed.
 *   After a crash each is there wholly or not at all, and none without those before it.
 * - Reads see the newest committed state. What they return stays valid and is never changed.
 * - A failed commit changes nothing that is visible, and the index takes no further commit. So that it does not fail for want
 *   of space, `hasRoom` is asked before.
 */
import type { IoRequest } from '../base/io.ts';
import type { Epoch, LogPosition, OpNumber, VolumeNumber } from '../base/units.ts';
import type { ChunkEntry } from './chunk-entry.ts';

export type AckRule = 'written' | 'durable';

/** A volume as it is on record. */
export interface VolumeEntry {
  readonly number: VolumeNumber;
  readonly name: string;
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly ack: AckRule;
  readonly readOnly: boolean;
  /** ISO 8601. */
  readonly createdAt: string;
  /** `deleting`: nobody is served; its chunks are being given back. */
  readonly state: 'present' | 'deleting';
  /** Of the newest operation below the log's cut. */
  readonly lastOp: OpNumber;
}

/** A column that is reserved: which slots of it the index refers to. */
export interface ColumnEntry {
  readonly device: number;
  readonly column: number;
  readonly volume: VolumeNumber;
  readonly chunkBytes: number;
  /** A bit for each slot, lowest first. */
  readonly slots: Uint32Array;
}

export interface IndexState {
  /** Everything below is in mass storage and index: where recovery begins. */
  readonly cut: LogPosition;
  /** Of the process that opened the node last. */
  readonly epoch: Epoch;
  /**
   * Where that process began to append: older epochs have nothing from here on that counts, though what recovery dropped
   * may still stand there, whole.
   */
  readonly since?: LogPosition;
  /** Up to here the log was durable: a log that ends before, or is damaged before, has not just lost its unsynced tail. */
  readonly durable?: LogPosition;
}

/** Changes that are gathered and then committed at once. */
export interface IndexTransaction {
  putChunk(volume: VolumeNumber, chunk: number, entry: ChunkEntry): void;
  removeChunk(volume: VolumeNumber, chunk: number): void;
  putColumn(entry: ColumnEntry): void;
  removeColumn(device: number, column: number): void;
  putVolume(entry: VolumeEntry): void;
  removeVolume(number: VolumeNumber): void;
  putState(state: IndexState): void;
  /** The number for the next volume that is made. */
  putNextVolume(number: VolumeNumber): void;
  /** Completes with 0 when the changes are durable, or with a negative errno. */
  commit(request: IoRequest): void;
}

export interface IndexStore {
  /** Undefined in an index that was just made. */
  state(): IndexState | undefined;
  /** 1 in an index that was just made. */
  nextVolume(): VolumeNumber;
  volumes(): Iterable<VolumeEntry>;
  columns(): Iterable<ColumnEntry>;
  chunk(volume: VolumeNumber, chunk: number): ChunkEntry | undefined;
  /** Chunks of [from, to) in ascending order, at most `limit`; the iteration is finished before the next call. */
  chunks(volume: VolumeNumber, from: number, to: number, limit: number): Iterable<readonly [number, ChunkEntry]>;
  /** Numbers of the volumes that have chunks, ascending, whether or not there is an entry of the volume. */
  chunkVolumes(): Iterable<VolumeNumber>;
  /** Whether the disk has room for transactions that make the index longer by so much: sees to it as far as it can. */
  hasRoom(bytes: number): boolean;
  begin(): IndexTransaction;
  /** Bytes on disk. */
  readonly sizeBytes: number;
  close(): Promise<void>;
}
