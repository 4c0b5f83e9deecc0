/** What a connection has received and not yet consumed: the bytes from `start` to `end` of its receive region. */
import type { Region } from './memory.ts';

/** With less room than this behind `end`, what is left moves to the front before the next receive. */
const ROOM_BYTES_MIN = 64 * 1024;

export class ReceiveBuffer {
  readonly region: Region;
  start = 0;
  end = 0;

  constructor(region: Region) {
    this.region = region;
  }

  get available(): number {
    return this.end - this.start;
  }

  get room(): number {
    return this.region.bytes.length - this.end;
  }

  /** Readies the buffer for a receive: whatever is left is at most one message that has not all arrived. */
  makeRoom(): void {
    if (this.start === this.end) {
      this.start = 0;
      this.end = 0;
    } else if (this.room < ROOM_BYTES_MIN && this.start > 0) {
      this.region.bytes.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
  }

  clear(): void {
    this.start = 0;
    this.end = 0;
  }
}
