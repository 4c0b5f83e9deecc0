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

export class Operation {
  readonly slot: number;
  owner: OperationOwner | undefined;
  request: IoRequest | undefined;
  region: Region | undefined;
  opcode: number;
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
    this.fd = 0;
    this.operationFlags = 0;
    this.length = 0;
    this.done = 0;
    // Not an integer, so that V8 keeps these fields as doubles from the start: addresses are above 2^31.
    this.position = Number.NaN;
    this.address = Number.NaN;
  }
}
