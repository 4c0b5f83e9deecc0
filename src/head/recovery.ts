/**
 * Brings a head back to where it was: the index up to the log's cut, then the log, operation by operation. Called once,
 * before anything is served.
 *
 * What the end of the log means is decided by one table. `D` is the position up to which the log was durable, by the
 * word of its own records or of the index; the tail behind D was written, perhaps acknowledged, but never promised to survive power loss.
 *
 *   row              end of the log                       data               what is done
 *   empty            no record                            –                  begin
 *   clean            nothing behind it                    matches            keep all
 *   torn             nothing that was durable behind it   damaged behind D   drop from the damaged operation on
 *   rotten           nothing that was durable behind it   damaged before D   keep all; reads of the block give EIO
 *   broken           before D, or a later record was      –                  refuse: operations in the middle are lost
 *                    durable
 *
 * Where there is damage on both sides of D the log is dropped as in row `torn`, and what is kept is in row `rotten`.
 *
 * Bulk operations behind D name slots whose data may not have reached the device: their checksums are verified, and the
 * log is dropped from the first one that does not match, unless newer operations cover what is wrong.
 *
 * Where a sync has failed in a process before, what lies behind D may be in memory only, with nobody left who knows: log
 * and slots behind D are then written again, so that the next sync means what it says. What was in memory may have left it
 * between one reading and the next: the log has to be then what was played.
 */
import { assert, assertNever } from '../base/assert.ts';
import type { Checksums } from '../base/checksum.ts';
import { NO_SUM, takeSums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { BlockFile } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import type { Location } from '../base/location.ts';
import { locationDevice } from '../base/location.ts';
import type { RegionSource } from '../base/memory.ts';
import type { BlockNumber, ChunkNumber, LogPosition } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { IndexState } from '../index/index-store.ts';
import { LOG_PAGE_BYTES } from '../oplog/batch.ts';
import type { BulkChunk, LoggedOp } from '../oplog/logged-op.ts';
import { emptyOp } from '../oplog/logged-op.ts';
import type { RecordHeader } from '../oplog/record.ts';
import { getBulkDescriptor, RECORD_HEADER_BYTES, RecordKind, writeDataOffset } from '../oplog/record.ts';
import { rewriteLog } from '../oplog/rewrite.ts';
import type { ScannedRecord, ScanPorts, ScanResult } from '../oplog/scan.ts';
import { scanLog } from '../oplog/scan.ts';
import type { Volume } from '../volume/volume.ts';
import type { Head } from './head.ts';

export type RecoveryRow = 'empty' | 'clean' | 'torn' | 'rotten' | 'broken';

/** The table above. */
export function judge(scan: Pick<ScanResult, 'records' | 'durable' | 'damagedData' | 'continuesBeyond'>): RecoveryRow {
  if (scan.continuesBeyond !== undefined) return 'broken';
  if (scan.records === 0) return 'empty';
  if (scan.damagedData === undefined) return 'clean';
  return scan.damagedData >= scan.durable ? 'torn' : 'rotten';
}

/** What the index says of the log, for a scan of it. */
export function knownOf({ epoch, since, durable }: IndexState): Pick<ScanPorts, 'floor' | 'durable'> {
  return { floor: since === undefined ? undefined : { position: since, epoch }, durable };
}

export interface RecoveryResult {
  /** Of what was kept; `torn` when something was dropped and nothing of the rest is damaged. */
  readonly row: RecoveryRow;
  readonly end: LogPosition;
  /** `D` of the table. */
  readonly durable: LogPosition;
  /** What lies before the end in its page. */
  readonly tail: Uint8Array;
  readonly operations: number;
  /** Operations of the log's unsynced tail that were dropped because they were not whole. */
  readonly dropped: boolean;
}

export interface RecoveryPorts {
  /** Makes a head as the index has it, without any operation of the log. */
  readonly newHead: () => Head;
  readonly live: ReadonlyMap<number, BlockFile>;
  readonly segmentBytes: number;
  /** Of the process before, as the index has it. */
  readonly state: IndexState;
  readonly regions: RegionSource;
  /** With the seed of the log's records. */
  readonly checksums: Checksums;
  /** In a process before, since a sync last succeeded. */
  readonly syncHasFailed?: boolean;
}

/** A bulk operation of the tail, to be verified. */
interface UnprovenBulk {
  readonly position: LogPosition;
  readonly volume: LoggedOp['volume'];
  readonly chunk: ChunkNumber;
  readonly location: Location;
}

/** Rejects with `corrupt` (row `broken`), `device-missing` or `io`. */
export async function recover(ports: RecoveryPorts): Promise<RecoveryResult & { readonly head: Head }> {
  let limit = Number.POSITIVE_INFINITY;
  let known = knownOf(ports.state);
  for (;;) {
    const replay = new Replay(ports.newHead());
    const { live, segmentBytes, state, regions, checksums } = ports;
    const tools = { regions, checksums, ...known };
    const scan = await scanLog(live, segmentBytes, state.cut, limit, tools, record => replay.apply(record));
    const row = judge(scan);
    if (row === 'broken') {
      throw new SledgeError(
        'corrupt',
        `the op log is damaged at position ${scan.end}: operations behind it were durable`,
      );
    }
    const rewrites = ports.syncHasFailed === true;
    const bad = row === 'torn' ? scan.damagedData! : await replay.firstUnwritten(scan.durable, regions, rewrites);
    if (bad === undefined) {
      if (rewrites) {
        await rewriteLog(live, segmentBytes, scan.durable, scan.end, regions);
        refuseChanged(scan, await scanLog(live, segmentBytes, state.cut, limit, tools, () => {}));
      }
      replay.head.slots.settle();
      const dropped = limit !== Number.POSITIVE_INFINITY;
      const tail = await readTail(ports, scan.end);
      return {
        head: replay.head,
        tail,
        row: dropped && row !== 'rotten' ? 'torn' : row,
        end: scan.end,
        durable: scan.durable,
        operations: scan.records,
        dropped,
      };
    }
    assert(bad < limit, 'each round drops more');
    limit = bad;
    // The records that say so may be among those that are dropped.
    known = { ...known, durable: scan.durable };
  }
}

/** Throws `io` where the log is not what it was before it was written again. */
function refuseChanged(before: ScanResult, after: ScanResult): void {
  const { end, records, damagedData, damagedCount } = before;
  const isSame = after.end === end && after.records === records;
  if (isSame && after.damagedData === damagedData && after.damagedCount === damagedCount) return;
  throw new SledgeError(
    'io',
    `the op log has changed while it was read: up to position ${end} before, ${after.end} now`,
  );
}

async function readTail(ports: RecoveryPorts, end: LogPosition): Promise<Uint8Array> {
  const bytes = end % LOG_PAGE_BYTES;
  if (bytes === 0) return new Uint8Array(0);
  const file = ports.live.get(Math.floor(end / ports.segmentBytes));
  assert(file !== undefined, 'a log that ends within a segment has it');
  const region = ports.regions.allocate(LOG_PAGE_BYTES);
  const position = (end % ports.segmentBytes) - bytes;
  const result = await completion(request => file.read(position, region, 0, LOG_PAGE_BYTES, request));
  if (result < 0) throw new SledgeError('io', `a log segment cannot be read: ${errnoName(result)}`);
  return region.bytes.slice(0, bytes);
}

class Replay {
  readonly head: Head;
  readonly #bulk: UnprovenBulk[] = [];
  readonly #op = emptyOp();

  constructor(head: Head) {
    this.head = head;
  }

  apply(record: ScannedRecord): void {
    const { header, offset } = record;
    const op = this.#op;
    op.kind = header.kind;
    op.volume = header.volume;
    op.op = header.op;
    op.first = header.first;
    op.count = header.count;
    op.position = header.position;
    op.end = (header.position + header.recordBytes) as LogPosition;
    op.sumsIndex = (offset + RECORD_HEADER_BYTES) >>> 2;
    op.dataOffset = offset + writeDataOffset(header.count);
    op.chunks = undefined;
    const volume = this.head.volume(header.volume);
    if (volume === undefined) return;
    // The catalogue may be ahead of the cut: those operations are played again, the newest state wins.
    if (header.op <= volume.committedOp) volume.committedOp = (header.op - 1) as LoggedOp['op'];
    this.#makeRoom(header, volume);
    if (header.kind === RecordKind.bulk) op.chunks = this.#chunks(record, volume.blocksPerChunk);
    this.head.committed(op, record);
    volume.lastOp = Math.max(volume.lastOp, header.op) as LoggedOp['op'];
  }

  /** What was destaged and not cut yet is entered once more, beside what came after it. */
  #makeRoom({ kind, first, count }: RecordHeader, volume: Volume): void {
    const drops = kind === RecordKind.zero || kind === RecordKind.trim;
    this.head.overlay.makeRoom(drops ? volume.rowsOfDrop(first, count) : count);
  }

  #chunks(record: ScannedRecord, blocksPerChunk: number): BulkChunk[] {
    const { header, offset, view } = record;
    const chunks: BulkChunk[] = [];
    for (let i = 0; i < header.count; i++) {
      const sums = new Uint32Array(blocksPerChunk);
      const location = getBulkDescriptor(view, offset, i, sums) as Location;
      const device = locationDevice(location);
      if (!this.head.sled.has(device)) throw new SledgeError('device-missing', `device ${device} is not there`);
      this.head.slots.adopt(location, header.volume, blocksPerChunk * BLOCK_BYTES, this.head.sled.device(device));
      const chunk = (header.first + i) as number as ChunkNumber;
      this.#bulk.push({ position: header.position, volume: header.volume, chunk, location });
      chunks.push({ location, sums, data: undefined, dataOffset: 0 });
    }
    return chunks;
  }

  /**
   * Position of the first bulk operation behind `durable` whose data is not in its slot, where it is still current. What
   * is there is written again if that is asked for.
   */
  async firstUnwritten(
    durable: LogPosition,
    regions: RegionSource,
    rewrites: boolean,
  ): Promise<LogPosition | undefined> {
    const { overlay, sled } = this.head;
    let region = regions.allocate(BLOCK_BYTES);
    for (const bulk of this.#bulk) {
      if (bulk.position < durable) continue;
      const row = overlay.findChunk(bulk.volume, bulk.chunk);
      const entry = row >= 0 ? overlay.entryOf(row) : undefined;
      if (entry === undefined || entry.location !== bulk.location) continue;
      const bytes = entry.sums.length * BLOCK_BYTES;
      if (region.bytes.length < bytes) region = regions.allocate(bytes);
      const result = await completion(request => sled.read(bulk.location, region, 0, bytes, request));
      if (result < 0) throw new SledgeError('io', `a device cannot be read: ${errnoName(result)}`);
      const actual = new Uint32Array(entry.sums.length);
      takeSums(this.head.checksums, region.bytes, 0, actual.length, actual, 0);
      const first = bulk.chunk * actual.length;
      for (let i = 0; i < actual.length; i++) {
        const covered = overlay.findBlock(bulk.volume, (first + i) as BlockNumber) >= 0;
        if (!covered && entry.sums[i] !== NO_SUM && actual[i] !== entry.sums[i]) return bulk.position;
      }
      if (!rewrites) continue;
      const written = await completion(request => sled.write(bulk.location, region, 0, bytes, request));
      if (written < 0) throw new SledgeError('io', `a device cannot be written again: ${errnoName(written)}`);
      sled.wrote(bulk.location);
    }
    return undefined;
  }
}

/** What the log says about a row. */
export function describeRow(row: RecoveryRow): string {
  switch (row) {
    case 'empty':
      return 'the op log is empty';
    case 'clean':
      return 'the op log is whole';
    case 'torn':
      return 'the unsynced tail of the op log was not whole and was dropped';
    case 'rotten':
      return 'the op log holds a damaged block: reads of it will fail';
    case 'broken':
      return 'the op log is damaged in the middle';
    default:
      return assertNever(row);
  }
}
