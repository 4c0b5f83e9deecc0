/**
 * A directory that is to be put back again and again to what it was: bits of its files are flipped, servers are started
 * on it, and then it is as before. All of it is kept in memory; what was not touched costs a look at its times.
 */
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

export interface BitPlace {
  /** Below the directory. */
  readonly file: string;
  readonly byte: number;
  readonly bit: number;
}

interface Golden {
  readonly bytes: Buffer;
  /** Inode and times when it was last as it should be. */
  seen: string;
}

/** What is smaller is compared whatever its times say: they are no finer than the kernel's clock ticks. */
const SMALL_BYTES = 1024 * 1024;
const PIECE_BYTES = 64 * 1024;

export class GoldenDirectory {
  readonly #path: string;
  readonly #files = new Map<string, Golden>();
  readonly #scratch: Buffer;

  constructor(path: string) {
    this.#path = path;
    let longest = 1;
    for (const name of this.#list()) {
      const bytes = readFileSync(join(path, name));
      longest = Math.max(longest, bytes.length);
      this.#files.set(name, { bytes, seen: this.#look(name) });
    }
    this.#scratch = Buffer.alloc(longest);
  }

  get names(): readonly string[] {
    return [...this.#files.keys()];
  }

  /** What the file is like, not what was made of it. */
  bytes(name: string): Buffer {
    const golden = this.#files.get(name);
    if (golden === undefined) throw new Error(`there is no ${name}`);
    return golden.bytes;
  }

  flip({ file, byte, bit }: BitPlace): void {
    const flipped = Uint8Array.of(this.bytes(file)[byte] ^ (1 << bit));
    const fd = openSync(join(this.#path, file), 'r+');
    writeSync(fd, flipped, 0, 1, byte);
    closeSync(fd);
    this.#files.get(file)!.seen = 'flipped';
  }

  restore(): void {
    for (const name of this.#list()) if (!this.#files.has(name)) rmSync(join(this.#path, name));
    for (const [name, golden] of this.#files) {
      if (golden.bytes.length >= SMALL_BYTES && this.#look(name) === golden.seen) continue;
      this.#restore(name, golden.bytes);
      golden.seen = this.#look(name);
    }
  }

  #restore(name: string, bytes: Buffer): void {
    const fd = openSync(join(this.#path, name), 'a+');
    closeSync(fd);
    const file = openSync(join(this.#path, name), 'r+');
    try {
      if (fstatSync(file).size !== bytes.length) ftruncateSync(file, bytes.length);
      readSync(file, this.#scratch, 0, bytes.length, 0);
      for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
        const end = Math.min(bytes.length, at + PIECE_BYTES);
        if (this.#scratch.compare(bytes, at, end, at, end) !== 0) writeSync(file, bytes, at, end - at, at);
      }
    } finally {
      closeSync(file);
    }
  }

  #list(): string[] {
    const names = readdirSync(this.#path, { recursive: true, encoding: 'utf8' });
    return names.filter(name => !statSync(join(this.#path, name)).isDirectory()).sort();
  }

  #look(name: string): string {
    try {
      const { ino, mtimeNs, ctimeNs } = statSync(join(this.#path, name), { bigint: true });
      return `${ino} ${mtimeNs} ${ctimeNs}`;
    } catch {
      return 'gone';
    }
  }
}
