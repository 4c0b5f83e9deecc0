/**
 * What the records behind the log's cut say, without a head: the check hands over each record of a scan, as recovery
 * does, and asks afterwards what of the index they replace. Contradictions are collected in its own list, since a scan
 * whose tail turns out to be torn is made again with a limit.
 *
 * Invariants:
 * - `named` has every slot that recovery would take for the log's own, whether or not a later record has replaced it.
 * - What it calls covered is not read from where the index says: the log holds it, or has dropped it.
 * - Memory is a bitmap for each chunk that the log touches, and a range for each run of chunks that were dropped whole.
 */
import { setBit, testBit } from '../base/bits.ts';
import type { FilePlace, Location } from '../base/location.ts';
import type { LogPosition, VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { VolumeEntry } from '../index/index-store.ts';
import { bulkRecordBytes, getBulkDescriptor, RecordKind } from '../oplog/record.ts';
import type { ScannedRecord } from '../oplog/scan.ts';
import { RangeSet } from '../volume/range-set.ts';
import type { ColumnTable } from './column-table.ts';
import { Findings } from './finding.ts';

/** A chunk that a bulk record put into a slot, and that no later record has dropped. */
export interface LoggedBulk {
  readonly chunk: number;
  readonly location: Location;
  readonly sums: Uint32Array;
  readonly position: LogPosition;
}

interface LoggedChunk {
  bulk: LoggedBulk | undefined;
  /** A bit for each block that a record behind `bulk` wrote. */
  readonly covered: Uint32Array;
}

/** Which chunk a bulk record has put into a slot; `several` where records do not agree. */
export type SlotName = { readonly volume: VolumeNumber; readonly chunk: number } | 'several';

export interface ReplayPorts {
  readonly volumes: ReadonlyMap<VolumeNumber, VolumeEntry>;
  readonly nextVolume: number;
  readonly columns: ColumnTable;
  /** Of a position in the log. */
  placeOf(position: number): FilePlace;
}

export class LoggedVolume {
  readonly entry: VolumeEntry;
  /** 0 when the log has none. */
  lastOp = 0;
  sizeBytes: number;
  readonly #blocksPerChunk: number;
  readonly #chunks = new Map<number, LoggedChunk>();
  /** Whole chunks that were dropped: what the index has of them does not count. */
  readonly #dropped = new RangeSet();

  constructor(entry: VolumeEntry) {
    this.entry = entry;
    this.sizeBytes = entry.sizeBytes;
    this.#blocksPerChunk = entry.chunkBytes / BLOCK_BYTES;
  }

  /** Whether the index's entry of the chunk has been replaced as a whole. */
  replaces(chunk: number): boolean {
    return this.#dropped.has(chunk) || this.#chunks.get(chunk)?.bulk !== undefined;
  }

  /** Blocks of the chunk whose newest data is in the log. */
  covered(chunk: number): Uint32Array | undefined {
    return this.#chunks.get(chunk)?.covered;
  }

  *bulkChunks(): Iterable<LoggedBulk> {
    for (const { bulk } of this.#chunks.values()) if (bulk !== undefined) yield bulk;
  }

  cover(first: number, count: number): void {
    for (let block = first; block < first + count; block++) {
      setBit(this.#chunk(Math.floor(block / this.#blocksPerChunk)).covered, block % this.#blocksPerChunk);
    }
  }

  drop(first: number, count: number): void {
    const blocks = this.#blocksPerChunk;
    const from = Math.ceil(first / blocks);
    const to = Math.floor((first + count) / blocks);
    if (from >= to) {
      this.cover(first, count);
      return;
    }
    this.cover(first, from * blocks - first);
    this.cover(to * blocks, first + count - to * blocks);
    this.#dropped.add(from, to);
    if (to - from < this.#chunks.size) for (let chunk = from; chunk < to; chunk++) this.#chunks.delete(chunk);
    else for (const chunk of [...this.#chunks.keys()]) if (chunk >= from && chunk < to) this.#chunks.delete(chunk);
  }

  putBulk(bulk: LoggedBulk): void {
    const chunk = this.#chunk(bulk.chunk);
    chunk.bulk = bulk;
    chunk.covered.fill(0);
  }

  #chunk(number: number): LoggedChunk {
    let chunk = this.#chunks.get(number);
    if (chunk === undefined) {
      chunk = { bulk: undefined, covered: new Uint32Array(Math.ceil(this.#blocksPerChunk / 32)) };
      this.#chunks.set(number, chunk);
    }
    return chunk;
  }
}

export class LogReplay {
  readonly findings = new Findings();
  readonly #ports: ReplayPorts;
  readonly #volumes = new Map<VolumeNumber, LoggedVolume>();
  readonly #strangers = new Set<number>();
  readonly #named = new Map<Location, SlotName>();

  constructor(ports: ReplayPorts) {
    this.#ports = ports;
    for (const entry of ports.volumes.values()) this.#volumes.set(entry.number, new LoggedVolume(entry));
  }

  volume(number: VolumeNumber): LoggedVolume | undefined {
    return this.#volumes.get(number);
  }

  volumes(): Iterable<LoggedVolume> {
    return this.#volumes.values();
  }

  /** All slots that bulk records name. */
  get named(): ReadonlyMap<Location, SlotName> {
    return this.#named;
  }

  /** Whether there are records of a volume that does not exist. */
  hasStranger(number: VolumeNumber): boolean {
    return this.#strangers.has(number);
  }

  apply(record: ScannedRecord): void {
    const { header } = record;
    const volume = this.#volumes.get(header.volume);
    const place = this.#ports.placeOf(header.position);
    if (volume === undefined) {
      this.#stranger(header.volume, place);
      return;
    }
    this.#checkOrder(volume, header.op, place);
    volume.lastOp = header.op;
    switch (header.kind) {
      case RecordKind.resize:
        volume.sizeBytes = Math.max(volume.sizeBytes, header.first * BLOCK_BYTES);
        return;
      case RecordKind.bulk:
        this.#applyBulk(volume, record, place);
        return;
      default:
    }
    if ((header.first + header.count) * BLOCK_BYTES > volume.sizeBytes) {
      const end = (header.first + header.count) * BLOCK_BYTES;
      this.#add('log-range', volume, header.op, `reaches to byte ${end} of ${volume.sizeBytes}`, place);
      return;
    }
    if (header.kind === RecordKind.write) volume.cover(header.first, header.count);
    else volume.drop(header.first, header.count);
  }

  /** After the last record: what the index knows of and the log does not have. */
  finish(): void {
    for (const { entry, lastOp } of this.#volumes.values()) {
      // The entry of a volume that is being deleted is stored without waiting for the log.
      if (lastOp === 0 || lastOp >= entry.lastOp || entry.state !== 'present') continue;
      const what = `The log ends with operation ${lastOp} of ${entry.name}, and the index knows of ${entry.lastOp}.`;
      this.findings.add('op-missing', what);
    }
  }

  #stranger(number: number, place: FilePlace): void {
    if (this.#strangers.has(number)) return;
    this.#strangers.add(number);
    if (number > 0 && number < this.#ports.nextVolume) {
      this.findings.add('log-volume-gone', `The log still has records of volume ${number}, which was deleted.`, place);
    } else {
      this.findings.add('log-volume-unknown', `The log has records of volume ${number}, which was never made.`, place);
    }
  }

  #checkOrder({ entry, lastOp }: LoggedVolume, op: number, place: FilePlace): void {
    // The entry may be ahead of the cut, so that the first record is older than what it knows.
    if (lastOp === 0 ? op <= entry.lastOp + 1 : op === lastOp + 1) return;
    const before = lastOp === 0 ? entry.lastOp : lastOp;
    const at = `at byte ${place.offsetBytes} of ${place.file}`;
    this.findings.add('op-gap', `Operation ${op} of ${entry.name} follows on ${before} in the log, ${at}.`, place);
  }

  #applyBulk(volume: LoggedVolume, record: ScannedRecord, place: FilePlace): void {
    const { header, view, offset } = record;
    const { chunkBytes } = volume.entry;
    const blocks = chunkBytes / BLOCK_BYTES;
    if (header.recordBytes !== bulkRecordBytes(header.count, blocks)) {
      this.#add('log-range', volume, header.op, `has not the length that ${header.count} chunks take`, place);
      return;
    }
    if ((header.first + header.count - 1) * chunkBytes >= volume.sizeBytes) {
      this.#add('log-range', volume, header.op, 'reaches beyond the end of the volume', place);
      return;
    }
    for (let i = 0; i < header.count; i++) {
      const sums = new Uint32Array(blocks);
      const location = getBulkDescriptor(view, offset, i, sums) as Location;
      const wrong = this.#wrongSlot(volume, location);
      if (wrong !== undefined) this.#add('log-slot', volume, header.op, `names a slot that is none: ${wrong}`, place);
      this.#name(location, volume.entry.number, header.first + i);
      volume.putBulk({ chunk: header.first + i, location, sums, position: header.position });
    }
  }

  #name(location: Location, volume: VolumeNumber, chunk: number): void {
    const name = this.#named.get(location);
    const agrees = name === undefined || (name !== 'several' && name.volume === volume && name.chunk === chunk);
    this.#named.set(location, agrees ? { volume, chunk } : 'several');
  }

  #wrongSlot({ entry }: LoggedVolume, location: Location): string | undefined {
    const { columns } = this.#ports;
    const found = columns.place(location, entry.chunkBytes);
    if (found.kind === 'outside') return found.why;
    if (found.kind === 'lost') return undefined;
    const column = columns.columnOf(found);
    // A column that the index has in another volume's name is free when nothing in it is marked.
    if (column === undefined || column.entry.volume === entry.number) return undefined;
    if (!column.entry.slots.some(word => word !== 0)) return undefined;
    return `byte ${found.position} of ${found.device.path} belongs to volume ${column.entry.volume}`;
  }

  #add(kind: 'log-range' | 'log-slot', volume: LoggedVolume, op: number, text: string, place: FilePlace): void {
    const at = `at byte ${place.offsetBytes} of ${place.file}`;
    this.findings.add(kind, `Operation ${op} of ${volume.entry.name}, ${at}, ${text}.`, place);
  }
}

/** Whether a block of a chunk is covered; `covered` is undefined where none is. */
export function isCovered(covered: Uint32Array | undefined, block: number): boolean {
  return covered !== undefined && testBit(covered, block);
}
