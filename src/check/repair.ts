/**
 * Plans the repairs of an index: from the picture that a check has of who has which slot, to changes of columns that are
 * stored in one transaction. What is repaired at all stands in `repair-decision.ts`.
 *
 * Invariants:
 * - No mark of a volume goes while one of its chunks lies in an unmarked slot and is not proven to be there: what is
 *   wrong may be the chunk's place, and the orphan the slot that it is really in.
 * - Only columns are changed: chunks, volumes, the state and the log stay as they are.
 */
import { assert } from '../base/assert.ts';
import { clearBit, setBit, testBit } from '../base/bits.ts';
import type { Checksums } from '../base/checksum.ts';
import { NO_SUM, takeSums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import { completion } from '../base/io-wait.ts';
import type { FilePlace } from '../base/location.ts';
import type { Region, RegionSource } from '../base/memory.ts';
import type { VolumeNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ChunkEntry } from '../index/chunk-entry.ts';
import type { ColumnEntry, IndexStore, VolumeEntry } from '../index/index-store.ts';
import type { Picture } from './check.ts';
import { allChunks } from './check-index.ts';
import type { CheckedColumn } from './column-table.ts';
import { orphansOf, unmarkedOf } from './column-table.ts';
import type { FindingKind } from './finding.ts';
import { FINDINGS_PER_KIND_MAX } from './finding.ts';
import { isCovered } from './log-replay.ts';
import type { Leaving } from './repair-decision.ts';

export interface Repair extends Partial<FilePlace> {
  readonly kind: FindingKind;
  /** A sentence for humans: what was done. */
  readonly what: string;
}

export type ColumnChange =
  | { readonly does: 'put'; readonly entry: ColumnEntry }
  | { readonly does: 'remove'; readonly entry: ColumnEntry };

export interface RepairPlan {
  readonly repairs: readonly Repair[];
  readonly left: readonly Leaving[];
  /** To be stored together or not at all. */
  readonly changes: readonly ColumnChange[];
}

export interface PlanPorts {
  readonly regions: RegionSource;
  readonly checksums: Checksums;
}

/** Of a picture without findings that refuse; reads the chunks that are in unmarked slots, and nothing else. */
export async function planRepairs(picture: Picture, ports: PlanPorts): Promise<RepairPlan> {
  return new Planner(picture, ports).run();
}

/** Rejects with `io`; then nothing was changed. */
export async function storeRepairs(index: Pick<IndexStore, 'begin'>, changes: readonly ColumnChange[]): Promise<void> {
  const transaction = index.begin();
  for (const { does, entry } of changes) {
    if (does === 'put') transaction.putColumn(entry);
    else transaction.removeColumn(entry.device, entry.column);
  }
  const result = await completion(request => transaction.commit(request));
  if (result < 0) throw new SledgeError('io', `the index cannot be written: ${errnoName(result)}`);
}

/** What was found out of the chunks of a volume that are in unmarked slots. */
interface Trial {
  /** Slots whose content is the chunk's, by column. */
  readonly proven: Map<CheckedColumn, number[]>;
  /** Slots of which the device says nothing, since all that is current is in the log. */
  readonly open: Map<CheckedColumn, number[]>;
  /** Slots with other content, or that the log names for another chunk. */
  refuted: number;
}

class Planner {
  readonly #picture: Picture;
  readonly #ports: PlanPorts;
  readonly #repairs: Repair[] = [];
  readonly #left: Leaving[] = [];
  /** Those that are not listed as well: of each kind a bounded number is. */
  readonly #repairCounts = new Map<FindingKind, number>();
  readonly #leftCounts = new Map<FindingKind, number>();
  #region: Region | undefined;
  readonly #changes: ColumnChange[] = [];
  /** Columns that have a slot which the log names for another volume than the column's own, or for several. */
  readonly #contested = new Set<CheckedColumn>();

  constructor(picture: Picture, ports: PlanPorts) {
    this.#picture = picture;
    this.#ports = ports;
    const { columns, replay, volumes } = picture;
    for (const [location, name] of replay.named) {
      const chunkBytes = name === 'several' ? BLOCK_BYTES : volumes.get(name.volume)!.chunkBytes;
      const place = columns.place(location, chunkBytes);
      assert(place.kind === 'slot', 'a record that names something else is a finding that refuses');
      const column = columns.columnOf(place);
      if (column === undefined) continue;
      if (name === 'several' || name.volume !== column.entry.volume) this.#contested.add(column);
    }
  }

  async run(): Promise<RepairPlan> {
    const { columns, volumes } = this.#picture;
    const defects = new Map<VolumeNumber, { orphans: number; unmarked: number; readonly columns: CheckedColumn[] }>();
    for (const column of columns.columns()) {
      const number = column.entry.volume;
      if (!volumes.has(number)) {
        this.#strange(column);
        continue;
      }
      const orphans = orphansOf(column).length;
      const unmarked = unmarkedOf(column).length;
      if (orphans + unmarked === 0) continue;
      const ofVolume = defects.get(number) ?? { orphans: 0, unmarked: 0, columns: [] };
      ofVolume.orphans += orphans;
      ofVolume.unmarked += unmarked;
      ofVolume.columns.push(column);
      defects.set(number, ofVolume);
    }
    for (const [number, { orphans, unmarked, columns }] of defects) {
      const volume = volumes.get(number)!;
      const trial = unmarked > 0 ? await this.#try(volume) : { proven: new Map(), open: new Map(), refuted: 0 };
      this.#decide(volume, columns, orphans, trial);
    }
    for (const [kind, more] of unlisted(this.#repairCounts)) {
      this.#repairs.push({ kind, what: `${more} more repairs of the kind "${kind}" are not listed.` });
    }
    for (const [kind, more] of unlisted(this.#leftCounts)) {
      this.#left.push({ kind, why: `${more} more of the kind "${kind}" are not listed.` });
    }
    return { repairs: this.#repairs, left: this.#left, changes: this.#changes };
  }

  /** A column of a volume that does not exist. */
  #strange(column: CheckedColumn): void {
    const { entry, device, position } = column;
    const { nextVolume, replay } = this.#picture;
    const kind = entry.slots.some(word => word !== 0) ? 'column-volume-unknown' : 'column-left-over';
    const name = `Column ${entry.column} of ${device.path}`;
    if (entry.volume === 0 || entry.volume >= nextVolume) {
      this.#leave(kind, `${name} is of volume ${entry.volume}, which was never made: whose it is would be a guess.`);
    } else if (replay.hasStranger(entry.volume) || this.#contested.has(column)) {
      this.#leave(kind, `${name} stays while the log has records that may speak of it: a start cuts them off.`);
    } else {
      this.#changes.push({ does: 'remove', entry });
      const what = `${name}, which was in the name of volume ${entry.volume}, is free again.`;
      this.#repaired(kind, what, { file: device.path, offsetBytes: position });
    }
  }

  #decide(volume: VolumeEntry, columns: readonly CheckedColumn[], orphans: number, trial: Trial): void {
    const open = [...trial.open.values()].reduce((sum, slots) => sum + slots.length, 0);
    const marksOpen = orphans === 0;
    const clears = trial.refuted === 0 && open === 0;
    if (trial.refuted > 0) {
      const what = `${trial.refuted} slot(s) of ${volume.name} stay unmarked`;
      this.#leave('slot-unmarked', `${what}: what is there is not the chunk, or the log has another one there.`);
    }
    if (open > 0 && !marksOpen) {
      const what = `${open} slot(s) of ${volume.name} stay unmarked: the log has all that is current of their chunks`;
      this.#leave('slot-unmarked', `${what}, so that nothing on the device shows that they are in the right place.`);
    }
    if (orphans > 0 && !clears) {
      const what = `${orphans} orphaned slot(s) of ${volume.name} stay marked`;
      this.#leave('slot-orphan', `${what}: one may be where a chunk really is that seems to be in an unmarked slot.`);
    }
    for (const column of columns) {
      const marked = [...(trial.proven.get(column) ?? []), ...(marksOpen ? (trial.open.get(column) ?? []) : [])];
      this.#change(column, marked, clears ? orphansOf(column) : []);
    }
  }

  #change(column: CheckedColumn, marked: readonly number[], cleared: readonly number[]): void {
    if (marked.length + cleared.length === 0) return;
    const { entry, device, position } = column;
    const slots = entry.slots.slice();
    for (const slot of marked) setBit(slots, slot);
    for (const slot of cleared) clearBit(slots, slot);
    const isEmpty = slots.every(word => word === 0);
    this.#changes.push(isEmpty ? { does: 'remove', entry } : { does: 'put', entry: { ...entry, slots } });
    const name = `column ${entry.column} of ${device.path}`;
    const placeOf = (slot: number) => ({ file: device.path, offsetBytes: position + slot * entry.chunkBytes });
    if (marked.length > 0) {
      const place = placeOf(Math.min(...marked));
      const what = `${marked.length} slot(s) in ${name}, from byte ${place.offsetBytes} on, have been marked.`;
      this.#repaired('slot-unmarked', what, place);
    }
    if (cleared.length > 0) {
      const place = placeOf(cleared[0]);
      const what = `${cleared.length} orphaned slot(s) in ${name}, from byte ${place.offsetBytes} on, are free again`;
      this.#repaired('slot-orphan', `${what}${isEmpty ? ', and the column with them' : ''}.`, place);
    }
  }

  /** Reads every chunk of the volume that is in an unmarked slot. */
  async #try(volume: VolumeEntry): Promise<Trial> {
    const { index, columns, replay } = this.#picture;
    const trial: Trial = { proven: new Map(), open: new Map(), refuted: 0 };
    for (const entries of allChunks(index, volume.number)) {
      for (const [chunk, entry] of entries) {
        const place = columns.place(entry.location, volume.chunkBytes);
        assert(place.kind === 'slot', 'a chunk somewhere else is a finding that refuses');
        const column = columns.columnOf(place);
        assert(column !== undefined, 'a chunk in no column is a finding that refuses');
        if (testBit(column.entry.slots, place.slot)) continue;
        const name = replay.named.get(entry.location);
        const isOthers = name !== undefined && (name === 'several' || name.chunk !== chunk);
        const verdict = isOthers || this.#contested.has(column) ? 'differs' : await this.#compare(volume, chunk, entry);
        if (verdict === 'differs') {
          trial.refuted++;
          continue;
        }
        const found = verdict === 'matches' ? trial.proven : trial.open;
        const slots = found.get(column);
        if (slots === undefined) found.set(column, [place.slot]);
        else slots.push(place.slot);
      }
    }
    return trial;
  }

  /** Whether what lies at a chunk's place is what its checksums say; blocks whose newest data is in the log do not count. */
  async #compare(volume: VolumeEntry, chunk: number, entry: ChunkEntry): Promise<'matches' | 'differs' | 'nothing'> {
    const { columns, replay } = this.#picture;
    const { regions, checksums } = this.#ports;
    const logged = replay.volume(volume.number);
    const covered = logged?.covered(chunk);
    const counts = (i: number) => entry.sums[i] !== NO_SUM && !isCovered(covered, i);
    if (!entry.sums.some((_, i) => counts(i))) return 'nothing';
    const place = columns.place(entry.location, volume.chunkBytes);
    assert(place.kind === 'slot', 'only a chunk in a slot is compared');
    if ((this.#region?.bytes.length ?? 0) < volume.chunkBytes) this.#region = regions.allocate(volume.chunkBytes);
    const region = this.#region!;
    const { file } = place.device.sound!;
    const result = await completion(request => file.read(place.position, region, 0, volume.chunkBytes, request));
    if (result < 0) return 'differs';
    const actual = new Uint32Array(entry.sums.length);
    takeSums(checksums, region.bytes, 0, actual.length, actual, 0);
    if (actual.every((sum, i) => !counts(i) || sum === entry.sums[i])) return 'matches';
    // Blocks that were written before the log replaced the chunk as a whole are not known to be covered any more.
    return logged?.replaces(chunk) ? 'nothing' : 'differs';
  }

  #repaired(kind: FindingKind, what: string, place: FilePlace): void {
    if (isListed(this.#repairCounts, kind)) this.#repairs.push({ kind, what, ...place });
  }

  #leave(kind: FindingKind, why: string): void {
    if (isListed(this.#leftCounts, kind)) this.#left.push({ kind, why });
  }
}

/** Counts one more of a kind; whether it is among those that are listed. */
function isListed(counts: Map<FindingKind, number>, kind: FindingKind): boolean {
  const count = (counts.get(kind) ?? 0) + 1;
  counts.set(kind, count);
  return count <= FINDINGS_PER_KIND_MAX;
}

function unlisted(counts: ReadonlyMap<FindingKind, number>): [FindingKind, number][] {
  return [...counts]
    .map(([kind, count]): [FindingKind, number] => [kind, count - FINDINGS_PER_KIND_MAX])
    .filter(([, more]) => more > 0);
}
