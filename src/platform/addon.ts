/**
 * The native addon and its TypeScript face. Only this folder imports it. The addon is small and does what it is told:
 * it checks types (a wrong argument is a TypeError), everything else is decided here above it.
 *
 * `SLEDGE_ADDON` names another build of it, such as one with sanitizers.
 */
import { existsSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import bindings from 'bindings';

export const KERNEL_RING = 0;
export const THREAD_RING = 1;

/** See native/ring.h for the contract of `enter` and `arm`. */
export interface NativeRing {
  readonly submissions: ArrayBuffer;
  readonly completions: ArrayBuffer;
  /** Submits `count` entries, then waits up to `spinMicros`, burning the processor. Completions ready, or -errno. */
  enter(count: number, spinMicros: number): number;
  /** Submits `count` entries and leaves completions that were announced alone. 0 or -errno. */
  push(count: number): number;
  /** Readable when Node's own loop has something to do; -1 where the ring cannot be waited for. */
  readonly loopFd: number;
  /**
   * Makes the next completion call `wake`. Returns how many are ready already; then nothing was armed. With `mayWait` a
   * poll of `loopFd` is under way, and the thread may sleep in the ring; `wake` then returns whether that poll has ended.
   */
  arm(mayWait: boolean): number;
  close(): void;
}

/** What a socket is bound or connected to. */
export interface NativeSocketName {
  readonly family: 'tcp' | 'unix' | 'other';
  readonly host: string;
  readonly port: number;
  readonly path: string;
  readonly listens: boolean;
}

/** Tells once, for each call of `readable` or `writable`, that a descriptor is ready; the descriptor stays its owner's. */
export interface NativeWatch {
  readable(): void;
  writable(): void;
  close(): void;
}

/** Numbers below 0 are -errno throughout. */
export interface NativeAddon {
  readonly Ring: new (kind: number, entries: number, threads: number, wake: () => boolean) => NativeRing;
  allocate(bytes: number, soon?: boolean): ArrayBuffer | undefined;
  addressOf(buffer: ArrayBuffer): number;
  writeAt(fd: number, bytes: Uint8Array, offset: number, length: number, position: number): number;
  directAlignment(fd: number): number;
  blockDevice(fd: number): { readonly sizeBytes: number; readonly sectorBytes: number } | number;
  takeSpace(fd: number, position: number, length: number): number;
  encodeTcpAddress(host: string, port: number, out: Uint8Array): number;
  encodeUnixAddress(path: string, out: Uint8Array): number;
  listenOn(address: Uint8Array, length: number, backlog: number, dualStack: boolean): number;
  socketFor(address: Uint8Array, length: number): number;
  probeSocket(address: Uint8Array, length: number): number;
  nameOf(fd: number, remote: boolean): NativeSocketName | number;
  tune(fd: number, unixBufferBytes: number): void;
  shutdownSocket(fd: number, how: number): number;
  setNonBlocking(fd: number, on: boolean): number;
  hasHungUp(fd: number): boolean;
  discardReceived(fd: number, bytesMax: number): number;
  closeDescriptor(fd: number): number;
  /** Bound, non-blocking, of generic netlink. */
  netlinkSocket(): number;
  joinNetlinkGroup(fd: number, group: number): number;
  socketPair(): [number, number] | number;
  startConnect(fd: number, address: Uint8Array, length: number): number;
  socketError(fd: number): number;
  setLinkOptions(fd: number): void;
  sendBytes(fd: number, bytes: Uint8Array, offset: number, length: number): number;
  receiveBytes(fd: number, bytes: Uint8Array, offset: number, length: number): number;
  readonly DescriptorWatch: new (fd: number, ready: () => void) => NativeWatch;
  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number;
  /** The ways to take it that this processor has, the fastest first, which is that of `checksum`. */
  readonly checksumWays: {
    readonly fold?: NativeAddon['checksum'];
    readonly stripes?: NativeAddon['checksum'];
    readonly tables: NativeAddon['checksum'];
  };
  checksumBlocks(bytes: Uint8Array, offset: number, count: number, sums: Uint32Array, sumsIndex: number): void;
}

/** The directory of package.json, above wherever the compiled files are. */
function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) {
    const parent = dirname(directory);
    if (parent === directory) throw new Error('the addon is looked for below a package.json, and there is none');
    directory = parent;
  }
  return dirname(realpathSync(join(directory, 'package.json')));
}

function load(): NativeAddon {
  const named = process.env['SLEDGE_ADDON'];
  if (named !== undefined && named !== '') return createRequire(import.meta.url)(named) as NativeAddon;
  return bindings({ bindings: 'sledge', module_root: packageRoot() }) as NativeAddon;
}

export const addon: NativeAddon = load();
