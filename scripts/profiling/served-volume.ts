/**
 * The volume that is profiled, and the server that it is served by: started, loaded and stopped as the benchmark does it
 * (whose parts these are), except that Node gets options.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { makeCertificates } from '../../test/support/nbd-certificates.ts';
import { projectDirectory } from '../../test/support/nbd-programs.ts';
import { ServerProcess } from '../../test/support/server-process.ts';
import { fillOverNbd, loadRun, warm, warmUp } from '../bench/nbd-load.ts';
import { childProcess, type StartedProcess } from '../bench/nbd-process.ts';
import type { Sample as LoadSample } from '../bench/nbd-results.ts';
import type { Row } from '../bench/nbd-rows.ts';
import { settleSledge } from '../bench/nbd-sledge.ts';
import type { Sampler } from './sampler.ts';

const VOLUME = 'profile';
/** A start may have a whole log to play again. */
const READY_MS = 120_000;

const execute = promisify(execFile);

export interface RunOptions {
  readonly nodeOptions: readonly string[];
  /** Before the measured time, under the same load: code is compiled, caches fill. */
  readonly rampSeconds: number;
  readonly seconds: number;
  /** Looks on during the measured time. */
  readonly watcher?: Pick<Sampler, 'attach' | 'watch'>;
  /** What writes have left for later is done before the end, so that the next run starts as this one did. */
  readonly settles: boolean;
}

export class ServedVolume {
  readonly #directory: string;
  readonly #row: Row;
  readonly #sizeBytes: number;

  constructor(directory: string, row: Row, sizeBytes: number) {
    this.#directory = directory;
    this.#row = row;
    this.#sizeBytes = sizeBytes;
  }

  /** Writes all of it, so that a read has to read. */
  async fill(): Promise<void> {
    if (this.#row.tls) await makeCertificates(this.#certificates);
    const server = await this.#start([], [], undefined);
    await fillOverNbd(this.#uri(false));
    await this.#rest(server);
  }

  /** Serves it, loads it as the row says, and stops. */
  async run(options: RunOptions): Promise<LoadSample> {
    const { nodeOptions, rampSeconds, seconds, watcher, settles } = options;
    const row = { ...this.#row, seconds };
    const tls = row.tls ? ['--tls-certificates', this.#certificates, '--tls', 'require'] : [];
    const server = await this.#start(nodeOptions, [...tls, ...(row.sledgeArguments ?? [])], watcher);
    const uri = this.#uri(row.tls ?? false);
    if (row.warmBytes !== undefined) await warm(row, row.warmBytes, uri);
    if (row.warmLoad !== undefined) await warmUp(row.warmLoad, uri);
    const [load] = await Promise.all([
      loadRun(row, rampSeconds, uri, server.pid),
      watcher && sleep(rampSeconds).then(() => watcher.watch(seconds)),
    ]);
    if (load.errors > 0) throw new Error(`${load.errors} requests failed`);
    if (settles && row.writes) await this.#rest(server);
    else await server.stop();
    return load;
  }

  async #start(
    nodeOptions: readonly string[],
    options: readonly string[],
    watcher: RunOptions['watcher'],
  ): Promise<StartedProcess> {
    const program = join(projectDirectory, 'dist', 'src', 'bin', 'sledge.js');
    const listen = ['--data', this.#data, '--listen', `unix:${this.#socket}`];
    const volume = ['--volume', `${VOLUME}:${this.#sizeBytes}`];
    const args = [...nodeOptions, program, 'serve', '--json', ...listen, ...volume, ...options];
    const started = new ServerProcess(process.execPath, args);
    // Known before it is ready: it may be interrupted until then.
    const server = childProcess(started, started.child.pid!);
    watcher?.attach(server.pid);
    await started.readyEvent(READY_MS);
    return server;
  }

  /** Ends the server with nothing left in the log or in the page cache. */
  async #rest(server: StartedProcess): Promise<void> {
    await settleSledge(this.#data);
    await server.stop();
    await execute('sync', ['-f', this.#directory]);
  }

  get #data(): string {
    return join(this.#directory, 'data');
  }

  get #socket(): string {
    return join(this.#directory, 'socket');
  }

  get #certificates(): string {
    return join(this.#directory, 'tls');
  }

  #uri(tls: boolean): string {
    const socket = `socket=${encodeURIComponent(this.#socket)}`;
    if (!tls) return `nbd+unix:///${VOLUME}?${socket}`;
    const certificates = `tls-certificates=${encodeURIComponent(this.#certificates)}&tls-hostname=localhost`;
    return `nbds+unix:///${VOLUME}?${socket}&${certificates}`;
  }
}

function sleep(seconds: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, seconds * 1000));
}
