/**
 * Puts records into batches: what belongs to the operation, then the header, sealed. Called by the op log, which has made
 * room for a record, entered its operation in the batch, and knows how far all is durable.
 *
 * Invariant: every byte of a record is written; batches are used again, and what they held before must not show.
 */
import type { Checksums } from '../base/checksum.ts';
import { takeSums } from '../base/checksum.ts';
import type { Epoch, LogPosition } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { Batch } from './batch.ts';
import type { BulkChunk, LoggedOp } from './logged-op.ts';
import type { RecordHeader } from './record.ts';
import {
  emptyHeader,
  putBulkDescriptor,
  RECORD_ALIGNMENT_BYTES,
  RECORD_HEADER_BYTES,
  sealRecord,
  writeDataOffset,
} from './record.ts';

export class RecordWriter {
  readonly #checksums: Checksums;
  readonly #header: RecordHeader = emptyHeader();

  constructor(checksums: Checksums, epoch: Epoch) {
    this.#checksums = checksums;
    this.#header.epoch = epoch;
  }

  /** Of a write: its data is copied from `source`, and the operation told where it and its checksums lie. */
  write(batch: Batch, op: LoggedOp, durable: LogPosition, source: Uint8Array, sourceOffset: number): void {
    const offset = op.position - batch.start;
    const { count } = op;
    const dataOffset = offset + writeDataOffset(count);
    batch.bytes.set(source.subarray(sourceOffset, sourceOffset + count * BLOCK_BYTES), dataOffset);
    const sumsIndex = (offset + RECORD_HEADER_BYTES) >>> 2;
    takeSums(this.#checksums, batch.bytes, dataOffset, count, batch.sums, sumsIndex);
    batch.sums.fill(0, sumsIndex + count, dataOffset >>> 2);
    op.dataOffset = dataOffset;
    op.sumsIndex = sumsIndex;
    this.seal(batch, op, durable);
  }

  /** Of whole chunks, whose data already lies at their locations. */
  bulk(batch: Batch, op: LoggedOp, durable: LogPosition, chunks: readonly BulkChunk[]): void {
    const offset = op.position - batch.start;
    const end = op.end - batch.start;
    batch.bytes.fill(0, end - RECORD_ALIGNMENT_BYTES, end);
    for (let i = 0; i < chunks.length; i++) {
      putBulkDescriptor(batch.region.view, offset, i, chunks[i].location, chunks[i].sums);
    }
    this.seal(batch, op, durable);
  }

  /** Writes the header, the last thing of a record, and of some the only one. */
  seal(batch: Batch, op: LoggedOp, durable: LogPosition): void {
    const header = this.#header;
    header.kind = op.kind;
    header.recordBytes = op.end - op.position;
    header.position = op.position;
    header.volume = op.volume;
    header.op = op.op;
    header.durable = durable;
    header.first = op.first;
    header.count = op.count;
    sealRecord(batch.region.view, batch.bytes, op.position - batch.start, header, this.#checksums);
  }
}
