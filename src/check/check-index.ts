/**
 * Whether the index agrees with itself, with the devices and with the log: volumes, columns, and each chunk's entry. It
 * goes through all entries twice at most, and keeps a bit for each slot.
 */
import { setBit, testBit } from '../base/bits.ts';
import { chunkBytesMax, chunkBytesMin, volumeBytesMax } from '../base/limits.ts';
import type { FilePlace, Location } from '../base/location.ts';
import type { VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES, isPowerOfTwo } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { IndexStore, VolumeEntry } from '../index/index-store.ts';
import type { CheckedDevice } from './check-devices.ts';
import type { ColumnTable } from './column-table.ts';
import { orphansOf } from './column-table.ts';
import type { Findings } from './finding.ts';
import type { LogReplay } from './log-replay.ts';

export type ReadableIndex = Pick<
  IndexStore,
  'state' | 'nextVolume' | 'volumes' | 'columns' | 'chunks' | 'chunkVolumes'
>;

const CHUNKS_AT_ONCE = 4096;

/** Something in the index cannot be read back. */
export class IndexUnreadable extends Error {
  override readonly name = 'IndexUnreadable';
}

/** An index whose every way to fail is an IndexUnreadable: what is damaged may be found in the middle of any read. */
export function guarded(index: ReadableIndex): ReadableIndex {
  return {
    state: () => attempt('the state', () => index.state()),
    nextVolume: () => attempt("the next volume's number", () => index.nextVolume()),
    volumes: () => attempt('a volume', () => [...index.volumes()]),
    columns: () => attempt('a column', () => [...index.columns()]),
    chunkVolumes: () => attempt('the chunks', () => [...index.chunkVolumes()]),
    chunks: (volume, from, to, limit) => {
      return attempt(`chunks of volume ${volume}, from ${from} on,`, () => [...index.chunks(volume, from, to, limit)]);
    },
  };
}

function attempt<Read>(what: string, read: () => Read): Read {
  try {
    return read();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new IndexUnreadable(`In the index ${what} cannot be read: ${reason}`, { cause });
  }
}

/** Volumes by their number, those left out whose entries cannot be worked with. */
export function checkVolumes(index: ReadableIndex, findings: Findings): Map<VolumeNumber, VolumeEntry> {
  const volumes = new Map<VolumeNumber, VolumeEntry>();
  const names = new Map<string, VolumeNumber>();
  const next = index.nextVolume();
  for (const entry of index.volumes()) {
    const { number, name, sizeBytes, chunkBytes } = entry;
    const add = (text: string) => findings.add('volume-entry', `Volume ${number} (${name}) ${text}.`);
    if (number >= next) add(`is there, and the next volume to be made has number ${next}`);
    const other = names.get(name);
    if (entry.state === 'present') {
      if (other !== undefined) add(`has the name of volume ${other}`);
      names.set(name, number);
    }
    const isLength = sizeBytes % BLOCK_BYTES === 0 && sizeBytes > 0 && sizeBytes <= volumeBytesMax;
    if (!isLength) add(`has ${sizeBytes} bytes`);
    const isChunk = isPowerOfTwo(chunkBytes) && chunkBytes >= chunkBytesMin && chunkBytes <= chunkBytesMax;
    if (!isChunk) add(`has chunks of ${chunkBytes} bytes`);
    if (isLength && isChunk) volumes.set(number, entry);
  }
  if (index.state() === undefined && volumes.size > 0) findings.add('index-state', 'The index has no state.');
  return volumes;
}

export interface ChunkCheckPorts {
  readonly index: ReadableIndex;
  readonly volumes: ReadonlyMap<VolumeNumber, VolumeEntry>;
  readonly columns: ColumnTable;
  /** Undefined where the log could not be read. */
  readonly replay: LogReplay | undefined;
  readonly findings: Findings;
}

/** All chunks that the index has of a volume, in ascending order. */
export function* allChunks(
  index: ReadableIndex,
  volume: VolumeNumber,
): Iterable<readonly (readonly [number, ChunkEntry])[]> {
  for (let from = 0; ; ) {
    const entries = [...index.chunks(volume, from, Number.MAX_SAFE_INTEGER, CHUNKS_AT_ONCE)];
    if (entries.length > 0) yield entries;
    if (entries.length < CHUNKS_AT_ONCE) return;
    from = entries.at(-1)![0] + 1;
  }
}

/** Returns the count of chunks. */
export function checkChunks(ports: ChunkCheckPorts): number {
  return new ChunkCheck(ports).run();
}

class ChunkCheck {
  readonly #ports: ChunkCheckPorts;
  /** Locations at which a second chunk was met. */
  readonly #shared = new Set<Location>();
  /** Chunks on devices that are not there. */
  readonly #lost = new Map<CheckedDevice, number>();

  constructor(ports: ChunkCheckPorts) {
    this.#ports = ports;
  }

  run(): number {
    const { index, volumes, findings } = this.#ports;
    let count = 0;
    for (const number of index.chunkVolumes()) {
      const volume = volumes.get(number);
      let ofVolume = 0;
      for (const entries of allChunks(index, number)) {
        ofVolume += entries.length;
        for (const [chunk, entry] of entries) if (volume !== undefined) this.#check(volume, chunk, entry);
      }
      if (volume === undefined) {
        findings.add('chunk-volume-unknown', `The index has ${ofVolume} chunk(s) of volume ${number}.`);
      }
      count += ofVolume;
    }
    for (const [device, chunks] of this.#lost) {
      const what = `${chunks} chunk(s) lie on device ${device.path}, which cannot be used.`;
      findings.add('chunks-lost', what, { file: device.path });
    }
    this.#nameShared();
    this.#checkMarks();
    return count;
  }

  #check(volume: VolumeEntry, chunk: number, entry: ChunkEntry): void {
    const { columns, replay } = this.#ports;
    const logged = replay?.volume(volume.number);
    const sizeBytes = logged?.sizeBytes ?? volume.sizeBytes;
    const blocks = volume.chunkBytes / BLOCK_BYTES;
    const name = `Chunk ${chunk} of ${volume.name}`;
    if (chunk * volume.chunkBytes >= sizeBytes) {
      this.#add('chunk-beyond-end', `${name} is in the index, and the volume has ${sizeBytes} bytes.`);
    }
    if (entry.sums.length !== blocks) {
      this.#add('chunk-sums', `${name} has ${entry.sums.length} checksums for ${blocks} blocks.`);
    }
    if (replay !== undefined) {
      const newest = Math.max(volume.lastOp, logged?.lastOp ?? 0);
      if (entry.op < 1 || entry.op > newest) {
        this.#add('chunk-op', `${name} is of operation ${entry.op}; the volume's newest one is ${newest}.`);
      }
    }
    const place = columns.place(entry.location, volume.chunkBytes);
    if (place.kind === 'lost') {
      this.#lost.set(place.device, (this.#lost.get(place.device) ?? 0) + 1);
      return;
    }
    if (place.kind === 'outside') {
      this.#add('chunk-outside', `${name} has a place that does not exist: ${place.why}.`);
      return;
    }
    const at = `at byte ${place.position} of ${place.device.path}`;
    const where = { file: place.device.path, offsetBytes: place.position };
    const column = columns.columnOf(place);
    if (column === undefined) {
      this.#add('chunk-column', `${name} lies ${at}, in a column that nobody has.`, where);
      return;
    }
    if (column.entry.volume !== volume.number) {
      const owner = `in a column of volume ${column.entry.volume}`;
      this.#add('chunk-column', `${name} lies ${at}, ${owner}.`, where);
      return;
    }
    if (column.entry.chunkBytes !== volume.chunkBytes) return;
    if (!testBit(column.entry.slots, place.slot)) {
      this.#add('slot-unmarked', `${name} lies ${at}, in a slot that is not marked as used.`, where);
    }
    if (testBit(column.seen, place.slot)) this.#shared.add(entry.location);
    setBit(column.seen, place.slot);
  }

  /** Goes through the index again for those who share a slot: it is never done for a sound one. */
  #nameShared(): void {
    if (this.#shared.size === 0) return;
    const { index, volumes, columns } = this.#ports;
    const chunks = new Map<Location, string[]>();
    for (const volume of volumes.values()) {
      for (const entries of allChunks(index, volume.number)) {
        for (const [chunk, { location }] of entries) {
          if (!this.#shared.has(location)) continue;
          chunks.set(location, [...(chunks.get(location) ?? []), `chunk ${chunk} of ${volume.name}`]);
        }
      }
    }
    for (const [location, names] of chunks) {
      const place = columns.place(location, BLOCK_BYTES);
      if (place.kind !== 'slot') continue;
      const where = { file: place.device.path, offsetBytes: place.position };
      const what = `One slot, at byte ${place.position} of ${place.device.path}, has ${names.join(' and ')}.`;
      this.#add('slot-shared', what, where);
    }
  }

  /** Slots that are marked and in which no chunk was seen. */
  #checkMarks(): void {
    for (const column of this.#ports.columns.columns()) {
      const { entry, device, position } = column;
      // Of a device that is not there no chunk was placed.
      if (!this.#ports.volumes.has(entry.volume) || device.sound === undefined) continue;
      const orphans = orphansOf(column);
      if (orphans.length === 0) continue;
      const offsetBytes = position + orphans[0] * entry.chunkBytes;
      const count = orphans.length;
      const what = `Column ${entry.column} of ${device.path} has ${count} orphaned slot(s), from byte ${offsetBytes} on.`;
      this.#add('slot-orphan', what, { file: device.path, offsetBytes });
    }
  }

  #add(kind: Parameters<Findings['add']>[0], what: string, place?: FilePlace): void {
    this.#ports.findings.add(kind, what, place);
  }
}
