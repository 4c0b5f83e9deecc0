/**
 * Brings a head up from what is on disk: finds the segments of the log, recovers, begins a new epoch, and lets operations
 * come. The node calls it when index and devices are open; simulations call it on theirs.
 *
 * Invariants:
 * - The epoch, and the end and the durable end that recovery has found, are durable in the index before anything is
 *   appended: what says so may be damaged by the next start.
 * - What lies before that end is durable then. Else a loss of power could take it back, and bring up what lay there before: a
 *   tail that an earlier start has dropped, of an older epoch, which that one's floor kept out and this one's does not.
 * - Nothing has been changed on disk before that, when it rejects.
 */
import type { Checksums } from '../base/checksum.ts';
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { BlockFile, Clock, Turns } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import type { RegionSource } from '../base/memory.ts';
import type { Epoch, LogPosition } from '../base/units.ts';
import type { IndexState, IndexStore } from '../index/index-store.ts';
import { OpLog } from '../oplog/log.ts';
import type { OpLogOptions, SegmentSource } from '../oplog/log-ports.ts';
import { identifySegments } from '../oplog/scan.ts';
import { syncSegments } from '../oplog/sync-segments.ts';
import type { DestageEvents } from './destage.ts';
import { Destage } from './destage.ts';
import { DiscardedSpace } from './discarded-space.ts';
import type { Head } from './head.ts';
import type { RecoveryResult } from './recovery.ts';
import { recover } from './recovery.ts';

export interface StartPorts {
  readonly index: IndexStore;
  /** Makes a head as the index has it, without any operation of the log. */
  readonly newHead: () => Head;
  /** The log as it was found, each file of a whole segment's length. */
  readonly files: readonly BlockFile[];
  /** Files that were made for it just now, with nothing in them. */
  readonly fresh?: readonly BlockFile[];
  readonly segments: SegmentSource;
  readonly log: OpLogOptions;
  readonly turns: Turns;
  readonly clock: Clock;
  readonly regions: RegionSource;
  /** With the seed of the log's records. */
  readonly checksums: Checksums;
  readonly destageEvents: DestageEvents;
  /** In a process before, since a sync last succeeded. */
  readonly syncHasFailed: boolean;
  /** A sync has failed: to be remembered by the next process. */
  readonly syncFailed: () => void;
  /** The log has been played again; nothing has been changed yet. */
  readonly recovered: (result: RecoveryResult) => void;
}

export interface StartedHead {
  readonly head: Head;
  readonly destage: Destage;
  readonly space: DiscardedSpace;
  readonly epoch: Epoch;
  /** A sync had failed before, and everything is durable now. */
  readonly syncSucceeded: boolean;
}

/** Rejects with `corrupt`, `device-missing` or `io`. */
export async function startHead(ports: StartPorts): Promise<StartedHead> {
  const { index, regions, checksums, turns, clock, syncHasFailed } = ports;
  const { segmentBytes } = ports.log;
  const before: IndexState = index.state() ?? { cut: 0 as LogPosition, epoch: 0 as Epoch };
  const { live, spare } = await identifySegments(ports.files, segmentBytes, { regions, checksums });
  spare.push(...(ports.fresh ?? []));
  for (const [number, file] of live) {
    if (number >= Math.floor(before.cut / segmentBytes)) continue;
    live.delete(number);
    spare.push(file);
  }
  const { newHead } = ports;
  const recovered = await recover({ newHead, live, segmentBytes, state: before, regions, checksums, syncHasFailed });
  ports.recovered(recovered);
  const { head, end, durable, tail } = recovered;
  const epoch = (before.epoch + 1) as Epoch;
  const synced = await syncSegments(live, segmentBytes, durable, end);
  if (synced < 0) {
    ports.syncFailed();
    throw new SledgeError('io', `the op log cannot be synced: ${errnoName(synced)}`);
  }
  await storeState(index, { ...before, epoch, since: end, durable });
  const log = new OpLog(
    { turns, clock, regions, checksums, segments: ports.segments, data: head.sled },
    head,
    ports.log,
    {
      epoch,
      cut: before.cut,
      end,
      tail,
      live,
      spare,
    },
  );
  const destage = new Destage({ head, clock, regions, epoch, events: ports.destageEvents });
  head.start(log, destage);
  const syncSucceeded = syncHasFailed && (await head.flush()) === 0;
  const space = new DiscardedSpace(head.sled, head.slots);
  head.slots.returnSpaceTo(space);
  destage.committed();
  return { head, destage, space, epoch, syncSucceeded };
}

async function storeState(index: IndexStore, state: IndexState): Promise<void> {
  const transaction = index.begin();
  transaction.putState(state);
  const result = await completion(request => transaction.commit(request));
  if (result < 0) throw new SledgeError('io', `the index cannot be written: ${errnoName(result)}`);
}
