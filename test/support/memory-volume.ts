/**
 * An `ExportedVolume` in memory: sparse, of any size, completing requests at once or when the test says, in the order the
 * test says, and failing those that the test names. It holds the session to its side of the contract. Of large reads that
 * have no holes every second one is lent its bytes.
 */
import { assert } from '../../src/base/assert.ts';
import { EOPNOTSUPP } from '../../src/base/errno.ts';
import { nbdInlineBytesMax } from '../../src/base/limits.ts';
import { type MemoryPiece, plainRegion } from '../../src/base/memory.ts';
import type {
  ExportedVolume,
  ExportTable,
  Loan,
  SessionHandle,
  VolumeRequest,
} from '../../src/nbd-server/exported-volume.ts';

const BLOCK = 4096;

export interface MemoryVolumeOptions {
  readonly name?: string;
  readonly description?: string;
  readonly sizeBytes?: number;
  readonly readOnly?: boolean;
  readonly minimumBlockBytes?: number;
}

export class MemoryVolume implements ExportedVolume {
  readonly name: string;
  readonly description: string;
  sizeBytes: number;
  readonly readOnly: boolean;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes = BLOCK;
  /** Requests wait in `waiting` until `completeNext`. */
  deferred = false;
  waiting: VolumeRequest[] = [];
  submitted = 0;
  /** What the next requests of a command fail with. */
  failWith = new Map<string, number>();
  /** Every request as it came, for assertions. */
  log: string[] = [];
  /** Reads report holes this way even where they were written: 'blocks' tells what is really absent. */
  fastZeroes = true;
  /** Loans that were not returned yet. */
  loansOut = 0;
  #largeReads = 0;
  readonly #blocks = new Map<number, Uint8Array>();

  constructor(options: MemoryVolumeOptions = {}) {
    this.name = options.name ?? 'disk';
    this.description = options.description ?? '';
    this.sizeBytes = options.sizeBytes ?? 64 * 1024 * 1024;
    this.readOnly = options.readOnly ?? false;
    this.minimumBlockBytes = options.minimumBlockBytes ?? 1;
  }

  submit(request: VolumeRequest): void {
    this.submitted += 1;
    const { command, offsetBytes, lengthBytes } = request;
    assert(offsetBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes, 'the range was checked');
    assert(lengthBytes > 0 || command === 'flush', 'an empty request never comes here');
    assert(!this.readOnly || !['write', 'writeZeroes', 'trim'].includes(command), 'read-only was checked');
    const flags = `${request.fua ? ' fua' : ''}${request.noHole ? ' noHole' : ''}${request.fastZero ? ' fast' : ''}`;
    this.log.push(`${command} ${offsetBytes}+${lengthBytes}${flags}${request.oneExtent ? ' one' : ''}`);
    // A small payload is ours only until we return, so writes take effect here even when they complete later.
    if (command === 'write' && !this.failWith.has('write')) this.#write(request);
    if (command === 'write' && lengthBytes <= nbdInlineBytesMax && this.deferred) request.regionOffset = -1;
    if (this.deferred) this.waiting.push(request);
    else this.#complete(request);
  }

  /** Completes one waiting request: the first, or the one at `index`. */
  completeNext(index = 0): void {
    const [request] = this.waiting.splice(index, 1);
    this.#complete(request);
  }

  completeAll(): void {
    while (this.waiting.length > 0) this.completeNext();
  }

  #complete(request: VolumeRequest): void {
    const errno = this.failWith.get(request.command);
    if (errno !== undefined) {
      request.completed(errno);
      return;
    }
    switch (request.command) {
      case 'read':
        if (this.#lend(request)) return;
        this.#read(request);
        break;
      case 'writeZeroes':
        if (request.fastZero && !this.fastZeroes) {
          request.completed(EOPNOTSUPP);
          return;
        }
        this.#zero(request.offsetBytes, request.lengthBytes, request.noHole);
        break;
      case 'trim':
        this.#zero(request.offsetBytes, request.lengthBytes, false);
        break;
      case 'blockStatus':
        this.#extents(request);
        break;
      default:
    }
    request.completed(0);
  }

  /** Pieces of the range that lie in one block each. */
  *#pieces(offset: number, length: number): Generator<{ block: number; from: number; at: number; bytes: number }> {
    for (let at = 0; at < length; ) {
      const block = Math.floor((offset + at) / BLOCK);
      const from = (offset + at) % BLOCK;
      const bytes = Math.min(BLOCK - from, length - at);
      yield { block, from, at, bytes };
      at += bytes;
    }
  }

  /** A piece a block; what comes back is spoiled, so that it shows when it is sent later. */
  #lend(request: VolumeRequest): boolean {
    const { offsetBytes, lengthBytes } = request;
    if (lengthBytes <= nbdInlineBytesMax || this.#largeReads++ % 2 === 0) return false;
    const pieces: MemoryPiece[] = [];
    for (const { block, from, bytes } of this.#pieces(offsetBytes, lengthBytes)) {
      const found = this.#blocks.get(block);
      if (found === undefined) return false;
      const region = plainRegion(BLOCK);
      region.bytes.set(found);
      pieces.push({ region, offset: from, length: bytes });
    }
    this.loansOut++;
    let isOut = true;
    const loan: Loan = {
      pieces,
      pieceCount: pieces.length,
      returned: () => {
        assert(isOut, 'a loan is returned once');
        isOut = false;
        this.loansOut--;
        for (const { region } of pieces) region.bytes.fill(0xdd);
      },
    };
    request.completedFrom(loan);
    return true;
  }

  #read(request: VolumeRequest): void {
    const { offsetBytes, lengthBytes } = request;
    const pieces = [...this.#pieces(offsetBytes, lengthBytes)];
    const allHoles = pieces.every(piece => !this.#blocks.has(piece.block));
    if (!(request.holesWanted && allHoles)) request.place();
    for (const { block, from, at, bytes } of pieces) {
      const found = this.#blocks.get(block);
      if (found === undefined && request.holesWanted) {
        if (!allHoles) request.region.bytes.fill(0xee, request.regionOffset + at, request.regionOffset + at + bytes);
        request.addHole(at, bytes);
      } else if (found === undefined) {
        request.region.bytes.fill(0, request.regionOffset + at, request.regionOffset + at + bytes);
      } else {
        request.region.bytes.set(found.subarray(from, from + bytes), request.regionOffset + at);
      }
    }
  }

  #write(request: VolumeRequest): void {
    const { region, regionOffset, offsetBytes, lengthBytes } = request;
    this.poke(offsetBytes, region.bytes.subarray(regionOffset, regionOffset + lengthBytes));
  }

  #zero(offset: number, length: number, noHole: boolean): void {
    if (length > 64 * 1024 * 1024) {
      for (const block of this.#blocks.keys()) {
        if (block * BLOCK >= offset && (block + 1) * BLOCK <= offset + length) this.#blocks.delete(block);
      }
      return;
    }
    for (const { block, from, bytes } of this.#pieces(offset, length)) {
      if (bytes === BLOCK && !noHole) this.#blocks.delete(block);
      else if (noHole) this.#block(block).fill(0, from, from + bytes);
      else this.#blocks.get(block)?.fill(0, from, from + bytes);
    }
  }

  #block(block: number): Uint8Array {
    let found = this.#blocks.get(block);
    if (found === undefined) {
      found = new Uint8Array(BLOCK);
      this.#blocks.set(block, found);
    }
    return found;
  }

  #extents(request: VolumeRequest): void {
    const { offsetBytes, lengthBytes } = request;
    const end = offsetBytes + lengthBytes;
    const blocks = [...this.#blocks.keys()].filter(block => (block + 1) * BLOCK > offsetBytes && block * BLOCK < end);
    let position = offsetBytes;
    for (const block of blocks.sort((a, b) => a - b)) {
      if (block * BLOCK > position) {
        request.addExtent(block * BLOCK - position, 3);
        position = block * BLOCK;
      }
      const next = Math.min((block + 1) * BLOCK, this.sizeBytes);
      request.addExtent(next - position, 0);
      position = next;
    }
    if (position < end) request.addExtent(this.sizeBytes - position, 3);
  }

  /** Puts bytes where no request did. */
  poke(offset: number, bytes: Uint8Array): void {
    for (const piece of this.#pieces(offset, bytes.length)) {
      this.#block(piece.block).set(bytes.subarray(piece.at, piece.at + piece.bytes), piece.from);
    }
  }

  peek(offset: number, length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (const { block, from, at, bytes } of this.#pieces(offset, length)) {
      const found = this.#blocks.get(block);
      if (found !== undefined) out.set(found.subarray(from, from + bytes), at);
    }
    return out;
  }
}

/** A fixed set of volumes; the first is the default export. */
export class MemoryExports implements ExportTable {
  readonly volumes: ExportedVolume[];
  /** Sessions in the transmission phase. */
  readonly open = new Set<SessionHandle>();

  constructor(...volumes: ExportedVolume[]) {
    this.volumes = volumes;
  }

  find(name: string): ExportedVolume | undefined {
    return name === '' ? this.volumes[0] : this.volumes.find(volume => volume.name === name);
  }

  list(): Iterable<ExportedVolume> {
    return this.volumes;
  }

  opened(_volume: ExportedVolume, session: SessionHandle): void {
    this.open.add(session);
  }

  closed(_volume: ExportedVolume, session: SessionHandle): void {
    assert(this.open.delete(session), 'closed once, after it was opened');
  }
}
