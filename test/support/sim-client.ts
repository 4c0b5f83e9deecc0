/**
 * A client of a volume in a simulation: sends random requests, tells the oracle of them and has it judge every answer.
 * It keeps the rules of `exported-volume.ts`: small payloads are scribbled over once `submit` has returned, small reads
 * have to complete in the call that asks for their place. What reads are lent is kept for a while, as by a slow client, and
 * has to stay as it is.
 */
import { nbdInlineBytesMax } from '../../src/base/limits.ts';
import type { Region } from '../../src/base/memory.ts';
import { plainRegion } from '../../src/base/memory.ts';
import { BLOCK_BYTES, KIB, MIB } from '../../src/base/units.ts';
import type { Loan, VolumeCommand, VolumeRequest } from '../../src/nbd-server/exported-volume.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { lentBytes } from './gathered.ts';
import type { Oracle, TrackedWrite } from './oracle.ts';
import type { SimRandom } from './sim-random.ts';

export const REQUEST_BYTES_MAX = 1 * MIB;

/**
 * Of a request's range: a few bytes, a few blocks, whole chunks (which go past the log when they are long), parts of
 * the first blocks, anything.
 */
export type Shape = 'bytes' | 'blocks' | 'chunks' | 'hot' | 'any';

/** How often each command is sent, in parts. */
export type Mix = Readonly<Record<VolumeCommand, number>>;

/** Payload memory by size; a request takes one and gives it back. */
const payloads = new Map<number, Region[]>();

function takePayload(bytes: number): Region {
  let size = 64 * KIB;
  while (size < bytes + 64) size *= 2;
  return payloads.get(size)?.pop() ?? plainRegion(size);
}

function givePayload(region: Region): void {
  const size = region.bytes.length;
  const free = payloads.get(size);
  if (free === undefined) payloads.set(size, [region]);
  else free.push(region);
}

export class SimClient {
  readonly volume: Volume;
  readonly oracle: Oracle;
  readonly problems: string[] = [];
  readonly random: SimRandom;
  /** One of these, in equal parts. */
  shapes: readonly Shape[] = ['bytes', 'blocks', 'blocks', 'chunks', 'hot'];
  /** Errors are expected: they are counted and not reported. */
  errorsExpected = false;
  errors = 0;
  /** Whether the log has failed: then nothing that changes or flushes a volume is answered as done any more. */
  isSealed: () => boolean = () => false;
  inFlight = 0;
  done = 0;
  /** What reads were lent, with the bytes it had then. */
  readonly #loans: { readonly loan: Loan; readonly bytes: Uint8Array }[] = [];
  lentReads = 0;
  /** Op number that is certain to survive a crash of the process, and of the power. */
  flushedOp = 0;
  /** Requests stay inside of it. */
  sizeAcked: number;
  /** It was answered, or survived a loss of power. */
  sizeDurable: number;

  constructor(volume: Volume, oracle: Oracle, random: SimRandom) {
    this.volume = volume;
    this.oracle = oracle;
    this.random = random;
    this.sizeAcked = volume.sizeBytes;
    this.sizeDurable = volume.sizeBytes;
  }

  sendRandom(mix: Mix): void {
    const command = pick(this.random, mix);
    const { random, volume } = this;
    const cell = this.oracle.cellBytes;
    const request = new ClientRequest(this, command);
    if (command !== 'flush') {
      const [offset, length] = this.#range(command === 'read' || command === 'write', cell);
      request.offsetBytes = offset;
      request.lengthBytes = length;
    }
    request.fua = random.chance(5);
    request.noHole = command === 'writeZeroes' && random.chance(40);
    request.fastZero = command === 'writeZeroes' && random.chance(10);
    request.holesWanted = command === 'read' && random.chance(50);
    request.oneExtent = random.chance(20);
    request.send(volume);
  }

  send(command: VolumeCommand, offsetBytes: number, lengthBytes: number): void {
    const request = new ClientRequest(this, command);
    request.offsetBytes = offsetBytes;
    request.lengthBytes = lengthBytes;
    request.send(this.volume);
  }

  #range(withPayload: boolean, cell: number): [number, number] {
    const { random, volume } = this;
    const size = this.sizeAcked;
    const { chunkBytes } = volume;
    const within = (unit: number, lengthMax: number): [number, number] => {
      if (unit > size) return within(cell, lengthMax);
      const units = Math.max(1, Math.floor(Math.min(lengthMax, size) / unit));
      const length = unit * random.between(1, units);
      const places = Math.floor((size - length) / unit);
      return [unit * random.below(places + 1), length];
    };
    switch (random.oneOf(this.shapes)) {
      case 'bytes':
        return within(cell, random.chance(80) ? 3 * BLOCK_BYTES : 100 * KIB);
      case 'blocks':
        return within(BLOCK_BYTES, random.chance(80) ? 3 * BLOCK_BYTES : 300 * KIB);
      case 'chunks':
        return within(chunkBytes, Math.max(3 * chunkBytes, 128 * KIB));
      case 'hot': {
        const at = random.below(BLOCK_BYTES / cell);
        const length = cell * random.between(1, BLOCK_BYTES / cell - at);
        return [BLOCK_BYTES * random.below(Math.min(4, size / BLOCK_BYTES)) + at * cell, length];
      }
      default:
        return within(cell, withPayload ? REQUEST_BYTES_MAX : size);
    }
  }

  /** Some loans end with each request that does. */
  returnLoans(): void {
    while (this.#loans.length > 0 && this.random.chance(25)) {
      const { loan, bytes } = this.#loans.splice(this.random.below(this.#loans.length), 1)[0];
      if (Buffer.compare(lentBytes(loan), bytes) !== 0) this.problem('lent bytes have changed');
      loan.returned();
    }
  }

  keepLoan(loan: Loan, bytes: Uint8Array): void {
    this.lentReads++;
    this.#loans.push({ loan, bytes });
  }

  problem(text: string): void {
    this.problems.push(`${this.volume.name}: ${text}`);
  }
}

function pick(random: SimRandom, mix: Mix): VolumeCommand {
  const entries = Object.entries(mix) as [VolumeCommand, number][];
  let at = random.below(entries.reduce((sum, [, parts]) => sum + parts, 0));
  for (const [command, parts] of entries) {
    if (at < parts) return command;
    at -= parts;
  }
  return 'read';
}

class ClientRequest implements VolumeRequest {
  readonly command: VolumeCommand;
  offsetBytes = 0;
  lengthBytes = 0;
  fua = false;
  noHole = false;
  fastZero = false;
  oneExtent = false;
  holesWanted = false;
  region: Region;
  regionOffset = 0;
  readonly #client: SimClient;
  #issuedAt = 0;
  #write: TrackedWrite | undefined;
  #placed = false;
  #submitting = false;
  #completed = false;
  #holesEnd = 0;
  #statusEnd = 0;
  #opAtIssue = 0;

  constructor(client: SimClient, command: VolumeCommand) {
    this.#client = client;
    this.command = command;
    this.region = plainRegionOfNothing;
  }

  send(volume: Volume): void {
    const { oracle, random } = this.#client;
    const small = this.lengthBytes <= nbdInlineBytesMax;
    this.#client.inFlight++;
    switch (this.command) {
      case 'write':
        this.region = takePayload(this.lengthBytes);
        this.regionOffset = small ? 4 * random.below(16) : 0;
        this.#write = oracle.writeIssued(this.offsetBytes, this.lengthBytes, false);
        oracle.fill(this.#write, this.offsetBytes, this.lengthBytes, this.region.bytes, this.regionOffset);
        break;
      case 'writeZeroes':
        this.#write = oracle.writeIssued(this.offsetBytes, this.lengthBytes, true);
        break;
      case 'trim': {
        const first = Math.ceil(this.offsetBytes / BLOCK_BYTES) * BLOCK_BYTES;
        const end = Math.floor((this.offsetBytes + this.lengthBytes) / BLOCK_BYTES) * BLOCK_BYTES;
        if (first < end) this.#write = oracle.writeIssued(first, end - first, true);
        break;
      }
      case 'flush':
        this.#issuedAt = oracle.flushIssued();
        this.#opAtIssue = volume.committedOp;
        break;
      default:
        this.#issuedAt = oracle.readIssued();
        this.#statusEnd = this.offsetBytes;
    }
    this.#submitting = true;
    volume.submit(this);
    this.#submitting = false;
    if (this.command === 'write' && small) {
      this.region.bytes.fill(0xee, this.regionOffset, this.regionOffset + this.lengthBytes);
    }
  }

  place(): void {
    if (this.command !== 'read') this.#client.problem(`${this.command} asked for a place`);
    if (this.#placed) this.#client.problem('a read asked for its place twice');
    this.#placed = true;
    const small = this.lengthBytes <= nbdInlineBytesMax;
    this.region = takePayload(this.lengthBytes);
    this.regionOffset = small ? this.#client.random.below(64) : 0;
    this.region.bytes.fill(0xaa, this.regionOffset, this.regionOffset + this.lengthBytes);
    // Whoever asks for a small place completes at once; a microtask later is too late.
    if (small) {
      queueMicrotask(() => {
        if (!this.#completed) this.#client.problem('a small read did not complete in the call that placed it');
      });
    }
  }

  addHole(offset: number, lengthBytes: number): void {
    if (!this.holesWanted) this.#client.problem('a hole that was not wanted');
    if (offset < this.#holesEnd || offset + lengthBytes > this.lengthBytes) this.#client.problem('a hole out of order');
    this.#holesEnd = offset + lengthBytes;
    this.region.bytes.fill(0, this.regionOffset + offset, this.regionOffset + offset + lengthBytes);
  }

  addExtent(lengthBytes: number, flags: number): void {
    const client = this.#client;
    if (lengthBytes <= 0) client.problem('an empty extent');
    const start = this.#statusEnd;
    this.#statusEnd += lengthBytes;
    if (this.#statusEnd > client.volume.sizeBytes) client.problem('an extent beyond the end');
    if ((flags & 2) === 0) return;
    const wrong = client.oracle.zeroesAllowed(this.#issuedAt, start, lengthBytes);
    if (wrong !== undefined) client.problem(`block status: ${wrong}`);
  }

  completedFrom(loan: Loan): void {
    const bytes = lentBytes(loan);
    if (this.lengthBytes <= nbdInlineBytesMax) this.#client.problem('a small read was lent its bytes');
    if (bytes.length !== this.lengthBytes) this.#client.problem(`${bytes.length} bytes lent of ${this.lengthBytes}`);
    this.place();
    this.region.bytes.set(bytes, this.regionOffset);
    this.#client.keepLoan(loan, bytes);
    this.completed(0);
  }

  hurryReply(): void {
    if (!this.#completed || this.command !== 'write')
      this.#client.problem(`there is no reply to ${this.command} to hurry`);
  }

  completed(errno: number): void {
    const client = this.#client;
    const { oracle } = client;
    client.returnLoans();
    if (this.#completed) client.problem(`${this.command} completed twice`);
    this.#completed = true;
    client.inFlight--;
    client.done++;
    if (errno !== 0) {
      client.errors++;
      if (!client.errorsExpected) client.problem(`${this.command} failed with ${errno}`);
    }
    const promises = this.#write !== undefined || this.command === 'flush';
    if (errno === 0 && promises && client.isSealed())
      client.problem(`${this.command} succeeds after the log has failed`);
    switch (this.command) {
      case 'write':
      case 'writeZeroes':
      case 'trim':
        if (errno === 0 && this.#write !== undefined)
          oracle.writeAcked(this.#write, this.fua || client.volume.ack === 'durable');
        break;
      case 'flush':
        if (errno === 0) {
          oracle.flushAcked(this.#issuedAt);
          client.flushedOp = Math.max(client.flushedOp, this.#opAtIssue);
        }
        break;
      case 'read':
        this.#judgeRead(errno);
        break;
      default:
        oracle.readDropped(this.#issuedAt);
        if (this.command === 'blockStatus' && errno === 0 && this.#statusEnd === this.offsetBytes) {
          client.problem('a block status without an extent');
        }
    }
    // A small payload may be completed inside of `submit`, which still has it.
    if (this.region !== plainRegionOfNothing && !this.#submitting) givePayload(this.region);
  }

  #judgeRead(errno: number): void {
    const client = this.#client;
    const { oracle } = client;
    if (errno !== 0) {
      oracle.readDropped(this.#issuedAt);
      return;
    }
    if (!this.#placed) client.problem('a read without a place');
    const { offsetBytes, lengthBytes, region, regionOffset } = this;
    const wrong = oracle.readAnswered(this.#issuedAt, offsetBytes, lengthBytes, region.bytes, regionOffset);
    if (wrong !== undefined) client.problem(`read of ${lengthBytes} at ${offsetBytes}: ${wrong}`);
  }
}

const plainRegionOfNothing: Region = plainRegion(0);

/** What a volume holds, for the verdict after a crash; `errno` is the last one, if any. */
export interface VolumeContent {
  readonly bytes: Uint8Array;
  errno: number;
  /** Blocks that cannot be read, when `readAll` was asked to go on behind them. */
  readonly unreadable: Set<number>;
}

/** Reads all of a volume in requests of its own. */
export function readAll(volume: Volume, onErrors: 'stop' | 'go on' = 'stop'): Promise<VolumeContent> {
  return new Promise(resolve => {
    const content: VolumeContent = { bytes: new Uint8Array(volume.sizeBytes), errno: 0, unreadable: new Set() };
    const { bytes } = content;
    const region = takePayload(Math.min(REQUEST_BYTES_MAX, volume.sizeBytes));
    let at = 0;
    let lengthMax = REQUEST_BYTES_MAX;
    const request: VolumeRequest = {
      command: 'read',
      offsetBytes: 0,
      lengthBytes: 0,
      fua: false,
      noHole: false,
      fastZero: false,
      oneExtent: false,
      holesWanted: false,
      region,
      regionOffset: 0,
      place: () => {},
      addHole: () => {},
      addExtent: () => {},
      hurryReply: () => {},
      completedFrom: loan => {
        region.bytes.set(lentBytes(loan));
        loan.returned();
        request.completed(0);
      },
      completed: errno => {
        if (errno !== 0) content.errno = errno;
        if (errno !== 0 && onErrors === 'go on' && request.lengthBytes > BLOCK_BYTES) {
          // Block by block from here on.
          lengthMax = BLOCK_BYTES;
          next();
          return;
        }
        if (errno === 0) bytes.set(region.bytes.subarray(0, request.lengthBytes), at);
        else content.unreadable.add(at / BLOCK_BYTES);
        at += request.lengthBytes;
        if ((errno !== 0 && onErrors === 'stop') || at === bytes.length) {
          givePayload(region);
          resolve(content);
        } else next();
      },
    };
    const next = () => {
      request.offsetBytes = at;
      request.lengthBytes = Math.min(lengthMax, bytes.length - at);
      volume.submit(request);
    };
    next();
  });
}
