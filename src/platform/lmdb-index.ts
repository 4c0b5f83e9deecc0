/**
 * The index port on LMDB: a B-tree with copy-on-write pages, read by memory mapping, written by a thread of its own.
 *
 * Keys are 16 bytes, big-endian, so that they sort as they should: kind (1), zero (3), a number (4), another (8).
 *   1 state    0              –          value: JSON; with number 1: the next volume's number
 *   2 volume   volume         –          value: JSON
 *   3 column   device         column     value: volume (4) chunk length (4) bitmap
 *   4 chunk    volume         chunk      value: see index/chunk-entry.ts
 *
 * LMDB does not take well to a disk without room (3.5.6 writes the text of that error beyond its end): space is taken ahead,
 * beyond the end of the file, and where there is none no commit is tried.
 *
 * A commit is one batch of LMDB, whose promise resolves when it is durable: overlapping syncs are switched off, so that a
 * commit means what it says. LMDB's own batches of an event turn are off, too: nobody is given the promise of those, and a
 * failed commit, which rejects it, would end the process.
 */
import { closeSync, fstatSync, fsyncSync, openSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { open, type RootDatabase } from 'lmdb';
import { EIO, isNoSpace } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { IoRequest } from '../base/io.ts';
import { indexRoomBytes } from '../base/limits.ts';
import type { VolumeNumber } from '../base/units.ts';
import { GIB, KIB } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import { decodeEntry, encodeEntry } from '../index/chunk-entry.ts';
import type { ColumnEntry, IndexState, IndexStore, IndexTransaction, VolumeEntry } from '../index/index-store.ts';
import { addon } from './addon.ts';

const KEY_BYTES = 16;
const STATE = 1;
const VOLUME = 2;
const COLUMN = 3;
const CHUNK = 4;
const NUMBER_MAX = 2 ** 32 - 1;
export const INDEX_FILE = 'index.lmdb';
/** Address space, not memory or disk: LMDB cannot grow its mapping while it is read. */
const MAP_BYTES = 512 * GIB;

type Database = RootDatabase<Buffer, Buffer>;
type Change = (db: Database) => void;
/** Why a commit failed is told by another promise, which is rejected: with an errno, or with a negative code of LMDB's own. */
type CommitError = Error & { readonly commitError: Promise<never> };

export class LmdbIndex implements IndexStore {
  readonly #db: Database;
  readonly #path: string;
  /** LMDB takes a key's bytes at once, so one buffer serves all look-ups. */
  readonly #key = Buffer.alloc(KEY_BYTES);
  /** For taking space; undefined where the index is for reading only. */
  readonly #fd: number | undefined;
  #failed = false;

  /** An empty file is none: LMDB would make a new index of it. */
  static exists(directory: string): boolean {
    return (statSync(join(directory, INDEX_FILE), { throwIfNoEntry: false })?.size ?? 0) > 0;
  }

  /**
   * Opens the index in `directory`, which exists; makes it when it is missing, unless it is for reading only. Throws
   * `corrupt` where that finds less of it than there has to be: a page beyond the file's end would kill the process.
   */
  constructor(directory: string, options: { readonly readOnly?: boolean } = {}) {
    this.#path = join(directory, INDEX_FILE);
    const readOnly = options.readOnly === true;
    const isNew = !LmdbIndex.exists(directory);
    this.#db = open<Buffer, Buffer>({
      path: this.#path,
      encoding: 'binary',
      keyEncoding: 'binary',
      overlappingSync: false,
      eventTurnBatching: false,
      mapSize: MAP_BYTES,
      maxReaders: 16,
      readOnly,
      // Not among the types of LMDB's options; its lock file gets it, too.
      ...{ permissionsMode: 0o600 },
    });
    if (readOnly) this.#refuseTruncated();
    this.#fd = readOnly ? undefined : openSync(this.#path, 'r+');
    // LMDB does not: after a loss of power an index that others rely on would be an empty file.
    if (this.#fd !== undefined && isNew) syncFile(this.#fd, directory);
  }

  get sizeBytes(): number {
    return statSync(this.#path).size;
  }

  /** Whether a commit has failed: what of it is in the file is not certain. */
  get hasFailed(): boolean {
    return this.#failed;
  }

  state(): IndexState | undefined {
    const bytes = this.#db.get(this.#at(STATE, 0, 0));
    return bytes === undefined ? undefined : (JSON.parse(bytes.toString()) as IndexState);
  }

  nextVolume(): VolumeNumber {
    const bytes = this.#db.get(this.#at(STATE, 1, 0));
    return (bytes === undefined ? 1 : bytes.readUInt32LE(0)) as VolumeNumber;
  }

  *volumes(): Iterable<VolumeEntry> {
    for (const { value } of this.#range(VOLUME)) yield JSON.parse(value.toString()) as VolumeEntry;
  }

  *columns(): Iterable<ColumnEntry> {
    for (const { key, value } of this.#range(COLUMN)) {
      const slots = new Uint32Array((value.length - 8) / 4);
      for (let i = 0; i < slots.length; i++) slots[i] = value.readUInt32LE(8 + 4 * i);
      const volume = value.readUInt32LE(0) as VolumeNumber;
      yield { device: key.readUInt32BE(4), column: keyLow(key), volume, chunkBytes: value.readUInt32LE(4), slots };
    }
  }

  chunk(volume: VolumeNumber, chunk: number): ChunkEntry | undefined {
    const bytes = this.#db.getBinaryFast(this.#at(CHUNK, volume, chunk));
    return bytes === undefined ? undefined : decodeEntry(bytes);
  }

  *chunks(volume: VolumeNumber, from: number, to: number, limit: number): Iterable<readonly [number, ChunkEntry]> {
    const start = encodeKey(Buffer.alloc(KEY_BYTES), CHUNK, volume, from);
    const end = encodeKey(Buffer.alloc(KEY_BYTES), CHUNK, volume, to);
    for (const { key, value } of this.#db.getRange({ start, end, limit })) yield [keyLow(key), decodeEntry(value)];
  }

  *chunkVolumes(): Iterable<VolumeNumber> {
    const end = encodeKey(Buffer.alloc(KEY_BYTES), CHUNK + 1, 0, 0);
    for (let from = 0; ; ) {
      const start = encodeKey(Buffer.alloc(KEY_BYTES), CHUNK, from, 0);
      const [first] = [...this.#db.getRange({ start, end, limit: 1 })];
      if (first === undefined) return;
      const number = first.key.readUInt32BE(4);
      yield number as VolumeNumber;
      if (number === NUMBER_MAX) return;
      from = number + 1;
    }
  }

  hasRoom(bytes: number): boolean {
    if (this.#fd === undefined) return true;
    const { size } = fstatSync(this.#fd);
    if (spareBytes(this.#fd) >= bytes) return true;
    // A file system that cannot do this leaves it to chance.
    return !isNoSpace(addon.takeSpace(this.#fd, size, indexRoomBytes)) || spareBytes(this.#fd) >= bytes;
  }

  begin(): IndexTransaction {
    const changes: Change[] = [];
    const put = (kind: number, high: number, low: number, value: Uint8Array) => {
      changes.push(
        db => void db.put(this.#at(kind, high, low), Buffer.from(value.buffer, value.byteOffset, value.length)),
      );
    };
    const remove = (kind: number, high: number, low: number) => {
      changes.push(db => void db.remove(this.#at(kind, high, low)));
    };
    return {
      putChunk: (volume, chunk, entry) => put(CHUNK, volume, chunk, encodeEntry(entry)),
      removeChunk: (volume, chunk) => remove(CHUNK, volume, chunk),
      putColumn: entry => put(COLUMN, entry.device, entry.column, encodeColumn(entry)),
      removeColumn: (device, column) => remove(COLUMN, device, column),
      putVolume: entry => put(VOLUME, entry.number, 0, Buffer.from(JSON.stringify(entry))),
      removeVolume: number => remove(VOLUME, number, 0),
      putState: state => put(STATE, 0, 0, Buffer.from(JSON.stringify(state))),
      putNextVolume: number => put(STATE, 1, 0, new Uint8Array(Uint32Array.of(number).buffer)),
      commit: request => this.#commit(changes, request),
    };
  }

  async close(): Promise<void> {
    await this.#db.close();
    if (this.#fd !== undefined) closeSync(this.#fd);
  }

  #refuseTruncated(): void {
    const { lastPageNumber, pageSize } = this.#db.getStats() as { lastPageNumber: number; pageSize: number };
    const needed = (lastPageNumber + 1) * pageSize;
    if (this.sizeBytes >= needed) return;
    throw new SledgeError('corrupt', `${this.#path} has ${this.sizeBytes} bytes of ${needed}: its end is missing`);
  }

  #commit(changes: readonly Change[], request: IoRequest): void {
    if (this.#failed || changes.length === 0) {
      const result = this.#failed ? -EIO : 0;
      queueMicrotask(() => request.ioCompleted(result));
      return;
    }
    const db = this.#db;
    const committed = db.batch(() => {
      for (const change of changes) change(db);
    });
    committed.then(
      () => {
        // Otherwise reads go on in the snapshot of the turn in which they began.
        db.resetReadTxn();
        request.ioCompleted(0);
      },
      (error: Partial<CommitError>) => {
        this.#failed = true;
        const why = error.commitError ?? Promise.reject(error);
        why.catch(({ code }: { code?: unknown }) => {
          request.ioCompleted(typeof code === 'number' && code > 0 ? -code : -EIO);
        });
      },
    );
  }

  #at(kind: number, high: number, low: number): Buffer {
    return encodeKey(this.#key, kind, high, low);
  }

  #range(kind: number) {
    const start = encodeKey(Buffer.alloc(KEY_BYTES), kind, 0, 0);
    const end = encodeKey(Buffer.alloc(KEY_BYTES), kind + 1, 0, 0);
    return this.#db.getRange({ start, end });
  }
}

function encodeKey(key: Buffer, kind: number, high: number, low: number): Buffer {
  key.writeUInt32BE(kind * 0x1000000, 0);
  key.writeUInt32BE(high, 4);
  key.writeUInt32BE(Math.floor(low / 2 ** 32), 8);
  key.writeUInt32BE(low >>> 0, 12);
  return key;
}

function keyLow(key: Buffer): number {
  return key.readUInt32BE(8) * 2 ** 32 + key.readUInt32BE(12);
}

function encodeColumn(entry: ColumnEntry): Uint8Array {
  const bytes = Buffer.alloc(8 + 4 * entry.slots.length);
  bytes.writeUInt32LE(entry.volume, 0);
  bytes.writeUInt32LE(entry.chunkBytes, 4);
  for (let i = 0; i < entry.slots.length; i++) bytes.writeUInt32LE(entry.slots[i], 8 + 4 * i);
  return bytes;
}

/** What a file has of its file system beyond its end, about: a little of what it has may be about its blocks. */
function spareBytes(fd: number): number {
  const { size, blocks } = fstatSync(fd);
  return blocks * 512 - size - 64 * KIB;
}

function syncFile(fd: number, directory: string): void {
  fsyncSync(fd);
  const directoryFd = openSync(directory, 'r');
  fsyncSync(directoryFd);
  closeSync(directoryFd);
}
