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
import { childProcess, detachedProcess, type StartedProcess, sleep } from './nbd-process.ts';
import { settleSledge, startSledge } from './nbd-sledge.ts';

export type EngineClass = 'sledge' | 'page cache' | 'direct';
export type Transport = 'unix' | 'tcp';

export interface EngineSpec {
  readonly name: string;
  readonly class: EngineClass;
  readonly program: string;
  /** It is measured with TLS, too. */
  readonly tls: boolean;
  /** Part of --quick. */
  readonly quick: boolean;
  /** Of Sledge only: added to what this process has in its environment. */
  readonly environment?: Readonly<Record<string, string>>;
}

export interface Workplace {
  /** Everything temporary lies here, Sledge's data directory among it. */
  readonly directory: string;
  /** The file that the peers serve. */
  readonly file: string;
  readonly sizeBytes: number;
  readonly transport: Transport;
  /** A directory of certificates for server and client, where one was asked for. */
  readonly certificates?: string;
}

/** How one row wants its server. */
export interface EngineOptions {
  readonly tls: boolean;
  readonly sledgeArguments: readonly string[];
}

export interface StartedEngine extends StartedProcess {
  readonly uri: string;
  /** Does now what writes have left for later, as far as `sync` does not do it. */
  settle(): Promise<void>;
}

export const engines: readonly EngineSpec[] = [
  { name: 'sledge', class: 'sledge', program: sledgeProgram, tls: true, quick: true },
  { name: 'nbdkit', class: 'page cache', program: 'nbdkit', tls: true, quick: true },
  { name: 'qemu-nbd', class: 'page cache', program: 'qemu-nbd', tls: false, quick: false },
  { name: 'nbd-server', class: 'page cache', program: 'nbd-server', tls: false, quick: true },
  { name: 'qemu-nbd-native', class: 'direct', program: 'qemu-nbd', tls: false, quick: true },
  { name: 'qemu-nbd-uring', class: 'direct', program: 'qemu-nbd', tls: false, quick: false },
  { name: 'qemu-storage-daemon', class: 'direct', program: 'qemu-storage-daemon', tls: false, quick: false },
];

/** The export's name everywhere. */
const VOLUME = 'bench';
const READY_MS = 20_000;

export function isInstalled(engine: EngineSpec): boolean {
  return engine.name === 'sledge' || findProgram(engine.program) !== undefined;
}

interface Address {
  /** Of the Unix socket; the port counts where there is one. */
  readonly unix: string;
  readonly port: number | undefined;
}

export async function startEngine(
  engine: EngineSpec,
  place: Workplace,
  options: EngineOptions,
): Promise<StartedEngine> {
  const unix = join(place.directory, 'socket');
  rmSync(unix, { force: true });
  const address = { unix, port: place.transport === 'tcp' ? await freePort() : undefined };
  const tls = options.tls ? place.certificates : undefined;
  const process_ = await startProcess(engine, place, address, tls, options.sledgeArguments);
  return {
    pid: process_.pid,
    uri: uriOf(address, tls),
    stop: () => process_.stop(),
    async settle() {
      if (engine.class === 'sledge') await settleSledge(dataDirectory(place));
    },
  };
}

function uriOf({ unix, port }: Address, certificates: string | undefined): string {
  const parameters: [string, string][] = port === undefined ? [['socket', unix]] : [];
  if (certificates !== undefined) parameters.push(['tls-certificates', certificates], ['tls-hostname', 'localhost']);
  const query = parameters.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
  const scheme = certificates === undefined ? 'nbd' : 'nbds';
  const base = port === undefined ? `${scheme}+unix:///${VOLUME}` : `${scheme}://127.0.0.1:${port}/${VOLUME}`;
  return query === '' ? base : `${base}?${query}`;
}

async function startProcess(
  engine: EngineSpec,
  place: Workplace,
  address: Address,
  certificates: string | undefined,
  sledgeArguments: readonly string[],
): Promise<StartedProcess> {
  const { unix, port } = address;
  if (engine.class === 'sledge') {
    const tls = certificates === undefined ? [] : ['--tls-certificates', certificates, '--tls', 'require'];
    return await startSledge({
      dataDirectory: dataDirectory(place),
      listen: port === undefined ? `unix:${unix}` : `127.0.0.1:${port}`,
      volumes: [`${VOLUME}:${place.sizeBytes}`],
      arguments: [...tls, ...sledgeArguments],
      ...(engine.environment !== undefined && { environment: engine.environment }),
    });
  }
  if (engine.name === 'nbd-server') return await startNbdServer(place, address);
  const started = new ServerProcess(engine.program, peerArguments(engine, place, address, certificates));
  await started.readyAddress(port, port === undefined ? unix : undefined, READY_MS);
  return childProcess(started, started.child.pid!);
}

/** Sledge's. */
export function dataDirectory(place: Workplace): string {
  return join(place.directory, 'sledge');
}

function peerArguments(
  engine: EngineSpec,
  place: Workplace,
  { unix, port }: Address,
  certificates: string | undefined,
): string[] {
  const qemuAddress = port === undefined ? ['-k', unix] : ['-b', '127.0.0.1', '-p', String(port)];
  const qemu = [...qemuAddress, '--persistent', '--shared=0', '--discard=unmap', '-f', 'raw', '-x', VOLUME];
  switch (engine.name) {
    case 'nbdkit': {
      const nbdkitAddress = port === undefined ? ['-U', unix] : ['-i', '127.0.0.1', '-p', String(port)];
      const tls = certificates === undefined ? [] : ['--tls=require', `--tls-certificates=${certificates}`];
      return ['-f', '-e', VOLUME, ...nbdkitAddress, ...tls, 'file', place.file];
    }
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
async function startNbdServer(place: Workplace, { unix, port }: Address): Promise<StartedProcess> {
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
  return detachedProcess(pid);
}
