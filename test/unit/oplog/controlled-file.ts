/**
 * A file in memory whose I/O the test controls: each operation completes in a later turn of a `MemoryLoop`, or when the
 * test lets it, or with the error that the test asks for. Data moves when the operation completes. Used by the tests of
 * log, devices and head.
 */
import type { IoRequest } from '../../../src/base/io.ts';
import type { Region } from '../../../src/base/memory.ts';
import type { DeviceFile } from '../../../src/sled/device.ts';
import type { MemoryLoop } from '../../support/memory-loop.ts';

export type FileCommand = 'read' | 'write' | 'writeDurable' | 'writeBack' | 'sync' | 'discard';

export interface HeldIo {
  readonly command: FileCommand;
  readonly position: number;
  readonly length: number;
  /** Completes it, as it would have been or with this result instead. */
  finish(result?: number): void;
}

const PAGE = 4096;

export class ControlledFile implements DeviceFile {
  kind: 'file' | 'block device' = 'file';
  sizeBytes: number;
  alignmentBytes = 1;
  /** Commands that wait in `held`. */
  readonly hold = new Set<FileCommand>();
  readonly held: HeldIo[] = [];
  /** Results, negative errnos, that commands end with instead of being carried out. */
  readonly failing = new Map<FileCommand, number>();
  /** How often each command was started. */
  readonly counts = { read: 0, write: 0, writeDurable: 0, writeBack: 0, sync: 0, discard: 0 };
  readonly #loop: MemoryLoop;
  readonly #pages = new Map<number, Uint8Array>();

  constructor(loop: MemoryLoop, sizeBytes: number) {
    this.#loop = loop;
    this.sizeBytes = sizeBytes;
  }

  get pageCount(): number {
    return this.#pages.size;
  }

  read(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    this.#start('read', position, length, request, () => {
      this.#move(position, length, (page, from, at, bytes) => {
        const target = region.bytes.subarray(offset + at, offset + at + bytes);
        if (page === undefined) target.fill(0);
        else target.set(page.subarray(from, from + bytes));
      });
    });
  }

  write(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    this.#start('write', position, length, request, () => {
      this.poke(position, region.bytes.subarray(offset, offset + length));
    });
  }

  writeDurable(position: number, region: Region, offset: number, length: number, request: IoRequest): void {
    this.#start('writeDurable', position, length, request, () => {
      this.poke(position, region.bytes.subarray(offset, offset + length));
    });
  }

  writeBack(position: number, length: number, request: IoRequest): void {
    this.#start('writeBack', position, length, request, () => {});
  }

  sync(request: IoRequest): void {
    this.#start('sync', 0, 0, request, () => {});
  }

  discard(position: number, length: number, request: IoRequest): void {
    this.#start('discard', position, length, request, () => this.poke(position, new Uint8Array(length)));
  }

  /** What lies in the file, past all I/O. */
  peek(position: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.#move(position, length, (page, from, at, count) => {
      if (page !== undefined) bytes.set(page.subarray(from, from + count), at);
    });
    return bytes;
  }

  poke(position: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const from = (position + at) % PAGE;
      const count = Math.min(PAGE - from, bytes.length - at);
      this.#page(Math.floor((position + at) / PAGE)).set(bytes.subarray(at, at + count), from);
      at += count;
    }
  }

  /** Turns the bits of `mask` over in one byte. */
  flip(position: number, mask = 1): void {
    this.#page(Math.floor(position / PAGE))[position % PAGE] ^= mask;
  }

  /** Lets what is held go on, and holds nothing any more. */
  letGo(): void {
    this.hold.clear();
    for (const io of this.held.splice(0)) io.finish();
  }

  #start(command: FileCommand, position: number, length: number, request: IoRequest, work: () => void): void {
    if (position + length > this.sizeBytes) throw new Error(`${command} beyond the end of the file`);
    this.counts[command]++;
    const finish = (result?: number) => {
      this.#loop.post(() => {
        const failure = result ?? this.failing.get(command) ?? 0;
        if (failure >= 0) work();
        request.ioCompleted(failure < 0 ? failure : command === 'sync' || command === 'discard' ? 0 : length);
      });
    };
    if (!this.hold.has(command)) {
      finish();
      return;
    }
    const io: HeldIo = {
      command,
      position,
      length,
      finish: result => {
        const at = this.held.indexOf(io);
        if (at >= 0) this.held.splice(at, 1);
        finish(result);
      },
    };
    this.held.push(io);
  }

  #page(number: number): Uint8Array {
    let page = this.#pages.get(number);
    if (page === undefined) {
      page = new Uint8Array(PAGE);
      this.#pages.set(number, page);
    }
    return page;
  }

  #move(
    position: number,
    length: number,
    visit: (page: Uint8Array | undefined, from: number, at: number, bytes: number) => void,
  ): void {
    for (let at = 0; at < length; ) {
      const from = (position + at) % PAGE;
      const bytes = Math.min(PAGE - from, length - at);
      visit(this.#pages.get(Math.floor((position + at) / PAGE)), from, at, bytes);
      at += bytes;
    }
  }
}
