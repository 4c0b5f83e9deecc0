/**
 * Carries out what changes a volume: writes, zeroes and trims become operations in the log. Whole blocks that come in
 * small requests are appended at once; everything else is cut into pieces by a `WriteJob`.
 *
 * Invariants:
 * - An operation gets its number when it is appended, in the order of appending; what was appended is never taken back.
 * - Who finds no room in the log or the overlay waits in order of arrival, in front of everything that comes later. Volumes
 *   with something on a device that is aside wait by themselves, in front of each other only.
 * - All who wait for one volume stand in one queue: when it has to be the other one they change together, in their order.
 * - A payload that is valid only during `submit` is copied before the call returns.
 *
 * Atomic is the block: of a request that was not answered, each 4 KiB block is either wholly old or wholly new.
 */
import { assert } from '../base/assert.ts';
import { EIO, ENOSPC } from '../base/errno.ts';
import { fullRefusalFill, fullRefusalZeroesFill, nbdInlineBytesMax } from '../base/limits.ts';
import { RingQueue } from '../base/ring-queue.ts';
import type { BlockNumber, LogPosition } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { VolumeRequest } from '../nbd-server/exported-volume.ts';
import type { OpOwner } from '../oplog/logged-op.ts';
import { RECORD_HEADER_BYTES, RecordKind, writeRecordBytes } from '../oplog/record.ts';
import type { Volume } from './volume.ts';
import { WriteJob } from './write-job.ts';
import {
  type Admission,
  type Change,
  type CommitWaiter,
  type RoomWaiter,
  WAITS,
  type WritePorts,
  type WriteQueue,
} from './write-ports.ts';

const REFUSAL_FILL: Readonly<Record<Change, number>> = {
  data: fullRefusalFill,
  zeroes: fullRefusalZeroesFill,
  trim: Number.POSITIVE_INFINITY,
};

export class Writer implements WriteQueue {
  readonly ports: WritePorts;
  readonly #waiting = new RingQueue<RoomWaiter>();
  readonly #waitingAside = new RingQueue<RoomWaiter>();
  /** Of the volumes that somebody waits for: where, and how many. */
  readonly #standing = new Map<Volume, { queue: RingQueue<RoomWaiter>; count: number }>();
  /** While set nobody is admitted, and this is called in place of those who wait. */
  #preferred: (() => void) | undefined;
  readonly #jobs: WriteJob[] = [];
  /** In order of their asking, each with the end of what was appended by then. */
  readonly #commitWaiters = new RingQueue<{ readonly waiter: CommitWaiter; readonly end: LogPosition }>();

  constructor(ports: WritePorts) {
    this.ports = ports;
  }

  refusal(change: Change): number {
    const { ports } = this;
    if (ports.log.failure !== 0) return EIO;
    return ports.storageIsFull && ports.fill > REFUSAL_FILL[change] ? ENOSPC : 0;
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  get waitingAsideCount(): number {
    return this.#waitingAside.length;
  }

  write(volume: Volume, request: VolumeRequest): void {
    const { offsetBytes, lengthBytes } = request;
    const first = (offsetBytes / BLOCK_BYTES) as BlockNumber;
    const count = lengthBytes / BLOCK_BYTES;
    if (
      lengthBytes > 0 &&
      lengthBytes <= nbdInlineBytesMax &&
      Number.isInteger(first) &&
      Number.isInteger(count) &&
      (volume.locks.isEmpty || !volume.locks.overlaps(first, first + count)) &&
      this.refusal('data') === 0 &&
      this.admit(volume, writeRecordBytes(count), count, undefined) === 'admitted'
    ) {
      const durable = request.fua || volume.ack === 'durable';
      const { bytes } = request.region;
      const op = volume.takeOpNumber();
      this.ports.log.appendWrite(volume.number, op, first, count, bytes, request.regionOffset, request, durable);
      return;
    }
    this.start(volume, request);
  }

  /** Anything else that changes the volume, in pieces. */
  start(volume: Volume, request: VolumeRequest): void {
    if (this.ports.log.failure !== 0) {
      request.completed(EIO);
      return;
    }
    (this.#jobs.pop() ?? new WriteJob(this, this.#jobs)).start(volume, request);
  }

  /** Appends the operation that gives a volume a new size. */
  resize(volume: Volume, sizeBytes: number, owner: OpOwner): void {
    const waiter: RoomWaiter = {
      volume,
      tryAppend: () => {
        if (this.ports.log.failure !== 0) {
          owner.completed(EIO);
          return true;
        }
        const admission = this.admit(volume, RECORD_HEADER_BYTES, 0, waiter);
        if (admission === 'waits') return false;
        if (admission === 'refused') {
          owner.completed(ENOSPC);
          return true;
        }
        const op = volume.takeOpNumber();
        const blocks = (sizeBytes / BLOCK_BYTES) as BlockNumber;
        this.ports.log.appendRange(RecordKind.resize, volume.number, op, blocks, 0, owner, true);
        return true;
      },
    };
    if (!waiter.tryAppend()) this.waitForRoom(waiter);
  }

  /**
   * Whether a record of this length that enters `rows` rows of the volume into the overlay may be appended now; the rows are
   * then reserved. Those who wait already come first: `waiter` is the one that asks, if it is one of them.
   */
  admit(volume: Volume, recordBytes: number, rows: number, waiter: RoomWaiter | undefined): Admission {
    const queue = this.#standing.get(volume)?.queue ?? this.#queueDue(volume);
    if (this.#preferred !== undefined || (queue.length > 0 && queue.peek() !== waiter)) return 'waits';
    const { log, reads } = this.ports;
    const { overlay } = reads;
    const isAside = this.ports.liesAside(volume);
    if (isAside && rows > 0 && !this.ports.asideHasRoom) {
      this.ports.asideRoomWanted();
      return 'waits';
    }
    if (overlay.reserve(rows)) {
      const hasRoom = log.hasRoom(recordBytes);
      // Asked last: what is admitted is counted, and has to be appended.
      if (hasRoom && this.ports.isAdmitted(recordBytes)) {
        if (isAside) this.ports.asideTakes(rows);
        return 'admitted';
      }
      overlay.release(rows);
      if (!log.isFull) return 'waits';
    }
    this.ports.roomWanted();
    // What is under way has reserved more rows than it may come to need.
    return this.ports.storageIsFull && log.committedEnd === log.appendedEnd ? 'refused' : 'waits';
  }

  admitData(volume: Volume, recordBytes: number, rows: number, waiter: RoomWaiter): number {
    const refusal = this.refusal('data');
    if (refusal !== 0) return refusal;
    const admission = this.admit(volume, recordBytes, rows, waiter);
    if (admission === 'waits') return WAITS;
    return admission === 'refused' ? ENOSPC : 0;
  }

  waitForRoom(waiter: RoomWaiter): void {
    const standing = this.#standing.get(waiter.volume);
    if (standing === undefined) {
      const queue = this.#queueDue(waiter.volume);
      this.#standing.set(waiter.volume, { queue, count: 1 });
      queue.push(waiter);
    } else if (standing.queue.peek() !== waiter) {
      standing.count += 1;
      standing.queue.push(waiter);
    }
  }

  /** Room may have come free. */
  resume(): void {
    if (this.#preferred !== undefined) {
      this.#preferred();
      return;
    }
    // Who is in the wrong queue by now is moved to the other one, and tried there.
    this.#resume(this.#waitingAside);
    this.#resume(this.#waiting);
    this.#resume(this.#waitingAside);
  }

  /** Nobody is admitted until `letOn`; `onRoom` is called when room may have come free. */
  holdBack(onRoom: () => void): void {
    this.#preferred = onRoom;
  }

  letOn(): void {
    if (this.#preferred === undefined) return;
    this.#preferred = undefined;
    this.resume();
  }

  #queueDue(volume: Volume): RingQueue<RoomWaiter> {
    return this.ports.liesAside(volume) ? this.#waitingAside : this.#waiting;
  }

  #resume(queue: RingQueue<RoomWaiter>): void {
    for (let waiter = queue.peek(); waiter !== undefined; waiter = queue.peek()) {
      // Who is done may be used again at once, for another volume.
      const { volume } = waiter;
      // Devices may have been set aside, or taken back, since it began to wait.
      if (this.#queueDue(volume) !== queue) {
        this.#change(volume, queue);
      } else if (waiter.tryAppend()) {
        queue.shift();
        this.#left(volume);
      } else {
        return;
      }
    }
  }

  /** All who wait for the volume go to the other queue. */
  #change(volume: Volume, queue: RingQueue<RoomWaiter>): void {
    const other = queue === this.#waiting ? this.#waitingAside : this.#waiting;
    for (let left = queue.length; left > 0; left--) {
      const waiter = queue.shift();
      if (waiter.volume === volume) other.push(waiter);
      else queue.push(waiter);
    }
    this.#standing.get(volume)!.queue = other;
  }

  #left(volume: Volume): void {
    const standing = this.#standing.get(volume)!;
    standing.count -= 1;
    if (standing.count === 0) this.#standing.delete(volume);
  }

  waitForCommit(waiter: CommitWaiter): void {
    const { log } = this.ports;
    const end = log.appendedEnd;
    // A log that has failed commits nothing any more: the waiter looks for that itself.
    if (log.committedEnd === end || log.failure !== 0) waiter.committedSoFar();
    else this.#commitWaiters.push({ waiter, end });
  }

  batchCommitted(): void {
    for (let next = this.#commitWaiters.peek(); next !== undefined; next = this.#commitWaiters.peek()) {
      if (next.end > this.ports.log.committedEnd) break;
      this.#commitWaiters.shift().waiter.committedSoFar();
    }
    // Operations reserve more rows than they may come to need, and drops take rows out: nobody else tells of that room.
    this.resume();
  }

  /** The log has failed: nobody who waits will get room. */
  logFailed(): void {
    assert(this.ports.log.failure !== 0, 'the log has failed');
    this.resume();
    while (this.#commitWaiters.length > 0) this.#commitWaiters.shift().waiter.committedSoFar();
  }
}
