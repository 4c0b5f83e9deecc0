/**
 * `sledge serve`: starts a node and its control server, says how to attach the volumes, and runs until it is told to
 * stop. This is the wiring of the process: arguments to options, signals to a stop, the log to standard error.
 *
 * The first SIGINT or SIGTERM stops the node in order (answer what is in flight, make all durable) and ends with 0; it
 * may come at any time, also while starting. A second one ends the process at once with 1: nothing that was
 * acknowledged as durable is lost by that, since the node is safe against being killed.
 */
import { type ControlServer, startControlServer } from '../admin/control-server.ts';
import { createLog, type ServerLog } from '../admin/log.ts';
import { formatAddress } from '../admin/nbd-uri.ts';
import { SledgeError } from '../base/errors.ts';
import {
  cacheBytesDefault,
  cacheBytesDefaultMax,
  cacheBytesMin,
  logBytesDefaultMax,
  logBytesMin,
} from '../base/limits.ts';
import { formatBytes } from '../base/units.ts';
import type { NodeOptions, RunningNode, TlsOption } from '../node/options.ts';
import type { ListenAddress } from '../platform/io-platform.ts';
import { memoryBytes } from '../platform/system-limits.ts';
import { parseAddress, parseBlockSize, parseChoice, parseDevice, parseVolume } from './arguments.ts';
import { type Command, type CommandContext, type CommandInput, EXIT_DONE, EXIT_FAILED, usage } from './command.ts';
import { readyEvent, readyText } from './ready-page.ts';
import { inheritedSockets } from './socket-activation.ts';

const DEFAULT_ADDRESS = '127.0.0.1:10809';

export const serveCommand: Command = {
  name: 'serve',
  summary: 'serve volumes over NBD until stopped',
  positionals: [],
  options: [
    { name: 'data', value: 'DIR', default: './data', help: 'where everything is kept; made if it is missing' },
    {
      name: 'listen',
      value: 'ADDRESS',
      multiple: true,
      default: DEFAULT_ADDRESS,
      help: 'HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 takes any that is free',
    },
    {
      name: 'volume',
      value: 'NAME:SIZE',
      multiple: true,
      help: 'make this volume if it is missing; one that exists is kept as it is',
    },
    {
      name: 'device',
      value: 'PATH[:SIZE]',
      multiple: true,
      help: 'mass storage: a file (made with SIZE if it is missing) or a block device; default: a file in DIR',
    },
    {
      name: 'cache',
      value: 'SIZE',
      help: `memory for cached blocks; default: a quarter of it, at most ${formatBytes(cacheBytesDefaultMax)}`,
    },
    {
      name: 'log',
      value: 'SIZE',
      help:
        'disk space for operations that are not in mass storage yet, taken as bursts need it; ' +
        `default: a sixteenth of the file system, at most ${formatBytes(logBytesDefaultMax)}`,
    },
    {
      name: 'tls-certificates',
      value: 'DIR',
      help: 'offer TLS with ca-cert.pem, server-cert.pem and server-key.pem of DIR',
    },
    { name: 'tls-psk', value: 'FILE', help: 'offer TLS with pre-shared keys: lines NAME:HEXKEY' },
    { name: 'tls', value: 'MODE', default: 'offer', help: 'offer, or require: refuse clients without TLS' },
    { name: 'log-level', value: 'LEVEL', default: 'info', help: 'debug, info, warn or error' },
  ],
  notes: `
Prints the NBD URI of each volume and the nbd-client line that attaches it; with --json, one JSON
object a line: {"event":"ready",...} once clients can connect. The log goes to standard error.
Sockets of a service manager (LISTEN_FDS) are served instead of the default address.
SLEDGE_IO=io_uring or SLEDGE_IO=threads in the environment chooses how I/O is done; by default
io_uring where the system allows it.

SIGINT or SIGTERM: answers what is in flight, makes everything durable, ends with 0. A second
signal ends at once with 1.

  sledge serve --volume vol0:10GiB
  sledge serve --data /srv/sledge --device /dev/sdb --listen 0.0.0.0:10809 --listen unix:/run/sledge.sock`,
  run: serve,
};

interface ServeArguments {
  readonly node: Omit<NodeOptions, 'log' | 'signal'>;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

/** All that can be refused without touching the disk is refused here. */
export function serveArguments(input: CommandInput, env: NodeJS.ProcessEnv, pid: number): ServeArguments {
  const inherited = inheritedSockets(env, pid);
  const asked = input.texts('listen').map(parseAddress);
  const fallback = inherited.length === 0 ? [parseAddress(DEFAULT_ADDRESS)] : [];
  const tls = tlsOption(input);
  const cacheText = input.text('cache');
  const logText = input.text('log');
  const volumes = input.texts('volume').map(parseVolume);
  const names = new Set<string>();
  for (const { name } of volumes) {
    if (names.has(name)) throw usage(serveCommand, `--volume names ${name} twice`);
    names.add(name);
  }
  return {
    node: {
      dataDirectory: input.text('data') ?? './data',
      devices: input.texts('device').map(parseDevice),
      volumes,
      cacheBytes:
        cacheText === undefined
          ? cacheBytesDefault(memoryBytes())
          : parseBlockSize(cacheText, '--cache', cacheBytesMin),
      ...(logText === undefined ? {} : { logBytes: parseBlockSize(logText, '--log', logBytesMin) }),
      listen: [...inherited, ...(asked.length > 0 ? asked : fallback)],
      ...(tls === undefined ? {} : { tls }),
    },
    logLevel: parseChoice(input.text('log-level') ?? 'info', '--log-level', ['debug', 'info', 'warn', 'error']),
  };
}

function tlsOption(input: CommandInput): TlsOption | undefined {
  const certificates = input.text('tls-certificates');
  const psk = input.text('tls-psk');
  const modeText = input.text('tls');
  const mode = parseChoice(modeText ?? 'offer', '--tls', ['offer', 'require']);
  if (certificates !== undefined && psk !== undefined) {
    throw usage(serveCommand, '--tls-certificates and --tls-psk exclude each other');
  }
  if (certificates !== undefined) return { mode, certificates };
  if (psk !== undefined) return { mode, psk };
  if (modeText === undefined) return undefined;
  throw usage(serveCommand, '--tls needs --tls-certificates or --tls-psk');
}

async function serve(input: CommandInput, context: CommandContext): Promise<number> {
  const { node: options, logLevel } = serveArguments(input, context.env, context.pid);
  // Whoever this process starts is not the one that the sockets were meant for.
  delete context.env['LISTEN_FDS'];
  delete context.env['LISTEN_PID'];
  const log = createLog(input.json ? 'json' : 'text', logLevel);
  const stop = new StopSignal(context, log);
  try {
    return await serveUntil(stop, { ...options, log, signal: stop.signal }, input.json, context, log);
  } finally {
    stop.dispose();
    log.flush();
  }
}

async function serveUntil(
  stop: StopSignal,
  options: NodeOptions,
  json: boolean,
  context: CommandContext,
  log: ServerLog,
): Promise<number> {
  let node: RunningNode;
  try {
    node = await context.startNode(options);
  } catch (error) {
    if (stop.signal.aborted && error instanceof SledgeError && error.code === 'shutting-down') return EXIT_DONE;
    throw error;
  }
  let control: ControlServer | undefined;
  try {
    control = await startControlServer(options.dataDirectory, node.control, log);
    if (!stop.signal.aborted) announce(node, options, json, context);
    if (options.tls === undefined) warnOfStrangers(node.addresses, log);
    await stop.wanted;
    if (json) context.out(`${JSON.stringify({ event: 'stopping' })}\n`);
  } finally {
    // In this order, so that nobody changes volumes of a node that is on its way out.
    await control?.stop();
    await stopNode(node, context, log);
  }
  log.info({}, 'stopped');
  if (json) context.out(`${JSON.stringify({ event: 'stopped' })}\n`);
  return EXIT_DONE;
}

/** A node that cannot stop in order still has clients and files open: only the end of the process ends those. */
async function stopNode(node: RunningNode, context: CommandContext, log: ServerLog): Promise<void> {
  try {
    await node.stop();
  } catch (error) {
    if (!(error instanceof SledgeError)) throw error;
    log.error({ code: error.code }, error.message);
    log.flush();
    context.exitNow(EXIT_FAILED);
    throw error;
  }
}

function announce(node: RunningNode, options: NodeOptions, json: boolean, context: CommandContext): void {
  const tls = options.tls === undefined ? 'off' : options.tls.mode;
  const names = node.control.volumes().map(volume => volume.name);
  const page = {
    pid: context.pid,
    dataDirectory: options.dataDirectory,
    addresses: node.addresses,
    volumes: names,
    tls,
  } as const;
  context.out(json ? `${JSON.stringify(readyEvent(page))}\n` : readyText(page));
}

/** NBD without TLS knows no users: whoever reaches the address reads and writes. */
function warnOfStrangers(addresses: readonly ListenAddress[], log: ServerLog): void {
  for (const address of addresses.filter(isOpenToOthers)) {
    const listen = formatAddress(address);
    log.warn({ listen }, 'everyone who reaches this address can read and write the volumes: use --tls require');
  }
}

/** Whether other machines may reach it; what a service manager opened is its affair. */
export function isOpenToOthers(address: ListenAddress): boolean {
  if (address.kind !== 'tcp') return false;
  return !(address.host === 'localhost' || address.host === '::1' || address.host.startsWith('127.'));
}

/** The first signal asks for a stop, the second does not wait for it. */
class StopSignal {
  readonly wanted: Promise<void>;
  readonly #controller = new AbortController();
  readonly #context: CommandContext;
  readonly #log: ServerLog;
  readonly #onInterrupt = () => this.#received('SIGINT');
  readonly #onTerminate = () => this.#received('SIGTERM');
  #resolve: () => void = () => {};

  constructor(context: CommandContext, log: ServerLog) {
    this.#context = context;
    this.#log = log;
    this.wanted = new Promise(resolve => {
      this.#resolve = resolve;
    });
    context.signals.on('SIGINT', this.#onInterrupt);
    context.signals.on('SIGTERM', this.#onTerminate);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  dispose(): void {
    this.#context.signals.off('SIGINT', this.#onInterrupt);
    this.#context.signals.off('SIGTERM', this.#onTerminate);
  }

  #received(name: string): void {
    if (this.signal.aborted) {
      this.#log.warn({ signal: name }, 'second signal: ending at once');
      this.#log.flush();
      this.#context.exitNow(EXIT_FAILED);
      return;
    }
    this.#log.info({ signal: name }, 'stopping');
    this.#controller.abort();
    this.#resolve();
  }
}
