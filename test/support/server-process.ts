/**
 * A server as a process of its own, for tests with real programs and for the benchmark: started, ready, stopped, killed.
 *
 * The tests of the project run on Sledge. The other engines are stand-ins: a test that also passes on them is known to
 * test the protocol and not its own misunderstanding of it. `SLEDGE_TEST_ENGINE=nbdkit` (or qemu-nbd, nbd-server) runs
 * whatever does not depend on Sledge's own commands on one of them.
 *
 * Invariants: a server that was started is gone when the test ends; only pids that were started here, or that the
 * started server names as its own, are ever signalled.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { type Cleaner, describeFailure, programPath, projectDirectory, run } from './nbd-programs.ts';

export type Engine = 'sledge' | 'nbdkit' | 'qemu-nbd' | 'nbd-server';

export interface VolumeSpec {
  readonly name: string;
  readonly sizeBytes: number;
}

export interface ServerOptions {
  readonly engine?: Engine;
  /** Kept by whoever starts the server, so that a second start finds what the first one left. */
  readonly dataDirectory: string;
  readonly volumes: readonly VolumeSpec[];
  /** At least one of the two; stand-ins take one only. */
  readonly tcp?: boolean | { readonly port: number };
  readonly unix?: string;
  readonly tls?: {
    readonly certificates?: string;
    readonly psk?: string;
    /** Plaintext is refused. */
    readonly required?: boolean;
  };
  /** Further arguments, for Sledge only. */
  readonly sledgeArguments?: readonly string[];
  readonly readyTimeoutMs?: number;
}

export interface RunningServer {
  readonly engine: Engine;
  readonly pid: number;
  /** Of the first volume, over TCP where there is one. */
  readonly uri: string;
  readonly port?: number;
  readonly unix?: string;
  /** A URI of a volume; `parameters` go behind it (`tls-certificates=…`), and `user@` in front of the host for PSK. */
  uriOf(volume: string, options?: UriOptions): string;
  /** What it printed so far, both outputs. */
  output(): string;
  /** Waits for an end that something else brought about; gives the exit code. */
  ended(): Promise<number>;
  /** SIGTERM, then waits for its end; gives the exit code. Rejects when it has to be killed. */
  stop(): Promise<number>;
  /** SIGKILL, then waits for its end. */
  kill(): Promise<void>;
}

export interface UriOptions {
  readonly transport?: 'tcp' | 'unix';
  readonly tls?: boolean;
  readonly user?: string;
  readonly parameters?: Readonly<Record<string, string>>;
}

/** The engine that the environment asks for: sledge, unless someone tries the tests on a stand-in. */
export function engineUnderTest(): Engine {
  const name = process.env['SLEDGE_TEST_ENGINE'] ?? 'sledge';
  if (name === 'sledge' || name === 'nbdkit' || name === 'qemu-nbd' || name === 'nbd-server') return name;
  throw new Error(`SLEDGE_TEST_ENGINE: unknown engine ${name}`);
}

/** For tap's `skip`: what a test asks of Sledge itself has no meaning on a stand-in. */
export function skipOnStandIn(): string | false {
  return engineUnderTest() === 'sledge' ? false : 'needs Sledge itself';
}

export const sledgeProgram = process.env['SLEDGE_PROGRAM'] ?? join(projectDirectory, 'scripts', 'sledge');

/** Runs `sledge COMMAND … --data DIR --json` and gives the answer's last JSON line. */
export async function sledgeJson(dataDirectory: string, ...args: readonly string[]): Promise<Record<string, unknown>> {
  const all = [...args, '--data', dataDirectory, '--json'];
  const result = await run(sledgeProgram, all);
  if (result.code !== 0) throw new Error(describeFailure('sledge', all, result));
  const text = result.stdout.trim();
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return JSON.parse(text.slice(text.lastIndexOf('\n') + 1)) as Record<string, unknown>;
  }
}

/** Bytes of mass storage that a volume takes; on a stand-in, those of its file. */
export async function allocatedBytes(dataDirectory: string, volume: string): Promise<number> {
  if (engineUnderTest() !== 'sledge') return statSync(join(dataDirectory, volume)).blocks * 512;
  const shown = await sledgeJson(dataDirectory, 'volume', 'show', volume);
  const value = shown['allocatedBytes'] ?? shown['allocated'];
  if (typeof value !== 'number') throw new Error(`volume show gives no allocated bytes: ${JSON.stringify(shown)}`);
  return value;
}

export async function startServer(test: Cleaner, options: ServerOptions): Promise<RunningServer> {
  const engine = options.engine ?? engineUnderTest();
  mkdirSync(options.dataDirectory, { recursive: true });
  if (options.unix === undefined && !options.tcp) throw new Error('a server needs an address');
  const server = engine === 'sledge' ? await startSledge(options) : await startStandIn(engine, options);
  test.teardown(() => server.kill());
  return server;
}

async function startSledge(options: ServerOptions): Promise<RunningServer> {
  const process_ = new ServerProcess(sledgeProgram, sledgeArguments(options));
  const ready = await process_.readyEvent(options.readyTimeoutMs ?? 30_000);
  return new Server('sledge', process_, options, ready.pid, ready.port);
}

/** The command line of `sledge serve` for these options; a test that starts it in its own way (LISTEN_FDS) uses it too. */
export function sledgeArguments(options: ServerOptions): string[] {
  const args = ['serve', '--data', options.dataDirectory, '--json'];
  if (options.tcp) args.push('--listen', `127.0.0.1:${typeof options.tcp === 'object' ? options.tcp.port : 0}`);
  if (options.unix !== undefined) args.push('--listen', `unix:${options.unix}`);
  for (const volume of options.volumes) args.push('--volume', `${volume.name}:${volume.sizeBytes}`);
  if (options.tls?.certificates !== undefined) args.push('--tls-certificates', options.tls.certificates);
  if (options.tls?.psk !== undefined) args.push('--tls-psk', options.tls.psk);
  if (options.tls?.required) args.push('--tls', 'require');
  args.push(...(options.sledgeArguments ?? []));
  return args;
}

async function startStandIn(engine: Exclude<Engine, 'sledge'>, options: ServerOptions): Promise<RunningServer> {
  if (options.unix !== undefined && options.tcp) throw new Error(`${engine}: one address only`);
  for (const volume of options.volumes) {
    const file = join(options.dataDirectory, volume.name);
    if (!existsSync(file)) writeFileSync(file, '');
    truncateSync(file, volume.sizeBytes);
  }
  const wanted = typeof options.tcp === 'object' ? options.tcp.port : 0;
  const port = options.tcp ? wanted || (await freePort()) : undefined;
  const process_ = new ServerProcess(engine, standInArguments(engine, options, port));
  await process_.readyAddress(port, options.unix, options.readyTimeoutMs ?? 10_000);
  return new Server(engine, process_, options, process_.child.pid!, port);
}

function standInArguments(
  engine: Exclude<Engine, 'sledge'>,
  options: ServerOptions,
  port: number | undefined,
): readonly string[] {
  const [volume] = options.volumes;
  const file = join(options.dataDirectory, volume.name);
  switch (engine) {
    case 'nbdkit': {
      const address = port === undefined ? ['-U', options.unix!] : ['-i', '127.0.0.1', '-p', String(port)];
      const tls: string[] = options.tls === undefined ? [] : [`--tls=${options.tls.required ? 'require' : 'on'}`];
      if (options.tls?.certificates !== undefined) {
        tls.push(`--tls-certificates=${options.tls.certificates}`, '--tls-verify-peer');
      }
      if (options.tls?.psk !== undefined) tls.push(`--tls-psk=${options.tls.psk}`);
      return ['-f', ...address, ...tls, 'file', `dir=${options.dataDirectory}`];
    }
    case 'qemu-nbd': {
      const address = port === undefined ? ['-k', options.unix!] : ['-b', '127.0.0.1', '-p', String(port)];
      return [...address, '--persistent', '--shared=0', '-f', 'raw', '--discard=unmap', '-x', volume.name, file];
    }
    case 'nbd-server': {
      const address = port === undefined ? `unixsock = ${options.unix!}` : `port = ${port}\nlistenaddr = 127.0.0.1`;
      const config = `${options.dataDirectory}.config`;
      const generic = `[generic]\nallowlist = true\n${address}\n`;
      const flags = 'flush = true\nfua = true\ntrim = true\nmulticonn = true\n';
      writeFileSync(config, `${generic}[${volume.name}]\nexportname = ${file}\n${flags}`);
      return ['-d', '-C', config];
    }
  }
}

/** A port that nothing listens on now: good for stand-ins, which cannot be asked to choose one. */
export async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  listener.close();
  await once(listener, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

interface ReadyEvent {
  readonly pid: number;
  readonly port: number | undefined;
}

/** A started process with what it printed, the line that says it is ready, and its end. */
export class ServerProcess {
  readonly child: ChildProcess;
  readonly #name: string;
  #output = '';
  #stdout = '';
  #exit: number | undefined;

  constructor(program: string, args: readonly string[], environment: Readonly<Record<string, string>> = {}) {
    this.#name = `${program} ${args.join(' ')}`;
    this.child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, PATH: programPath, ...environment },
    });
    this.child.stdout!.on('data', (data: Buffer) => {
      this.#stdout += data.toString();
      this.#keep(data);
    });
    this.child.stderr!.on('data', (data: Buffer) => this.#keep(data));
    this.child.once('error', error => {
      this.#output += String(error);
      this.#exit = 127;
    });
    this.child.once('exit', (code, signal) => {
      this.#exit = code ?? (signal === 'SIGKILL' ? 137 : 143);
    });
  }

  get output(): string {
    return this.#output;
  }

  /** The exit code, once it has ended. */
  get exit(): number | undefined {
    return this.#exit;
  }

  #keep(data: Buffer): void {
    this.#output = (this.#output + data.toString()).slice(-100_000);
  }

  /** Waits for Sledge's line that says so. */
  async readyEvent(timeoutMs: number): Promise<ReadyEvent> {
    let found: ReadyEvent | undefined;
    await this.#until(() => {
      found = parseReady(this.#stdout);
      return found !== undefined;
    }, timeoutMs);
    return found!;
  }

  /** Waits until somebody answers at the address. */
  async readyAddress(port: number | undefined, unix: string | undefined, timeoutMs: number): Promise<void> {
    let answered = false;
    await this.#until(() => {
      if (!answered) {
        const socket = port === undefined ? connect(unix!) : connect(port, '127.0.0.1');
        socket.once('connect', () => {
          answered = true;
          socket.destroy();
        });
        socket.once('error', () => socket.destroy());
      }
      return answered;
    }, timeoutMs);
  }

  async #until(condition: () => boolean, timeoutMs: number): Promise<void> {
    const end = performance.now() + timeoutMs;
    while (!condition()) {
      if (this.#exit !== undefined) throw new Error(`${this.#name} ended with ${this.#exit}\n${this.#output}`);
      if (performance.now() > end) {
        this.child.kill('SIGKILL');
        throw new Error(`${this.#name} was not ready after ${timeoutMs} ms\n${this.#output}`);
      }
      await sleep(20);
    }
  }

  /** Gives the exit code, or undefined when it still runs after that time. */
  async ended(timeoutMs: number): Promise<number | undefined> {
    const end = performance.now() + timeoutMs;
    while (this.#exit === undefined && performance.now() < end) await sleep(10);
    return this.#exit;
  }
}

function parseReady(stdout: string): ReadyEvent | undefined {
  for (const line of stdout.split('\n')) {
    if (!line.startsWith('{') || !line.endsWith('}')) continue;
    const event = JSON.parse(line) as { event?: string; pid?: number; addresses?: { uri: string; kind: string }[] };
    if (event.event !== 'ready' || event.pid === undefined) continue;
    const tcp = event.addresses?.find(address => address.kind === 'tcp');
    // NBD's own port is left out of a URI.
    return { pid: event.pid, port: tcp === undefined ? undefined : Number(new URL(tcp.uri).port || 10809) };
  }
  return undefined;
}

class Server implements RunningServer {
  readonly engine: Engine;
  readonly pid: number;
  readonly port?: number;
  readonly unix?: string;
  readonly #process: ServerProcess;
  readonly #volume: string;

  constructor(engine: Engine, process_: ServerProcess, options: ServerOptions, pid: number, port: number | undefined) {
    this.engine = engine;
    this.pid = pid;
    if (port !== undefined) this.port = port;
    if (options.unix !== undefined) this.unix = options.unix;
    this.#process = process_;
    this.#volume = options.volumes[0]?.name ?? '';
  }

  get uri(): string {
    return this.uriOf(this.#volume);
  }

  uriOf(volume: string, options: UriOptions = {}): string {
    const transport = options.transport ?? (this.port === undefined ? 'unix' : 'tcp');
    const scheme = options.tls ? 'nbds' : 'nbd';
    const user = options.user === undefined ? '' : `${options.user}@`;
    const parameters = Object.entries(options.parameters ?? {});
    const name = encodeURIComponent(volume);
    if (transport === 'unix') {
      if (this.unix === undefined) throw new Error('the server has no Unix socket');
      parameters.unshift(['socket', this.unix]);
    }
    const query = parameters.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join('&');
    const base =
      transport === 'unix' ? `${scheme}+unix://${user}/${name}` : `${scheme}://${user}127.0.0.1:${this.port}/${name}`;
    return query === '' ? base : `${base}?${query}`;
  }

  output(): string {
    return this.#process.output;
  }

  async ended(): Promise<number> {
    const code = await this.#process.ended(15_000);
    if (code !== undefined) return code;
    await this.kill();
    throw new Error(`the server did not end by itself\n${this.output()}`);
  }

  stop(): Promise<number> {
    this.#signal('SIGTERM');
    return this.ended();
  }

  async kill(): Promise<void> {
    this.#signal('SIGKILL');
    await this.#process.ended(5_000);
  }

  #signal(signal: 'SIGTERM' | 'SIGKILL'): void {
    if (this.#process.exit !== undefined) return;
    try {
      process.kill(this.pid, signal);
    } catch {
      // It ended between the look and the signal.
    }
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}

/** Resolves when the log is empty, as it gets behind a deletion. */
export async function logEmptied(dataDirectory: string): Promise<void> {
  const status = async () => (await sledgeJson(dataDirectory, 'status')) as { log?: { usedBytes?: number } };
  while ((await status()).log?.usedBytes !== 0) await new Promise(resolve => setTimeout(resolve, 50));
}
