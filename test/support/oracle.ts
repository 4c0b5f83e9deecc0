/**
 * Knows which values each cell of a volume may have, at any moment and after any crash. Tests tell it what they ask of a
 * server and what is answered; it judges what is read. A cell is 16 to 4096 bytes, never more than a block, which is what
 * is written atomically. Each write stamps its cells with its own number, so a value names the write it came from.
 *
 * The rule. A write W is *over* once it is certain that later reads may not see anything older:
 *   - for a read: W was answered before the read was asked for;
 *   - after the death of the process: W was answered;
 *   - after a loss of power: W was answered with FUA, or a FLUSH that was asked for after its answer has been answered;
 *   - in both cases also: W was answered before anything was asked for that is there now (no hole in the sequence).
 * A value is allowed unless its write was answered before a write of the same cell was asked for that is over. Writes
 * that were never answered may be there or not, until a crash has decided it.
 */
import { assert } from '../../src/base/assert.ts';

export interface TrackedWrite {
  readonly id: number;
  /** Its cells read as zeroes. */
  readonly zero: boolean;
  /** When it was asked for, for comparison with answers. */
  readonly issuedAt: number;
  /** The same, of the request that it came from: a crash that finds it makes a copy with a later `issuedAt`. */
  readonly orderedAt: number;
  ackedAt: number;
  durable: boolean;
  /** A crash that should have decided whether it is there has left its cell unreadable: nobody knows, then or later. */
  readonly undecided?: boolean;
}

/** Counts events, so that any two have an order. Volumes that share an op log share it. */
export class OracleClock {
  #now = 0;

  tick(): number {
    return ++this.#now;
  }
}

const NOTHING: TrackedWrite = { id: 0, zero: true, issuedAt: 0, orderedAt: 0, ackedAt: 0, durable: true };
const HISTORY_MAX = 6;

export type Crash = 'process' | 'power';
/** Of which crash the promises are to be kept. */
export type Promised = Crash | 'nothing';

export class Oracle {
  readonly cellBytes: number;
  readonly #clock: OracleClock;
  readonly #salt: number;
  readonly #cells: (TrackedWrite[] | undefined)[] = [];
  /** What crashes promise at the least: whatever they may bring back is remembered. */
  readonly #least: Promised;
  /** Answered but not known to be durable, in order of their answers. */
  #undurable: TrackedWrite[] = [];
  readonly #reads = new Set<number>();
  #nextId = 1;

  constructor(cellBytes: number, salt: number, least: Promised, clock = new OracleClock()) {
    assert(cellBytes >= 16 && 4096 % cellBytes === 0, 'cells divide a block');
    this.cellBytes = cellBytes;
    this.#salt = salt;
    this.#least = least;
    this.#clock = clock;
  }

  // --- writes ------------------------------------------------------------------------------------------------------------

  /** A write of whole cells is about to be asked for. Its content is made by `fill`. */
  writeIssued(offsetBytes: number, lengthBytes: number, zero: boolean): TrackedWrite {
    const now = this.#clock.tick();
    const write: TrackedWrite = {
      id: this.#nextId++,
      zero,
      issuedAt: now,
      orderedAt: now,
      ackedAt: Number.POSITIVE_INFINITY,
      durable: false,
    };
    const first = this.#cell(offsetBytes);
    const end = this.#cell(offsetBytes + lengthBytes);
    for (let cell = first; cell < end; cell++) {
      const history = this.#cells[cell];
      if (history === undefined) {
        this.#cells[cell] = [NOTHING, write];
        continue;
      }
      if (history.length >= HISTORY_MAX) this.#prune(history);
      history.push(write);
    }
    return write;
  }

  /** The payload of a write, for the volume's bytes from `offsetBytes` on. */
  fill(write: TrackedWrite, offsetBytes: number, lengthBytes: number, target: Uint8Array, at: number): void {
    const view = new DataView(target.buffer, target.byteOffset + at, lengthBytes);
    const first = this.#cell(offsetBytes);
    for (let i = 0; i < lengthBytes / this.cellBytes; i++)
      stamp(view, i * this.cellBytes, this.cellBytes, write.id, first + i, this.#salt);
  }

  writeAcked(write: TrackedWrite, durable: boolean): void {
    write.ackedAt = this.#clock.tick();
    write.durable = durable;
    if (!durable) this.#undurable.push(write);
  }

  flushIssued(): number {
    return this.#clock.tick();
  }

  /** A flush that was asked for at `issuedAt` has been answered. */
  flushAcked(issuedAt: number): void {
    const left: TrackedWrite[] = [];
    for (const write of this.#undurable) {
      if (write.ackedAt < issuedAt) write.durable = true;
      else left.push(write);
    }
    this.#undurable = left;
  }

  // --- reads -------------------------------------------------------------------------------------------------------------

  readIssued(): number {
    const now = this.#clock.tick();
    this.#reads.add(now);
    return now;
  }

  /** Ends a read. Says what is wrong with what it brought, which starts at `at` of `bytes`; undefined when nothing is. */
  readAnswered(
    issuedAt: number,
    offsetBytes: number,
    lengthBytes: number,
    bytes: Uint8Array,
    at: number,
  ): string | undefined {
    this.#reads.delete(issuedAt);
    const isOver = (write: TrackedWrite) => write.ackedAt < issuedAt;
    const first = this.#cell(offsetBytes);
    const count = lengthBytes / this.cellBytes;
    for (let i = 0; i < count; i++) {
      const wrong = this.#judge(first + i, bytes, at + i * this.cellBytes, isOver);
      if (wrong !== undefined) return wrong;
    }
    return undefined;
  }

  /** Ends a read that failed or is not looked at. */
  readDropped(issuedAt: number): void {
    this.#reads.delete(issuedAt);
  }

  /** Whether an answer that says "zeroes" about a range, asked for at `issuedAt`, may be right. Leaves the read open. */
  zeroesAllowed(issuedAt: number, offsetBytes: number, lengthBytes: number): string | undefined {
    const first = Math.ceil(offsetBytes / this.cellBytes);
    const end = Math.floor((offsetBytes + lengthBytes) / this.cellBytes);
    for (let cell = first; cell < end; cell++) {
      const history = this.#cells[cell];
      if (history === undefined) continue;
      const allowed = allowedOf(history, write => write.ackedAt < issuedAt);
      if (!allowed.some(write => write.zero)) return `cell ${cell}: zeroes, but ${describe(allowed)} allowed`;
    }
    return undefined;
  }

  // --- crashes -----------------------------------------------------------------------------------------------------------

  /** What was under way has no answer any more. To be called at the crash, before `newestOf`. */
  crashed(): void {
    this.#reads.clear();
  }

  /**
   * The latest time at which anything was asked for that is there now; `bytes` is the whole volume. With several volumes
   * on one log the latest of all counts.
   */
  newestOf(bytes: Uint8Array): number {
    let newest = 0;
    for (let cell = 0; cell < bytes.length / this.cellBytes; cell++) {
      const history = this.#cells[cell];
      if (history === undefined) continue;
      const id = idOf(bytes, cell * this.cellBytes);
      if (id === 0) continue;
      const write = history.findLast(candidate => candidate.id === id);
      if (write !== undefined) newest = Math.max(newest, write.orderedAt);
    }
    return newest;
  }

  /**
   * Judges the whole volume after a crash and recovery, and goes on from what is there. `newest` as of `newestOf`.
   * Returns up to ten sentences about cells that have values they may not have. Cells that are not `readable` may still
   * have any of theirs. `promised` says of which crash the promises have to be kept: where data is damaged, too, a node may
   * keep fewer. With 'nothing' there is still neither a hole in the sequence nor a value that was never written.
   */
  recovered(
    crash: Crash,
    bytes: Uint8Array,
    newest: number,
    readable: (cell: number) => boolean = () => true,
    promised: Promised = crash,
  ): string[] {
    const now = this.#clock.tick();
    const later = this.#clock.tick();
    const isOver = overAfter(promised, now, newest);
    const wrong: string[] = [];
    // What a loss of power has left is on stable storage; but where promises are fewer, nobody has said so yet.
    const settles = crash === 'power' && this.#least !== 'nothing';
    const copies = new Map<TrackedWrite, TrackedWrite>();
    const losers = new Map<TrackedWrite, TrackedWrite>();
    // A volume that has lost its growth has lost what was written there.
    this.#cells.length = Math.min(this.#cells.length, bytes.length / this.cellBytes);
    // Those that had no answer may lie in the log below the one that is there now, and come up when it is lost.
    const ended = (write: TrackedWrite) =>
      write.ackedAt < now ? write : copied(losers, write, { ...write, ackedAt: now, durable: false });
    const unknown = new Map<TrackedWrite, TrackedWrite>();
    const undecided = (write: TrackedWrite) =>
      write.ackedAt < now ? write : copied(unknown, write, { ...ended(write), undecided: true });
    for (let cell = 0; cell < bytes.length / this.cellBytes; cell++) {
      if (!readable(cell)) {
        this.#cells[cell] = this.#cells[cell]?.map(undecided);
        continue;
      }
      const problem = this.#judge(cell, bytes, cell * this.cellBytes, isOver);
      if (problem !== undefined) {
        wrong.push(problem);
        if (wrong.length === 10) break;
        continue;
      }
      const history = this.#cells[cell];
      if (history === undefined) continue;
      const decided = history.length === 1 && history[0].ackedAt < now && history[0].durable;
      if (decided) continue;
      const id = idOf(bytes, cell * this.cellBytes);
      const found = allowedOf(history, isOver).filter(write => readsAs(write, id));
      const original = found[found.length - 1];
      // Of several that read alike (as zeroes do) it may be any: also the one that is not durable.
      const durable = settles || found.every(write => write.durable);
      const copy = copied(copies, original, { ...original, issuedAt: later, ackedAt: later, durable });
      if (settles || this.#least === 'process') {
        this.#cells[cell] = [copy];
        continue;
      }
      this.#cells[cell] = [...history.map(ended), copy];
    }
    this.#undurable = settles ? [] : [...this.#undurable, ...losers.values(), ...copies.values()];
    return wrong;
  }

  /** Only judges, as `recovered` does, and forgets nothing: for one of many ways in which the same moment may be seen. */
  verdict(crash: Crash, bytes: Uint8Array, newest: number): string[] {
    const isOver = overAfter(crash, this.#clock.tick(), newest);
    const wrong: string[] = [];
    for (let cell = 0; cell < bytes.length / this.cellBytes && wrong.length < 10; cell++) {
      const problem = this.#judge(cell, bytes, cell * this.cellBytes, isOver);
      if (problem !== undefined) wrong.push(problem);
    }
    return wrong;
  }

  // --- cells -------------------------------------------------------------------------------------------------------------

  /** What is wrong with a cell's value, if anything. Called for every cell that is read: it makes no objects. */
  #judge(cell: number, bytes: Uint8Array, at: number, isOver: (write: TrackedWrite) => boolean): string | undefined {
    const history = this.#cells[cell];
    const id = idOf(bytes, at);
    if (history === undefined) {
      if (id === 0 && isZero(bytes, at, this.cellBytes)) return undefined;
      return `cell ${cell}: never written, but reads as ${id}`;
    }
    const oldest = oldestAllowed(history, isOver);
    let isAllowed = false;
    for (const write of history) isAllowed ||= write.ackedAt >= oldest && readsAs(write, id);
    if (!isAllowed) {
      const known = history.find(write => write.id === id);
      const of = id === 0 ? 'zeroes' : known === undefined ? `unknown ${id}` : `${id} (${describe([known])})`;
      const allowed = describe(allowedOf(history, isOver));
      return `cell ${cell} (byte ${cell * this.cellBytes}): reads as ${of}; allowed ${allowed}`;
    }
    const whole =
      id === 0 ? isZero(bytes, at, this.cellBytes) : isStamped(bytes, at, this.cellBytes, id, cell, this.#salt);
    return whole ? undefined : `cell ${cell}: its content is not that of one write, though it begins as of ${id}`;
  }

  /** Leaves of a history what may still be read, now or after a crash. */
  #prune(history: TrackedWrite[]): void {
    let oldestRead = Number.POSITIVE_INFINITY;
    for (const read of this.#reads) {
      oldestRead = read;
      break;
    }
    const isKept = KEPT[this.#least];
    const isOver = (write: TrackedWrite) => write.ackedAt < oldestRead && isKept(write, Number.POSITIVE_INFINITY);
    const oldest = oldestAllowed(history, isOver);
    let kept = 0;
    for (const write of history) if (write.ackedAt >= oldest) history[kept++] = write;
    history.length = kept;
  }

  #cell(bytes: number): number {
    assert(bytes % this.cellBytes === 0, 'the oracle is told of whole cells');
    return bytes / this.cellBytes;
  }
}

/** The one copy of a write, made at its first use. */
function copied(copies: Map<TrackedWrite, TrackedWrite>, original: TrackedWrite, copy: TrackedWrite): TrackedWrite {
  const known = copies.get(original);
  if (known !== undefined) return known;
  copies.set(original, copy);
  return copy;
}

/** Which writes a crash at `now` has to keep. */
const KEPT: Readonly<Record<Promised, (write: TrackedWrite, now: number) => boolean>> = {
  process: (write, now) => write.ackedAt < now,
  power: write => write.durable,
  nothing: () => false,
};

/** Which writes are over after a crash at `now`; what was asked for at `newest` is there. */
function overAfter(promised: Promised, now: number, newest: number): (write: TrackedWrite) => boolean {
  return write => KEPT[promised](write, now) || write.ackedAt < newest;
}

/** What was answered before this time may not be seen any more. */
function oldestAllowed(history: readonly TrackedWrite[], isOver: (write: TrackedWrite) => boolean): number {
  let newestOver = Number.NEGATIVE_INFINITY;
  for (const write of history) {
    if (write.issuedAt > newestOver && write.undecided !== true && isOver(write)) newestOver = write.issuedAt;
  }
  return newestOver;
}

function allowedOf(history: readonly TrackedWrite[], isOver: (write: TrackedWrite) => boolean): TrackedWrite[] {
  const oldest = oldestAllowed(history, isOver);
  return history.filter(write => write.ackedAt >= oldest);
}

/** Whether a cell that begins with this number may have been written by it. */
function readsAs(write: TrackedWrite, id: number): boolean {
  return id === 0 ? write.zero : !write.zero && write.id === id;
}

function describe(writes: readonly TrackedWrite[]): string {
  return writes
    .map(
      write =>
        `${write.zero ? 'zeroes ' : ''}${write.id}@${write.issuedAt}–${write.ackedAt}${write.durable ? 'd' : ''}`,
    )
    .join(', ');
}

/** Word `index` of a cell's stamp. Words 0 to 3 are in every cell. */
function word(id: number, cell: number, salt: number, index: number): number {
  if (index === 0) return id;
  return (Math.imul(id ^ salt, 0x9e3779b1) ^ Math.imul(cell + index, 0x85ebca6b)) >>> 0;
}

function stamp(view: DataView, at: number, length: number, id: number, cell: number, salt: number): void {
  for (let i = 0; i < length / 4; i++) view.setUint32(at + i * 4, word(id, cell, salt, i), true);
}

function idOf(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

function isStamped(bytes: Uint8Array, at: number, length: number, id: number, cell: number, salt: number): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, length);
  const words = length / 4;
  // All of the first words, then each eighth and the last: no part that can go wrong by itself is smaller.
  for (let i = 0; i < words; i += i < 4 ? 1 : 8) {
    if (view.getUint32(i * 4, true) !== word(id, cell, salt, i)) return false;
  }
  return view.getUint32(length - 4, true) === word(id, cell, salt, words - 1);
}

function isZero(bytes: Uint8Array, at: number, length: number): boolean {
  for (let i = at; i < at + length; i++) if (bytes[i] !== 0) return false;
  return true;
}
