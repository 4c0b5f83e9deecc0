/**
 * Tells how long a stream of reads has gone on that follow one another, more or less: several may be under way, and come
 * in another order. One stream a volume is known; a read elsewhere begins a new one.
 */
import { MIB } from '../base/units.ts';

/** How far from where the stream has come to a read may lie and still belong to it. */
const SLACK_BYTES = 16 * MIB;

export class ReadStream {
  #endBytes = 0;
  #bytes = 0;

  /** Takes a read in; returns how many bytes its stream has read, itself included. */
  add(offsetBytes: number, lengthBytes: number): number {
    if (Math.abs(offsetBytes - this.#endBytes) > SLACK_BYTES) {
      this.#bytes = 0;
      this.#endBytes = offsetBytes;
    }
    this.#bytes += lengthBytes;
    this.#endBytes = Math.max(this.#endBytes, offsetBytes + lengthBytes);
    return this.#bytes;
  }
}
