/**
 * `sledge bench URI`: a quick load against any NBD server, for a first impression of rates and latencies. It is one
 * process with one thread: a fast server is measured better with fio's nbd engine.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SledgeError } from '../base/errors.ts';
import { LatencyHistogram } from '../base/latency-histogram.ts';
import { nbdPayloadBytesMax, nbdRequestsInFlightMax } from '../base/limits.ts';
import { BLOCK_BYTES, formatBytes, roundDown } from '../base/units.ts';
import { TRANSMISSION_READ_ONLY } from '../nbd-server-protocol/constants.ts';
import { type NbdUri, parseNbdUri } from '../nbd-server-protocol/uri.ts';
import { parseChoice, parseCount, parseSize } from './arguments.ts';
import { BenchConnection, type BenchLoad, type BenchTls } from './bench-connection.ts';
import { type Command, type CommandContext, type CommandInput, EXIT_DONE, EXIT_FAILED, usage } from './command.ts';
import { formatCount, formatLatency, formatRate, formatTable } from './table.ts';

const MODES = ['randread', 'randwrite', 'read', 'write'] as const;

export const benchCommand: Command = {
  name: 'bench',
  summary: 'put a quick load on an NBD server and measure it',
  positionals: ['URI'],
  options: [
    { name: 'seconds', value: 'N', default: '10', help: 'how long' },
    { name: 'depth', value: 'N', default: '16', help: 'requests on the way at a time, for each connection' },
    { name: 'connections', value: 'N', default: '1', help: 'connections' },
    { name: 'mode', value: 'MODE', default: 'randread', help: 'randread, randwrite, read or write' },
    { name: 'size', value: 'SIZE', default: '4KiB', help: 'bytes of each request' },
    { name: 'yes', help: 'agree that randwrite and write destroy what is on the volume' },
    {
      name: 'tls-certificates',
      value: 'DIR',
      help: 'for nbds: ca-cert.pem of DIR verifies the server; client-cert.pem and client-key.pem are shown to it if they are there',
    },
  ],
  notes: `
The URI is one that sledge serve prints, such as nbd://127.0.0.1:10809/vol0 or
nbd+unix:///vol0?socket=/run/sledge.sock.`,
  run: bench,
};

interface BenchPlan {
  readonly uri: NbdUri;
  readonly tls: BenchTls;
  readonly seconds: number;
  readonly depth: number;
  readonly connections: number;
  readonly mode: (typeof MODES)[number];
  readonly requestBytes: number;
}

export function benchPlan(input: CommandInput): BenchPlan {
  const text = input.positionals[0] as string;
  const parsed = parseNbdUri(text);
  if (!parsed.ok)
    throw new SledgeError('bad-address', `${JSON.stringify(text)} is not an NBD URI: ${parsed.reason}`, {
      hint: 'Give one as `sledge serve` prints it, such as nbd://127.0.0.1:10809/vol0.',
    });
  const mode = parseChoice(input.text('mode') ?? 'randread', '--mode', MODES);
  if (mode.endsWith('write') && !input.flag('yes')) {
    throw usage(benchCommand, `--mode ${mode} overwrites the volume: give --yes if that is what you want`);
  }
  const requestBytes = parseSize(input.text('size') ?? '4KiB', '--size', 512);
  if (requestBytes > nbdPayloadBytesMax || requestBytes % 512 !== 0) {
    throw new SledgeError('bad-size', `--size is a multiple of 512 bytes up to ${formatBytes(nbdPayloadBytesMax)}`);
  }
  return {
    uri: parsed.uri,
    tls: tlsOf(input.text('tls-certificates')),
    seconds: parseCount(input.text('seconds') ?? '10', '--seconds', 1, 86_400),
    depth: parseCount(input.text('depth') ?? '16', '--depth', 1, nbdRequestsInFlightMax),
    connections: parseCount(input.text('connections') ?? '1', '--connections', 1, 64),
    mode,
    requestBytes,
  };
}

function tlsOf(directory: string | undefined): BenchTls {
  if (directory === undefined) return {};
  const read = (name: string) => {
    try {
      return readFileSync(join(directory, name));
    } catch {
      return undefined;
    }
  };
  const [ca, cert, key] = [read('ca-cert.pem'), read('client-cert.pem'), read('client-key.pem')];
  if (ca === undefined) {
    throw new SledgeError('tls-files', `there is no readable ca-cert.pem in ${directory}`, {
      hint: 'Give the directory that holds the certificate of who signed the one of the server.',
    });
  }
  return { ca, ...(cert !== undefined && key !== undefined ? { cert, key } : {}) };
}

async function bench(input: CommandInput, context: CommandContext): Promise<number> {
  const plan = benchPlan(input);
  const connections: BenchConnection[] = [];
  try {
    for (let count = 0; count < plan.connections; count++) {
      connections.push(await BenchConnection.open(plan.uri, plan.tls));
    }
    return await measure(plan, connections, input, context);
  } finally {
    for (const connection of connections) connection.close();
  }
}

async function measure(
  plan: BenchPlan,
  connections: readonly BenchConnection[],
  input: CommandInput,
  context: CommandContext,
): Promise<number> {
  const load = loadOf(plan, connections[0] as BenchConnection);
  const drain = () => {
    for (const connection of connections) connection.drain();
  };
  const startedAt = performance.now();
  const progress = input.json ? undefined : setInterval(progressPrinter(plan, load, context), 1000);
  const timer = setTimeout(drain, plan.seconds * 1000);
  context.signals.on('SIGINT', drain);
  try {
    await Promise.all(connections.map(connection => connection.run(load)));
  } finally {
    clearInterval(progress);
    clearTimeout(timer);
    context.signals.off('SIGINT', drain);
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const result = resultOf(plan, load, seconds);
  context.out(input.json ? `${JSON.stringify(result)}\n` : resultText(result));
  return result.errors === 0 ? EXIT_DONE : EXIT_FAILED;
}

function loadOf(plan: BenchPlan, first: BenchConnection): BenchLoad {
  const { sizeBytes, transmissionFlags, minimumBlockBytes, maximumPayloadBytes } = first.agreement;
  const { requestBytes, mode } = plan;
  const isWrite = mode.endsWith('write');
  if (isWrite && (transmissionFlags & TRANSMISSION_READ_ONLY) !== 0) {
    throw new SledgeError('not-supported', 'the volume is read-only', { hint: 'Use --mode randread or read.' });
  }
  if (requestBytes % minimumBlockBytes !== 0 || requestBytes > maximumPayloadBytes) {
    throw new SledgeError(
      'bad-size',
      `the server takes multiples of ${minimumBlockBytes} up to ${maximumPayloadBytes} bytes`,
      {
        hint: 'Give another --size.',
      },
    );
  }
  const unit = Math.min(requestBytes, BLOCK_BYTES);
  const end = roundDown(sizeBytes - requestBytes, unit);
  if (end < 0) throw new SledgeError('bad-size', `the volume is smaller than one request: ${sizeBytes} bytes`);
  const places = end / unit + 1;
  let position = 0;
  return {
    isWrite,
    requestBytes,
    depth: plan.depth,
    latencies: new LatencyHistogram(),
    errors: new Map(),
    nextOffset() {
      if (mode.startsWith('rand')) return Math.floor(Math.random() * places) * unit;
      const offset = position;
      position = position + requestBytes > end ? 0 : position + requestBytes;
      return offset;
    },
  };
}

function progressPrinter(plan: BenchPlan, load: BenchLoad, context: CommandContext): () => void {
  let second = 0;
  let before = 0;
  return () => {
    second++;
    const count = load.latencies.count;
    const rate = count - before;
    before = count;
    const p99 = formatLatency(load.latencies.percentileUs(0.99));
    context.error(
      `${String(second).padStart(4)} s  ${formatCount(rate)}/s  ${formatRate(rate * plan.requestBytes)}  p99 so far ${p99}\n`,
    );
  };
}

/** As printed with --json. */
export interface BenchResult {
  readonly mode: string;
  readonly requestBytes: number;
  readonly depth: number;
  readonly connections: number;
  readonly seconds: number;
  readonly requests: number;
  readonly errors: number;
  readonly perSecond: number;
  readonly bytesPerSecond: number;
  readonly latencyUs: {
    readonly p50: number;
    readonly p95: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
}

function resultOf(plan: BenchPlan, load: BenchLoad, seconds: number): BenchResult {
  const { latencies } = load;
  let errors = 0;
  for (const count of load.errors.values()) errors += count;
  const [p50, p95, p99, p999] = [0.5, 0.95, 0.99, 0.999].map(fraction => Math.round(latencies.percentileUs(fraction)));
  return {
    mode: plan.mode,
    requestBytes: plan.requestBytes,
    depth: plan.depth,
    connections: plan.connections,
    seconds: Math.round(seconds * 1000) / 1000,
    requests: latencies.count,
    errors,
    perSecond: Math.round(latencies.count / seconds),
    bytesPerSecond: Math.round((latencies.count * plan.requestBytes) / seconds),
    latencyUs: {
      p50: p50 as number,
      p95: p95 as number,
      p99: p99 as number,
      p999: p999 as number,
      max: Math.round(latencies.maximumUs),
    },
  };
}

function resultText(result: BenchResult): string {
  const { p50, p95, p99, p999, max } = result.latencyUs;
  return formatTable(
    [
      ['load', `${result.mode} of ${formatBytes(result.requestBytes)}, ${result.connections} × depth ${result.depth}`],
      ['rate', `${formatCount(result.perSecond)}/s, ${formatRate(result.bytesPerSecond)}`],
      ['latency', `p50 ${formatLatency(p50)}, p95 ${formatLatency(p95)}, p99 ${formatLatency(p99)}`],
      ['', `p99.9 ${formatLatency(p999)}, max ${formatLatency(max)}`],
      ['requests', `${result.requests} in ${result.seconds.toFixed(1)} s, ${result.errors} failed`],
    ],
    [0, 1],
  );
}
