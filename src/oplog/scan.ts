/**
 * Reads a log back from its cut to its end. Recovery calls it, once to find out where the log ends and what of it was
 * durable, handing each operation on as it goes; when operations have to be dropped, it calls again with a limit.
 *
 * How the end is found: records follow one another by position; the first place at which no valid record stands is the
 * end, because a record is only ever written behind those before it. Data of writes is checked as well. What a scan
 * reports of a record whose data is wrong, recovery judges: in a tail that was never synced it is a torn write.
 */
import { assert } from '../base/assert.ts';
import type { Checksums } from '../base/checksum.ts';
import { takeSums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { BlockFile } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import { inlineOpBytesMax, logScanBytes } from '../base/limits.ts';
import { getUint64 } from '../base/little-endian.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import type { Epoch, LogPosition } from '../base/units.ts';
import { BLOCK_BYTES, MIB } from '../base/units.ts';
import type { RecordHeader } from './record.ts';
import {
  emptyHeader,
  parseRecord,
  RECORD_ALIGNMENT_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_MAGIC,
  RecordKind,
  writeDataOffset,
} from './record.ts';

/** From `position` on only records of `epoch` and newer ones count. */
export interface EpochFloor {
  readonly position: LogPosition;
  readonly epoch: Epoch;
}

export interface ScanPorts {
  readonly regions: RegionSource;
  readonly checksums: Checksums;
  /** Without one the first record may be of any epoch, also one that an earlier recovery has dropped. */
  readonly floor?: EpochFloor | undefined;
  /** Up to here the log was durable, as is known from elsewhere. */
  readonly durable?: LogPosition | undefined;
}

/** A record as the scan met it; reused from one to the next. */
export interface ScannedRecord {
  readonly header: RecordHeader;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly sums: Uint32Array;
  /** Of the record within `bytes`. */
  offset: number;
}

export interface ScanResult {
  /** Behind the last valid record. */
  readonly end: LogPosition;
  /** The highest position that was durable, by the word of any record, or as was known before. */
  readonly durable: LogPosition;
  /** Of the last record, 0 when there is none. */
  readonly epoch: number;
  /**
   * Position of a write whose data does not match its checksums: of the first one behind `durable`, where there is one, or
   * else of the first of all.
   */
  readonly damagedData: LogPosition | undefined;
  /** Count of all such writes. */
  readonly damagedCount: number;
  /**
   * Records behind `end` had been durable, so `end` is damage and no torn tail: the position of a later, whole record that
   * shows it, or the one up to which it was known before.
   */
  readonly continuesBeyond: LogPosition | undefined;
  readonly records: number;
}

const IDENTIFY_BYTES = 1 * MIB;

/**
 * Segment files by logical number, as found by the records they begin with. Where the first record is damaged those
 * behind it tell: otherwise a whole segment would be taken for an empty one, and written over.
 */
export async function identifySegments(files: readonly BlockFile[], segmentBytes: number, ports: ScanPorts) {
  const region = ports.regions.allocate(Math.min(IDENTIFY_BYTES, segmentBytes));
  const live = new Map<number, BlockFile>();
  const unknown: BlockFile[] = [];
  for (const file of files) {
    await readOrThrow(file, 0, region, region.bytes.length);
    const number = segmentOfRecord(region, 0, region.bytes.length, 0, segmentBytes, ports);
    if (number === undefined) {
      unknown.push(file);
      continue;
    }
    const position = number * segmentBytes;
    if (live.has(number)) throw new SledgeError('corrupt', `two log segments claim position ${position}`);
    live.set(number, file);
  }
  const spare: BlockFile[] = [];
  for (const file of unknown) {
    const number = await newestRecordOf(file, segmentBytes, region, ports);
    if (number === undefined || live.has(number)) spare.push(file);
    else live.set(number, file);
  }
  return { live, spare };
}

/** The highest segment number of any whole record in the file. */
async function newestRecordOf(file: BlockFile, segmentBytes: number, region: Region, ports: ScanPorts) {
  let newest: number | undefined;
  for (let start = 0; start < segmentBytes; start += region.bytes.length - RECORD_HEADER_BYTES) {
    const length = Math.min(region.bytes.length, segmentBytes - start);
    await readOrThrow(file, start, region, length);
    for (let at = 0; at + RECORD_HEADER_BYTES <= length; at += RECORD_ALIGNMENT_BYTES) {
      if (region.view.getUint32(at, true) !== RECORD_MAGIC) continue;
      const number = segmentOfRecord(region, at, length, start + at, segmentBytes, ports);
      if (number !== undefined) newest = Math.max(newest ?? 0, number);
    }
  }
  return newest;
}

/** Of the record at `offset` of the region, which stands at `inSegment` of its file; undefined when there is none. */
function segmentOfRecord(
  region: Region,
  offset: number,
  loaded: number,
  inSegment: number,
  segmentBytes: number,
  ports: ScanPorts,
): number | undefined {
  const { bytes, view } = region;
  const position = getUint64(view, offset + 16);
  if (position % segmentBytes !== inSegment) return undefined;
  const remaining = segmentBytes - inSegment;
  const { checksums } = ports;
  const verdict = parseRecord(view, bytes, offset, loaded - offset, position, remaining, emptyHeader(), checksums);
  return verdict === 'invalid' ? undefined : (position - inSegment) / segmentBytes;
}

/**
 * Scans from `cut` to the end, or to `limit`. `visit` is called with each record in order (not with those of the log itself).
 * Rejects with `io` when a segment cannot be read.
 */
export async function scanLog(
  live: ReadonlyMap<number, BlockFile>,
  segmentBytes: number,
  cut: LogPosition,
  limit: number,
  ports: ScanPorts,
  visit: (record: ScannedRecord) => void,
): Promise<ScanResult> {
  const scan = new Scan(live, segmentBytes, ports);
  return scan.run(cut, limit, visit);
}

class Scan {
  readonly #live: ReadonlyMap<number, BlockFile>;
  readonly #segmentBytes: number;
  /** What is read at a time. The longest record fits, and a segment takes more than one. */
  readonly #windowBytes: number;
  readonly #ports: ScanPorts;
  readonly #region: Region;
  readonly #record: ScannedRecord;
  readonly #scratch: Uint32Array;
  /** The window of the segment that is in memory. */
  #segment = -1;
  #windowStart = 0;
  #windowEnd = 0;

  constructor(live: ReadonlyMap<number, BlockFile>, segmentBytes: number, ports: ScanPorts) {
    this.#live = live;
    this.#segmentBytes = segmentBytes;
    this.#windowBytes = Math.min(logScanBytes, segmentBytes / 2);
    assert(this.#windowBytes > inlineOpBytesMax + BLOCK_BYTES, 'the longest record fits a window');
    this.#ports = ports;
    this.#region = ports.regions.allocate(this.#windowBytes);
    const { bytes, view } = this.#region;
    const sums = new Uint32Array(bytes.buffer, 0, bytes.length / 4);
    this.#record = { header: emptyHeader(), bytes, view, sums, offset: 0 };
    this.#scratch = new Uint32Array(this.#windowBytes / BLOCK_BYTES);
  }

  async run(cut: LogPosition, limit: number, visit: (record: ScannedRecord) => void): Promise<ScanResult> {
    const { header } = this.#record;
    let position: number = cut;
    const known = this.#ports.durable ?? cut;
    let durable: number = Math.max(cut, known);
    let epoch = 0;
    const damaged: LogPosition[] = [];
    let records = 0;
    while (position < limit) {
      const inSegment = position % this.#segmentBytes;
      const remaining = this.#segmentBytes - inSegment;
      const valid = remaining >= RECORD_HEADER_BYTES ? await this.#parse(position) : false;
      if (!valid || header.epoch < this.#oldestEpoch(position, epoch)) {
        // A segment whose rest is too short for a record goes on in the next one.
        if (remaining >= RECORD_HEADER_BYTES || !(await this.#parse(position + remaining))) break;
        position += remaining;
        continue;
      }
      epoch = header.epoch;
      durable = Math.max(durable, header.durable);
      if (header.kind === RecordKind.end) {
        position += remaining;
        continue;
      }
      if (header.kind === RecordKind.mark) {
        position += header.recordBytes;
        continue;
      }
      if (header.kind === RecordKind.write && !this.#dataMatches()) damaged.push(header.position);
      visit(this.#record);
      records++;
      position += header.recordBytes;
    }
    const end = Math.min(position, limit) as LogPosition;
    const damagedData = damaged.find(damage => damage >= durable) ?? damaged[0];
    const isLost = position < Math.min(known, limit);
    const continuesBeyond = isLost ? known : position < limit ? await this.#laterWitness(position, epoch) : undefined;
    const damagedCount = damaged.length;
    return { end, durable: durable as LogPosition, epoch, damagedData, damagedCount, continuesBeyond, records };
  }

  /** What a record at a position has to be of, when the record before it is of `epoch`. */
  #oldestEpoch(position: number, epoch: number): number {
    const { floor } = this.#ports;
    return floor !== undefined && position >= floor.position ? Math.max(epoch, floor.epoch) : epoch;
  }

  /** Parses the record at a position, reading on as far as it reaches. */
  async #parse(position: number): Promise<boolean> {
    const segment = Math.floor(position / this.#segmentBytes);
    const inSegment = position % this.#segmentBytes;
    const file = this.#live.get(segment);
    if (file === undefined) return false;
    for (let tries = 0; tries < 3; tries++) {
      const have = segment === this.#segment && inSegment >= this.#windowStart ? this.#windowEnd - inSegment : 0;
      const offset = inSegment - this.#windowStart;
      const { header, view, bytes } = this.#record;
      if (have > 0) {
        const remaining = this.#segmentBytes - inSegment;
        const { checksums } = this.#ports;
        const verdict = parseRecord(view, bytes, offset, have, position, remaining, header, checksums);
        if (verdict === 'invalid') return false;
        if (verdict === 'valid' && header.recordBytes <= have) {
          this.#record.offset = offset;
          return true;
        }
        if (header.recordBytes > this.#windowBytes - RECORD_ALIGNMENT_BYTES) return false;
      }
      await this.#load(file, segment, inSegment);
    }
    return false;
  }

  async #load(file: BlockFile, segment: number, inSegment: number): Promise<void> {
    const length = Math.min(this.#windowBytes, this.#segmentBytes - inSegment);
    await readOrThrow(file, inSegment, this.#region, length);
    this.#segment = segment;
    this.#windowStart = inSegment;
    this.#windowEnd = inSegment + length;
  }

  #dataMatches(): boolean {
    const { header, bytes, sums, offset } = this.#record;
    const sumsIndex = (offset + RECORD_HEADER_BYTES) >>> 2;
    const dataOffset = offset + writeDataOffset(header.count);
    takeSums(this.#ports.checksums, bytes, dataOffset, header.count, this.#scratch, 0);
    for (let i = 0; i < header.count; i++) if (this.#scratch[i] !== sums[sumsIndex + i]) return false;
    return true;
  }

  /**
   * Looks behind the end for a whole record, of the position it stands at and no older epoch, that says that more than
   * what was found had been durable when it was written.
   */
  async #laterWitness(end: number, epoch: number): Promise<LogPosition | undefined> {
    const segments = [...this.#live.keys()]
      .filter(number => (number + 1) * this.#segmentBytes > end)
      .sort((a, b) => a - b);
    const { header, view, bytes } = this.#record;
    for (const segment of segments) {
      const base = segment * this.#segmentBytes;
      const from = Math.max(0, end + RECORD_ALIGNMENT_BYTES - base);
      for (let start = from; start < this.#segmentBytes; start += this.#windowBytes - RECORD_HEADER_BYTES) {
        await this.#load(this.#live.get(segment)!, segment, start);
        const loaded = this.#windowEnd - this.#windowStart;
        for (let at = 0; at + RECORD_HEADER_BYTES <= loaded; at += RECORD_ALIGNMENT_BYTES) {
          if (view.getUint32(at, true) !== RECORD_MAGIC) continue;
          const position = base + start + at;
          const remaining = this.#segmentBytes - start - at;
          const { checksums } = this.#ports;
          const verdict = parseRecord(view, bytes, at, loaded - at, position, remaining, header, checksums);
          if (verdict !== 'valid' || header.epoch < this.#oldestEpoch(position, epoch)) continue;
          if (header.durable > end) return header.position;
        }
      }
    }
    return undefined;
  }
}

async function readOrThrow(file: BlockFile, position: number, region: Region, length: number): Promise<void> {
  const result = await completion(request => file.read(position, region, 0, length, request));
  if (result < 0) throw new SledgeError('io', `a log segment cannot be read: ${errnoName(result)}`);
}
