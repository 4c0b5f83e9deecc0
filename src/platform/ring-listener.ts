/**
 * A listening socket on the ring: one accept is under way at a time.
 *
 * When the process or the system is out of descriptors or memory, accepting pauses and is tried again: connections wait
 * in the kernel's queue meanwhile, nothing spins, and what is connected goes on.
 */
import { lstatSync, rmSync, type Stats } from 'node:fs';
import { assert } from '../base/assert.ts';
import { EAGAIN, ECANCELED, ECONNABORTED, EINTR, EPROTO } from '../base/errno.ts';
import type { Stream } from '../base/stream.ts';
import { addon } from './addon.ts';
import type { ListenAddress, Listener } from './io-platform.ts';
import type { OpenThings } from './open-things.ts';
import type { Operation, OperationOwner } from './operation.ts';
import type { RingLoop } from './ring-loop.ts';
import { RingStream } from './ring-stream.ts';
import { OP_ACCEPT, SOCK_CLOEXEC } from './submission.ts';

/** These concern one connection, which is gone with them; after anything else a pause is due. */
const ONE_CONNECTION = new Set([-EINTR, -EAGAIN, -EPROTO, -ECONNABORTED]);
const PAUSE_MS = 100;

export class RingListener implements Listener, OperationOwner {
  readonly address: ListenAddress;
  readonly #loop: RingLoop;
  readonly #openThings: OpenThings;
  readonly #accepted: (stream: Stream) => void;
  readonly #fd: number;
  /** The Unix socket's file as it was made: another one under the same path is not ours to remove. */
  readonly #made: Stats | undefined;
  #accepting: Operation | undefined;
  #pause: NodeJS.Timeout | undefined;
  #closing = false;
  #ended: () => void = () => {};

  /** Owns `fd`, which listens, from here on. */
  constructor(
    loop: RingLoop,
    openThings: OpenThings,
    fd: number,
    address: ListenAddress,
    accepted: (stream: Stream) => void,
  ) {
    this.#loop = loop;
    this.#openThings = openThings;
    this.#fd = fd;
    this.address = address;
    this.#accepted = accepted;
    this.#made = address.kind === 'unix' ? lstatSync(address.path, { throwIfNoEntry: false }) : undefined;
    openThings.opened(this);
    this.#accept();
  }

  async close(): Promise<void> {
    assert(!this.#closing, 'a listener is closed once');
    this.#closing = true;
    clearTimeout(this.#pause);
    if (this.#accepting !== undefined) {
      this.#loop.cancel(this.#accepting);
      await new Promise<void>(resolve => {
        this.#ended = resolve;
      });
    }
    this.#removePath();
    addon.closeDescriptor(this.#fd);
    this.#openThings.closed(this);
  }

  operationEnded(operation: Operation, result: number): void {
    this.#loop.release(operation);
    this.#accepting = undefined;
    if (this.#closing) {
      if (result >= 0) addon.closeDescriptor(result);
      this.#ended();
    } else if (result >= 0) {
      this.#accept();
      this.#accepted(new RingStream(this.#loop, this.#openThings, result));
    } else if (ONE_CONNECTION.has(result)) {
      this.#accept();
    } else {
      assert(result !== -ECANCELED, 'an accept is cancelled only by close');
      this.#pause = setTimeout(() => this.#accept(), PAUSE_MS);
    }
  }

  #accept(): void {
    const operation = this.#loop.acquire(this);
    operation.opcode = OP_ACCEPT;
    operation.fd = this.#fd;
    operation.position = 0;
    operation.address = 0;
    operation.length = 0;
    operation.operationFlags = SOCK_CLOEXEC;
    this.#accepting = operation;
    this.#loop.start(operation);
  }

  #removePath(): void {
    if (this.address.kind !== 'unix' || this.#made === undefined) return;
    const now = lstatSync(this.address.path, { throwIfNoEntry: false });
    if (now?.ino === this.#made.ino && now.dev === this.#made.dev) rmSync(this.address.path, { force: true });
  }
}
