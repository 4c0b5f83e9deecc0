/**
 * Writes a part of the log again as it can be read. After a sync that failed the page cache may hold as clean what the
 * disk never took: the next sync would succeed and mean nothing. What was written again has to be written by it.
 */
import { errnoName } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { BlockFile } from '../base/io.ts';
import { completion } from '../base/io-wait.ts';
import type { RegionSource } from '../base/memory.ts';
import type { LogPosition } from '../base/units.ts';
import { MIB, roundUp } from '../base/units.ts';
import { LOG_PAGE_BYTES } from './batch.ts';

const PIECE_BYTES = MIB;

/** Whole pages around [from, to), whose segments are all there. Rejects with `io`. */
export async function rewriteLog(
  live: ReadonlyMap<number, BlockFile>,
  segmentBytes: number,
  from: LogPosition,
  to: LogPosition,
  regions: RegionSource,
): Promise<void> {
  const region = regions.allocate(PIECE_BYTES);
  const end = roundUp(to, LOG_PAGE_BYTES);
  for (let position = from - (from % LOG_PAGE_BYTES); position < end; ) {
    const inSegment = position % segmentBytes;
    const length = Math.min(PIECE_BYTES, end - position, segmentBytes - inSegment);
    const file = live.get(Math.floor(position / segmentBytes));
    if (file === undefined) throw new SledgeError('io', 'a segment of the op log is not there');
    let result = await completion(request => file.read(inSegment, region, 0, length, request));
    if (result >= 0) result = await completion(request => file.write(inSegment, region, 0, length, request));
    if (result < 0) throw new SledgeError('io', `the op log cannot be written again: ${errnoName(result)}`);
    position += length;
  }
}
