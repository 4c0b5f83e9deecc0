/**
 * `sledge check --repair`: checks a data directory whose server is stopped, repairs what can be repaired without
 * guessing, and checks again. What that is stands in `check/repair-decision.ts`.
 *
 * Invariants:
 * - The lock of the directory is held throughout, and nothing is changed before the whole check has been made.
 * - The devices are claimed until the changes are stored, so that no server is at work that a lost lock file has hidden.
 * - All changes are one transaction of the index: a crash leaves what was there before, or what is there afterwards.
 */
import { closeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type FindingKind, Findings } from '../check/finding.ts';
import { planRepairs, type Repair } from '../check/repair.ts';
import { type Leaving, leftOf } from '../check/repair-decision.ts';
import { type CheckOptions, type CheckReport, checkNode, readNode, report } from './check-directory.ts';
import { lockForRepair } from './directory-lock.ts';

/** What is there afterwards, and besides what was done. */
export interface RepairReport extends CheckReport {
  readonly repaired: readonly Repair[];
  readonly left: readonly Leaving[];
  /** Findings because of which nothing was repaired. */
  readonly refusedBy: readonly FindingKind[];
}

/**
 * Data is read by the second check only, since no repair depends on it. Rejects as `checkDirectory` does, or with `io`
 * where the index cannot be written: then nothing was changed.
 */
export async function repairDirectory(directory: string, options: CheckOptions = {}): Promise<RepairReport> {
  const path = resolve(directory);
  const { lock, made } = lockForRepair(path);
  try {
    const repaired: Repair[] = [];
    const file = join(path, 'lock');
    if (made) repaired.push({ kind: 'lock-missing', what: `${file} was missing and has been made.`, file });
    const { repairs, left, refusedBy } = await repair(path);
    const findings = new Findings();
    const after = await report(path, findings, options);
    return {
      ...after,
      repaired: [...repaired, ...repairs],
      left: [...left, ...leftOf(findings.kinds()).left],
      refusedBy,
    };
  } finally {
    closeSync(lock);
  }
}

interface Done {
  readonly repairs: readonly Repair[];
  readonly left: readonly Leaving[];
  readonly refusedBy: readonly FindingKind[];
}

async function repair(path: string): Promise<Done> {
  const findings = new Findings();
  const node = readNode(path, findings);
  let done: Done = { repairs: [], left: [], refusedBy: [] };
  if (node !== undefined) {
    await checkNode(path, node, findings, {}, async (picture, platform) => {
      if (picture === undefined || leftOf(findings.kinds()).refusedBy.length > 0) return [];
      const { repairs, left, changes } = await planRepairs(picture, { regions: platform, checksums: platform });
      done = { ...done, repairs, left };
      return changes;
    });
  }
  return { ...done, refusedBy: leftOf(findings.kinds()).refusedBy };
}
