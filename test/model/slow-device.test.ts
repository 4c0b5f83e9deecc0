/**
 * A device that takes up to three seconds for each I/O, or that takes no write at all, slows down what lies on it. Requests
 * for chunks on another device take as long as they do beside a quick one, however full the log becomes meanwhile. (Until it
 * is known that the device is slow, a flush waits for what was written to it in bulk, and the destage waits for seconds.)
 *
 * Two devices, a volume on each, in virtual time. The same load is measured once with both devices well and once with one
 * of them ill, each time while a destage has chunks of both to carry.
 */
import t from 'tap';
import { bounceBufferCount } from '../../src/base/limits.ts';
import { locationDevice } from '../../src/base/location.ts';
import { plainRegion } from '../../src/base/memory.ts';
import type { ChunkNumber } from '../../src/base/units.ts';
import { BLOCK_BYTES, KIB, MIB } from '../../src/base/units.ts';
import type { VolumeCommand } from '../../src/nbd-server/exported-volume.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { SimNode } from '../support/sim-node.ts';
import { SimRandom } from '../support/sim-random.ts';
import { TestRequest } from '../unit/head/head-rig.ts';

type Tap = Pick<typeof t, 'equal' | 'same' | 'ok'>;

const CHUNK = 64 * KIB;
/** It fits a column, which is on one device, and so do the chunks that replace some of it until the log is cut. */
const VOLUME_BYTES = 6 * MIB;
const NO_FAULTS = { readPerMyriad: 0, writePerMyriad: 0, syncPerMyriad: 0 };

interface Stream {
  readonly name: string;
  readonly command: VolumeCommand;
  readonly lengthBytes: number;
  /** Where in the volume. */
  readonly from: number;
  readonly to: number;
  /** A request is sent each so many milliseconds, whatever has become of those before. */
  readonly everyMs: number;
  readonly fua?: boolean;
}

const READS: Stream = { name: 'reads', command: 'read', lengthBytes: BLOCK_BYTES, from: 0, to: 2 * MIB, everyMs: 2 };
const WRITES: Stream = { ...READS, name: 'small writes', command: 'write', from: 2 * MIB, to: 4 * MIB };
const BULK: Stream = { ...WRITES, name: 'bulk writes', lengthBytes: CHUNK, from: 4 * MIB, to: 6 * MIB, everyMs: 50 };
const FLUSHES: Stream = { ...READS, name: 'flushes', command: 'flush', everyMs: 20 };
const FUA: Stream = { ...WRITES, name: 'writes with FUA', fua: true, everyMs: 20 };

/** Latencies in milliseconds, of those that were answered in time; the others count as having taken all of it. */
class Load {
  readonly latencies = new Map<string, number[]>();
  readonly #node: SimNode;
  readonly #random: SimRandom;
  readonly #endMs: number;
  errors = 0;
  inFlight = 0;

  constructor(node: SimNode, random: SimRandom, endMs: number) {
    this.#node = node;
    this.#random = random;
    this.#endMs = endMs;
  }

  start(volume: Volume, stream: Stream): void {
    const { loop } = this.#node;
    const latencies: number[] = [];
    this.latencies.set(`${volume.name} ${stream.name}`, latencies);
    const { command, lengthBytes, from, to, everyMs, fua = false } = stream;
    const send = () => {
      const begunMs = loop.nowMs();
      if (begunMs >= this.#endMs) return;
      const places = (to - from) / lengthBytes;
      const number = latencies.push(this.#endMs - begunMs) - 1;
      const offset = from + this.#random.below(places) * lengthBytes;
      const request = new TestRequest(command, offset, lengthBytes, ({ errno }) => {
        this.inFlight--;
        if (errno !== 0) this.errors++;
        if (loop.nowMs() < this.#endMs) latencies[number] = loop.nowMs() - begunMs;
      });
      request.fua = fua;
      if (command === 'write') request.region = plainRegion(lengthBytes);
      this.inFlight++;
      volume.submit(request);
      loop.after(everyMs, send);
    };
    send();
  }

  /** Of the requests from the `from`th on. */
  percentile(key: string, share: number, from = 0): number {
    const sorted = (this.latencies.get(key) ?? []).slice(from).sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  }
}

const ILLNESSES = {
  none: NO_FAULTS,
  slow: { ...NO_FAULTS, slowPerMyriad: 10_000 },
  'hardly alive': { ...NO_FAULTS, slowPerMyriad: 10_000, slowMsMax: 120_000 },
  failing: { ...NO_FAULTS, writePerMyriad: 10_000 },
};
type Illness = keyof typeof ILLNESSES;

interface Measured {
  readonly load: Load;
  /** How long the destage took that began with the load; undefined where it had not ended with it. */
  readonly destageMs: number | undefined;
  readonly logFill: number;
  /** How often the log went round, and what of it the device that may be ill has taken since the destage began. */
  readonly logRounds: number;
  readonly carried: number;
  /** Requests that were not answered by the end. */
  readonly waiting: number;
}

/** Two volumes, on a device each, with some of each chunk in the log. */
async function startedNode(random: SimRandom): Promise<{ node: SimNode; volumes: readonly Volume[] }> {
  const node = new SimNode(random, {
    segmentBytes: MIB,
    logSegments: 32,
    cacheBytes: 64 * KIB,
    overlayRows: 16 * 1024,
    bounceBuffers: bounceBufferCount,
    devices: 2,
    columnsPerDevice: 4,
    canDiscard: true,
  });
  await node.boot();
  const volumes: Volume[] = [];
  for (const name of ['well', 'ill']) {
    const volume = await node.createVolume(name, VOLUME_BYTES, CHUNK, 'written');
    for (let at = 0; at < VOLUME_BYTES; at += MIB) await write(node, volume, at, MIB);
    volumes.push(volume);
  }
  await node.loop.until(node.destage.all());
  // Of each chunk with small writes, so that the destage has all of them to carry.
  for (const volume of volumes) {
    for (let at = WRITES.from; at < WRITES.to; at += CHUNK) await write(node, volume, at, BLOCK_BYTES);
  }
  return { node, volumes };
}

/** Loads both volumes, of which the second's device may be ill, while what lies in the log is destaged. */
async function measure(t: Tap, illness: Illness, streams: readonly Stream[], ms: number): Promise<Measured> {
  const random = new SimRandom(11);
  const { node, volumes } = await startedNode(random);
  const { loop } = node;
  const { log, sled } = node.head;
  node.devices[1].faults = ILLNESSES[illness];
  const beganMs = loop.nowMs();
  const beganAt = log.cut;
  const carriedBefore = sled.device(1).syncedCount;
  let destageMs: number | undefined;
  const ended = () => {
    destageMs = loop.nowMs() - beganMs;
  };
  const destaging = node.destage.cutAll().then(ended, ended);
  const load = new Load(node, random, beganMs + ms);
  for (const volume of volumes) for (const stream of streams) load.start(volume, stream);
  while (loop.nowMs() < beganMs + ms) if (!(await loop.turn())) loop.passTime();
  const measured = {
    load,
    destageMs,
    logFill: log.usedBytes / log.limitBytes,
    logRounds: (log.cut - beganAt) / log.limitBytes,
    carried: sled.device(1).syncedCount - carriedBefore,
    waiting: load.inFlight,
  };

  node.devices[1].faults = NO_FAULTS;
  await loop.until(destaging);
  while (load.inFlight > 0) if (!(await loop.turn())) loop.passTime();
  t.equal(load.errors, 0);
  t.same(await node.audit(), []);
  t.same(devicesOf(volumes[0]), [0], 'one volume lies on the device that is well');
  t.ok(devicesOf(volumes[1]).includes(1), 'the other one on the other');
  return measured;
}

async function write(node: SimNode, volume: Volume, offset: number, length: number): Promise<void> {
  await node.loop.until(
    new Promise<void>(resolve => {
      const request = new TestRequest('write', offset, length, () => resolve());
      request.region = plainRegion(length);
      volume.submit(request);
    }),
  );
}

function devicesOf(volume: Volume): number[] {
  const devices = new Set<number>();
  for (let chunk = 0; chunk < VOLUME_BYTES / CHUNK; chunk++) {
    const entry = volume.lookupIndexed(chunk as ChunkNumber);
    if (entry !== undefined) devices.add(locationDevice(entry.location));
  }
  return [...devices];
}

/** The 99th percentile on the healthy device, after `fromMs`, is what it is beside a quick one, but for chance. */
function goesOn(t: Tap, stream: Stream, usual: Measured, beside: Measured, fromMs = 0): void {
  const key = `well ${stream.name}`;
  const from = fromMs / stream.everyMs;
  const [before, after] = [usual, beside].map(({ load }) => load.percentile(key, 0.99, from));
  t.ok(after <= 2 * before, `${key}: p99 of ${after.toFixed(2)} ms, ${before.toFixed(2)} ms beside a quick device`);
}

/** Half of the requests at least take longer than any does on a quick device, by far. */
function isSlow(t: Tap, key: string, { load }: Measured): void {
  const median = load.percentile(key, 0.5);
  t.ok(median > 10, `${key}: median of ${median.toFixed(2)} ms`);
}

t.test('reads, small writes and bulk writes go on beside a slow device', async t => {
  const streams = [READS, WRITES, BULK];
  const usual = await measure(t, 'none', streams, 3000);
  const beside = await measure(t, 'slow', streams, 3000);
  t.ok(usual.destageMs !== undefined && usual.destageMs < 100, 'the destage is done soon');
  t.equal(beside.destageMs, undefined, 'and not with a slow device');
  t.ok(beside.logFill < 0.75, 'the log has room');
  isSlow(t, 'ill reads', beside);
  isSlow(t, 'ill bulk writes', beside);
  for (const stream of streams) goesOn(t, stream, usual, beside);
});

t.test('reads go on when more of them wait for a slow device than there are buffers', async t => {
  const streams = [{ ...READS, everyMs: 0.5 }];
  const usual = await measure(t, 'none', streams, 3000);
  const beside = await measure(t, 'slow', streams, 3000);
  t.ok(beside.waiting > bounceBufferCount, `${beside.waiting} requests wait`);
  isSlow(t, 'ill reads', beside);
  goesOn(t, READS, usual, beside);
});

t.test('flushes and FUA do not wait for a device that is destaged to', async t => {
  const streams = [{ ...WRITES, everyMs: 10 }, FUA, FLUSHES];
  const usual = await measure(t, 'none', streams, 9000);
  const beside = await measure(t, 'slow', streams, 9000);
  t.ok(beside.carried > 0, 'the device was written to and synced meanwhile');
  for (const stream of streams) goesOn(t, stream, usual, beside);
});

t.test('flushes do not wait for bulk writes to a device that is known to be slow', async t => {
  const streams = [BULK, FLUSHES];
  const usual = await measure(t, 'none', streams, 15_000);
  const beside = await measure(t, 'slow', streams, 15_000);
  isSlow(t, 'ill bulk writes', beside);
  const first = beside.load.percentile('well flushes', 1);
  t.ok(first > 500, `the first flushes find out: ${first.toFixed(0)} ms`);
  goesOn(t, FLUSHES, usual, beside, 8000);
});

t.test('the log goes round and round beside a slow device, and those who have nothing on it do not notice', async t => {
  const streams = [READS, { ...WRITES, everyMs: 0.5 }, { ...FLUSHES, everyMs: 100 }];
  const usual = await measure(t, 'none', streams, 10_000);
  const beside = await measure(t, 'slow', streams, 10_000);
  t.ok(usual.logRounds > 3 && beside.logRounds > 2, `the log went round ${beside.logRounds.toFixed(1)} times`);
  t.ok(beside.carried > 0, 'the slow device takes what it can');
  for (const stream of streams) goesOn(t, stream, usual, beside, 8000);
});

t.test('and beside a device that takes a minute for each I/O', async t => {
  const streams = [READS, { ...WRITES, everyMs: 0.5 }, { ...FLUSHES, everyMs: 100 }];
  const usual = await measure(t, 'none', streams, 10_000);
  const beside = await measure(t, 'hardly alive', streams, 10_000);
  t.ok(beside.logRounds > 2, `the log went round ${beside.logRounds.toFixed(1)} times`);
  for (const stream of streams) goesOn(t, stream, usual, beside, 8000);
});

t.test('and beside a device that takes no write; when it does again, nothing is missing', async t => {
  // More than the part of the log that is there for what such a device does not take.
  const writes = { ...WRITES, from: 0, to: VOLUME_BYTES, everyMs: 0.5 };
  const streams = [READS, writes, { ...FLUSHES, everyMs: 100 }];
  const usual = await measure(t, 'none', streams, 10_000);
  const beside = await measure(t, 'failing', streams, 10_000);
  t.ok(beside.logRounds > 2, `the log went round ${beside.logRounds.toFixed(1)} times`);
  isSlow(t, 'ill small writes', beside);
  for (const stream of streams) goesOn(t, stream, usual, beside);
});

t.test(
  'while a step that failed waits to be tried again, clients leave the room that it takes to carry forward',
  async t => {
    const random = new SimRandom(13);
    const { node, volumes } = await startedNode(random);
    const { loop } = node;
    const beganMs = loop.nowMs();
    const load = new Load(node, random, beganMs + 6000);
    for (const volume of volumes) load.start(volume, { ...WRITES, from: 0, to: VOLUME_BYTES, everyMs: 0.1 });
    // Not before the log is so full that the next step begins with it.
    const fails = () => {
      node.devices[1].faults = ILLNESSES.failing;
    };
    loop.after(1000, fails);
    while (loop.nowMs() < beganMs + 6000) if (!(await loop.turn())) loop.passTime();
    const longest = load.percentile('well small writes', 1, 4000 / 0.1);
    t.ok(longest < 1000, `from the fourth second on the longest write beside it took ${longest.toFixed(0)} ms`);
    node.devices[1].faults = NO_FAULTS;
    while (load.inFlight > 0) if (!(await loop.turn())) loop.passTime();
    t.same(await node.audit(), []);
  },
);

t.test('who waits for a device that has failed for good does not set off one step after another', async t => {
  const random = new SimRandom(12);
  const { node, volumes } = await startedNode(random);
  const { loop } = node;
  node.devices[1].faults = { ...NO_FAULTS, syncPerMyriad: 10_000 };
  await loop.until(node.destage.all()).catch(() => {});
  t.ok(node.head.sled.device(1).failure !== undefined, 'a sync of it has failed');

  const load = new Load(node, random, loop.nowMs() + 5000);
  for (const volume of volumes) load.start(volume, { ...WRITES, from: 0, to: VOLUME_BYTES, everyMs: 0.5 });
  const endMs = loop.nowMs() + 130_000;
  let steps = 0;
  while (loop.nowMs() < endMs) {
    if (loop.nowMs() < endMs - 90_000) steps = node.destage.steps;
    if (!(await loop.turn())) loop.passTime();
  }
  t.ok(node.head.waitingAsideWrites > 0, 'somebody waits');
  t.ok(node.destage.steps === steps, `${node.destage.steps - steps} steps in 90 s in which nothing can be done`);

  node.devices[1].faults = NO_FAULTS;
  node.crash('process');
  await node.boot();
  t.same(await node.audit(), [], 'after a start all goes on');
});
