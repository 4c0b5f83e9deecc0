/**
 * The I/O of a data-plane instance: puts the ring's loop, files, sockets and memory together behind `IoPlatform`. One
 * for each thread that does I/O; `node/` makes it.
 */
import { assert } from '../base/assert.ts';
import { SledgeError } from '../base/errors.ts';
import type { CancelTimer, TurnTask } from '../base/io.ts';
import { ringEntries } from '../base/limits.ts';
import type { Region } from '../base/memory.ts';
import type { Stream } from '../base/stream.ts';
import { addon, KERNEL_RING, THREAD_RING } from './addon.ts';
import { DurableWays } from './durable-ways.ts';
import { allocateRegion } from './io-memory.ts';
import type { IoKind, IoPlatform, ListenAddress, Listener, OpenFileOptions, PlatformFile } from './io-platform.ts';
import { openForRing } from './open-file.ts';
import { OpenThings } from './open-things.ts';
import { RingFile } from './ring-file.ts';
import { RingListener } from './ring-listener.ts';
import { RingLoop } from './ring-loop.ts';
import { RingStream } from './ring-stream.ts';
import { bindSocket, connectSocket } from './socket-setup.ts';
import { SystemClock } from './system-clock.ts';
import { errnoOf, systemErrorName } from './system-error.ts';

export interface IoPlatformOptions {
  /** Unset: as SLEDGE_IO says, else io_uring where the kernel allows it. */
  readonly kind?: IoKind;
  /** I/Os under way at one time; a power of two. Those beyond wait in order. */
  readonly entries?: number;
  /** Threads for files, where io_uring is not used. */
  readonly threads?: number;
  /** How long to wait for the next completion, burning the processor, before sleeping. 0 saves power for latency. */
  readonly spinMicros?: number;
}

const THREADS_DEFAULT = 8;
const SPIN_MICROS_DEFAULT = 50;

/** Throws `not-supported` where the kind that was asked for is not to be had, `usage` where SLEDGE_IO is nonsense. */
export function createIoPlatform(options: IoPlatformOptions = {}): IoPlatform {
  const wanted = options.kind ?? kindFromEnvironment();
  if (wanted === 'threads') return new RingPlatform('threads', 'asked for', makeLoop('threads', options));
  try {
    const reason = wanted === undefined ? 'the kernel allows it' : 'asked for';
    return new RingPlatform('io_uring', reason, makeLoop('io_uring', options));
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 0) throw error;
    const reason = `io_uring is not to be had: ${systemErrorName(errno)}`;
    if (wanted === 'io_uring') throw new SledgeError('not-supported', reason, { cause: error });
    return new RingPlatform('threads', reason, makeLoop('threads', options));
  }
}

function kindFromEnvironment(): IoKind | undefined {
  const value = process.env['SLEDGE_IO'];
  if (value === undefined || value === '') return undefined;
  if (value === 'io_uring' || value === 'threads') return value;
  throw new SledgeError('usage', `SLEDGE_IO is ${JSON.stringify(value)}, and neither io_uring nor threads`);
}

function makeLoop(kind: IoKind, options: IoPlatformOptions): RingLoop {
  return new RingLoop({
    kind: kind === 'io_uring' ? KERNEL_RING : THREAD_RING,
    entries: options.entries ?? ringEntries,
    threads: options.threads ?? THREADS_DEFAULT,
    spinMicros: options.spinMicros ?? SPIN_MICROS_DEFAULT,
  });
}

class RingPlatform implements IoPlatform {
  readonly kind: IoKind;
  readonly kindReason: string;
  readonly #loop: RingLoop;
  readonly #clock = new SystemClock();
  readonly #openThings = new OpenThings();
  readonly #durableWays: DurableWays | undefined;
  /** Control-plane calls that have not ended: they may open something yet. */
  #pending = 0;
  #closed = false;

  constructor(kind: IoKind, kindReason: string, loop: RingLoop) {
    this.kind = kind;
    this.kindReason = kindReason;
    this.#loop = loop;
    // A thread writes and waits for the disk itself: there is nothing to choose.
    this.#durableWays = kind === 'io_uring' ? new DurableWays() : undefined;
  }

  openFile(options: OpenFileOptions): Promise<PlatformFile> {
    return this.#opening(
      async () => new RingFile(this.#loop, this.#openThings, this.#durableWays, await openForRing(options)),
    );
  }

  listen(address: ListenAddress, accepted: (stream: Stream) => void): Promise<Listener> {
    return this.#opening(async () => {
      const bound = await bindSocket(this.kind, address);
      return new RingListener(this.#loop, this.#openThings, bound.fd, bound.address, accepted);
    });
  }

  connect(address: ListenAddress): Promise<Stream> {
    return this.#opening(
      async () => new RingStream(this.#loop, this.#openThings, await connectSocket(this.#loop, address)),
    );
  }

  allocate(bytes: number, soon = false): Region {
    return allocateRegion(bytes, soon);
  }

  atEndOfTurn(task: TurnTask): void {
    this.#loop.atEndOfTurn(task);
  }

  afterMicros(task: TurnTask, micros: number): void {
    this.#loop.afterMicros(task, micros);
  }

  cancelAfterMicros(): void {
    this.#loop.cancelAfterMicros();
  }

  hurry(): void {
    this.#loop.hurry();
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  after(delayMs: number, callback: () => void): CancelTimer {
    return this.#clock.after(delayMs, callback);
  }

  checksumBlocks(bytes: Uint8Array, offset: number, count: number, sums: Uint32Array, sumsIndex: number): void {
    addon.checksumBlocks(bytes, offset, count, sums, sumsIndex);
  }

  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number {
    return addon.checksum(bytes, offset, length, seed);
  }

  async close(): Promise<void> {
    assert(!this.#closed, 'a platform is closed once');
    assert(this.#pending === 0, 'no open, listen or connect is under way when a platform closes');
    assert(this.#openThings.count === 0, `nothing is open when a platform closes: ${this.#openThings.describe()}`);
    this.#closed = true;
    await this.#loop.close();
  }

  async #opening<Opened>(open: () => Promise<Opened>): Promise<Opened> {
    assert(!this.#closed, 'the platform is open');
    this.#pending += 1;
    try {
      return await open();
    } finally {
      this.#pending -= 1;
    }
  }
}
