/**
 * The files of the op log: made ahead of need, zero-filled so that a later sync writes data and no metadata, and then
 * used round and round. Names carry no meaning; which segment of the log a file holds its records say.
 *
 * Invariant: a file is claimed as long as anything is written to it, be it zeroes. So nothing that a server which was
 * killed has under way reaches a file once it was opened.
 */
import { readdirSync, rmSync } from 'node:fs';
import { open, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoName, isNoSpace } from '../base/errno.ts';
import { SledgeError } from '../base/errors.ts';
import type { BlockFile } from '../base/io.ts';
import { completion, Gather } from '../base/io-wait.ts';
import { logSegmentBytes, logSegmentDescriptors } from '../base/limits.ts';
import type { FilePlace } from '../base/location.ts';
import type { Region } from '../base/memory.ts';
import { formatBytes, MIB } from '../base/units.ts';
import type { SegmentSource } from '../oplog/log-ports.ts';
import type { IoPlatform, PlatformFile } from '../platform/io-platform.ts';
import { errnoOf } from '../platform/system-error.ts';
import { openClaimed } from './claimed-file.ts';

export const SEGMENT_NAME = /^(\d{6})\.log$/;
const FILL_BYTES = 1 * MIB;
/** For connections, devices and what Node itself has open, at least. */
const OTHER_FILES = 256;

/** Better now than when the log has grown: then nobody could connect any more. */
export function refuseTooManyFiles(logBytes: number, filesMax: number): void {
  const files = Math.ceil(logBytes / logSegmentBytes) * logSegmentDescriptors;
  if (files + OTHER_FILES <= filesMax) return;
  const text = `a log of ${formatBytes(logBytes)} has up to ${files} files open, and this process may have ${filesMax}`;
  const hint = 'Raise the limit (ulimit -n, or LimitNOFILE= of the unit), or give a shorter --log.';
  throw new SledgeError('usage', text, { hint });
}

export class SegmentFiles implements SegmentSource {
  readonly #platform: IoPlatform;
  readonly #directory: string;
  readonly #segmentBytes: number;
  readonly #open: PlatformFile[] = [];
  readonly #zeroes: Region;
  #next = 0;

  constructor(platform: IoPlatform, directory: string, segmentBytes: number) {
    this.#platform = platform;
    this.#directory = directory;
    this.#segmentBytes = segmentBytes;
    this.#zeroes = platform.allocate(FILL_BYTES);
  }

  /**
   * Opens the files that are there. One that is empty was not finished when its maker died, and is filled now; any other
   * length is not ours to mend: `corrupt`, and nothing is changed.
   */
  async openAll(): Promise<readonly BlockFile[]> {
    for (const name of readdirSync(this.#directory).sort()) {
      const number = SEGMENT_NAME.exec(name)?.[1];
      if (number === undefined) continue;
      this.#next = Math.max(this.#next, Number(number) + 1);
      const path = join(this.#directory, name);
      let file = await this.#openOne(path);
      if (file.sizeBytes !== this.#segmentBytes) {
        await file.close();
        if (file.sizeBytes !== 0) throw this.#wrongLength(path, file.sizeBytes);
        await this.#fill(path, false);
        file = await this.#openOne(path);
      }
      this.#open.push(file);
    }
    return [...this.#open];
  }

  /** Makes files until there are `count`. Rejects with `no-space` when the disk is too full for them. */
  async ensure(count: number): Promise<readonly BlockFile[]> {
    const made: BlockFile[] = [];
    while (this.#open.length < count) made.push(await this.create());
    return made;
  }

  async create(): Promise<BlockFile> {
    const path = join(this.#directory, `${String(this.#next++).padStart(6, '0')}.log`);
    try {
      await this.#fill(path, true);
    } catch (error) {
      // A file that is not whole would take space and be of no use.
      rmSync(path, { force: true });
      throw error;
    }
    const file = await this.#openOne(path);
    this.#open.push(file);
    return file;
  }

  /** Where a position of the log lies; `file` is what holds its segment. */
  placeOf(file: BlockFile | undefined, position: number): FilePlace {
    const path = this.#open.find(open => open === file)?.path ?? this.#directory;
    return { file: path, offsetBytes: position % this.#segmentBytes };
  }

  async close(): Promise<void> {
    for (const file of this.#open) await file.close();
  }

  #openOne(path: string): Promise<PlatformFile> {
    return openClaimed(this.#platform, { path, mode: 'buffered', durableWrites: true });
  }

  #wrongLength(path: string, bytes: number): SledgeError {
    const hint = 'Bring the whole file back if there is a copy of it; `sledge check` tells what it held.';
    return new SledgeError('corrupt', `log segment ${path} has ${bytes} bytes of ${this.#segmentBytes}`, { hint });
  }

  /**
   * Writes zeroes over the whole length, past the page cache so that clients' syncs do not wait for them. The length is
   * set first and at once, and reaches the disk before anything else: a file that its maker left behind is empty or whole.
   */
  async #fill(path: string, create: boolean): Promise<void> {
    const file = await openClaimed(this.#platform, { path, mode: 'direct', create });
    try {
      await truncate(path, this.#segmentBytes).catch((error: unknown) => {
        throw segmentError(path, -errnoOf(error));
      });
      await file.preallocate(0, this.#segmentBytes);
      const gather = new Gather();
      for (let at = 0; at < this.#segmentBytes; at += FILL_BYTES) {
        file.write(at, this.#zeroes, 0, FILL_BYTES, gather.expect());
      }
      let result = await gather.close();
      if (result >= 0) result = await completion(request => file.sync(request));
      if (result < 0) throw segmentError(path, result);
    } finally {
      await file.close();
    }
    await this.#syncDirectory();
  }

  /** Off the loop, which clients wait for: it takes as long as a flush of the disk. */
  async #syncDirectory(): Promise<void> {
    const handle = await open(this.#directory, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}

function segmentError(path: string, result: number): SledgeError {
  const what = `log segment ${path} cannot be written: ${errnoName(result)}`;
  if (!isNoSpace(result)) return new SledgeError('io', what);
  return new SledgeError('no-space', what, { hint: 'Free space on the file system of the data directory.' });
}
