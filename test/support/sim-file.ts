/**
 * A file in memory that can lose power: the simulated `BlockFile`. It knows what is in the page cache, what is on stable
 * storage, and what lies between: writes that were completed but not synced, and writes under way.
 *
 * Fault model, each of it a share of the I/Os while `faults` says so:
 * - EIO: a read brings nothing; a write is torn (none, all or some of its sectors); a sync has done nothing, and its
 *   writes are still to be synced; or (`forgets`, as Linux does) they count as clean from then on, so that later syncs
 *   succeed without them: they can be read until the power goes.
 * - rot: a bit of a page that was once written flips, in the cache and on stable storage alike.
 * - stray: a write is answered as done, but lies at another place that was written before, and its own is as it was.
 * - full (ENOSPC): a write does nothing where there is no space behind one of its pages yet, as in a sparse file whose file
 *   system is full. A discard gives space back.
 * - slow: an I/O ends up to some seconds of virtual time later.
 * `damaged` has the pages that rot and stray writes may have spoilt. A file that cannot be made is the node's affair; what never happens: a torn sector, a sync that lies, damage to what is being read.
 *
 * Invariants:
 * - A read gives what was there at its start, at its end, or a mix by sectors.
 * - A sync covers exactly the writes that had completed when it was called; a durable write covers itself.
 * - A crash of the process keeps completed writes; those under way happen wholly, in part (by sectors) or not at all.
 * - A loss of power keeps synced writes; of the others each sector is written or not, in the order of the writes.
 * - A buffered file takes writes in the order of the calls, as the page cache does. Of a direct one, two writes under way
 *   never overlap: what a device would make of them nobody knows, so it is a bug of the caller.
 */
import { assert } from '../../src/base/assert.ts';
import { EIO, ENOSPC, EOPNOTSUPP } from '../../src/base/errno.ts';
import type { IoRequest } from '../../src/base/io.ts';
import type { Region } from '../../src/base/memory.ts';
import type { DeviceFile } from '../../src/sled/device.ts';
import type { SimLoop } from './sim-loop.ts';
import { PAGE_BYTES, type PageChange, Pages, SECTOR_BYTES } from './sim-pages.ts';
import type { SimRandom } from './sim-random.ts';

interface Change extends PageChange {
  bytes: Uint8Array | undefined;
  /** A durable write: past the page cache, and on stable storage with its completion. */
  readonly durable: boolean;
  /** Read when it takes effect, for a write whose memory the device reads late. */
  readonly source: { readonly region: Region; readonly offset: number } | undefined;
  /** In the page cache: it has its place in the list of unsynced changes. */
  applied: boolean;
  /** Its completion was called, so a sync has to cover it. */
  ended: boolean;
  /** It lies at another place than the one that was asked for. */
  stray: boolean;
  /** The watcher's. */
  number: number;
}

/**
 * Hears of everything that decides what a loss of power may leave. It is told after a call has been taken in, and before
 * anybody hears that it has ended.
 */
export interface FileWatcher {
  /** Returns the number by which it hears of the change again. */
  changeBegan(change: PageChange): number;
  /** It was completed; a durable one is on stable storage. */
  changeEnded(number: number, durable: boolean): void;
  syncBegan(): void;
  /** These are on stable storage now. */
  syncEnded(numbers: readonly number[]): void;
}

/** How many in ten thousand fail with EIO, or go wrong in another way. */
export interface SimFaults {
  readonly readPerMyriad: number;
  readonly writePerMyriad: number;
  readonly syncPerMyriad: number;
  readonly forgets?: boolean;
  readonly rotPerMyriad?: number;
  readonly strayPerMyriad?: number;
  readonly slowPerMyriad?: number;
  /** How long a slow one takes at most; 3 s without it. */
  readonly slowMsMax?: number;
  readonly isFull?: boolean;
}

const SLOW_MS_MAX = 3000;

export class SimFile implements DeviceFile {
  readonly kind = 'file';
  readonly name: string;
  readonly sizeBytes: number;
  readonly alignmentBytes: number;
  readonly mode: 'direct' | 'buffered';
  faults: SimFaults = { readPerMyriad: 0, writePerMyriad: 0, syncPerMyriad: 0 };
  canDiscard = true;
  /** How often anything went wrong. */
  faultCount = 0;
  /** Numbers of pages. */
  readonly damaged = new Set<number>();
  readonly #loop: SimLoop;
  readonly #random: SimRandom;
  watcher: FileWatcher | undefined;
  readonly #cached: Pages;
  readonly #stable: Pages;
  #unsynced: Change[] = [];
  #underWay: Change[] = [];
  /** Counts the changes of what a read may see. */
  #version = 0;

  /** `content` is what it holds at first, on stable storage; it is not changed. */
  constructor(
    name: string,
    sizeBytes: number,
    mode: 'direct' | 'buffered',
    loop: SimLoop,
    random: SimRandom,
    content?: Pages,
  ) {
    this.#cached = new Pages(content);
    this.#stable = new Pages(content);
    this.name = name;
    this.sizeBytes = sizeBytes;
    this.mode = mode;
    this.alignmentBytes = mode === 'direct' ? PAGE_BYTES : 1;
    this.#loop = loop;
    this.#random = random;
  }

  read(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    this.#check(position, offset, length, region);
    const target = region.bytes.subarray(offset, offset + length);
    const failed = this.#happens(this.faults.readPerMyriad);
    const early = this.#random.below(3);
    if (early > 0) this.#cached.read(position, target);
    const version = this.#version;
    this.#later(() => {
      if (early === 0) {
        this.#cached.read(position, target);
      } else if (early === 1 && version !== this.#version) {
        const now = new Uint8Array(length);
        this.#cached.read(position, now);
        for (let at = 0; at < length; at += SECTOR_BYTES) {
          if (this.#random.chance(50)) target.set(now.subarray(at, at + SECTOR_BYTES), at);
        }
      }
      request.ioCompleted(failed ? -EIO : length);
    });
  }

  write(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    this.#write(position, region, offset, length, false, request);
  }

  writeDurable(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    assert(
      position % PAGE_BYTES === 0 && length % PAGE_BYTES === 0 && offset % PAGE_BYTES === 0,
      'a durable write is of whole pages',
    );
    const meets = this.#unsynced.some(other => overlap(other, { position, length }));
    assert(!meets, 'nothing that a durable write overwrites waits for a sync');
    this.#write(position, region, offset, length, true, request);
  }

  #write(position: number, region: Region, offset: number, length: number, durable: boolean, request: IoRequest): void {
    this.#check(position, offset, length, region);
    if (this.faults.isFull === true && !this.#cached.covers(position, length)) {
      this.faultCount++;
      this.#later(() => request.ioCompleted(-ENOSPC));
      return;
    }
    const failed = this.#happens(this.faults.writePerMyriad);
    const stray = this.#happens(this.faults.strayPerMyriad);
    const change: Change = {
      position: stray ? this.#astray(position, length) : position,
      length,
      durable,
      bytes: undefined,
      source: { region, offset },
      applied: false,
      ended: false,
      stray,
      number: 0,
    };
    this.#begin(change);
    if (this.#random.chance(50)) this.#applyThrough(change);
    this.#later(() => {
      if (failed) this.#tear(change);
      else this.#applyThrough(change);
      if (durable && !failed) this.#settle(change);
      this.#end(change);
      if (this.#happens(this.faults.rotPerMyriad)) this.#rot();
      request.ioCompleted(failed ? -EIO : length);
    });
  }

  /** A loss of power may keep what was not synced anyway: nothing has to move for it. */
  writeBack(position: number, length: number, request: IoRequest): void {
    assert(position >= 0 && length > 0 && position + length <= this.sizeBytes, 'a write-back is inside of the file');
    const failed = this.#happens(this.faults.syncPerMyriad);
    this.#later(() => request.ioCompleted(failed ? -EIO : 0));
  }

  sync(request: IoRequest): void {
    // What lies in the page cache before something that counts as written is written with it.
    const last = this.#unsynced.findLastIndex(change => change.ended);
    const covered = new Set(
      this.#unsynced.filter((change, i) => i <= last && (change.ended || this.mode === 'buffered')),
    );
    const failed = this.#happens(this.faults.syncPerMyriad);
    this.watcher?.syncBegan();
    this.#later(() => {
      if (!failed) {
        // Another sync may have ended first, and newer changes of the same places with it.
        const synced = this.#unsynced.filter(change => covered.has(change));
        for (const change of synced) this.#stable.apply(change);
        this.#unsynced = this.#unsynced.filter(change => !covered.has(change));
        this.watcher?.syncEnded(synced.map(change => change.number));
      } else if (this.faults.forgets === true) {
        this.#unsynced = this.#unsynced.filter(change => !covered.has(change));
      }
      request.ioCompleted(failed ? -EIO : 0);
    });
  }

  discard(position: number, length: number, request: IoRequest): void {
    assert(position >= 0 && position + length <= this.sizeBytes, 'a discard is inside of the file');
    if (!this.canDiscard) {
      this.#later(() => request.ioCompleted(-EOPNOTSUPP));
      return;
    }
    const change: Change = {
      position,
      length,
      durable: false,
      bytes: undefined,
      source: undefined,
      applied: false,
      ended: false,
      stray: false,
      number: 0,
    };
    this.#begin(change);
    this.#later(() => {
      this.#applyThrough(change);
      this.#end(change);
      request.ioCompleted(0);
    });
  }

  /** The process died: what was under way happened or not. */
  processDied(): void {
    const underWay = this.#underWay.filter(change => !change.applied);
    const whole = this.#random.below(underWay.length + 1);
    for (const [i, change] of underWay.entries()) {
      if (this.mode === 'direct' || change.durable || i === whole) this.#tear(change);
      else if (i < whole) this.#apply(change);
    }
    this.#underWay = [];
    // The kernel has ended it all by the time another process comes.
    for (const change of this.#unsynced) change.ended = true;
  }

  /** The power went: only what was synced is certain. */
  powerLost(): void {
    this.processDied();
    for (const change of this.#unsynced) {
      const fate = this.#random.below(3);
      if (fate === 0) continue;
      if (fate === 1 || change.bytes === undefined) {
        this.#stable.apply(change);
        continue;
      }
      this.#stable.applySome(change, () => this.#random.chance(50));
    }
    this.#unsynced = [];
    this.#version++;
    this.#cached.copy(this.#stable);
  }

  #happens(perMyriad = 0): boolean {
    const happens = perMyriad > 0 && this.#random.below(10_000) < perMyriad;
    if (happens) this.faultCount++;
    return happens;
  }

  #later(completion: () => void): void {
    if (!this.#happens(this.faults.slowPerMyriad)) this.#loop.post(completion);
    else
      this.#loop.after(this.#random.between(1, this.faults.slowMsMax ?? SLOW_MS_MAX), () =>
        this.#loop.post(completion),
      );
  }

  /** Page number of anything that was ever written, or undefined. */
  #writtenPage(): number | undefined {
    const pages = this.#cached.numbers();
    return pages.length === 0 ? undefined : this.#random.oneOf(pages);
  }

  #rot(): void {
    const page = this.#writtenPage();
    if (page === undefined) return;
    this.damaged.add(page);
    this.#version++;
    const position = page * PAGE_BYTES + this.#random.below(PAGE_BYTES);
    const bit = 1 << this.#random.below(8);
    for (const pages of [this.#cached, this.#stable]) {
      const byte = new Uint8Array(1);
      pages.read(position, byte);
      byte[0] ^= bit;
      pages.write(position, byte);
    }
  }

  /** Where a write of the range goes instead. */
  #astray(position: number, length: number): number {
    const page = this.#writtenPage() ?? Math.floor(position / PAGE_BYTES);
    const place = Math.min(page * PAGE_BYTES, this.sizeBytes - length);
    for (let at = 0; at < length; at += PAGE_BYTES) {
      this.damaged.add((position + at) / PAGE_BYTES);
      this.damaged.add((place + at) / PAGE_BYTES);
    }
    return place;
  }

  #begin(change: Change): void {
    for (const other of this.#underWay) {
      if (change.stray || other.stray) continue;
      if (this.mode === 'buffered' && !change.durable && !other.durable) continue;
      assert(!overlap(change, other), `two changes of ${this.name} that are under way do not overlap`);
    }
    this.#underWay.push(change);
    if (this.watcher === undefined) return;
    const { position, length } = change;
    change.number = this.watcher.changeBegan({ position, length, bytes: copyOfSource(change) });
  }

  #end(change: Change): void {
    change.ended = true;
    this.#underWay.splice(this.#underWay.indexOf(change), 1);
    this.watcher?.changeEnded(change.number, change.durable);
  }

  /** Puts a change into the page cache, behind those that were called before it where the order counts. */
  #applyThrough(change: Change): void {
    if (this.mode === 'buffered') {
      for (const other of this.#underWay) {
        if (other === change) break;
        if (!other.applied) this.#apply(other);
      }
    }
    if (!change.applied) this.#apply(change);
  }

  #apply(change: Change): void {
    change.bytes = copyOfSource(change);
    change.applied = true;
    this.#applyToCache(change);
    this.#unsynced.push(change);
  }

  #applyToCache(change: PageChange): void {
    this.#version++;
    this.#cached.apply(change);
  }

  /** The change is on stable storage. */
  #settle(change: Change): void {
    this.#stable.apply(change);
    this.#unsynced.splice(this.#unsynced.indexOf(change), 1);
  }

  /** A change that did not complete: none of it, all of it, or some of its sectors. */
  #tear(change: Change): void {
    if (change.applied) return;
    const fate = this.#random.below(3);
    if (fate === 0) return;
    if (fate === 1 || change.source === undefined) {
      this.#apply(change);
      return;
    }
    const { region, offset } = change.source;
    const bytes = region.bytes.slice(offset, offset + change.length);
    // A prefix is what an interrupted copy leaves; a device may also have taken any of the sectors.
    const prefix = (this.mode === 'buffered' && !change.durable) || this.#random.chance(50);
    const end = SECTOR_BYTES * this.#random.below(change.length / SECTOR_BYTES + 1);
    for (let at = 0; at < change.length; at += SECTOR_BYTES) {
      if (prefix ? at >= end : this.#random.chance(50)) continue;
      const part = bytes.subarray(at, at + SECTOR_BYTES);
      const position = change.position + at;
      const sector: Change = {
        position,
        length: part.length,
        durable: false,
        bytes: part,
        source: undefined,
        applied: true,
        ended: true,
        stray: false,
        number: 0,
      };
      this.#applyToCache(sector);
      this.#unsynced.push(sector);
    }
  }

  #check(position: number, offset: number, length: number, region: Region): void {
    const aligned = [position, offset, length].every(value => value % this.alignmentBytes === 0);
    assert(aligned, `an I/O of ${this.name} is aligned to ${this.alignmentBytes}`);
    assert(position >= 0 && length > 0 && position + length <= this.sizeBytes, 'an I/O is inside of the file');
    assert(offset >= 0 && offset + length <= region.bytes.length, 'an I/O is inside of its region');
  }
}

function overlap(one: Pick<Change, 'position' | 'length'>, other: Pick<Change, 'position' | 'length'>): boolean {
  return one.position < other.position + other.length && other.position < one.position + one.length;
}

function copyOfSource(change: Change): Uint8Array | undefined {
  if (change.source === undefined) return undefined;
  const { region, offset } = change.source;
  return region.bytes.slice(offset, offset + change.length);
}
