/**
 * The whole head against an oracle, in memory and virtual time: random requests to several volumes, destage at random
 * moments, crashes of the process and losses of power, recovery, and on. A seed replays a run exactly:
 * `SLEDGE_TEST_SEED=n node dist/test/model/head.test.js`; SLEDGE_TEST_RUNS sets how many runs follow from it.
 */
import t from 'tap';
import { BLOCK_BYTES, KIB } from '../../src/base/units.ts';
import { Oracle, OracleClock } from '../support/oracle.ts';
import type { Crash } from '../support/oracle.ts';
import { type Mix, readAll, SimClient } from '../support/sim-client.ts';
import { SimNode } from '../support/sim-node.ts';
import { SimRandom, seedOfRun } from '../support/sim-random.ts';

const FIRST_SEED = seedOfRun();
const MODES: readonly boolean[] = process.env["SLEDGE_TEST_CRASH"] === "power" ? [true] : process.env["SLEDGE_TEST_CRASH"] === "process" ? [false] : [false, true];
const RUNS = Number(process.env['SLEDGE_TEST_RUNS'] ?? 1000);

interface Counts {
  requests: number;
  crashes: number;
  turns: number;
  steps: number;
}

async function run(seed: number, powerLoss: boolean, counts: Counts): Promise<string[]> {
  const random = new SimRandom(seed);
  const node = new SimNode(random, {
    segmentBytes: 1024 * KIB,
    logSegments: random.between(4, 6),
    cacheBytes: BLOCK_BYTES * random.oneOf([1, 16, 200]),
    overlayRows: random.oneOf([600, 2000]),
    bounceBuffers: random.oneOf([2, 5, 32]),
    devices: random.between(1, 2),
    columnsPerDevice: 4,
    canDiscard: random.chance(70),
  });
  const clock = new OracleClock();
  await node.boot();
  const clients: SimClient[] = [];
  const volumeCount = random.between(1, 3);
  for (let i = 0; i < volumeCount; i++) {
    const chunkBytes = KIB * random.oneOf([16, 64, 64, 256]);
    const cellBytes = random.oneOf([16, 512, 512, 512, 512, 4096, 4096]);
    const sizeBytes = BLOCK_BYTES * random.between(16, cellBytes === 16 ? 60 : 400);
    const volume = await node.createVolume(`v${i}`, sizeBytes, chunkBytes, random.chance(20) ? 'durable' : 'written');
    const oracle = new Oracle(cellBytes, i + 1, powerLoss, clock);
    clients.push(new SimClient(volume, oracle, random));
  }
  const rounds = random.between(1, 4);
  let problems: string[] = [];
  const collect = () => {
    problems = [...problems, ...clients.flatMap(client => client.problems.splice(0)), ...node.corruptions.splice(0)];
    return problems.length > 0;
  };
  for (let round = 0; round < rounds; round++) {
    await load(node, clients, random, counts);
    if (collect()) break;
    const crash: Crash = powerLoss && random.chance(60) ? 'power' : 'process';
    await crashAndJudge(node, clients, crash, problems);
    counts.crashes++;
    if (collect()) break;
  }
  counts.turns += node.loop.turns;
  return problems;
}

async function load(node: SimNode, clients: SimClient[], random: SimRandom, counts: Counts): Promise<void> {
  const mix: Mix = {
    read: random.between(5, 40),
    write: random.between(5, 60),
    writeZeroes: random.oneOf([0, 2, 10]),
    trim: random.oneOf([0, 2, 10]),
    flush: random.oneOf([0, 1, 5]),
    cache: 1,
    blockStatus: 2,
  };
  const requests = random.between(1, random.oneOf([30, 150, 400]));
  const depth = random.oneOf([1, 4, 32]);
  const destagePercent = random.oneOf([0, 1, 5]);
  const drain = random.chance(30);
  let sent = 0;
  let idleTurns = 0;
  const inFlight = () => clients.reduce((sum, client) => sum + client.inFlight, 0);
  while (sent < requests || (drain && inFlight() > 0)) {
    while (sent < requests && inFlight() < depth && random.chance(70)) {
      random.oneOf(clients).sendRandom(mix);
      sent++;
      counts.requests++;
    }
    if (random.below(100) < destagePercent) {
      node.destage.hurry();
      counts.steps++;
    }
    if (random.chance(1)) node.loop.passTime();
    if (random.below(1000) < 5) grow(node, random.oneOf(clients), random);
    if (await node.loop.turn()) idleTurns = 0;
    else if (inFlight() > 0 && ++idleTurns > 200) {
      if (!node.loop.passTime() || idleTurns > 1000) throw new Error('requests are never answered');
    }
  }
}

function grow(node: SimNode, client: SimClient, random: SimRandom): void {
  const size = client.volume.sizeBytes + BLOCK_BYTES * random.between(1, 40);
  node.head.resize(client.volume, size).then(errno => {
    if (errno === 0) client.sizeAcked = Math.max(client.sizeAcked, size);
  });
}

async function crashAndJudge(node: SimNode, clients: SimClient[], crash: Crash, problems: string[]): Promise<void> {
  const committed = clients.map(client => client.volume.committedOp as number);
  node.crash(crash);
  for (const client of clients) client.oracle.crashed();
  await node.boot();
  const contents: Uint8Array[] = [];
  for (const [i, client] of clients.entries()) {
    const volume = node.head.volume(client.volume.number);
    if (volume === undefined) {
      problems.push(`${client.volume.name} is gone`);
      return;
    }
    if (volume.sizeBytes < client.sizeAcked) problems.push(`${volume.name} has shrunk below what was answered`);
    const least = crash === 'process' ? committed[i] : client.flushedOp;
    if (volume.lastOp < least) problems.push(`${volume.name}: op ${volume.lastOp} after ${least}`);
    const { bytes, errno } = await node.loop.until(readAll(volume));
    if (errno !== 0) problems.push(`${volume.name} cannot be read after the crash: ${errno}`);
    contents.push(bytes);
  }
  if (problems.length > 0) return;
  const newest = Math.max(...clients.map((client, i) => client.oracle.newestOf(contents[i])));
  for (const [i, client] of clients.entries()) {
    for (const wrong of client.oracle.recovered(crash, contents[i], newest)) {
      problems.push(`${client.volume.name} after the crash (${crash}): ${wrong}`);
    }
    const volume = node.head.volume(client.volume.number)!;
    const next = new SimClient(volume, client.oracle, client.random);
    next.flushedOp = crash === 'power' ? volume.lastOp : client.flushedOp;
    clients[i] = next;
  }
}

for (const powerLoss of MODES) {
  t.test(powerLoss ? 'what was flushed survives a loss of power' : 'what was answered survives a crash', { timeout: 0 }, async t => {
    const counts: Counts = { requests: 0, crashes: 0, turns: 0, steps: 0 };
    const started = performance.now();
    let failures = 0;
    for (let i = 0; i < RUNS && failures < 5; i++) {
      const seed = FIRST_SEED + i;
      try {
        const problems = await run(seed, powerLoss, counts);
        if (problems.length > 0) {
          failures++;
          t.fail(`seed ${seed}\n  ${problems.slice(0, 5).join('\n  ')}`);
        }
      } catch (error) {
        failures++;
        t.fail(`seed ${seed}: ${error instanceof Error ? error.stack : error}`);
      }
    }
    t.equal(failures, 0, `${RUNS} runs from seed ${FIRST_SEED}`);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    t.comment(`${counts.requests} requests, ${counts.crashes} crashes, ${counts.turns} turns in ${seconds} s`);
  });
}
