/**
 * One simulated run of the whole head against an oracle, in memory and virtual time: random requests to several volumes,
 * destage at random moments, crashes of the process and losses of power, recovery, and on. Shared by
 * `test/model/head.test.ts` and `scripts/sim`. A seed and the options replay a run exactly.
 *
 * First anything may go wrong; then, behind the last recovery, the faults stop, and everything has to come good: each request
 * is answered, none fails without a reason that has stayed, all that waits comes to its end.
 *
 * What a run finds wrong stands in `problems`; a broken invariant of the product throws, or ends the process when it breaks
 * behind a promise that nobody waits for.
 */
import { assertNever } from '../../src/base/assert.ts';
import { BLOCK_BYTES, KIB } from '../../src/base/units.ts';
import { Scrub } from '../../src/head/scrub.ts';
import type { Volume } from '../../src/volume/volume.ts';
import type { Crash, Promised } from './oracle.ts';
import { Oracle, OracleClock } from './oracle.ts';
import { type Mix, readAll, type Shape, SimClient, type VolumeContent } from './sim-client.ts';
import { settled } from './sim-loop.ts';
import { NO_TROUBLE, SimNode, type SimTrouble } from './sim-node.ts';
import { SimRandom } from './sim-random.ts';

const SHAPES: readonly (readonly Shape[])[] = [
  ['bytes', 'blocks', 'blocks', 'chunks', 'hot'],
  ['bytes', 'blocks', 'blocks', 'chunks', 'hot', 'any'],
  ['bytes', 'bytes', 'blocks', 'hot'],
  ['chunks', 'chunks', 'chunks', 'blocks'],
  ['chunks'],
];

/**
 * What goes wrong in a run beside crashes, and what is allowed then. In all of them: never a wrong byte, never the loss of
 * what a crash has to keep, and nothing is answered as done after the log has failed.
 *
 *   none        no request fails, all are answered
 *   device      EIO of devices; requests may fail
 *   log         EIO of the log
 *   index       commits fail
 *   space       devices are full
 *   thin        devices are sparse files, and there is no space behind more than what they have: writes may fail or wait,
 *               reads do not, and all goes on when there is space again
 *   rot         bits of devices flip: so many blocks may be unreadable, no more; and since a recovery cannot tell damage
 *               from what a loss of power left undone, a crash of the process may cost what was not flushed. What was
 *               flushed it may cost only in the moment before a record of the log says that it was: when recovery takes
 *               the end of such a log for torn, only order and values are judged
 *   stray       writes to devices go astray: the same, with the blocks of both places
 *   segment     log segments cannot be made: requests may wait, none fails
 *   slow        I/Os take up to seconds: none fails, all are answered
 *   forgetful   a failed sync has lost its writes, though later ones succeed
 *   lame        many I/Os of one device of two take up to seconds: none fails, all are answered
 *   broken      one device of two refuses many writes: requests may fail
 */
export const TROUBLES = [
  'none',
  'device',
  'log',
  'index',
  'space',
  'thin',
  'rot',
  'stray',
  'segment',
  'slow',
  'forgetful',
  'lame',
  'broken',
] as const;
export type Trouble = (typeof TROUBLES)[number];

const HARMLESS: ReadonlySet<Trouble> = new Set(['none', 'slow', 'lame']);
const ERRORLESS: ReadonlySet<Trouble> = new Set(['none', 'slow', 'segment', 'lame']);
/** What they have done is still there when they have stopped. */
const LASTING: ReadonlySet<Trouble> = new Set(['space', 'rot', 'stray']);
/** No I/O ends for so long, and requests still wait: then they wait for ever. */
const IDLE_MS_MAX = 60_000;
/** What goes on meanwhile may be tried over and over. */
const ANSWER_MS_MAX = 10 * IDLE_MS_MAX;
/** Of one load: it takes some thousands. */
const TURNS_MAX = 100_000;
/** Of one device, beside one that is well. */
const ONE_OF_TWO: ReadonlySet<Trouble> = new Set(['lame', 'broken']);
const DAMAGING: ReadonlySet<Trouble> = new Set(['rot', 'stray']);

/** What runs add up to. */
export class SimCounts {
  runs = 0;
  requests = 0;
  /** Reads that were lent their bytes. */
  lentReads = 0;
  crashes = 0;
  powerLosses = 0;
  audits = 0;
  scrubs = 0;
  turns = 0;
  virtualMs = 0;
  /** Faults of files, and blocks that could not be read after a crash. */
  faults = 0;
  unreadable = 0;
}

export interface SimRunOptions {
  /** Whether crashes may lose power, or only kill the process. */
  readonly crash: Crash;
  /** What goes wrong beside crashes; without it the seed decides. */
  readonly trouble?: Trouble | undefined;
  /** Hears what happens, a sentence at a time. */
  readonly tell?: ((line: string) => void) | undefined;
}

/** A node, its volumes and everything that happens to them. */
export class SimRun {
  readonly problems: string[] = [];
  readonly #random: SimRandom;
  readonly #node: SimNode;
  readonly #clock = new OracleClock();
  readonly #powerLoss: boolean;
  readonly #trouble: Trouble;
  readonly #counts: SimCounts;
  readonly #tell: (line: string) => void;
  #clients: SimClient[] = [];
  #scrubbing = false;
  #made = 0;

  constructor(seed: number, counts: SimCounts, options: SimRunOptions) {
    const random = new SimRandom(seed);
    this.#random = random;
    this.#powerLoss = options.crash === 'power';
    this.#tell = options.tell ?? (() => {});
    this.#counts = counts;
    const drawn = random.chance(60) ? 'none' : random.oneOf(TROUBLES);
    this.#trouble = options.trouble ?? drawn;
    this.#node = new SimNode(random, {
      segmentBytes: 1024 * KIB,
      logSegments: random.between(4, 6),
      cacheBytes: BLOCK_BYTES * random.oneOf([1, 16, 200]),
      overlayRows: random.oneOf([300, 600, 2000]),
      bounceBuffers: random.oneOf([2, 5, 32]),
      devices: ONE_OF_TWO.has(this.#trouble) ? 2 : random.between(1, 2),
      columnsPerDevice: this.#trouble === 'space' ? 1 : 16,
      canDiscard: random.chance(70),
    });
  }

  /** The whole run; says what went wrong, broken invariants too. */
  async judged(): Promise<readonly string[]> {
    const counts = this.#counts;
    counts.runs++;
    try {
      await this.#run();
    } catch (error) {
      this.problems.push(error instanceof Error ? `${error.stack}` : `${error}`);
    }
    const { loop } = this.#node;
    counts.turns += loop.turns;
    counts.faults += this.#node.faultCount;
    counts.virtualMs += loop.elapsedMs;
    // Gives its memory back, and nothing of it goes on beside the next run.
    this.#node.crash('process');
    return this.problems;
  }

  async #run(): Promise<void> {
    const random = this.#random;
    const { options } = this.#node;
    this.#tell(
      `a log of ${options.logSegments} segments, ${options.devices} devices of ${options.columnsPerDevice} columns, ` +
        `a cache of ${options.cacheBytes / KIB} KiB, ${options.overlayRows} rows of overlay; trouble: ${this.#trouble}`,
    );
    await this.#node.boot();
    const volumes = random.between(1, 3);
    for (let i = 0; i < volumes; i++) await this.#makeVolume();
    const rounds = random.between(1, 6);
    for (let round = 0; round < rounds && this.problems.length === 0; round++) {
      this.#node.trouble(troubleOf(this.#trouble));
      for (const client of this.#clients) client.errorsExpected = !ERRORLESS.has(this.#trouble);
      await this.#load('bad');
      this.#collect();
      this.#node.trouble(NO_TROUBLE);
      if (this.problems.length > 0) break;
      if (HARMLESS.has(this.#trouble) && random.chance(30)) await this.#auditAll();
      if (HARMLESS.has(this.#trouble) && random.chance(8)) await this.#replaceVolume();
      if (this.problems.length > 0) break;
      await this.#crash(this.#losesPower() ? 'power' : 'process');
      this.#collect();
    }
    if (this.problems.length === 0) await this.#comesGood();
  }

  async #comesGood(): Promise<void> {
    this.#tell('nothing goes wrong any more');
    for (const client of this.#clients) client.errorsExpected = LASTING.has(this.#trouble);
    await this.#load('good');
    this.#collect();
    if (!LASTING.has(this.#trouble) && this.problems.length === 0) await this.#auditAll();
  }

  /** Which crash's promises a recovery that is over had to keep; `wasStated`: the log said that what is durable is. */
  #promised(kind: Crash, wasStated: boolean): Promised {
    if (!this.#damaging) return kind;
    return this.#node.rows.at(-1) === 'torn' && !wasStated ? 'nothing' : 'power';
  }

  #losesPower(): boolean {
    return this.#powerLoss && this.#random.chance(60);
  }

  async #makeVolume(): Promise<void> {
    const random = this.#random;
    const number = ++this.#made;
    const chunkBytes = KIB * random.oneOf([16, 64, 64, 256]);
    const cellBytes = random.oneOf([16, 512, 512, 512, 512, 4096, 4096]);
    const sizeBytes = BLOCK_BYTES * random.between(16, cellBytes === 16 ? 60 : random.oneOf([60, 400]));
    const ack = random.chance(20) ? 'durable' : 'written';
    const volume = await this.#node.createVolume(`v${number}`, sizeBytes, chunkBytes, ack);
    const least = this.#damaging ? 'nothing' : this.#powerLoss ? 'power' : 'process';
    const oracle = new Oracle(cellBytes, number, least, this.#clock);
    this.#clients.push(this.#newClient(volume, oracle));
    this.#tell(
      `volume ${volume.name}: ${sizeBytes / KIB} KiB in chunks of ${chunkBytes / KIB} KiB, ack ${ack}, ` +
        `written in cells of ${cellBytes} bytes`,
    );
  }

  get #damaging(): boolean {
    return DAMAGING.has(this.#trouble);
  }

  #newClient(volume: Volume, oracle: Oracle): SimClient {
    const client = new SimClient(volume, oracle, this.#random);
    client.isSealed = () => this.#node.logFailed;
    return client;
  }

  #inFlight(): number {
    return this.#clients.reduce((sum, client) => sum + client.inFlight, 0);
  }

  #collect(): void {
    for (const client of this.#clients) {
      this.problems.push(...client.problems.splice(0));
      this.#counts.lentReads += client.lentReads;
      client.lentReads = 0;
    }
    const corruptions = this.#node.corruptions.splice(0);
    if (!this.#damaging) this.problems.push(...corruptions);
  }

  async #load(times: 'bad' | 'good'): Promise<void> {
    const random = this.#random;
    const node = this.#node;
    const mix: Mix = {
      read: random.between(5, 40),
      write: random.between(5, 60),
      writeZeroes: random.oneOf([0, 2, 10, 60]),
      trim: random.oneOf([0, 2, 10]),
      flush: random.oneOf([0, 1, 5]),
      cache: 1,
      blockStatus: 2,
    };
    const requests = random.between(1, random.oneOf([4, 30, 150, 400]));
    const depth = random.oneOf([1, 4, 32]);
    const destagePercent = random.oneOf([0, 1, 5, 30, 100]);
    const drain = random.chance(30) || times === 'good';
    const shapes = random.oneOf(SHAPES);
    for (const client of this.#clients) client.shapes = shapes;
    // Crashes fall on any moment, or on one at which the destage has just ended a step or is about to commit.
    const moment = times === 'good' ? 'any' : random.oneOf(['any', 'any', 'step', 'commit']);
    const steps = node.destage.steps;
    const earliest = random.below(requests + 1);
    let turnsLeft = random.below(12);
    let sent = 0;
    this.#tell(
      `up to ${requests} requests, ${depth} at a time, of ${shapes.join(', ')}; mix ${JSON.stringify(mix)}; ` +
        `destage at ${destagePercent} % of turns${drain ? ', to the last answer' : ''}; the crash falls on ${moment}`,
    );
    let busyAtMs = node.loop.nowMs();
    let answeredAtMs = busyAtMs;
    let waiting = this.#inFlight();
    const turnsMax = node.loop.turns + TURNS_MAX;
    while (sent < requests || (drain && this.#inFlight() > 0)) {
      while (sent < requests && this.#inFlight() < depth && random.chance(70)) {
        random.oneOf(this.#clients).sendRandom(mix);
        sent++;
        this.#counts.requests++;
      }
      if (random.below(100) < destagePercent) node.destage.hurry();
      if (random.chance(1)) node.loop.passTime();
      if (random.below(1000) < 5) this.#grow(random.oneOf(this.#clients));
      if (!this.#scrubbing && random.below(1000) < 5) this.#scrub(random.oneOf(this.#clients));
      const isMoment =
        (moment === 'step' && node.destage.steps > steps) || (moment === 'commit' && node.commitsUnderWay > 0);
      if (isMoment && sent >= earliest && turnsLeft-- === 0) return;
      if (node.loop.turns > turnsMax) throw new Error(`it goes on without an end (destage: ${node.stuck})`);
      const isBusy = await node.loop.turn();
      if (isBusy) busyAtMs = node.loop.nowMs();
      if (this.#inFlight() !== waiting) answeredAtMs = node.loop.nowMs();
      waiting = this.#inFlight();
      if (waiting === 0) continue;
      const isIdle = !isBusy && (!node.loop.passTime() || node.loop.nowMs() > busyAtMs + IDLE_MS_MAX);
      if (isIdle || node.loop.nowMs() > answeredAtMs + ANSWER_MS_MAX) {
        // With a full or failed store writes may wait for ever; otherwise everything is answered.
        if (times === 'bad' && !HARMLESS.has(this.#trouble)) return;
        throw new Error(`${this.#inFlight()} requests are never answered (destage: ${node.stuck})`);
      }
    }
  }

  #grow(client: SimClient): void {
    const size = client.volume.sizeBytes + BLOCK_BYTES * this.#random.between(1, 40);
    this.#node.head.resize(client.volume, size).then(errno => {
      if (errno !== 0) return;
      client.sizeAcked = Math.max(client.sizeAcked, size);
      client.sizeDurable = client.sizeAcked;
    });
  }

  /** Where nothing damages data, whatever a scrub takes for damage was moved or rewritten meanwhile. */
  #scrub(client: SimClient): void {
    const { head, loop } = this.#node;
    const scrub = new Scrub({ head, clock: loop }, client.volume, KIB * this.#random.oneOf([2 ** 30, 2 ** 20, 1024]));
    this.#scrubbing = true;
    scrub.run().then(() => {
      this.#scrubbing = false;
      this.#counts.scrubs++;
      if (HARMLESS.has(this.#trouble) && scrub.damagedBlocks > 0) this.problems.push('a scrub finds damage');
    });
  }

  async #auditAll(): Promise<void> {
    for (let turns = 0; this.#inFlight() > 0; turns++) {
      if (!(await this.#node.loop.turn())) this.#node.loop.passTime();
      if (turns > 100_000) throw new Error('requests are never answered');
    }
    this.#counts.audits++;
    this.#tell('all is answered and destaged: what the parts know of each other is compared');
    this.problems.push(...(await this.#node.audit()));
  }

  /** A volume is deleted, perhaps not to the end, and another one made. */
  async #replaceVolume(): Promise<void> {
    for (let turns = 0; this.#inFlight() > 0 && turns < 10_000; turns++) {
      if (!(await this.#node.loop.turn())) this.#node.loop.passTime();
    }
    if (this.#inFlight() > 0) return;
    const [client] = this.#clients.splice(this.#random.below(this.#clients.length), 1);
    this.#tell(`volume ${client.volume.name} is deleted`);
    const deletion = this.#node.deleteVolume(client.volume);
    deletion.catch(() => {});
    // The mark is durable before anything else happens to it: then the volume is gone for good.
    const turns = this.#random.between(8, 200);
    for (let i = 0; i < turns; i++) await this.#node.loop.turn();
    await this.#makeVolume();
  }

  async #crash(kind: Crash): Promise<void> {
    const clients = this.#clients;
    const node = this.#node;
    const committed = clients.map(client => client.volume.committedOp as number);
    // What a call has just begun goes as far as it can without I/O: otherwise it would go on after the crash.
    await settled();
    // A mark may be lost with the power, like all that has not been answered.
    const wasStated = kind === 'process' && node.durableIsStated;
    node.crash(kind);
    this.#scrubbing = false;
    this.#tell(
      `${kind === 'power' ? 'power is lost' : 'the process dies'} in turn ${node.loop.turns} at ${node.loop.elapsedMs.toFixed(2)} ms, ` +
        `with ${this.#inFlight()} requests under way; committed ${committed.join(', ')}, flushed ` +
        `${clients.map(client => client.flushedOp).join(', ')}`,
    );
    if (kind === 'power') this.#counts.powerLosses++;
    else this.#counts.crashes++;
    for (const client of clients) client.oracle.crashed();
    await node.boot();
    this.#tell(
      `recovered, row '${node.rows.at(-1)}': ${[...node.head.volumes()].map(volume => `${volume.name} at op ${volume.lastOp}`).join(', ')}`,
    );
    const deletions = node.finishDeletions();
    deletions.catch(error => {
      if (this.#trouble === 'none') this.problems.push(`a deletion fails: ${error}`);
    });
    if (this.#random.chance(50)) await node.loop.until(deletions);
    const promised = this.#promised(kind, wasStated);
    const contents: VolumeContent[] = [];
    for (const [i, client] of clients.entries()) {
      const volume = node.head.volume(client.volume.number);
      if (volume === undefined) {
        this.problems.push(`${client.volume.name} is gone`);
        return;
      }
      const leastBytes = { process: client.sizeAcked, power: client.sizeDurable, nothing: 0 }[promised];
      if (volume.sizeBytes < leastBytes) this.problems.push(`${volume.name} is smaller than was answered`);
      const least = { process: committed[i], power: client.flushedOp, nothing: 0 }[promised];
      if (volume.lastOp < least) this.problems.push(`${volume.name}: op ${volume.lastOp} after ${least}`);
      const content = await node.loop.until(readAll(volume, this.#damaging ? 'go on' : 'stop'));
      if (content.errno !== 0 && !this.#damaging) {
        this.problems.push(`${volume.name} cannot be read after the crash: ${content.errno}`);
      }
      contents.push(content);
    }
    const unreadable = contents.reduce((sum, content) => sum + content.unreadable.size, 0);
    this.#counts.unreadable += unreadable;
    if (unreadable > node.damagedPages) {
      this.problems.push(`${unreadable} blocks cannot be read, but only ${node.damagedPages} were damaged`);
    }
    if (this.problems.length > 0) return;
    const newest = Math.max(0, ...clients.map((client, i) => client.oracle.newestOf(contents[i].bytes)));
    for (const [i, client] of clients.entries()) {
      const { bytes, unreadable } = contents[i];
      const readable = (cell: number) => !unreadable.has(Math.floor((cell * client.oracle.cellBytes) / BLOCK_BYTES));
      for (const wrong of client.oracle.recovered(kind, bytes, newest, readable, promised)) {
        this.problems.push(`${client.volume.name} after the crash (${kind}): ${wrong}`);
      }
      const volume = node.head.volume(client.volume.number)!;
      const next = this.#newClient(volume, client.oracle);
      if (kind === 'process' || this.#damaging) {
        next.flushedOp = Math.min(client.flushedOp, volume.lastOp);
        next.sizeDurable = Math.min(client.sizeDurable, volume.sizeBytes);
      } else {
        next.flushedOp = volume.lastOp;
      }
      clients[i] = next;
    }
  }
}

function troubleOf(trouble: Trouble): SimTrouble {
  const often = { readPerMyriad: 50, writePerMyriad: 100, syncPerMyriad: 10 };
  const seldom = { readPerMyriad: 20, writePerMyriad: 20, syncPerMyriad: 50 };
  const never = { readPerMyriad: 0, writePerMyriad: 0, syncPerMyriad: 0 };
  switch (trouble) {
    case 'device':
      return { ...NO_TROUBLE, device: often };
    case 'log':
      return { ...NO_TROUBLE, log: seldom };
    case 'index':
      return { ...NO_TROUBLE, indexPerMyriad: 1000 };
    case 'rot':
      return { ...NO_TROUBLE, device: { ...never, rotPerMyriad: 300 } };
    case 'stray':
      return { ...NO_TROUBLE, device: { ...never, strayPerMyriad: 200 } };
    case 'thin':
      return { ...NO_TROUBLE, device: { ...never, isFull: true } };
    case 'segment':
      return { ...NO_TROUBLE, segmentPerMyriad: 6000 };
    case 'slow': {
      const slow = { ...never, slowPerMyriad: 200 };
      return { ...NO_TROUBLE, device: slow, log: slow };
    }
    case 'lame':
      return { ...NO_TROUBLE, lastDevice: { ...never, slowPerMyriad: 3000 } };
    case 'broken':
      return { ...NO_TROUBLE, lastDevice: { ...never, writePerMyriad: 1000, syncPerMyriad: 20 } };
    case 'forgetful': {
      const forgetful = { ...never, syncPerMyriad: 300, forgets: true };
      return { ...NO_TROUBLE, device: forgetful, log: forgetful };
    }
    case 'none':
    case 'space':
      return NO_TROUBLE;
    default:
      return assertNever(trouble);
  }
}
