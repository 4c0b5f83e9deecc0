/**
 * Reads the log as a start would, with the same scan and the same table of recovery, and says what that means. Data of
 * log records is verified on the way; of what is not whole it names file and byte.
 */
import type { Checksums } from '../base/checksum.ts';
import { takeSums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { BlockFile } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import { logScanBytes } from '../base/limits.ts';
import type { FilePlace } from '../base/location.ts';
import type { RegionSource } from '../base/memory.ts';
import type { LogPosition } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { RecoveryRow } from '../head/recovery.ts';
import { judge, knownOf } from '../head/recovery.ts';
import type { IndexState } from '../index/index-store.ts';
import {
  emptyHeader,
  parseRecord,
  RECORD_ALIGNMENT_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_MAGIC,
  RecordKind,
  writeDataOffset,
} from '../oplog/record.ts';
import type { ScannedRecord, ScanResult } from '../oplog/scan.ts';
import { identifySegments, scanLog } from '../oplog/scan.ts';
import type { Findings } from './finding.ts';
import type { ReplayPorts } from './log-replay.ts';
import { LogReplay } from './log-replay.ts';

export interface SegmentFile {
  readonly path: string;
  readonly file: BlockFile;
}

export interface LogCheckPorts extends Omit<ReplayPorts, 'placeOf'> {
  readonly state: IndexState | undefined;
  readonly segments: readonly SegmentFile[];
  readonly segmentBytes: number;
  readonly regions: RegionSource;
  /** With the seed of its records. */
  readonly checksums: Checksums;
  readonly findings: Findings;
}

export interface CheckedLog {
  readonly row: RecoveryRow;
  readonly cut: number;
  readonly end: number;
  /** Up to here it was durable by the word of its own records. */
  readonly durable: number;
  readonly records: number;
  readonly replay: LogReplay;
}

/** Of a write in the log. */
interface DamagedBlock {
  readonly op: number;
  readonly volume: string;
  readonly position: number;
}

/** Undefined where the log cannot be read at all; a finding says why. */
export async function checkLog(ports: LogCheckPorts): Promise<CheckedLog | undefined> {
  const check = new LogCheck(ports);
  try {
    return await check.run();
  } catch (error) {
    if (!(error instanceof SledgeError)) throw error;
    const kind = error.code === 'corrupt' ? 'log-conflict' : 'log-unreadable';
    ports.findings.add(kind, `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}.`);
    return undefined;
  }
}

class LogCheck {
  readonly #ports: LogCheckPorts;
  readonly #known: ReturnType<typeof knownOf>;
  readonly #paths: ReadonlyMap<BlockFile, string>;
  #live: ReadonlyMap<number, BlockFile> = new Map();

  constructor(ports: LogCheckPorts) {
    this.#ports = ports;
    this.#known = ports.state === undefined ? {} : knownOf(ports.state);
    this.#paths = new Map(ports.segments.map(({ path, file }) => [file, path]));
  }

  async run(): Promise<CheckedLog | undefined> {
    const { state, segments, segmentBytes, findings, regions, checksums } = this.#ports;
    if (state !== undefined && segments.length === 0)
      findings.add('log-missing', 'The files of the op log are missing.');
    const cut = state?.cut ?? 0;
    if (!Number.isSafeInteger(cut) || cut < 0 || cut % RECORD_ALIGNMENT_BYTES !== 0) {
      findings.add('index-state', `The index has the log begin at position ${cut}, which is none.`);
      return undefined;
    }
    const whole: BlockFile[] = [];
    for (const segment of segments) if (this.#hasItsLength(segment)) whole.push(segment.file);
    const first = Math.floor(cut / segmentBytes);
    const { live } = await identifySegments(whole, segmentBytes, { regions, checksums });
    for (const number of [...live.keys()]) if (number < first) live.delete(number);
    this.#live = live;
    if (cut % segmentBytes !== 0 && !live.has(first)) {
      findings.add('cut-outside', `The log begins at position ${cut}, and no file of the log has that position.`);
    }
    const { scan, replay, damaged } = await this.#scan(cut as LogPosition, Number.POSITIVE_INFINITY);
    const row = judge(scan);
    const log = { row, cut, end: scan.end, durable: scan.durable, records: scan.records };
    const torn = row === 'torn' ? scan.damagedData : undefined;
    if (torn !== undefined) {
      const what = `The unsynced tail of the op log is not whole from ${this.#text(torn)} on.`;
      findings.add('log-torn', what, this.#placeOf(torn));
      const again = await this.#scan(cut as LogPosition, torn);
      this.#reportDamaged(again.damaged);
      return { ...log, end: again.scan.end, records: again.scan.records, replay: this.#concluded(again.replay) };
    }
    this.#reportDamaged(damaged);
    if (row === 'broken') {
      const isKnown = scan.continuesBeyond === this.#known.durable;
      const witness = isKnown ? 'the index' : `a record ${this.#text(scan.continuesBeyond!)}`;
      const beyond = `${witness} shows that more had been durable`;
      const what = `The op log is damaged ${this.#text(scan.end)}: no whole record is there, and ${beyond}.`;
      findings.add('log-broken', what, this.#placeOf(scan.end));
    } else {
      await this.#checkBehind(scan);
    }
    return { ...log, replay: this.#concluded(replay) };
  }

  #reportDamaged(blocks: readonly DamagedBlock[]): void {
    for (const { op, volume, position } of blocks) {
      const what = `A block of operation ${op} of ${volume} is damaged in the op log, ${this.#text(position)}.`;
      this.#ports.findings.add('log-block-damaged', what, this.#placeOf(position));
    }
  }

  #concluded(replay: LogReplay): LogReplay {
    replay.finish();
    this.#ports.findings.addAll(replay.findings);
    return replay;
  }

  async #scan(cut: LogPosition, limit: number) {
    const { segmentBytes, regions, checksums, volumes, nextVolume, columns } = this.#ports;
    // A record that was read is in a file.
    const placeOf = (position: number) => this.#placeOf(position)!;
    const replay = new LogReplay({ volumes, nextVolume, columns, placeOf });
    const damaged: DamagedBlock[] = [];
    const tools = { regions, checksums, ...this.#known };
    const scratch = new Uint32Array(logScanBytes / BLOCK_BYTES);
    const scan = await scanLog(this.#live, segmentBytes, cut, limit, tools, record => {
      for (const position of this.#damagedBlocks(record, scratch)) {
        const { op, volume: number } = record.header;
        damaged.push({ op, volume: volumes.get(number)?.name ?? `volume ${number}`, position });
      }
      replay.apply(record);
    });
    return { scan, replay, damaged };
  }

  /** Positions of the blocks of a record that do not match their checksums. */
  #damagedBlocks({ header, bytes, sums, offset }: ScannedRecord, scratch: Uint32Array): number[] {
    if (header.kind !== RecordKind.write) return [];
    const data = writeDataOffset(header.count);
    const first = (offset + RECORD_HEADER_BYTES) >>> 2;
    takeSums(this.#ports.checksums, bytes, offset + data, header.count, scratch, 0);
    const found: number[] = [];
    for (let i = 0; i < header.count; i++) {
      if (scratch[i] !== sums[first + i]) found.push(header.position + data + i * BLOCK_BYTES);
    }
    return found;
  }

  /** A start makes a file of another length anew: an unfinished one has nothing in it. */
  #hasItsLength({ path, file }: SegmentFile): boolean {
    const { segmentBytes, findings } = this.#ports;
    const { sizeBytes } = file;
    if (sizeBytes === segmentBytes) return true;
    const kind = sizeBytes === 0 ? 'log-segment-unfinished' : 'log-segment-length';
    findings.add(kind, `${path} has ${sizeBytes} bytes of ${segmentBytes}.`, { file: path, offsetBytes: sizeBytes });
    return false;
  }

  /** What stands behind the end of a log that recovery will take for whole. */
  async #checkBehind(scan: ScanResult): Promise<void> {
    const { state, findings } = this.#ports;
    const behind = await this.#wholeRecordsBehind(scan);
    if (behind > 0) {
      const what = `The op log ends ${this.#text(scan.end)}, and ${behind} whole record(s) stand behind that place.`;
      findings.add('log-behind-end', what, this.#placeOf(scan.end));
    } else if (state?.since !== undefined && state.since > scan.end) {
      const what = `The op log ends at position ${scan.end}; the last server had found it to end at ${state.since}.`;
      findings.add('log-shorter', what, this.#placeOf(scan.end));
    }
  }

  async #wholeRecordsBehind({ end, epoch }: ScanResult): Promise<number> {
    const { segmentBytes, regions, checksums } = this.#ports;
    const region = regions.allocate(Math.min(logScanBytes, segmentBytes));
    const header = emptyHeader();
    let count = 0;
    for (const [segment, file] of this.#live) {
      const base = segment * segmentBytes;
      const from = Math.max(0, end + RECORD_ALIGNMENT_BYTES - base);
      for (let start = from; start < segmentBytes; start += region.bytes.length - RECORD_HEADER_BYTES) {
        const loaded = Math.min(region.bytes.length, segmentBytes - start);
        const result = await completion(request => file.read(start, region, 0, loaded, request));
        if (result < 0) throw new SledgeError('io', `a log segment cannot be read: ${errnoName(result)}`);
        for (let at = 0; at + RECORD_HEADER_BYTES <= loaded; at += RECORD_ALIGNMENT_BYTES) {
          if (region.view.getUint32(at, true) !== RECORD_MAGIC) continue;
          const position = base + start + at;
          const { view, bytes } = region;
          const remaining = segmentBytes - start - at;
          const verdict = parseRecord(view, bytes, at, loaded - at, position, remaining, header, checksums);
          const isOfThisTime = header.epoch >= Math.max(epoch, this.#epochAt(position));
          if (verdict === 'valid' && isOfThisTime && header.kind !== RecordKind.end) count++;
        }
      }
    }
    return count;
  }

  #epochAt(position: number): number {
    const { floor } = this.#known;
    return floor !== undefined && position >= floor.position ? floor.epoch : 0;
  }

  /** Undefined where no file has the position. */
  #placeOf(position: number): FilePlace | undefined {
    const { segmentBytes } = this.#ports;
    // The rest of a segment that is too short for a record is left out.
    const rest = segmentBytes - (position % segmentBytes);
    const from = rest < RECORD_HEADER_BYTES ? position + rest : position;
    const file = this.#live.get(Math.floor(from / segmentBytes));
    if (file === undefined) return undefined;
    return { file: this.#paths.get(file)!, offsetBytes: from % segmentBytes };
  }

  #text(position: number): string {
    const place = this.#placeOf(position);
    return place === undefined ? `at position ${position}` : `at byte ${place.offsetBytes} of ${place.file}`;
  }
}
