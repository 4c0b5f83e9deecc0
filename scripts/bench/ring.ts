/**
 * Measures the ring against fio on the same file in the same run, and a socket round trip:
 *
 *   node dist/scripts/bench/ring.js [--file PATH] [--seconds N] [--kind io_uring|threads] [--no-fio] [--no-read]
 *
 * Reads are 4 KiB, random, O_DIRECT. "CPU" is this process's user and system time per operation.
 */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import type { IoRequest } from '../../src/base/io.ts';
import type { Region } from '../../src/base/memory.ts';
import type { Stream } from '../../src/base/stream.ts';
import { BLOCK_BYTES, MIB } from '../../src/base/units.ts';
import type { IoKind, IoPlatform, PlatformFile } from '../../src/platform/io-platform.ts';
import { createIoPlatform } from '../../src/platform/platform.ts';

const FILE_BYTES = 512 * MIB;
const DEPTHS = [1, 16, 64];

interface Rate {
  readonly perSecond: number;
  readonly cpuMicros: number;
}

/** Operations that start themselves again until the time is over. */
class Load {
  readonly #until: number;
  readonly #startedAt = performance.now();
  readonly #cpuBefore = process.cpuUsage();
  readonly #resolve: (rate: Rate) => void;
  #left: number;
  #count = 0;

  constructor(seconds: number, depth: number, resolve: (rate: Rate) => void) {
    this.#until = this.#startedAt + seconds * 1000;
    this.#left = depth;
    this.#resolve = resolve;
  }

  /** Counts one operation. True if another should follow. */
  again(): boolean {
    this.#count += 1;
    if (performance.now() < this.#until) return true;
    this.#left -= 1;
    if (this.#left === 0) this.#end();
    return false;
  }

  #end(): void {
    const seconds = (performance.now() - this.#startedAt) / 1000;
    const cpu = process.cpuUsage(this.#cpuBefore);
    this.#resolve({ perSecond: this.#count / seconds, cpuMicros: (cpu.user + cpu.system) / this.#count });
  }
}

class Reader implements IoRequest {
  readonly #load: Load;
  readonly #file: PlatformFile;
  readonly #region: Region;
  readonly #offset: number;

  constructor(load: Load, file: PlatformFile, region: Region, index: number) {
    this.#load = load;
    this.#file = file;
    this.#region = region;
    this.#offset = index * BLOCK_BYTES;
  }

  start(): void {
    const block = Math.floor((Math.random() * FILE_BYTES) / BLOCK_BYTES);
    this.#file.read(block * BLOCK_BYTES, this.#region, this.#offset, BLOCK_BYTES, this);
  }

  ioCompleted(result: number): void {
    if (result !== BLOCK_BYTES) throw new Error(`a read failed: ${result}`);
    if (this.#load.again()) this.start();
  }
}

function readRate(platform: IoPlatform, file: PlatformFile, depth: number, seconds: number): Promise<Rate> {
  const region = platform.allocate(depth * BLOCK_BYTES);
  return new Promise(resolve => {
    const load = new Load(seconds, depth, resolve);
    for (let index = 0; index < depth; index++) new Reader(load, file, region, index).start();
  });
}

function fioRate(path: string, depth: number, seconds: number): Rate | undefined {
  const options = [
    '--name=ring',
    `--filename=${path}`,
    '--ioengine=io_uring',
    '--direct=1',
    '--rw=randread',
    '--bs=4k',
  ];
  const limits = [`--iodepth=${depth}`, '--time_based', `--runtime=${seconds}`, `--size=${FILE_BYTES}`];
  const { status, stdout } = spawnSync('fio', [...options, ...limits, '--output-format=json'], { encoding: 'utf8' });
  if (status !== 0) return undefined;
  const [job] = (JSON.parse(stdout) as FioReport).jobs;
  const cpuMicros = ((job.usr_cpu + job.sys_cpu) / 100 / job.read.iops) * 1e6;
  return { perSecond: job.read.iops, cpuMicros };
}

interface FioReport {
  readonly jobs: { readonly usr_cpu: number; readonly sys_cpu: number; readonly read: { readonly iops: number } }[];
}

/** One end of a conversation of single bytes: what comes is sent back. */
class Echo implements IoRequest {
  readonly #stream: Stream;
  readonly #region: Region;
  readonly #load: Load | undefined;
  #receiving = true;

  constructor(platform: IoPlatform, stream: Stream, load: Load | undefined) {
    this.#stream = stream;
    this.#region = platform.allocate(BLOCK_BYTES);
    this.#load = load;
  }

  receive(): void {
    this.#receiving = true;
    this.#stream.receive(this.#region, 0, 32, this);
  }

  send(): void {
    this.#receiving = false;
    this.#stream.send(this.#region, 0, 32, this);
  }

  ioCompleted(result: number): void {
    if (result <= 0) {
      this.#stream.close();
    } else if (!this.#receiving) {
      this.receive();
    } else if (this.#load === undefined || this.#load.again()) {
      this.send();
    } else {
      this.#stream.close();
    }
  }
}

const ECHO_CLIENT = `
  import { createIoPlatform } from ${JSON.stringify(new URL('../../src/platform/platform.js', import.meta.url).href)};
  const [, path, kind, spin] = process.argv;
  const platform = createIoPlatform({ kind, spinMicros: Number(spin) });
  const stream = await platform.connect({ kind: 'unix', path });
  const region = platform.allocate(4096);
  const sent = { ioCompleted() { stream.receive(region, 0, 32, received); } };
  const received = {
    ioCompleted(result) {
      if (result > 0) return stream.send(region, 0, 32, sent);
      stream.close();
      platform.close();
    },
  };
  stream.receive(region, 0, 32, received);
`;

/** Round trips with another process, which echoes. */
async function echoRate(kind: IoKind | undefined, spinMicros: number, seconds: number): Promise<Rate> {
  const { spawn } = await import('node:child_process');
  const platform = createIoPlatform({ ...(kind === undefined ? {} : { kind }), spinMicros });
  const path = join(tmpdir(), `sledge-ring-bench-${process.pid}.sock`);
  const stream = new Promise<Stream>(resolve => {
    platform.listen({ kind: 'unix', path }, resolve).then(
      listener => stream.then(() => listener.close()),
      error => {
        throw error;
      },
    );
  });
  const client = spawn(
    process.execPath,
    ['--input-type=module', '-e', ECHO_CLIENT, path, platform.kind, String(spinMicros)],
    { stdio: 'inherit' },
  );
  const exited = new Promise(resolve => client.once('exit', resolve));
  const accepted = await stream;
  const rate = await new Promise<Rate>(resolve => {
    const echo = new Echo(platform, accepted, new Load(seconds, 1, resolve));
    echo.send();
  });
  await exited;
  await platform.close();
  return rate;
}

function print(what: string, rate: Rate | undefined, against?: Rate): void {
  if (rate === undefined) return;
  const ratio = against === undefined ? '' : `  ${(rate.perSecond / against.perSecond).toFixed(2)} x fio`;
  const perSecond = Math.round(rate.perSecond).toLocaleString('en').padStart(10);
  console.log(`${what.padEnd(28)}${perSecond} /s  ${rate.cpuMicros.toFixed(2).padStart(7)} µs CPU${ratio}`);
}

function checksumRate(platform: IoPlatform): void {
  const { bytes } = platform.allocate(MIB);
  for (let at = 0; at < bytes.length; at++) bytes[at] = at * 31;
  const sums = new Uint32Array(256);
  for (const count of [1, 16, 256]) {
    const calls = Math.ceil(65536 / count);
    const before = performance.now();
    for (let call = 0; call < calls; call++) platform.checksumBlocks(bytes, 0, count, sums, 0);
    const seconds = (performance.now() - before) / 1000;
    const gigabytes = (calls * count * BLOCK_BYTES) / 1e9;
    console.log(
      `${`CRC32C of ${count} blocks a call`.padEnd(28)}${(gigabytes / seconds).toFixed(1).padStart(10)} GB/s`,
    );
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      file: { type: 'string' },
      seconds: { type: 'string', default: '3' },
      kind: { type: 'string' },
      'no-fio': { type: 'boolean', default: false },
      'no-read': { type: 'boolean', default: false },
    },
  });
  const seconds = Number(values.seconds);
  const kind = values.kind as IoKind | undefined;
  const platform = createIoPlatform(kind === undefined ? {} : { kind });
  console.log(`${platform.kind} (${platform.kindReason})`);
  checksumRate(platform);
  if (!values['no-read']) await readRates(platform, values.file, seconds, !values['no-fio']);
  await platform.close();
  for (const spinMicros of [0, 50]) print(`echo, spin ${spinMicros} µs`, await echoRate(kind, spinMicros, seconds));
}

async function readRates(platform: IoPlatform, given: string | undefined, seconds: number, withFio: boolean) {
  const path = given ?? join(tmpdir(), `sledge-ring-bench-${process.pid}.dat`);
  const file = await platform.openFile({ path, mode: 'direct', create: given === undefined });
  if (given === undefined) await fill(platform, file);
  for (const depth of DEPTHS) {
    const fio = withFio ? fioRate(path, depth, seconds) : undefined;
    print(`fio, depth ${depth}`, fio);
    print(`read, depth ${depth}`, await readRate(platform, file, depth, seconds), fio);
  }
  await file.close();
  if (given === undefined) rmSync(path);
}

async function fill(platform: IoPlatform, file: PlatformFile): Promise<void> {
  await file.resize(FILE_BYTES);
  const region = platform.allocate(4 * MIB);
  for (let position = 0; position < FILE_BYTES; position += region.bytes.length) {
    await new Promise(resolve => {
      file.write(position, region, 0, region.bytes.length, { ioCompleted: resolve });
    });
  }
}

await main();
