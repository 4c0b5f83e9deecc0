/**
 * An oracle that is told of a run while it is recorded, with a twin that is told the same again while the trace of the run
 * is gone through: so the twin always knows what was asked for and answered up to that step, and nothing later.
 */
import { assert } from '../../src/base/assert.ts';
import { Oracle, type OracleClock, type TrackedWrite } from './oracle.ts';
import type { SimTrace } from './sim-trace.ts';

export class TracedOracle extends Oracle {
  readonly twin: Oracle;
  readonly #trace: SimTrace;
  readonly #writes = new Map<TrackedWrite, TrackedWrite>();
  readonly #flushes = new Map<number, number>();

  constructor(cellBytes: number, salt: number, clock: OracleClock, twinClock: OracleClock, trace: SimTrace) {
    super(cellBytes, salt, 'power', clock);
    this.twin = new Oracle(cellBytes, salt, 'power', twinClock);
    this.#trace = trace;
  }

  override writeIssued(offsetBytes: number, lengthBytes: number, zero: boolean): TrackedWrite {
    const write = super.writeIssued(offsetBytes, lengthBytes, zero);
    this.#trace.note(() => {
      const twin = this.twin.writeIssued(offsetBytes, lengthBytes, zero);
      assert(twin.id === write.id, 'the twin gives the numbers that are in the data');
      this.#writes.set(write, twin);
    });
    return write;
  }

  override writeAcked(write: TrackedWrite, durable: boolean): void {
    super.writeAcked(write, durable);
    this.#trace.note(() => {
      const twin = this.#writes.get(write);
      assert(twin !== undefined, 'what is answered was asked for');
      this.twin.writeAcked(twin, durable);
      this.#writes.delete(write);
    });
  }

  override flushIssued(): number {
    const issuedAt = super.flushIssued();
    this.#trace.note(() => void this.#flushes.set(issuedAt, this.twin.flushIssued()));
    return issuedAt;
  }

  override flushAcked(issuedAt: number): void {
    super.flushAcked(issuedAt);
    this.#trace.note(() => {
      const twin = this.#flushes.get(issuedAt);
      assert(twin !== undefined, 'a flush that is answered was asked for');
      this.twin.flushAcked(twin);
      this.#flushes.delete(issuedAt);
    });
  }
}
