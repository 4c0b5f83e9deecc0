/**
 * A file or block device on the ring; made by `open-file.ts`.
 *
 * Invariants: a read or write is complete or an error (what the system leaves undone is asked for again; the end of the
 * file in the middle of a read is -EIO); the descriptor is closed only when nothing is under way.
 */
import { close, fsync, ftruncate } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { promisify } from 'node:util';
import { assert } from '../base/assert.ts';
import { EAGAIN, EINTR, EINVAL, EIO, ENOSYS, EOPNOTSUPP, ESPIPE, isNoSpace } from '../base/errno.ts';
import type { IoRequest } from '../base/io.ts';
import type { Region } from '../base/memory.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import { addon } from './addon.ts';
import { ControlRequest } from './control-request.ts';
import { BY_WORKER, type DurableWay, type DurableWays } from './durable-ways.ts';
import { addressWithin } from './io-memory.ts';
import type { PlatformFile } from './io-platform.ts';
import type { OpenThings } from './open-things.ts';
import {
  type Operation,
  type OperationOwner,
  WAITS_FOR_DATA,
  WAITS_FOR_PEER,
  WAITS_FOR_SYNC,
  type WaitsFor,
} from './operation.ts';
import type { RingLoop } from './ring-loop.ts';
import * as submission from './submission.ts';
import { errnoOf, systemError } from './system-error.ts';

const closeDescriptor = promisify(close);
const syncDescriptor = promisify(fsync);
const truncateDescriptor = promisify(ftruncate);

export interface RingFileProperties {
  readonly fd: number;
  /** O_DSYNC, for durable writes; missing where none were announced. */
  readonly durableFd: number | undefined;
  readonly path: string;
  readonly kind: 'file' | 'block device';
  readonly mode: 'direct' | 'buffered';
  readonly readOnly: boolean;
  readonly sizeBytes: number;
  readonly alignmentBytes: number;
}

/** A durable write that says how long it took. */
class TimedWrite implements IoRequest {
  readonly #ways: DurableWays;
  readonly #way: DurableWay;
  readonly #request: IoRequest;
  readonly #beganMs = performance.now();

  constructor(ways: DurableWays, way: DurableWay, request: IoRequest) {
    this.#ways = ways;
    this.#way = way;
    this.#request = request;
  }

  ioCompleted(result: number): void {
    if (result >= 0) this.#ways.took(this.#way, performance.now() - this.#beganMs);
    this.#request.ioCompleted(result);
  }
}

export class RingFile implements PlatformFile, OperationOwner {
  readonly path: string;
  readonly kind: 'file' | 'block device';
  readonly alignmentBytes: number;
  readonly #loop: RingLoop;
  readonly #openThings: OpenThings;
  /** Where there are two ways. */
  readonly #ways: DurableWays | undefined;
  readonly #fd: number;
  readonly #durableFd: number | undefined;
  readonly #buffered: boolean;
  readonly #readOnly: boolean;
  #sizeBytes: number;
  #underWay = 0;
  #closed = false;

  constructor(loop: RingLoop, openThings: OpenThings, ways: DurableWays | undefined, properties: RingFileProperties) {
    this.path = properties.path;
    this.kind = properties.kind;
    this.alignmentBytes = properties.alignmentBytes;
    this.#loop = loop;
    this.#openThings = openThings;
    this.#ways = properties.mode === 'buffered' ? ways : undefined;
    this.#fd = properties.fd;
    this.#durableFd = properties.durableFd;
    this.#buffered = properties.mode === 'buffered';
    this.#readOnly = properties.readOnly;
    this.#sizeBytes = properties.sizeBytes;
    openThings.opened(this);
  }

  /** Grows with writes beyond it, and changes with `resize`. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  read(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    this.#transfer(this.#fd, submission.OP_READ, position, region, offset, length, request);
  }

  write(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    assert(!this.#readOnly, 'the file is open for writing');
    if (this.#buffered) {
      this.#writeNow(position, region, offset, length, request);
    } else {
      this.#transfer(this.#fd, submission.OP_WRITE, position, region, offset, length, request);
    }
  }

  writeDurable(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    assert(!this.#readOnly && this.#durableFd !== undefined, 'durable writes were announced');
    assert(position % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0, 'durable writes are of whole blocks');
    const ways = this.#ways;
    if (ways === undefined) {
      this.#transfer(this.#durableFd, submission.OP_WRITE, position, region, offset, length, request);
      return;
    }
    const way = ways.next();
    const timed = new TimedWrite(ways, way, request);
    const [fd, opcode] =
      way === BY_WORKER ? [this.#fd, submission.OP_WRITE_BY_WORKER] : [this.#durableFd, submission.OP_WRITE];
    this.#transfer(fd, opcode, position, region, offset, length, timed);
  }

  writeBack(position: number, length: number, request: IoRequest): void {
    if (this.#durableFd === undefined) {
      this.#loop.completeSoon(request, 0);
      return;
    }
    // Not through the descriptor that is synced: a descriptor tells of each error of the page cache once, and that has to
    // be the sync, whatever becomes of this result.
    const flags = submission.SYNC_FILE_RANGE_WRITE_AND_WAIT;
    this.#start(this.#durableFd, submission.OP_SYNC_FILE_RANGE, position, 0, length, flags, request);
  }

  sync(request: IoRequest): void {
    this.#start(this.#fd, submission.OP_FSYNC, 0, 0, 0, submission.FSYNC_DATASYNC, request);
  }

  discard(position: number, length: number, request: IoRequest): void {
    this.#assertAligned(position, length);
    this.#fallocate(position, length, submission.FALLOC_PUNCH_HOLE | submission.FALLOC_KEEP_SIZE, request);
  }

  async resize(sizeBytes: number): Promise<void> {
    assert(!this.#closed && this.kind === 'file', 'only an open regular file is resized');
    const what = `cannot set the size of ${this.path} to ${sizeBytes} bytes`;
    try {
      await truncateDescriptor(this.#fd, sizeBytes);
      // The new size is what later recovery believes in: it has to survive a power loss as data does.
      await syncDescriptor(this.#fd);
    } catch (error) {
      throw this.#failure(what, errnoOf(error), error);
    }
    this.#sizeBytes = sizeBytes;
  }

  async preallocate(position: number, length: number): Promise<void> {
    assert(this.kind === 'file', 'only a regular file is preallocated');
    const request = new ControlRequest();
    this.#fallocate(position, length, 0, request);
    const result = await request.done;
    if (result < 0) throw this.#failure(`cannot reserve ${length} bytes of ${this.path}`, result);
    this.#sizeBytes = Math.max(this.#sizeBytes, position + length);
  }

  async close(): Promise<void> {
    assert(!this.#closed, 'a file is closed once');
    assert(this.#underWay === 0, 'nothing is under way when a file is closed');
    this.#closed = true;
    this.#openThings.closed(this);
    try {
      await closeDescriptor(this.#fd);
      if (this.#durableFd !== undefined) await closeDescriptor(this.#durableFd);
    } catch (error) {
      throw this.#failure(`cannot close ${this.path}`, errnoOf(error), error);
    }
  }

  operationEnded(operation: Operation, result: number): void {
    // A sync is not begun again: it may have consumed an error that the next one would not tell of.
    if ((result === -EINTR || result === -EAGAIN) && operation.opcode !== submission.OP_FSYNC) {
      this.#loop.start(operation);
      return;
    }
    if (result < 0 || !movesBytes(operation.opcode)) {
      const isLeftUndone = operation.opcode === submission.OP_SYNC_FILE_RANGE && isUnsupported(result);
      this.#finish(operation, isLeftUndone ? 0 : result);
      return;
    }
    operation.done += result;
    if (operation.done === operation.length) {
      const end = operation.position + result;
      if (end > this.#sizeBytes) this.#sizeBytes = end;
      this.#finish(operation, operation.length);
      return;
    }
    if (result === 0 || result % this.alignmentBytes !== 0) {
      this.#finish(operation, -EIO);
      return;
    }
    operation.position += result;
    operation.address += result;
    this.#loop.start(operation);
  }

  #finish(operation: Operation, result: number): void {
    const request = operation.request;
    assert(request !== undefined, 'an operation of a file has a request');
    this.#loop.release(operation);
    this.#underWay -= 1;
    request.ioCompleted(result);
  }

  #transfer(
    fd: number,
    opcode: number,
    position: number,
    region: Region,
    offset: number,
    length: number,
    request: IoRequest,
  ): void {
    this.#assertAligned(position, length);
    assert(offset % this.alignmentBytes === 0, 'offsets are aligned');
    const address = addressWithin(region, offset, length);
    const flags = opcode === submission.OP_WRITE_BY_WORKER ? submission.RWF_DSYNC : 0;
    const operation = this.#start(fd, opcode, position, address, length, flags, request);
    operation.region = region;
  }

  /**
   * An append through the page cache costs a copy; the ring would hand it to a worker thread of the kernel, since the
   * file system may block, and that wake-up alone costs several times the copy of a few KiB.
   */
  #writeNow(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    assert(!this.#closed, 'the file is open');
    assert(length > 0, 'an I/O moves bytes');
    const result = addon.writeAt(this.#fd, region.bytes, offset, length, position);
    if (result > 0 && position + result > this.#sizeBytes) this.#sizeBytes = position + result;
    this.#loop.completeSoon(request, result);
  }

  /** The kernel's layout: an fallocate has its length in the address, and its mode in the length. */
  #fallocate(position: number, length: number, mode: number, request: IoRequest): void {
    assert(!this.#readOnly && length > 0, 'the file is open for writing, and the range is not empty');
    this.#start(this.#fd, submission.OP_FALLOCATE, position, length, mode, 0, request);
  }

  #start(
    fd: number,
    opcode: number,
    position: number,
    address: number,
    length: number,
    operationFlags: number,
    request: IoRequest,
  ): Operation {
    assert(!this.#closed, 'the file is open');
    const operation = this.#loop.acquire(this);
    operation.opcode = opcode;
    operation.waitsFor = this.#waitsFor(opcode, fd);
    operation.fd = fd;
    operation.position = position;
    operation.address = address;
    operation.length = length;
    operation.operationFlags = operationFlags;
    operation.request = request;
    this.#underWay += 1;
    this.#loop.start(operation);
    return operation;
  }

  #waitsFor(opcode: number, fd: number): WaitsFor {
    // Nobody waits for it.
    if (opcode === submission.OP_SYNC_FILE_RANGE) return WAITS_FOR_PEER;
    return isQuick(opcode) && fd === this.#fd ? WAITS_FOR_DATA : WAITS_FOR_SYNC;
  }

  #assertAligned(position: number, length: number): void {
    const alignment = this.alignmentBytes;
    assert(Number.isSafeInteger(position) && position >= 0, 'a position is a byte offset');
    assert(position % alignment === 0 && length % alignment === 0, 'positions and lengths are aligned');
  }

  #failure(what: string, errno: number, cause?: unknown) {
    const positive = Math.abs(errno);
    return systemError(isNoSpace(errno) ? 'no-space' : 'io', what, positive, cause);
  }
}

function isUnsupported(result: number): boolean {
  return result === -EINVAL || result === -ESPIPE || result === -ENOSYS || result === -EOPNOTSUPP;
}

function isQuick(opcode: number): boolean {
  return opcode === submission.OP_READ || opcode === submission.OP_WRITE;
}

function movesBytes(opcode: number): boolean {
  return isQuick(opcode) || opcode === submission.OP_WRITE_BY_WORKER;
}
