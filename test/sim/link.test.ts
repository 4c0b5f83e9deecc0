/**
 * A small protocol over a network in trouble (`test/support/sim-link.ts` says which): each node sends numbered texts to
 * the other and keeps a few on the road, acknowledges what it has, and sends again what a lost connection may have lost.
 * It uses no timer, as `Link` promises. While there are faults, nothing arrives that was not sent, or twice, or changed; when
 * they have stopped, everything arrives and every queue is empty.
 *
 * SLEDGE_TEST_SEED=n gives the first seed, SLEDGE_TEST_RUNS how many.
 */
import t from 'tap';
import type { Link } from '../../src/link/link.ts';
import { LinkSide } from '../support/link-side.ts';
import { CALM, type NetworkFaults, SimNetwork } from '../support/sim-link.ts';
import { SimLoop } from '../support/sim-loop.ts';
import { SimRandom, seedOfRun } from '../support/sim-random.ts';

const FIRST_SEED = seedOfRun();
const RUNS = Number(process.env['SLEDGE_TEST_RUNS'] ?? 24);
/** More than get through while there are faults. */
const TEXTS = 600;
const WINDOW = 8;
const QUEUE_BYTES = 600;
const NODES = ['a', 'b', 'c'] as const;
/** Of virtual time: with faults, and after them. */
const TROUBLE_MS = 30_000;
const CALM_MS = 30_000;

const TROUBLE: NetworkFaults = {
  delayMs: [0.1, 30],
  stallPerMyriad: 100,
  breakPerMyriad: 100,
  strayPercent: 50,
  echoPercent: 10,
};

t.setTimeout(175_000);

/** What goes on the road: `data N TEXT` and `have N`, all texts up to N are here. */
const bytesOf = (text: string) => new TextEncoder().encode(text);
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** One end: it outlives its links, as a node's disk outlives its process. */
class Transfer {
  readonly texts: readonly string[];
  readonly taken: string[] = [];
  side!: LinkSide;
  /** Of our texts: how many the other has, and how many are on the road or there. */
  acknowledged = 0;
  #next = 0;
  #haveWanted = false;
  repeated = 0;

  constructor(texts: readonly string[]) {
    this.texts = texts;
  }

  get isDone(): boolean {
    return this.acknowledged === this.texts.length;
  }

  takeLink(link: Link): void {
    this.side = new LinkSide(link);
    this.side.onConnected = () => {
      this.repeated += this.#next - this.acknowledged;
      this.#next = this.acknowledged;
      this.#go();
    };
    this.side.onMessage = message => this.#arrived(textOf(message));
    this.side.onRoom = () => this.#go();
    this.side.start();
  }

  #arrived(message: string): void {
    const [, kind, number, text] = /^(\w+) (\d+) ?(.*)$/.exec(message)!;
    if (kind === 'have') {
      this.acknowledged = Math.max(this.acknowledged, Number(number));
      // What an earlier connection brought there need not go again.
      this.#next = Math.max(this.#next, this.acknowledged);
    } else {
      if (Number(number) === this.taken.length) this.taken.push(text);
      this.#haveWanted = true;
    }
    this.#go();
  }

  #go(): void {
    if (this.#haveWanted && this.side.send(bytesOf(`have ${this.taken.length}`)) === 'accepted')
      this.#haveWanted = false;
    while (this.#next < Math.min(this.texts.length, this.acknowledged + WINDOW)) {
      if (this.side.send(bytesOf(`data ${this.#next} ${this.texts[this.#next]}`)) !== 'accepted') return;
      this.#next++;
    }
  }
}

class Run {
  readonly lines: string[] = [];
  readonly transfers = new Map<string, Transfer>();
  readonly network: SimNetwork;
  /** Texts that had not got through when the faults stopped. */
  leftOver = 0;
  readonly #loop: SimLoop;
  readonly #random: SimRandom;
  readonly #violations: string[] = [];

  constructor(seed: number) {
    this.#random = new SimRandom(seed);
    this.#loop = new SimLoop(this.#random);
    const tell = (line: string) => void this.lines.push(line);
    this.network = new SimNetwork(this.#loop, this.#random, { queueBytes: QUEUE_BYTES, tell });
    for (const [near, far] of this.#pairs()) {
      const texts = Array.from({ length: TEXTS }, (_, i) => `${near}${far}${i}${'.'.repeat(this.#random.below(150))}`);
      this.transfers.set(near + far, new Transfer(texts));
    }
  }

  /** What is wrong at the end; the seed decides all of it. */
  async problems(): Promise<string[]> {
    const { network } = this;
    for (const [near, far] of this.#pairs()) this.transfers.get(near + far)!.takeLink(network.link(near, far));
    network.faults = TROUBLE;
    await this.#pass(TROUBLE_MS, () => this.#trouble());
    this.leftOver = [...this.transfers.values()].reduce((sum, { acknowledged }) => sum + TEXTS - acknowledged, 0);
    network.faults = CALM;
    for (const [near, far] of this.#pairs()) {
      network.heal(near, far);
      const { side } = this.transfers.get(near + far)!;
      side.resume();
    }
    await this.#pass(CALM_MS, () => {});
    return [...this.#violations, ...this.#unfinished()];
  }

  #pairs(): (readonly [string, string])[] {
    return NODES.flatMap(near => NODES.filter(far => far !== near).map(far => [near, far] as const));
  }

  async #pass(milliseconds: number, everyFewTurns: () => void): Promise<void> {
    const endMs = this.#loop.elapsedMs + milliseconds;
    let nextMs = 0;
    while (this.#loop.elapsedMs < endMs) {
      if (this.#loop.elapsedMs >= nextMs) {
        nextMs = this.#loop.elapsedMs + 200;
        everyFewTurns();
      }
      if (!(await this.#loop.turn()) && !this.#loop.passTime()) break;
      this.#look();
    }
  }

  /** Now and then somebody pulls a plug, stops taking messages, or dies and is started again. */
  #trouble(): void {
    const { network } = this;
    const random = this.#random;
    const [near, far] = random.oneOf(this.#pairs());
    const transfer = this.transfers.get(near + far)!;
    if (random.chance(10)) network.cut(near, far);
    if (random.chance(5)) for (const ways of [[near, far] as const, [far, near] as const]) network.cut(...ways);
    if (random.chance(20)) for (const ways of this.#pairs()) if (random.chance(30)) network.heal(...ways);
    if (random.chance(10)) transfer.side.pause();
    if (random.chance(50)) for (const { side } of this.transfers.values()) side.resume();
    if (random.chance(4)) {
      this.lines.push(`${near} forgets its link to ${far}`);
      this.#violations.push(...transfer.side.violations);
      transfer.side.close();
      transfer.takeLink(network.link(near, far));
    }
  }

  /** Safety: at every moment what has arrived is a beginning of what was sent. */
  #look(): void {
    for (const [near, far] of this.#pairs()) {
      const { taken } = this.transfers.get(far + near)!;
      const { texts, acknowledged } = this.transfers.get(near + far)!;
      const last = taken.length - 1;
      if (last >= 0 && taken[last] !== texts[last])
        this.#violations.push(`${far} took ${taken[last]} as number ${last}`);
      if (acknowledged > taken.length) this.#violations.push(`${near} believes that ${far} has ${acknowledged}`);
    }
  }

  #unfinished(): string[] {
    const problems: string[] = [];
    for (const [name, transfer] of this.transfers) {
      const [near, far] = name;
      problems.push(...transfer.side.violations.map(rule => `${name}: ${rule}`));
      if (!transfer.isDone) problems.push(`${name}: ${transfer.acknowledged} of ${TEXTS} arrived`);
      const { taken } = this.transfers.get(`${far}${near}`)!;
      if (!taken.every((text, i) => text === transfer.texts[i])) problems.push(`${name}: other texts arrived`);
    }
    if (this.network.waitingBytes !== 0) problems.push(`${this.network.waitingBytes} bytes are still on the road`);
    return problems;
  }
}

t.test(`${RUNS} runs of a transfer over a network in trouble`, { timeout: 0 }, async t => {
  const sums: Record<string, number> = { repeated: 0, leftOver: 0 };
  for (let i = 0; i < RUNS; i++) {
    const run = new Run(FIRST_SEED + i);
    const problems = await run.problems();
    if (problems.length > 0) {
      t.fail(`SLEDGE_TEST_SEED=${FIRST_SEED + i} SLEDGE_TEST_RUNS=1\n  ${problems.slice(0, 5).join('\n  ')}`);
    }
    for (const [what, count] of Object.entries(run.network.counts)) sums[what] = (sums[what] ?? 0) + count;
    sums['leftOver'] += run.leftOver;
    for (const { repeated } of run.transfers.values()) sums['repeated'] += repeated;
  }
  t.comment(`seed ${FIRST_SEED}: ${JSON.stringify(sums)}`);
  // A single run need not have met everything.
  if (RUNS < 12) return;
  for (const [what, count] of Object.entries(sums)) t.ok(count > 0, `${what} took place: ${count}`);
});

t.test('what is sent on a connection arrives on it in order and once, and else only on a later one', async t => {
  t.comment(`seed ${FIRST_SEED}`);
  const random = new SimRandom(FIRST_SEED);
  const loop = new SimLoop(random);
  const network = new SimNetwork(loop, random);
  const [near, far] = [network.link('a', 'b'), network.link('b', 'a')];
  const [sender, receiver] = [new LinkSide(near), new LinkSide(far)];
  network.faults = { ...TROUBLE, breakPerMyriad: 20, strayPercent: 100, echoPercent: 30 };
  let [next, inOrder, strays] = [0, 0, 0];
  const send = () => void sender.send(bytesOf(`${near.connection!.number} ${next++}`));
  const wanted = new Map<number, number>();
  sender.onConnected = () => {
    next = 0;
    for (let i = 0; i < 5; i++) send();
  };
  receiver.onMessage = message => {
    const [connection, number] = textOf(message).split(' ').map(Number);
    const current = far.connection!.number;
    if (connection === current) {
      const expected = wanted.get(current) ?? 0;
      if (number !== expected) t.fail(`connection ${current}: ${number} instead of ${expected}`);
      wanted.set(current, expected + 1);
      inOrder++;
    } else {
      if (connection > current) t.fail(`connection ${current}: a message of connection ${connection}`);
      strays++;
    }
    receiver.send(message);
  };
  sender.onMessage = () => {
    if (next < 400) send();
  };
  sender.start();
  receiver.start();
  while (loop.elapsedMs < 60_000) {
    if (!(await loop.turn()) && !loop.passTime()) break;
    if (sender.isConnected && random.chance(1)) network.break('a', 'b');
  }
  t.same([...sender.violations, ...receiver.violations], []);
  t.ok(inOrder > 500 && strays > 100, `${inOrder} in order, ${strays} strays`);
});

t.test('a seed tells the same story each time, another one a different story', async t => {
  t.comment(`seed ${FIRST_SEED}`);
  const story = async (seed: number) => {
    const run = new Run(seed);
    const problems = await run.problems();
    return [...run.lines, ...problems].join('\n');
  };
  const first = await story(FIRST_SEED);
  const other = await story(FIRST_SEED + 1);
  t.equal(await story(FIRST_SEED), first);
  t.not(other, first);
  t.match(first, /a stray of connection/);
});
