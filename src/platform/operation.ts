/**
 * One operation on the ring, from its start to its completion. Operations are pooled by the loop and reused; the slot
 * is the mark by which a completion finds its operation, and through it the region, which so stays alive.
 */
import type { IoRequest } from '../base/io.ts';
import type { Region } from '../base/memory.ts';

/** Who started an operation: it either starts it again (what is left of it) or releases it. */
export interface OperationOwner {
  operationEnded(operation: Operation, result: number): void;
}

/** What an operation waits for: a peer, a disk's data, or a disk that empties its cache. */
export const WAITS_FOR_PEER = 0;
export const WAITS_FOR_DATA = 1;
export const WAITS_FOR_SYNC = 2;
export type WaitsFor = typeof WAITS_FOR_PEER | typeof WAITS_FOR_DATA | typeof WAITS_FOR_SYNC;

export class Operation {
  readonly slot: number;
  owner: OperationOwner | undefined;
  request: IoRequest | undefined;
  region: Region | undefined;
  opcode: number;
  waitsFor: WaitsFor;
  fd: number;
  operationFlags: number;
  length: number;
  /** Bytes of `length` that are done: the owner moves on by them when it starts the operation again. */
  done: number;
  position: number;
  address: number;

  constructor(slot: number) {
    this.slot = slot;
    this.owner = undefined;
    this.request = undefined;
    this.region = undefined;
    this.opcode = 0;
    this.waitsFor = WAITS_FOR_PEER;
    this.fd = 0;
    this.operationFlags = 0;
    this.length = 0;
    this.done = 0;
    // Not an integer, so that V8 keeps these fields as doubles from the start: addresses are above 2^31.
    this.position = Number.NaN;
    this.address = Number.NaN;
  }
}
