/** Makes durable what a start has read of the log. */
import type { BlockFile } from '../base/io.ts';
import { Gather } from '../base/io-wait.ts';
import type { LogPosition } from '../base/units.ts';

/** Syncs the segments that hold [from, to), at the same time. Resolves with 0 or the first negative errno. */
export function syncSegments(
  live: ReadonlyMap<number, BlockFile>,
  segmentBytes: number,
  from: LogPosition,
  to: LogPosition,
): Promise<number> {
  const syncs = new Gather();
  for (let segment = Math.floor(from / segmentBytes); segment * segmentBytes < to; segment++) {
    live.get(segment)?.sync(syncs.expect());
  }
  return syncs.close();
}
