/**
 * What an I/O implementation gives to the rest: memory, files, sockets, the loop's turns and a clock. There are two, on
 * io_uring and on a pool of threads; which one runs is decided once, at start.
 */
import type { BlockFile, Clock, Turns } from '../base/io.ts';
import type { RegionSource } from '../base/memory.ts';
import type { Stream } from '../base/stream.ts';

export type IoKind = 'io_uring' | 'threads';

export interface OpenFileOptions {
  readonly path: string;
  /**
   * `direct`: O_DIRECT, with the alignment that the file really needs (statx, else probed).
   * `buffered`: through the page cache. Its `write` is done by the time the turn ends, in the calling thread, because an
   * append of a few KiB costs less than waking another one; reads and syncs go to the ring.
   */
  readonly mode: 'direct' | 'buffered';
  /** `writeDurable` will be called: a second descriptor is opened for it, past the page cache where that is possible. */
  readonly durableWrites?: boolean;
  /** Make the file if it is missing; it must not exist yet with `exclusive`. */
  readonly create?: boolean | 'exclusive';
  /**
   * Hold an exclusive claim, until the file is closed and its I/O has ended: O_EXCL on a block device, flock on a file.
   * Refused with `device-in-use`.
   */
  readonly claim?: boolean;
  readonly readOnly?: boolean;
}

/** A file of the platform; once closed, no call on it is allowed. */
export interface PlatformFile extends BlockFile {
  readonly path: string;
  readonly kind: 'file' | 'block device';
  /** Sets the length of a regular file; new bytes read as zeroes. Rejects with `no-space` or `io`. */
  resize(sizeBytes: number): Promise<void>;
  /** Reserves the blocks of a range of a regular file, so that later writes to it cannot meet ENOSPC. */
  preallocate(position: number, length: number): Promise<void>;
  /** The claim is released. Rejects while I/O is under way. */
  close(): Promise<void>;
}

export type ListenAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }
  /** A listening socket handed over by a service manager (LISTEN_FDS). */
  | { readonly kind: 'fd'; readonly fd: number };

export interface Listener {
  /** The address as bound: with the real port where 0 was asked for. */
  readonly address: ListenAddress;
  /** Takes no further connection; a Unix socket's path is removed. Those accepted stay. */
  close(): Promise<void>;
}

export interface IoPlatform extends Turns, Clock, RegionSource {
  readonly kind: IoKind;
  /** Why this kind runs, for the status page. */
  readonly kindReason: string;
  openFile(options: OpenFileOptions): Promise<PlatformFile>;
  /** `accepted` is called with each connection; TCP ones have TCP_NODELAY set. Rejects with `address-in-use` … */
  listen(address: ListenAddress, accepted: (stream: Stream) => void): Promise<Listener>;
  connect(address: ListenAddress): Promise<Stream>;
  /**
   * CRC32C (Castagnoli, as of RFC 3720 §B.4) of each 4096-byte block of `count` blocks from `offset` of `bytes`, into
   * `sums` from `sumsIndex` on. Here since it is native: one call for any number of blocks.
   */
  checksumBlocks(bytes: Uint8Array, offset: number, count: number, sums: Uint32Array, sumsIndex: number): void;
  /** CRC32C of `length` bytes from `offset`, continuing from `seed` (0 to begin). */
  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number;
  /** Ends the loop's hold on the process. Rejects while files or streams are open. */
  close(): Promise<void>;
}
