/**
 * What a check finds. Each kind of finding stands once in the table: how bad it is, what it means, and what to do; who
 * finds one adds what and where it is. A device that goes bad block by block fills no memory: of each kind a bounded
 * number is listed and the rest counted.
 *
 *   error     data is lost or in danger, or the next start would refuse or end in an assertion
 *   warning   something is not as it should be, and nothing is lost by it
 *   note      what a crash leaves behind and the next start puts right by itself
 */
import type { FilePlace } from '../base/location.ts';
export type Severity = 'error' | 'warning' | 'note';

interface Meaning {
  readonly severity: Severity;
  readonly why: string;
  readonly todo: string;
}

const BACKUP = 'Restore the directory from a backup, or the volumes from copies; check the disk.';
const LOST_INDEX = 'The index contradicts itself: keep a copy of the directory, restore from a backup, and report it.';
const AT_START = 'Nothing: the next start does it.';

const TABLE = {
  // --- directory and devices -----------------------------------------------------------------------------------------
  'lock-missing': {
    severity: 'note',
    why: 'The directory was copied or restored without it; the devices are claimed while this check runs.',
    todo: 'Nothing: the next start makes it.',
  },
  'node-file': {
    severity: 'error',
    why: 'Without it nobody knows which devices belong to this directory; no server starts on it.',
    todo: 'Bring node.json back from a backup.',
  },
  'device-missing': {
    severity: 'error',
    why: 'The node has it on record; the chunks on it cannot be read, and no server starts without it.',
    todo: 'Bring it back under that path, or start the server with its new one: --device PATH.',
  },
  'device-unusable': {
    severity: 'error',
    why: 'No server could use it in this state.',
    todo: 'See what holds it or what the kernel log says of it, then check again.',
  },
  'device-blank': {
    severity: 'error',
    why: 'Where its superblock should be there are zeroes: it was wiped or made anew.',
    todo: 'Bring the device back that was there; its data is not on this one.',
  },
  'device-foreign': {
    severity: 'error',
    why: 'Under the path of this device lies something else, which is not touched.',
    todo: 'Find the device that belongs there and bring it back under that path.',
  },
  'device-version': {
    severity: 'error',
    why: 'It was written by another version of Sledge.',
    todo: 'Use that version.',
  },
  'device-shrunk': {
    severity: 'error',
    why: 'Columns of it lie behind its end.',
    todo: 'Bring it back to its former size: its data lies there.',
  },
  'device-geometry': {
    severity: 'error',
    why: 'Positions on the device would be computed wrongly.',
    todo: 'Find out whether node.json or the device was replaced, and bring the right one back.',
  },
  'superblock-damaged': {
    severity: 'error',
    why: 'Neither copy matches its checksum: what belongs to whom on the device is not certain.',
    todo: BACKUP,
  },
  'superblock-copy': {
    severity: 'warning',
    why: 'The other copy is whole and is used; if that one fails as well, the device is lost.',
    todo: 'Check the disk.',
  },
  // --- log -----------------------------------------------------------------------------------------------------------
  'log-unreadable': {
    severity: 'error',
    why: 'What was written last is there and nowhere else.',
    todo: 'Check the disk: the kernel log says more.',
  },
  'log-missing': {
    severity: 'error',
    why: 'A server that has run here has made them: what was written last was in them.',
    todo: `Start no server. ${BACKUP}`,
  },
  'log-conflict': {
    severity: 'error',
    why: 'Each place of the log is in one file; no server starts with this.',
    todo: 'Take away the file that was copied there.',
  },
  'log-shorter': {
    severity: 'warning',
    why: 'What the server before had taken over is not there any more.',
    todo: 'After a loss of power this is to be expected. If there was none, check the disk of the log.',
  },
  'log-segment-length': {
    severity: 'error',
    why: 'A segment has one length. This one may hold records, and no server starts with it.',
    todo: 'Bring the whole file back from a backup.',
  },
  'log-segment-unfinished': {
    severity: 'note',
    why: 'The server ended while it made the file; no record is in it.',
    todo: AT_START,
  },
  'cut-outside': {
    severity: 'error',
    why: 'The index says that the log goes on from there: operations that were answered may be missing.',
    todo: `Start no server. ${BACKUP}`,
  },
  'log-broken': {
    severity: 'error',
    why: 'Records behind that place were durable (row "broken"): operations in the middle are lost, and no server starts.',
    todo: BACKUP,
  },
  'log-block-damaged': {
    severity: 'error',
    why: 'The record was durable and its data does not match its checksum (row "rotten"): the disk has changed it.',
    todo: 'Reads of that block fail until it is written again. Restore it from a copy; check the disk.',
  },
  'log-torn': {
    severity: 'note',
    why: 'It was never promised to survive a loss of power (row "torn"); a write that was cut off looks like this.',
    todo: 'Nothing: the next start cuts it off, and puts on record that nothing of it comes back.',
  },
  'log-behind-end': {
    severity: 'warning',
    why: 'A record in front of them is not whole, and none of them was known to be durable: they will be dropped.',
    todo: 'After a loss of power this is to be expected. If there was none, check the disk of the log.',
  },
  'op-gap': {
    severity: 'error',
    why: 'Numbers of operations have no hole: what is missing is lost, and a start would end in an assertion.',
    todo: BACKUP,
  },
  'op-missing': {
    severity: 'error',
    why: 'The index knows of newer operations, which had been durable in the log.',
    todo: BACKUP,
  },
  'log-volume-gone': {
    severity: 'note',
    why: 'The server ended between the deletion and the next cut of the log.',
    todo: AT_START,
  },
  'log-volume-unknown': {
    severity: 'error',
    why: 'No volume ever had that number, as far as the index knows: log and index are not of one time.',
    todo: 'Bring log and index back from the same backup.',
  },
  'log-range': {
    severity: 'error',
    why: 'A record says something that its volume cannot have been asked for: log and index are not of one time.',
    todo: 'Bring log and index back from the same backup.',
  },
  'log-slot': {
    severity: 'error',
    why: 'The log names a slot that cannot hold the data of that volume; a start would refuse or end in an assertion.',
    todo: BACKUP,
  },
  // --- index ---------------------------------------------------------------------------------------------------------
  'index-missing': {
    severity: 'error',
    why: 'Without it nobody knows what lies where on the devices.',
    todo: 'Bring it back from a backup.',
  },
  'index-unreadable': {
    severity: 'error',
    why: 'An entry of it, or a page, is not what was written.',
    todo: BACKUP,
  },
  'index-damaged': {
    severity: 'error',
    why: 'The disk, or somebody, has changed it: chunks would be read from wrong places or as zeroes. No server starts.',
    todo: BACKUP,
  },
  'index-sums': {
    severity: 'warning',
    why: 'With the checksums of its pages it would be known whether the disk has changed the index; now it is not.',
    todo: 'Nothing: the next stop writes them anew. Check the disk.',
  },
  'index-state': {
    severity: 'error',
    why: 'Without it nobody knows where in the log to begin.',
    todo: LOST_INDEX,
  },
  'volume-entry': { severity: 'error', why: 'No volume can have been made like that.', todo: LOST_INDEX },
  'column-outside': {
    severity: 'error',
    why: 'A column is on a device of this node, within its bounds.',
    todo: LOST_INDEX,
  },
  'column-volume-unknown': {
    severity: 'error',
    why: 'Slots in it are marked as used by a volume that does not exist.',
    todo: `--repair removes the column if nothing refers to it. Otherwise: ${LOST_INDEX}`,
  },
  'column-left-over': {
    severity: 'note',
    why: 'Its volume was deleted and nothing is in it; the server ended before it gave the column back.',
    todo: 'Nothing is lost by it but the room of a column; `sledge check --repair` gives it back.',
  },
  'column-shape': {
    severity: 'error',
    why: 'The slots of a column are as long as the chunks of its volume, with one bit each.',
    todo: LOST_INDEX,
  },
  'slot-orphan': {
    severity: 'warning',
    why: 'They are marked as used and no chunk is in them: their space stays taken.',
    todo: 'Nothing is lost but the space: --repair gives it back. Report it.',
  },
  'chunks-lost': {
    severity: 'error',
    why: 'They are on no other device.',
    todo: 'Put the device right first: see what is said of it.',
  },
  'chunk-volume-unknown': {
    severity: 'error',
    why: 'There are chunks of a volume that does not exist.',
    todo: LOST_INDEX,
  },
  'chunk-beyond-end': { severity: 'error', why: 'The volume ends before that chunk.', todo: LOST_INDEX },
  'chunk-sums': {
    severity: 'error',
    why: 'A chunk has a checksum for each of its blocks.',
    todo: LOST_INDEX,
  },
  'chunk-op': {
    severity: 'error',
    why: 'A chunk in the index is no newer than what volume entry and log know of: one of them is older than it should be.',
    todo: 'Bring log and index back from the same backup.',
  },
  'chunk-outside': {
    severity: 'error',
    why: 'No slot of this node is there: the chunk cannot be read.',
    todo: LOST_INDEX,
  },
  'chunk-column': {
    severity: 'error',
    why: 'A chunk lies in a column of its volume; this place may be given to somebody else.',
    todo: LOST_INDEX,
  },
  'slot-unmarked': {
    severity: 'error',
    why: 'A chunk is in it and it passes for free: it may be given away and written over.',
    todo: `--repair marks it if the chunk is still there. Otherwise: ${LOST_INDEX}`,
  },
  'slot-shared': { severity: 'error', why: 'Only one of the chunks can be what lies there.', todo: LOST_INDEX },
  // --- data ----------------------------------------------------------------------------------------------------------
  'block-damaged': {
    severity: 'error',
    why: 'What is stored does not match its checksum.',
    todo: 'Reads of it fail until it is written again. Restore it from a copy; check the disk.',
  },
  'block-unreadable': {
    severity: 'error',
    why: 'The device gives an error instead of the block.',
    todo: 'Reads of it fail until it is written again. Restore it from a copy; replace the disk.',
  },
  'bulk-unwritten': {
    severity: 'warning',
    why: 'The operation that wrote it was not known to be durable yet: the next start drops it, and all behind it.',
    todo: 'After a loss of power this is to be expected. If there was none, check the disk.',
  },
} as const satisfies Record<string, Meaning>;

export type FindingKind = keyof typeof TABLE;

export interface Finding extends Partial<FilePlace> {
  readonly kind: FindingKind;
  readonly severity: Severity;
  /** Sentences for humans. */
  readonly what: string;
  readonly why: string;
  readonly todo: string;
}

/** Findings of one kind that are listed. */
export const FINDINGS_PER_KIND_MAX = 50;

const RANK: Record<Severity, number> = { error: 0, warning: 1, note: 2 };

export class Findings {
  readonly #listed: Finding[] = [];
  readonly #counts = new Map<FindingKind, number>();

  add(kind: FindingKind, what: string, place?: Pick<FilePlace, 'file'> & Partial<FilePlace>): void {
    const count = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, count);
    if (count <= FINDINGS_PER_KIND_MAX) this.#listed.push({ kind, ...TABLE[kind], what, ...place });
  }

  /** Takes over what another list has. */
  addAll(other: Findings): void {
    for (const finding of other.#listed) {
      const { file, offsetBytes } = finding;
      const offset = offsetBytes === undefined ? {} : { offsetBytes };
      this.add(finding.kind, finding.what, file === undefined ? undefined : { file, ...offset });
    }
    for (const [kind, count] of other.#counts) {
      const unlisted = Math.max(0, count - FINDINGS_PER_KIND_MAX);
      if (unlisted > 0) this.#counts.set(kind, this.#counts.get(kind)! + unlisted);
    }
  }

  /** Those that are not listed are counted. */
  count(severity: Severity): number {
    let sum = 0;
    for (const [kind, count] of this.#counts) if (TABLE[kind].severity === severity) sum += count;
    return sum;
  }

  /** Those that were found at all, listed or not. */
  kinds(): Iterable<FindingKind> {
    return this.#counts.keys();
  }

  /** Errors first; behind those of a kind that were too many, one that says how many there are. */
  list(): Finding[] {
    const all = [...this.#listed];
    for (const [kind, count] of this.#counts) {
      const more = count - FINDINGS_PER_KIND_MAX;
      if (more > 0) all.push({ kind, ...TABLE[kind], what: `${more} more of the kind "${kind}" are not listed.` });
    }
    return all.sort((a, b) => RANK[a.severity] - RANK[b.severity]);
  }
}
