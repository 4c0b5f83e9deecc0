/**
 * The content of a simulated file: pages by number, zeroes where there is none. May lie over another content, which it
 * reads through to and never changes; that one stays as it is for as long.
 */
export const PAGE_BYTES = 4096;
export const SECTOR_BYTES = 512;

/** A part of a file that gets another content. */
export interface PageChange {
  readonly position: number;
  readonly length: number;
  /** Absent: the range is discarded. */
  readonly bytes: Uint8Array | undefined;
}

export class Pages {
  /** Undefined: zeroes, whatever the base has there. */
  #pages = new Map<number, Uint8Array | undefined>();
  #base: Pages | undefined;

  constructor(base?: Pages) {
    this.#base = base;
  }

  read(position: number, target: Uint8Array): void {
    for (let at = 0; at < target.length; ) {
      const inPage = (position + at) % PAGE_BYTES;
      const length = Math.min(PAGE_BYTES - inPage, target.length - at);
      const page = this.#find(Math.floor((position + at) / PAGE_BYTES));
      if (page === undefined) target.fill(0, at, at + length);
      else target.set(page.subarray(inPage, inPage + length), at);
      at += length;
    }
  }

  write(position: number, source: Uint8Array): void {
    for (let at = 0; at < source.length; ) {
      const inPage = (position + at) % PAGE_BYTES;
      const length = Math.min(PAGE_BYTES - inPage, source.length - at);
      this.#own(Math.floor((position + at) / PAGE_BYTES)).set(source.subarray(at, at + length), inPage);
      at += length;
    }
  }

  /** Whole pages. */
  zero(position: number, length: number): void {
    const first = Math.floor(position / PAGE_BYTES);
    const end = Math.ceil((position + length) / PAGE_BYTES);
    for (const number of [...this.#pages.keys()]) if (number >= first && number < end) this.#pages.delete(number);
    if (this.#base === undefined) return;
    for (const number of this.#base.numbers()) {
      if (number >= first && number < end) this.#pages.set(number, undefined);
    }
  }

  apply(change: PageChange): void {
    if (change.bytes === undefined) this.zero(change.position, change.length);
    else this.write(change.position, change.bytes);
  }

  /** Each sector of it, or not; a discard is done wholly or not at all. */
  applySome(change: PageChange, taken: () => boolean): void {
    if (change.bytes === undefined) {
      if (taken()) this.apply(change);
      return;
    }
    for (let at = 0; at < change.length; at += SECTOR_BYTES) {
      if (taken()) this.write(change.position + at, change.bytes.subarray(at, at + SECTOR_BYTES));
    }
  }

  copy(other: Pages): void {
    this.#pages = new Map();
    for (const [number, page] of other.#pages) this.#pages.set(number, page?.slice());
    this.#base = other.#base;
  }

  #find(number: number): Uint8Array | undefined {
    const page = this.#pages.get(number);
    if (page !== undefined || this.#base === undefined || this.#pages.has(number)) return page;
    return this.#base.#find(number);
  }

  #own(number: number): Uint8Array {
    let page = this.#pages.get(number);
    if (page !== undefined) return page;
    page = this.#find(number)?.slice() ?? new Uint8Array(PAGE_BYTES);
    this.#pages.set(number, page);
    return page;
  }

  /** Whether there is space behind every page of the range. */
  covers(position: number, length: number): boolean {
    for (let at = position; at < position + length; at += PAGE_BYTES) {
      if (this.#find(Math.floor(at / PAGE_BYTES)) === undefined) return false;
    }
    return true;
  }

  /** Of the pages that are there. */
  numbers(): number[] {
    const own = this.#pages;
    const below = this.#base?.numbers().filter(number => !own.has(number)) ?? [];
    for (const [number, page] of own) if (page !== undefined) below.push(number);
    return below;
  }
}
