/**
 * Cuts the power at every moment that makes a difference. One run of a node is recorded: writes of several sizes, zeroes,
 * trims, flushes, volumes that are made, grown and deleted, and a small log that goes round while the destage runs. Then
 * for each boundary of its trace, and each way in which a cut may leave the disks, a node is started on them, and judged:
 *
 * - it opens, and each volume can be read;
 * - what was flushed, or answered with FUA, is there, and each block has one of the values that it may have;
 * - a volume whose making was answered is there, in a size not below the one that was answered; a deleted one is gone;
 * - now and then: what the parts know of each other agrees once all is destaged, and all of the above still holds; and so
 *   it does after a second cut right behind the recovery.
 *
 * A cut's choices depend on the seed, its number and its kind alone, so that it can be seen again by itself.
 */
import { BLOCK_BYTES, KIB } from '../../src/base/units.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { type Oracle, OracleClock } from './oracle.ts';
import { type Mix, readAll, type Shape, SimClient } from './sim-client.ts';
import { SimNode, type SimNodeOptions } from './sim-node.ts';
import { SimRandom } from './sim-random.ts';
import { CUTS, type Cut, SimTrace } from './sim-trace.ts';
import { TracedOracle } from './traced-oracle.ts';

/** Enough for the log to go round several times. */
export const powerCutOperations = 2100;

const MIX: Mix = { read: 5, write: 60, writeZeroes: 8, trim: 8, flush: 6, cache: 0, blockStatus: 1 };
const SHAPES: readonly Shape[] = ['bytes', 'blocks', 'blocks', 'hot', 'hot', 'chunks'];
const DEPTH = 8;
const AUDITED_PERCENT = 5;
const CUT_TWICE_PERCENT = 20;

const NODE: SimNodeOptions = {
  segmentBytes: 528 * KIB,
  logSegments: 4,
  cacheBytes: 16 * BLOCK_BYTES,
  overlayRows: 400,
  bounceBuffers: 5,
  devices: 2,
  columnsPerDevice: 4,
  canDiscard: true,
};

/** What is known of a volume at a step of the trace. */
interface TracedVolume {
  readonly name: string;
  readonly number: Volume['number'];
  readonly oracle: Oracle;
  state: 'being made' | 'there' | 'being deleted' | 'gone';
  sizeBytes: number;
}

export interface PowerCutOptions {
  readonly seed: number;
  readonly operations: number;
  /** Which boundaries are cut at; all without it. */
  readonly chosen?: (boundary: number, count: number) => boolean;
  /** Files whose syncs do nothing, which has to be found. */
  readonly lies?: 'direct' | 'buffered';
  /** Hears of the counts of the recorded run, and how far the cuts are. */
  readonly tell?: (line: string) => void;
  /** Told before each cut: a broken invariant may end the process in it. */
  readonly cutting?: (boundary: number, cut: Cut) => void;
}

export interface PowerCutResult {
  readonly operations: number;
  readonly boundaries: number;
  /** Boundaries that were cut at, and the starts and verdicts that came of them. */
  cutBoundaries: number;
  cuts: number;
  secondCuts: number;
  audits: number;
  /** How often the log went round its segments, and steps of the destage, in the recorded run. */
  readonly logRounds: number;
  readonly destageSteps: number;
  violations: number;
  /** The first of them. */
  readonly problems: string[];
}

const PROBLEMS_MAX = 20;

export function describeCuts(result: PowerCutResult): string {
  return (
    `${result.operations} operations, cut at ${result.cutBoundaries} of ${result.boundaries + 1} places, ${CUTS.length} variants ` +
    `(${CUTS.join(', ')}), ${result.cuts} cuts, ${result.secondCuts} second cuts, ${result.audits} audits, ` +
    `${result.violations} violations`
  );
}

export async function cutPowerEverywhere(options: PowerCutOptions): Promise<PowerCutResult> {
  const recording = new Recording(options);
  await recording.run();
  const { trace, volumes, result } = recording;
  options.tell?.(
    `${result.operations} operations, ${result.boundaries} boundaries; the log went round ` +
      `${result.logRounds.toFixed(1)} times, ${result.destageSteps} steps of the destage`,
  );
  for (let boundary = 0; ; boundary++) {
    const next = trace.advance();
    if (options.chosen === undefined || options.chosen(boundary, result.boundaries)) {
      result.cutBoundaries++;
      for (const cut of CUTS) {
        options.cutting?.(boundary, cut);
        result.cuts++;
        const wrong = await judgeCut(trace, volumes, cutRandom(options.seed, boundary, cut), cut, result);
        if (wrong.length === 0) continue;
        result.violations++;
        const where = `cut ${boundary} (${cut}), before ${next ?? 'the end'}`;
        if (result.problems.length < PROBLEMS_MAX) result.problems.push(`${where}: ${wrong.slice(0, 4).join('; ')}`);
      }
      if (result.cutBoundaries % 500 === 0) {
        options.tell?.(`boundary ${boundary} of ${result.boundaries}, ${result.violations} violations`);
      }
    }
    if (next === undefined) return result;
  }
}

function cutRandom(seed: number, boundary: number, cut: Cut): SimRandom {
  return new SimRandom(
    Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(boundary * CUTS.length + CUTS.indexOf(cut), 0x85ebca6b),
  );
}

/** The run that is recorded. */
class Recording {
  readonly trace: SimTrace;
  readonly volumes: TracedVolume[] = [];
  readonly #operations: number;
  readonly #random: SimRandom;
  readonly #node: SimNode;
  readonly #clock = new OracleClock();
  readonly #twinClock = new OracleClock();
  #clients: { readonly client: SimClient; readonly traced: TracedVolume }[] = [];
  #changes = 0;

  constructor(options: PowerCutOptions) {
    this.trace = new SimTrace(options.lies);
    this.#operations = options.operations;
    this.#random = new SimRandom(options.seed);
    this.#node = new SimNode(this.#random, NODE, { watcher: this.trace });
  }

  async run(): Promise<void> {
    const random = this.#random;
    await this.#node.boot();
    for (let i = 0; i < 3; i++) await this.#makeVolume();
    const every = Math.floor(this.#operations / 8);
    for (let sent = 0; sent < this.#operations || this.#inFlight() > 0; ) {
      while (sent < this.#operations && this.#inFlight() < DEPTH && random.chance(60)) {
        const { client } = random.oneOf(this.#clients);
        client.shapes = SHAPES;
        client.sendRandom(MIX);
        sent++;
        if (sent % every === 0) await this.#replaceVolume();
        else if (sent % every === every >> 1) this.#grow();
      }
      if (random.chance(2)) this.#node.destage.hurry();
      if (!(await this.#node.loop.turn())) this.#node.loop.passTime();
    }
    await this.#node.loop.until(this.#node.destage.all());
    const problems = this.#clients.flatMap(({ client }) => client.problems);
    if (problems.length > 0) throw new Error(`the recorded run itself goes wrong: ${problems[0]}`);
  }

  get result(): PowerCutResult {
    const { log } = this.#node.head;
    return {
      operations: this.#operations + this.#changes,
      boundaries: this.trace.boundaryCount,
      cutBoundaries: 0,
      cuts: 0,
      secondCuts: 0,
      audits: 0,
      logRounds: log.committedEnd / log.limitBytes,
      destageSteps: this.#node.destage.steps,
      violations: 0,
      problems: [],
    };
  }

  #inFlight(): number {
    return this.#clients.reduce((sum, { client }) => sum + client.inFlight, 0);
  }

  async #makeVolume(): Promise<void> {
    this.#changes++;
    const random = this.#random;
    const number = this.#node.head.index.nextVolume();
    const name = `v${number}`;
    const sizeBytes = BLOCK_BYTES * random.between(20, 60);
    const chunkBytes = KIB * [64, 16, 64][number % 3];
    const oracle = new TracedOracle(512, number, this.#clock, this.#twinClock, this.trace);
    const traced: TracedVolume = { name, number, oracle: oracle.twin, state: 'being made', sizeBytes };
    this.trace.note(() => void this.volumes.push(traced));
    const volume = await this.#node.createVolume(name, sizeBytes, chunkBytes, number % 4 === 3 ? 'durable' : 'written');
    this.trace.note(() => {
      traced.state = 'there';
    });
    this.#clients.push({ client: new SimClient(volume, oracle, random), traced });
  }

  #grow(): void {
    this.#changes++;
    const { client, traced } = this.#random.oneOf(this.#clients);
    const size = client.volume.sizeBytes + BLOCK_BYTES * this.#random.between(1, 20);
    this.#node.head.resize(client.volume, size).then(errno => {
      if (errno !== 0) return;
      client.sizeAcked = Math.max(client.sizeAcked, size);
      this.trace.note(() => {
        traced.sizeBytes = Math.max(traced.sizeBytes, size);
      });
    });
  }

  /** Deletes a volume while the others go on, and makes another. */
  async #replaceVolume(): Promise<void> {
    this.#changes++;
    const { loop } = this.#node;
    const [{ client, traced }] = this.#clients.splice(this.#random.below(this.#clients.length), 1);
    while (client.inFlight > 0) if (!(await loop.turn())) loop.passTime();
    if (client.problems.length > 0) throw new Error(`the recorded run itself goes wrong: ${client.problems[0]}`);
    this.trace.note(() => {
      traced.state = 'being deleted';
    });
    await loop.until(this.#node.deleteVolume(client.volume));
    this.trace.note(() => {
      traced.state = 'gone';
    });
    await this.#makeVolume();
  }
}

/** Starts a node on what a cut leaves and says what is wrong with it. */
async function judgeCut(
  trace: SimTrace,
  volumes: readonly TracedVolume[],
  random: SimRandom,
  cut: Cut,
  counts: Pick<PowerCutResult, 'secondCuts' | 'audits'>,
): Promise<string[]> {
  const node = new SimNode(random, NODE, { found: loop => trace.disksAfter(cut, loop, random) });
  try {
    await node.boot();
    const wrong = await judgeVolumes(node, volumes);
    if (wrong.length === 0 && random.chance(CUT_TWICE_PERCENT)) {
      counts.secondCuts++;
      node.crash('power');
      await node.boot();
      for (const problem of await judgeVolumes(node, volumes)) wrong.push(`after a second cut: ${problem}`);
    }
    if (wrong.length === 0 && random.chance(AUDITED_PERCENT)) {
      counts.audits++;
      await node.loop.until(node.finishDeletions());
      for (const problem of await node.audit()) wrong.push(`audit: ${problem}`);
      for (const problem of await judgeVolumes(node, volumes)) wrong.push(`after the audit: ${problem}`);
    }
    wrong.push(...node.corruptions);
    return wrong;
  } catch (error) {
    return [error instanceof Error ? `${error.stack}` : `${error}`];
  } finally {
    node.crash('process');
  }
}

async function judgeVolumes(node: SimNode, volumes: readonly TracedVolume[]): Promise<string[]> {
  const wrong: string[] = [];
  const read: { readonly traced: TracedVolume; readonly bytes: Uint8Array }[] = [];
  for (const traced of volumes) {
    const volume = node.head.volume(traced.number);
    if (volume === undefined || volume.state !== 'present') {
      if (traced.state === 'there') wrong.push(`${traced.name} is ${volume === undefined ? 'gone' : volume.state}`);
      continue;
    }
    if (traced.state === 'gone') {
      wrong.push(`${traced.name} is there, though its end was answered`);
      continue;
    }
    if (volume.sizeBytes < traced.sizeBytes) wrong.push(`${traced.name} is smaller than was answered`);
    const { bytes, errno } = await node.loop.until(readAll(volume));
    if (errno !== 0) wrong.push(`${traced.name} cannot be read: ${errno}`);
    else read.push({ traced, bytes });
  }
  const newest = Math.max(0, ...read.map(({ traced, bytes }) => traced.oracle.newestOf(bytes)));
  for (const { traced, bytes } of read) {
    for (const problem of traced.oracle.verdict('power', bytes, newest)) wrong.push(`${traced.name}: ${problem}`);
  }
  return wrong;
}
