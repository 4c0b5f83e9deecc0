/**
 * The servers that the benchmark measures: how each is started on the benchmark's volume, and what class it is in.
 *
 * Classes keep the comparison fair. `page cache` servers answer writes when the data is in the operating system's cache,
 * and reads from it; `direct` servers go to the disk for each request. Sledge answers a plain write as `page cache`
 * servers do, and keeps its data as `direct` servers do, so it is compared with the best of each.
 *
 * Every server is a child of this process (nbd-server: named by its own pid file) and is ended by its handle.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findProgram } from '../../test/support/nbd-programs.ts';
import { freePort, ServerProcess, sledgeProgram } from '../../test/support/server-process.ts';

export type EngineClass = 'sledge' | 'page cache' | 'direct';
export type Transport = 'unix' | 'tcp';

export interface EngineSpec {
  readonly name: string;
  readonly class: EngineClass;
  /** A file of its own (Sledge's data directory), or the file that the peers share. */
  readonly program: string;
}

export interface Workplace {
  /** Everything temporary lies here. */
  readonly directory: string;
  /** The file that the peers serve. */
  readonly file: string;
  readonly sizeBytes: number;
  readonly transport: Transport;
}

export interface StartedEngine {
  readonly pid: number;
  readonly uri: string;
  stop(): Promise<void>;
}

export const engines: readonly EngineSpec[] = [
  { name: 'sledge', class: 'sledge', program: sledgeProgram },
  { name: 'nbdkit', class: 'page cache', program: 'nbdkit' },
  { name: 'qemu-nbd', class: 'page cache', program: 'qemu-nbd' },
  { name: 'nbd-server', class: 'page cache', program: 'nbd-server' },
  { name: 'qemu-nbd-native', class: 'direct', program: 'qemu-nbd' },
  { name: 'qemu-nbd-uring', class: 'direct', program: 'qemu-nbd' },
  { name: 'qemu-storage-daemon', class: 'direct', program: 'qemu-storage-daemon' },
];

/** The export's name everywhere. */
const VOLUME = 'bench';
const READY_MS = 20_000;

export function isInstalled(engine: EngineSpec): boolean {
  return engine.name === 'sledge' || findProgram(engine.program) !== undefined;
}

export async function startEngine(
  engine: EngineSpec,
  place: Workplace,
  sledgeArguments: readonly string[],
): Promise<StartedEngine> {
  const unix = join(place.directory, 'socket');
  rmSync(unix, { force: true });
  const port = place.transport === 'tcp' ? await freePort() : undefined;
  const uri =
    port === undefined
      ? `nbd+unix:///${VOLUME}?socket=${encodeURIComponent(unix)}`
      : `nbd://127.0.0.1:${port}/${VOLUME}`;
  if (engine.name === 'sledge') return await startSledge(place, unix, port, uri, sledgeArguments);
  if (engine.name === 'nbd-server') return await startNbdServer(place, unix, port, uri);
  const started = new ServerProcess(engine.program, peerArguments(engine, place, unix, port));
  await started.readyAddress(port, port === undefined ? unix : undefined, READY_MS);
  return { pid: started.child.pid!, uri, stop: () => end(started, started.child.pid!) };
}

async function startSledge(
  place: Workplace,
  unix: string,
  port: number | undefined,
  uri: string,
  extra: readonly string[],
): Promise<StartedEngine> {
  const listen = port === undefined ? `unix:${unix}` : `127.0.0.1:${port}`;
  const args = ['serve', '--json', '--data', join(place.directory, 'sledge'), '--listen', listen];
  const started = new ServerProcess(sledgeProgram, [...args, '--volume', `${VOLUME}:${place.sizeBytes}`, ...extra]);
  const { pid } = await started.readyEvent(READY_MS);
  return { pid, uri, stop: () => end(started, pid) };
}

function peerArguments(engine: EngineSpec, place: Workplace, unix: string, port: number | undefined): string[] {
  const qemuAddress = port === undefined ? ['-k', unix] : ['-b', '127.0.0.1', '-p', String(port)];
  const qemu = [...qemuAddress, '--persistent', '--shared=0', '--discard=unmap', '-f', 'raw', '-x', VOLUME];
  switch (engine.name) {
    case 'nbdkit':
      return [
        '-f',
        '-e',
        VOLUME,
        ...(port === undefined ? ['-U', unix] : ['-i', '127.0.0.1', '-p', String(port)]),
        'file',
        place.file,
      ];
    case 'qemu-nbd':
      return [...qemu, place.file];
    case 'qemu-nbd-native':
      return [...qemu, '--cache=none', '--aio=native', place.file];
    case 'qemu-nbd-uring':
      return [...qemu, '--cache=none', '--aio=io_uring', place.file];
    case 'qemu-storage-daemon': {
      const address =
        port === undefined
          ? `addr.type=unix,addr.path=${unix}`
          : `addr.type=inet,addr.host=127.0.0.1,addr.port=${port}`;
      const file = `driver=file,node-name=file,filename=${place.file},cache.direct=on,aio=io_uring,discard=unmap`;
      return [
        '--blockdev',
        file,
        '--blockdev',
        'driver=raw,node-name=raw,file=file,discard=unmap',
        '--nbd-server',
        `${address},max-connections=100`,
        '--export',
        `type=nbd,id=export,node-name=raw,name=${VOLUME},writable=on`,
      ];
    }
    default:
      throw new Error(`no arguments for ${engine.name}`);
  }
}

/** Goes to the background by itself (in the foreground it serves one client only) and leaves its pid in a file. */
async function startNbdServer(
  place: Workplace,
  unix: string,
  port: number | undefined,
  uri: string,
): Promise<StartedEngine> {
  const config = join(place.directory, 'nbd-server.config');
  const pidFile = join(place.directory, 'nbd-server.pid');
  rmSync(pidFile, { force: true });
  const address = port === undefined ? `unixsock = ${unix}` : `port = ${port}\nlistenaddr = 127.0.0.1`;
  const flags = 'flush = true\nfua = true\ntrim = true\nmulticonn = true\n';
  const volume = `[${VOLUME}]\nexportname = ${place.file}\n${flags}`;
  writeFileSync(config, `[generic]\nallowlist = true\n${address}\n${volume}`);
  const started = new ServerProcess('nbd-server', ['-C', config, '-p', pidFile]);
  const code = await started.ended(READY_MS);
  let pid = Number.NaN;
  for (let tries = 0; tries < 100 && !(pid > 0); tries++) {
    await sleep(20);
    try {
      pid = Number.parseInt(readFileSync(pidFile, 'utf8'), 10);
    } catch {
      // Not written yet.
    }
  }
  if (!(pid > 0)) throw new Error(`nbd-server ended with ${code} and left no pid\n${started.output}`);
  const stop = async (): Promise<void> => {
    signal(pid, 'SIGTERM');
    for (let tries = 0; tries < 250 && isAlive(pid); tries++) await sleep(20);
    if (isAlive(pid)) signal(pid, 'SIGKILL');
  };
  return { pid, uri, stop };
}

async function end(started: ServerProcess, pid: number): Promise<void> {
  if (started.exit !== undefined) return;
  signal(pid, 'SIGTERM');
  if ((await started.ended(20_000)) === undefined) {
    signal(pid, 'SIGKILL');
    await started.ended(5_000);
  }
}

function signal(pid: number, name: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(pid, name);
  } catch {
    // It is gone already.
  }
}

/** A process that ended but that nobody has waited for yet counts as gone: its sockets and files are closed. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}
