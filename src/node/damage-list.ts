/**
 * The damaged blocks that are known of each volume, whoever found them: a client's read, the destage or a scrub. It puts
 * the latest of them into the list of problems, with the file and the byte where they lie, and counts the others.
 *
 * Invariants:
 * - A block stands in it once, at the place where it was found last.
 * - What a whole scrub did not find again is not listed any more: it was written anew, or trimmed. What the log holds is
 *   not for a scrub to find, and stays as long as the log does.
 */
import { damagedBlocksMax, damagedBlocksShown } from '../base/limits.ts';
import type { BlockFault, DamagedPlace, FilePlace } from '../base/location.ts';
import type { BlockNumber } from '../base/units.ts';
import { BLOCK_BYTES } from '../base/units.ts';
import type { ProblemList } from './problem-list.ts';

interface Finding {
  /** Rises with each finding. */
  readonly serial: number;
  readonly place: DamagedPlace;
}

interface VolumeDamage {
  /** The latest last. */
  readonly blocks: Map<BlockNumber, Finding>;
  /** More were found than are remembered. */
  overflowed: boolean;
}

export class DamageList {
  readonly #problems: ProblemList;
  readonly #volumes = new Map<string, VolumeDamage>();
  #serial = 0;
  #logFindings = 0;

  constructor(problems: ProblemList) {
    this.#problems = problems;
  }

  /** How often a record of the log did not match its checksum: no device counts that. */
  get logFindings(): number {
    return this.#logFindings;
  }

  /** What is found from now on has a higher one. */
  get serial(): number {
    return this.#serial;
  }

  found(volume: string, block: BlockNumber, place: DamagedPlace, file: FilePlace, fault: BlockFault): void {
    if (place.kind === 'log') this.#logFindings++;
    let damage = this.#volumes.get(volume);
    if (damage === undefined) {
      damage = { blocks: new Map(), overflowed: false };
      this.#volumes.set(volume, damage);
    }
    damage.blocks.delete(block);
    damage.blocks.set(block, { serial: ++this.#serial, place });
    if (damage.blocks.size > damagedBlocksMax) {
      damage.overflowed = true;
      this.#forget(volume, damage, damage.blocks.keys().next().value!);
    }
    const hidden = [...damage.blocks.keys()].at(-1 - damagedBlocksShown);
    if (hidden !== undefined) this.#problems.clear(keyOf(volume, hidden));
    this.#problems.add(keyOf(volume, block), problemOf(volume, block, place, file, fault), volume);
    this.#countHidden(volume, damage);
  }

  /** A scrub that began at this serial has gone through all of the volume, and the log has been cut up to `logCut`. */
  scrubbed(volume: string, sinceSerial: number, logCut: number): void {
    const damage = this.#volumes.get(volume);
    if (damage === undefined) return;
    for (const [block, { serial, place }] of damage.blocks) {
      const isInLog = place.kind === 'log' && place.position >= logCut;
      if (serial <= sinceSerial && !isInLog) this.#forget(volume, damage, block);
    }
    damage.overflowed &&= damage.blocks.size === damagedBlocksMax;
    this.#countHidden(volume, damage);
  }

  /** The volume is gone. */
  forget(volume: string): void {
    const damage = this.#volumes.get(volume);
    if (damage === undefined) return;
    for (const block of [...damage.blocks.keys()]) this.#forget(volume, damage, block);
    this.#problems.clear(`damage/${volume}`);
    this.#volumes.delete(volume);
  }

  #forget(volume: string, damage: VolumeDamage, block: BlockNumber): void {
    damage.blocks.delete(block);
    this.#problems.clear(keyOf(volume, block));
  }

  #countHidden(volume: string, damage: VolumeDamage): void {
    const hidden = damage.blocks.size - damagedBlocksShown;
    if (hidden <= 0) {
      this.#problems.clear(`damage/${volume}`);
      return;
    }
    const problem = {
      severity: 'error',
      what: `${damage.overflowed ? 'More than ' : ''}${hidden} further damaged blocks of ${volume} are not listed.`,
      why: `Of a volume's damaged blocks the latest ${damagedBlocksShown} are listed.`,
      todo: `To find all of them: sledge scrub ${volume}`,
    } as const;
    this.#problems.add(`damage/${volume}`, problem, volume);
  }
}

function keyOf(volume: string, block: BlockNumber): string {
  return `damage/${volume}/${block}`;
}

function problemOf(volume: string, block: BlockNumber, place: DamagedPlace, found: FilePlace, fault: BlockFault) {
  const isRead = fault === 'mismatch';
  const where = place.kind === 'log' ? "The op log's record" : 'What is stored';
  const how = isRead ? 'does not match its checksum' : 'is not given by the device';
  return {
    severity: 'error',
    what: `Bytes ${block * BLOCK_BYTES} to ${(block + 1) * BLOCK_BYTES - 1} of ${volume} ${isRead ? 'are damaged' : 'cannot be read'}.`,
    why: `${where} in ${found.file} from byte ${found.offsetBytes} on ${how}.`,
    todo: `Reads of them fail until they are written again. Restore them from a copy; check the disk; then: sledge scrub ${volume}`,
  } as const;
}
