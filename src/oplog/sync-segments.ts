/** Makes durable what a start has read of the log. */
import { assert } from '../base/assert.ts';
import type { BlockFile } from '../base/io.ts';
import { Gather } from '../base/io-wait.ts';
import type { LogPosition } from '../base/units.ts';

/**
 * Syncs the segments that hold [from, to), all at the same time; none where that is empty. Resolves with 0 or the first
 * negative errno.
 */
export function syncSegments(
  live: ReadonlyMap<number, BlockFile>,
  segmentBytes: number,
  from: LogPosition,
  to: LogPosition,
): Promise<number> {
  const syncs = new Gather();
  let position: number = from;
  while (position < to) {
    const segment = Math.floor(position / segmentBytes);
    const file = live.get(segment);
    assert(file !== undefined, 'a log has all segments up to its end');
    file.sync(syncs.expect());
    position = (segment + 1) * segmentBytes;
  }
  return syncs.close();
}
