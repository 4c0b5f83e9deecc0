/**
 * Which findings of a check can be repaired without guessing. The plan (`repair.ts`) asks it for all that the check found,
 * before it looks at any of it.
 *
 *   finding                                  what is done, and why no more
 *   slot-orphan                              the mark goes. Marks say what the index refers to, and no chunk is there; slots
 *                                            of the log need none, since recovery takes all that bulk records name, and a
 *                                            mark without a chunk would end the server when it frees such a slot
 *   slot-unmarked                            marked, if the chunk is there by its checksums and nobody else names the slot
 *   column-volume-unknown, column-left-over  removed, if there was such a volume, and neither chunk nor record is left of it
 *   lock-missing                             made, as a start does
 *   log-torn, log-behind-end, log-shorter,   left to the next start, which does all of it: cuts the log, puts epoch and end
 *   bulk-unwritten, log-volume-gone,         on record so that nothing dropped comes back, makes segments whole
 *   log-segment-unfinished
 *   block-damaged, block-unreadable,         left: what was there is nowhere else
 *   log-block-damaged, superblock-copy
 *   index-sums                               left: the next stop writes them anew
 *   all others                               nothing at all is repaired: something that refers to slots is missing or wrong,
 *                                            so that what looks like an orphan may be the place of a chunk
 */
import type { FindingKind } from './finding.ts';

type Decision =
  | { readonly does: 'repairs' }
  /** It stays, and others are repaired. */
  | { readonly does: 'leaves'; readonly why: string }
  /** Nothing is repaired while it is there. */
  | { readonly does: 'refuses'; readonly why: string };

const repairs: Decision = { does: 'repairs' };
const leaves = (why: string): Decision => ({ does: 'leaves', why });
const refuses = (why: string): Decision => ({ does: 'refuses', why });

const AT_START = leaves('The next start puts it right by itself.');
const GONE = leaves('What was there is nowhere else: a copy has it, or nobody.');
const NO_DEVICE = refuses('What lies on the device cannot be known until it is there and sound.');
const NO_LOG = refuses('Which slots the log refers to cannot be known, and what is lost of it cannot be made.');
const NO_INDEX = refuses('The devices do not say whose the slots are; the index alone does.');
const TWO_TIMES = refuses('Log and index are not of one time: which of them is right would be a guess.');
const CONTRADICTION = refuses('The index contradicts itself: which of its entries is wrong would be a guess.');

/** The table above. */
const DECISIONS: Record<FindingKind, Decision> = {
  'lock-missing': repairs,
  'node-file': refuses('Which devices belong to the directory is on record there alone.'),
  'device-missing': NO_DEVICE,
  'device-unusable': NO_DEVICE,
  'device-blank': NO_DEVICE,
  'device-foreign': NO_DEVICE,
  'device-version': NO_DEVICE,
  'device-shrunk': NO_DEVICE,
  'device-geometry': NO_DEVICE,
  'superblock-damaged': refuses('Whether this is the device that the index speaks of cannot be known.'),
  'superblock-copy': leaves(
    'The whole copy is used; nothing is written on a disk that has just damaged the other one.',
  ),
  'log-unreadable': NO_LOG,
  'log-missing': NO_LOG,
  'log-conflict': NO_LOG,
  'log-shorter': AT_START,
  'log-segment-length': NO_LOG,
  'log-segment-unfinished': AT_START,
  'cut-outside': NO_LOG,
  'log-broken': NO_LOG,
  'log-block-damaged': GONE,
  'log-torn': AT_START,
  'log-behind-end': AT_START,
  'op-gap': NO_LOG,
  'op-missing': NO_LOG,
  'log-volume-gone': AT_START,
  'log-volume-unknown': TWO_TIMES,
  'log-range': TWO_TIMES,
  'log-slot': refuses('The log and the columns contradict each other: which of them is wrong would be a guess.'),
  'index-missing': NO_INDEX,
  'index-unreadable': NO_INDEX,
  'index-damaged': NO_INDEX,
  'index-sums': leaves('The next stop writes them anew.'),
  'index-state': NO_INDEX,
  'volume-entry': CONTRADICTION,
  'column-outside': CONTRADICTION,
  'column-volume-unknown': repairs,
  'column-left-over': repairs,
  'column-shape': CONTRADICTION,
  'slot-orphan': repairs,
  'chunks-lost': NO_DEVICE,
  'chunk-volume-unknown': refuses('Whether the volume was deleted or its entry is lost would be a guess.'),
  'chunk-beyond-end': CONTRADICTION,
  'chunk-sums': CONTRADICTION,
  'chunk-op': TWO_TIMES,
  'chunk-outside': refuses('Where the chunk really lies would be a guess: it may be a slot that looks like an orphan.'),
  'chunk-column': refuses('Whether the place of the chunk or the column is wrong would be a guess.'),
  'slot-unmarked': repairs,
  'slot-shared': refuses('Which of the chunks lies there, and where the other one does, would be a guess.'),
  'block-damaged': GONE,
  'block-unreadable': GONE,
  'bulk-unwritten': AT_START,
};

/** What is not repaired, and why. */
export interface Leaving {
  readonly kind: FindingKind;
  readonly why: string;
}

/** Of kinds of findings: those that are not repaired, and among them those because of which nothing is. */
export function leftOf(kinds: Iterable<FindingKind>): { readonly left: Leaving[]; readonly refusedBy: FindingKind[] } {
  const left: Leaving[] = [];
  const refusedBy: FindingKind[] = [];
  for (const kind of kinds) {
    const decision = DECISIONS[kind];
    if (decision.does === 'repairs') continue;
    left.push({ kind, why: decision.why });
    if (decision.does === 'refuses') refusedBy.push(kind);
  }
  return { left, refusedBy };
}
