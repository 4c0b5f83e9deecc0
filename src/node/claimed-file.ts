/**
 * Opens devices with a claim on them, for a server and for a check, and the files of a server's log. The kernel ends the
 * I/O of a killed server, and with it these claims, a moment after the lock of its data directory: whoever comes right
 * after it waits for that. Otherwise writes of the one that is gone could land on those of the one that has come.
 */
import { SledgeError } from '../base/errors.ts';
import type { IoPlatform, OpenFileOptions, PlatformFile } from '../platform/io-platform.ts';

const CLAIM_WAIT_MS = 2000;
const CLAIM_RETRY_MS = 50;

/** As `openFile` with a claim; rejects with `device-in-use` when another process has kept the file all that time. */
export async function openClaimed(
  platform: IoPlatform,
  options: Omit<OpenFileOptions, 'claim'>,
): Promise<PlatformFile> {
  const end = platform.nowMs() + CLAIM_WAIT_MS;
  for (;;) {
    try {
      return await platform.openFile({ ...options, claim: true });
    } catch (error) {
      const isInUse = error instanceof SledgeError && error.code === 'device-in-use';
      if (!isInUse || platform.nowMs() >= end) throw error;
    }
    await new Promise<void>(resolve => platform.after(CLAIM_RETRY_MS, resolve));
  }
}
