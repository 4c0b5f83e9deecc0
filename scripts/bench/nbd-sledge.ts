/** Sledge as the benchmark starts it: a process of its own, and its log emptied where a measurement needs it. */
import { ServerProcess, sledgeJson, sledgeProgram } from '../../test/support/server-process.ts';
import { childProcess, type StartedProcess, sleep } from './nbd-process.ts';

export interface SledgeOptions {
  readonly dataDirectory: string;
  /** As for `sledge serve --listen`. */
  readonly listen: string;
  /** As for `sledge serve --volume`: NAME:SIZE. */
  readonly volumes: readonly string[];
  readonly arguments: readonly string[];
  /** Added to what this process has in its environment. */
  readonly environment?: Readonly<Record<string, string>>;
}

/** A start may have a whole log to play again. */
const READY_MS = 120_000;
const SETTLE_MS = 120_000;
/** The log is never quite empty; this much is carried over in no time. */
const SETTLED_LOG_BYTES = 2 ** 24;

export async function startSledge(options: SledgeOptions): Promise<StartedProcess> {
  const volumes = options.volumes.flatMap(volume => ['--volume', volume]);
  const args = ['serve', '--json', '--data', options.dataDirectory, '--listen', options.listen, ...volumes];
  const started = new ServerProcess(sledgeProgram, [...args, ...options.arguments], options.environment);
  const { pid } = await started.readyEvent(READY_MS);
  return childProcess(started, pid);
}

/**
 * Carries what writes left in the log to mass storage, as `sync` does for a server that writes to the page cache: or the
 * next measurement would pay for this one. Behind a deletion the log is cut.
 */
export async function settleSledge(dataDirectory: string): Promise<void> {
  await sledgeJson(dataDirectory, 'volume', 'create', 'settle', '--size', '1MiB');
  await sledgeJson(dataDirectory, 'volume', 'delete', 'settle');
  const end = performance.now() + SETTLE_MS;
  for (;;) {
    const { log } = (await sledgeJson(dataDirectory, 'status')) as { log?: { usedBytes?: number } };
    const usedBytes = log?.usedBytes ?? 0;
    if (usedBytes <= SETTLED_LOG_BYTES) return;
    if (performance.now() > end) {
      throw new Error(`the log still holds ${Math.round(usedBytes / 2 ** 20)} MiB after ${SETTLE_MS / 1000} s of rest`);
    }
    await sleep(200);
  }
}
