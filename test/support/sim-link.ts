/**
 * A network in virtual time that joins nodes by simulated `Link`s. What goes wrong in it, by chance and by command:
 *
 * | fault | what happens | by |
 * |---|---|---|
 * | delay | each message takes its time; those of one connection stay in order | `delayMs` |
 * | stall | a message takes up to STALL_MS_MAX, and all behind it wait | `stallPerMyriad` |
 * | break | the connection is over, on the two sides at different times; what is under way is lost | `breakPerMyriad`, `break` |
 * | stray | what a connection left under way arrives during a later one, in any order | `strayPercent` |
 * | echo | what has arrived arrives once more during a later connection | `echoPercent` |
 * | partition | one way, or both, carries nothing: messages wait, the side that hears nothing gives up after `linkSilenceMs` | `cut`, `heal` |
 * | half a connection | one side connects, the other never hears of it | a `cut` in between |
 * | a node that dies | its links are closed: the others hear of it soon, or after a silence when it is cut off as well | `close` |
 *
 * Loss, repetition and reordering take place across connections only, as `Link` promises; never damage, never a message to
 * another node. Not simulated: a network that has limits of its own (each way carries any number of bytes at once).
 *
 * Invariants: everything happens in timers and completions of the loop, and chance comes from the one source: the same seed
 * gives the same story. After the faults have stopped the last stray is gone within STRAY_MS_MAX.
 */
import { assert } from '../../src/base/assert.ts';
import { linkBufferBytes, linkHelloTimeoutMs, linkMessageBytesMax, linkSilenceMs } from '../../src/base/limits.ts';
import type { DisconnectReason, Link, LinkHandler, SendResult } from '../../src/link/link.ts';
import type { SimLoop } from './sim-loop.ts';
import type { SimRandom } from './sim-random.ts';

export interface NetworkFaults {
  /** The least and the most that a message takes. */
  readonly delayMs: readonly [number, number];
  /** How often in ten thousand messages. */
  readonly stallPerMyriad: number;
  readonly breakPerMyriad: number;
  /** How many in a hundred. */
  readonly strayPercent: number;
  readonly echoPercent: number;
}

export const CALM: NetworkFaults = {
  delayMs: [0.1, 0.5],
  stallPerMyriad: 0,
  breakPerMyriad: 0,
  strayPercent: 0,
  echoPercent: 0,
};

const STALL_MS_MAX = 4000;
const STRAY_MS_MAX = 3000;
/** The two sides hear of a break at most so long after it. */
const BREAK_MS_MAX = 800;
const RETRY_MS_MAX = 1000;

interface NetworkOptions {
  /** Of each connection, each way. */
  readonly queueBytes?: number;
  readonly tell?: (line: string) => void;
}

interface Message {
  readonly bytes: Uint8Array;
  hasArrived: boolean;
}

/** One direction of one connection. */
interface Way {
  readonly messages: Message[];
  bytes: number;
  lastDueMs: number;
  roomWanted: boolean;
}

interface Connection {
  readonly number: number;
  /** By the node that sends. */
  readonly ways: ReadonlyMap<string, Way>;
  isBroken: boolean;
}

export class SimNetwork {
  faults: NetworkFaults = CALM;
  /** What took place, to see that it did. */
  readonly counts = { connections: 0, halfConnections: 0, strays: 0, breaks: 0, silences: 0, fulls: 0, lost: 0 };
  readonly loop: SimLoop;
  readonly random: SimRandom;
  readonly queueBytes: number;
  readonly #tell: (line: string) => void;
  readonly #links = new Map<string, SimLink>();
  /** Of each pair the node that dials: the one whose link was made first. */
  readonly #dialers = new Map<string, string>();
  readonly #attempts = new Set<string>();
  /** When each way was cut. */
  readonly #cuts = new Map<string, object>();

  constructor(loop: SimLoop, random: SimRandom, options: NetworkOptions = {}) {
    this.loop = loop;
    this.random = random;
    this.queueBytes = options.queueBytes ?? linkBufferBytes;
    this.#tell = options.tell ?? (() => {});
  }

  /** The link of node `near` to node `far`; a new one after the old was closed. */
  link(near: string, far: string): SimLink {
    assert(!this.#links.has(way(near, far)), 'there is one link from a node to another');
    const link = new SimLink(this, near, far);
    this.#links.set(way(near, far), link);
    const pair = pairOf(near, far);
    if (!this.#dialers.has(pair)) this.#dialers.set(pair, near);
    return link;
  }

  /** Nothing gets from the one node to the other. */
  cut(from: string, to: string): void {
    if (this.isCut(from, to)) return;
    const cut = {};
    this.#cuts.set(way(from, to), cut);
    this.tell(`${way(from, to)} is cut`);
    this.#listen(from, to, cut);
  }

  heal(from: string, to: string): void {
    if (!this.#cuts.delete(way(from, to))) return;
    this.tell(`${way(from, to)} is healed`);
    const link = this.#links.get(way(to, from));
    if (link !== undefined) this.loop.post(() => link.pump());
  }

  isCut(from: string, to: string): boolean {
    return this.#cuts.has(way(from, to));
  }

  /** The connection of the two nodes breaks, if there is one. */
  break(near: string, far: string): void {
    const connection = this.#links.get(way(near, far))?.connection ?? this.#links.get(way(far, near))?.connection;
    if (connection === undefined) return;
    this.counts.breaks++;
    connection.isBroken = true;
    this.tell(`connection ${connection.number} breaks`);
    for (const key of [way(near, far), way(far, near)]) {
      const link = this.#links.get(key);
      this.loop.after(this.random.between(0, BREAK_MS_MAX), () => link?.lose(connection, 'failed'));
    }
  }

  /** Accepted on the connections that there are, and not heard yet. */
  get waitingBytes(): number {
    let sum = 0;
    for (const { connection, near } of this.#links.values()) sum += connection?.ways.get(near)?.bytes ?? 0;
    return sum;
  }

  // --- called by links -------------------------------------------------------------------------------------------------

  tell(line: string): void {
    this.#tell(`${this.loop.elapsedMs.toFixed(2)} ${line}`);
  }

  delayMs(): number {
    const { delayMs, stallPerMyriad } = this.faults;
    if (this.random.below(10_000) < stallPerMyriad) return this.random.between(100, STALL_MS_MAX);
    const [least, most] = delayMs;
    return least + ((most - least) * this.random.below(1000)) / 1000;
  }

  /** The link has no connection, and wants one. */
  connectSoon(link: SimLink): void {
    const pair = pairOf(link.near, link.far);
    if (this.#attempts.has(pair)) return;
    this.#attempts.add(pair);
    this.loop.after(this.random.between(1, RETRY_MS_MAX), () => {
      this.#attempts.delete(pair);
      this.#dial(this.#dialers.get(pair)!, pair);
    });
  }

  /** One side has left the connection: the other hears of it, or of nothing any more. */
  left(link: SimLink, connection: Connection): void {
    const other = this.#links.get(way(link.far, link.near));
    this.loop.after(this.delayMs(), () => {
      if (!this.isCut(link.near, link.far)) other?.lose(connection, 'ended');
      else this.loop.after(linkSilenceMs, () => other?.lose(connection, 'silent'));
    });
  }

  forget(link: SimLink): void {
    this.#links.delete(way(link.near, link.far));
  }

  /** A message of an earlier connection turns up, if the node has a later one by then. */
  stray(link: SimLink, bytes: Uint8Array, number: number): void {
    this.loop.after(this.random.between(1, STRAY_MS_MAX), () => {
      this.loop.post(() => this.#links.get(way(link.near, link.far))?.strayArrived(bytes, number));
    });
  }

  pumpOther(link: SimLink): void {
    this.#links.get(way(link.far, link.near))?.pump();
  }

  /** Room for the sender of what `link` has just received. */
  roomAgain(link: SimLink, connection: Connection): void {
    const sender = this.#links.get(way(link.far, link.near));
    this.loop.post(() => sender?.roomIsThere(connection));
  }

  // --- connecting ------------------------------------------------------------------------------------------------------

  #dial(dialer: string, pair: string): void {
    const [one, two] = pair.split('|') as [string, string];
    const other = dialer === one ? two : one;
    const near = this.#links.get(way(dialer, other));
    const far = this.#links.get(way(other, dialer));
    // Whoever is missing asks for a connection when it is started.
    if (near === undefined || far === undefined || !near.isStarted || !far.isStarted) return;
    if (near.connection !== undefined) return;
    if (this.isCut(dialer, other) || this.isCut(other, dialer)) {
      this.connectSoon(near);
      return;
    }
    const ways = new Map([dialer, other].map(node => [node, emptyWay()]));
    const connection: Connection = { number: ++this.counts.connections, ways, isBroken: false };
    this.#attempts.add(pair);
    this.loop.after(this.delayMs(), () => {
      const isHere = !this.isCut(dialer, other) && !far.isClosed;
      if (isHere) far.open(connection);
      this.loop.after(this.delayMs(), () => {
        this.#attempts.delete(pair);
        if (isHere && !connection.isBroken && !this.isCut(other, dialer) && !near.isClosed) {
          near.open(connection);
          // The other side may have left it in the meantime: then this is heard of now.
          if (far.connection !== connection) this.left(far, connection);
          return;
        }
        if (isHere) this.counts.halfConnections++;
        // The side that dialed waits for an answer until it gives up, and then the other one hears of that.
        this.loop.after(linkHelloTimeoutMs, () => far.lose(connection, 'ended'));
        // It may be another link by now.
        const again = this.#links.get(way(dialer, other));
        if (again?.isStarted) this.connectSoon(again);
      });
    });
  }

  /** The side that hears nothing gives up, when it still hears nothing by then. */
  #listen(from: string, to: string, cut: object): void {
    this.loop.after(linkSilenceMs, () => {
      if (this.#cuts.get(way(from, to)) !== cut) return;
      const link = this.#links.get(way(to, from));
      if (link?.connection !== undefined && !link.isPaused) link.lose(link.connection, 'silent');
      // One that is paused does not listen.
      else this.#listen(from, to, cut);
    });
  }
}

export class SimLink implements Link {
  readonly near: string;
  readonly far: string;
  readonly #network: SimNetwork;
  #handler: LinkHandler | undefined;
  connection: Connection | undefined;
  isPaused = false;
  isClosed = false;

  constructor(network: SimNetwork, near: string, far: string) {
    this.#network = network;
    this.near = near;
    this.far = far;
  }

  get isStarted(): boolean {
    return this.#handler !== undefined && !this.isClosed;
  }

  start(handler: LinkHandler): void {
    assert(this.#handler === undefined && !this.isClosed, 'a link is started once');
    this.#handler = handler;
    this.#network.connectSoon(this);
  }

  send(message: Uint8Array): SendResult {
    assert(!this.isClosed, 'the link is not closed');
    assert(message.length >= 1 && message.length <= linkMessageBytesMax, 'a message has a length within its limits');
    const { connection } = this;
    if (connection === undefined) return 'disconnected';
    const { loop, random, faults, counts, queueBytes } = this.#network;
    const out = connection.ways.get(this.near)!;
    if (out.bytes > 0 && out.bytes + message.length > queueBytes) {
      out.roomWanted = true;
      counts.fulls++;
      return 'full';
    }
    const sent: Message = { bytes: message.slice(), hasArrived: false };
    out.messages.push(sent);
    out.bytes += message.length;
    out.lastDueMs = Math.max(out.lastDueMs, loop.nowMs() + this.#network.delayMs());
    loop.after(out.lastDueMs - loop.nowMs(), () => {
      sent.hasArrived = true;
      loop.post(() => this.#network.pumpOther(this));
    });
    if (random.below(10_000) < faults.breakPerMyriad) this.#network.break(this.near, this.far);
    return 'accepted';
  }

  pause(): void {
    assert(!this.isClosed, 'the link is not closed');
    this.isPaused = true;
  }

  resume(): void {
    assert(!this.isClosed, 'the link is not closed');
    this.isPaused = false;
    this.#network.loop.post(() => this.pump());
  }

  close(): void {
    assert(!this.isClosed, 'a link is closed once');
    this.isClosed = true;
    this.#network.forget(this);
    const { connection } = this;
    this.connection = undefined;
    if (connection !== undefined) this.#network.left(this, connection);
  }

  // --- called by the network -------------------------------------------------------------------------------------------

  open(connection: Connection): void {
    if (this.connection !== undefined) this.lose(this.connection, 'replaced');
    if (this.isClosed) return;
    this.connection = connection;
    this.#network.tell(`${this.near} connects to ${this.far}: connection ${connection.number}`);
    this.#handler!.connected();
    this.#network.loop.post(() => this.pump());
  }

  lose(connection: Connection, reason: DisconnectReason): void {
    if (this.connection !== connection) return;
    this.connection = undefined;
    const { faults, random, counts } = this.#network;
    this.#network.tell(`${this.near} loses connection ${connection.number}: ${reason}`);
    if (reason === 'silent') counts.silences++;
    for (const { bytes } of connection.ways.get(this.far)!.messages.splice(0)) {
      if (random.chance(faults.strayPercent)) this.#network.stray(this, bytes, connection.number);
      else counts.lost++;
    }
    if (reason === 'silent') this.#network.left(this, connection);
    if (reason !== 'replaced') this.#network.connectSoon(this);
    this.#handler!.disconnected(reason);
  }

  /** Hands over the next message, if it has arrived and can be. */
  pump(): void {
    const { connection } = this;
    if (connection === undefined || this.isPaused || this.#network.isCut(this.far, this.near)) return;
    const incoming = connection.ways.get(this.far)!;
    if (incoming.messages[0]?.hasArrived !== true) return;
    const { bytes } = incoming.messages.shift()!;
    incoming.bytes -= bytes.length;
    if (incoming.bytes === 0 && incoming.roomWanted) this.#network.roomAgain(this, connection);
    const { faults, random } = this.#network;
    if (random.chance(faults.echoPercent)) this.#network.stray(this, bytes, connection.number);
    this.#network.loop.post(() => this.pump());
    this.#deliver(bytes, '');
  }

  strayArrived(bytes: Uint8Array, number: number): void {
    if (this.connection === undefined || this.connection.number <= number) return;
    if (this.isPaused || this.#network.isCut(this.far, this.near)) return;
    this.#network.counts.strays++;
    this.#deliver(bytes, `, a stray of connection ${number}`);
  }

  roomIsThere(connection: Connection): void {
    if (this.connection !== connection) return;
    const out = connection.ways.get(this.near)!;
    if (!out.roomWanted || out.bytes > 0) return;
    out.roomWanted = false;
    this.#handler!.roomAgain();
  }

  #deliver(bytes: Uint8Array, note: string): void {
    this.#network.tell(`${this.near} hears ${bytes.length} bytes of ${this.far}${note}`);
    this.#handler!.messageArrived(bytes);
  }
}

function emptyWay(): Way {
  return { messages: [], bytes: 0, lastDueMs: 0, roomWanted: false };
}

function way(from: string, to: string): string {
  return `${from}>${to}`;
}

function pairOf(one: string, other: string): string {
  return one < other ? `${one}|${other}` : `${other}|${one}`;
}
