/**
 * The rules of `Link` as tests. Every implementation is held to them: over sockets, TLS and pipes in memory, and simulated.
 *
 * The factory makes two links to each other that have not been started.
 */
import t from 'tap';
import { AssertionError } from '../../src/base/assert.ts';
import { linkMessageBytesMax } from '../../src/base/limits.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import type { Link } from '../../src/link/link.ts';
import { LinkSide } from '../support/link-side.ts';
import { randomFrom, testSeed } from './io-support.ts';

export interface LinksUnderTest {
  readonly near: Link;
  readonly far: Link;
  /** Lets things happen until the condition holds; false when it does not come to hold. */
  until(condition: () => boolean): Promise<boolean>;
  /** Lets things happen for long enough that what is under way has arrived. */
  settle(): Promise<void>;
  /** The connection is lost; both links connect again by themselves. */
  breakConnection(): void;
  cleanUp(): Promise<void>;
}

export type LinksFactory = () => Promise<LinksUnderTest>;

/** More than the queues of any implementation, and the buffers of the system beneath it, hold. */
const HELD_BYTES_MAX = 64 * MIB;

export function linkContract(name: string, make: LinksFactory): void {
  t.test(`${name} keeps the rules of a link`, async t => {
    async function unstarted() {
      const { near: nearLink, far: farLink, until, settle, breakConnection, cleanUp } = await make();
      const near = new LinkSide(nearLink);
      const far = new LinkSide(farLink);
      t.teardown(async () => {
        for (const side of [near, far]) if (!side.isClosed) side.close();
        await cleanUp();
      });
      /** To be the last line of each test. */
      const end = async () => {
        await settle();
        t.same([...near.violations, ...far.violations], [], 'no rule was broken on the way');
      };
      return { near, far, until, settle, breakConnection, end };
    }

    async function connected() {
      const all = await unstarted();
      const { near, far, until } = all;
      near.start();
      far.start();
      t.ok(await until(() => near.isConnected && far.isConnected), 'they connect');
      return all;
    }

    /** Sends until the queue is full and stays so; says how many were accepted. */
    async function fill({ near, settle }: Awaited<ReturnType<typeof connected>>, message: Uint8Array): Promise<number> {
      let accepted = 0;
      // What the system beneath can take goes there first, in its own time.
      for (let quietRounds = 0; quietRounds < 3; quietRounds++) {
        while (accepted * message.length < HELD_BYTES_MAX && near.send(message) === 'accepted') {
          new DataView(message.buffer).setUint32(0, ++accepted);
          quietRounds = 0;
        }
        await settle();
      }
      return accepted;
    }

    t.test('both sides connect once, and nothing is accepted before', async t => {
      const { near, far, until, end } = await unstarted();
      near.start();
      t.equal(near.send(bytesOf('early')), 'disconnected');
      far.start();
      t.ok(await until(() => near.isConnected && far.isConnected));
      await end();
      t.same([near.connects, far.connects], [1, 1]);
      t.same([near.reasons, far.reasons, far.messages], [[], [], []]);
    });

    t.test('messages of all lengths arrive whole and in order, in both directions', async t => {
      const seed = testSeed();
      t.comment(`seed ${seed}`);
      const random = randomFrom(seed);
      const { near, far, until, end } = await connected();
      const lengths = [1, 2, 19, 20, 21, 4095, 4096, 64 * KIB, linkMessageBytesMax];
      for (let i = 0; i < 60; i++) lengths.push(1 + random(12 * KIB));
      const messages = lengths.map(length => Uint8Array.from({ length }, () => random(256)));
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        for (const message of messages) t.equal(from.send(message), 'accepted');
        t.ok(await until(() => to.messages.length === messages.length), 'all arrive');
        t.ok(
          to.messages.every((message, i) => Buffer.compare(message, messages[i]) === 0),
          `unchanged, seed ${seed}`,
        );
      }
      await end();
    });

    t.test('a message is sent as it was at the call', async t => {
      const { near, far, until, end } = await connected();
      const message = bytesOf('first');
      near.send(message);
      message.set(bytesOf('other'));
      near.send(message);
      t.ok(await until(() => far.messages.length === 2));
      t.same(far.messages.map(textOf), ['first', 'other']);
      await end();
    });

    t.test('messages are answered from within, and when connected', async t => {
      const { near, far, until, end } = await unstarted();
      far.onConnected = () => void far.send(bytesOf('hello'));
      near.onMessage = message => {
        if (near.messages.length < 10) near.send(bytesOf(`${textOf(message)}!`));
      };
      far.onMessage = message => void far.send(message);
      near.start();
      far.start();
      t.ok(await until(() => near.messages.length === 10));
      t.equal(textOf(near.messages[9]), 'hello!!!!!!!!!');
      await end();
    });

    t.test('a message of no length or too much of it is a bug of the sender', async t => {
      const { near, far, end } = await connected();
      t.throws(() => near.send(new Uint8Array(0)), AssertionError);
      t.throws(() => near.send(new Uint8Array(linkMessageBytesMax + 1)), AssertionError);
      await end();
      t.same(far.messages, []);
    });

    t.test('a paused side hears nothing, and all of it in order afterwards', async t => {
      const { near, far, until, settle, end } = await connected();
      far.onMessage = () => {
        if (far.messages.length % 3 === 0) far.pause();
      };
      for (let i = 0; i < 10; i++) near.send(Uint8Array.of(i));
      for (const count of [3, 6, 9]) {
        t.ok(await until(() => far.messages.length === count));
        await settle();
        t.equal(far.messages.length, count, 'a pause from within takes effect at once');
        far.resume();
      }
      t.ok(await until(() => far.messages.length === 10));
      t.same(
        far.messages.map(message => message[0]),
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
      );
      await end();
    });

    t.test('a paused side still sends', async t => {
      const { near, far, until, end } = await connected();
      far.pause();
      far.send(bytesOf('from the paused'));
      t.ok(await until(() => near.messages.length === 1));
      far.resume();
      await end();
    });

    t.test('a receiver that takes nothing slows the sender down; with room again all goes on', async t => {
      const all = await connected();
      const { near, far, until, end } = all;
      far.pause();
      const message = new Uint8Array(200 * KIB);
      const accepted = await fill(all, message);
      t.equal(near.send(message), 'full');
      t.ok(accepted * message.length < HELD_BYTES_MAX, `${accepted} messages are held`);
      const roomsBefore = near.rooms;
      t.equal(far.messages.length, 0);
      t.equal(near.send(message), 'full', 'and stays so');
      far.resume();
      t.ok(await until(() => near.rooms === roomsBefore + 1));
      t.equal(near.send(new Uint8Array(linkMessageBytesMax).fill(7)), 'accepted', 'any length is accepted then');
      t.ok(await until(() => far.messages.length === accepted + 1), 'all that was accepted arrives');
      const numbers = far.messages.slice(0, -1).map(taken => new DataView(taken.buffer).getUint32(0));
      t.same(
        numbers,
        numbers.map((_, i) => i),
      );
      t.equal(far.messages.at(-1)?.length, linkMessageBytesMax);
      await end();
      t.equal(near.rooms, roomsBefore + 1, 'one call, however often it was full');
    });

    t.test('a lost connection is told to both sides, and made again', async t => {
      const { near, far, until, breakConnection, end } = await connected();
      for (let round = 1; round <= 3; round++) {
        near.onDisconnected = () => t.equal(near.send(bytesOf('lost')), 'disconnected');
        breakConnection();
        t.ok(await until(() => near.connects === round + 1 && far.connects === round + 1), 'they connect again');
        t.ok(near.reasons.length === round && far.reasons.length === round);
        near.send(bytesOf(`round ${round}`));
        t.ok(await until(() => far.messages.length === round));
      }
      t.same(far.messages.map(textOf), ['round 1', 'round 2', 'round 3']);
      await end();
    });

    t.test('what was full is empty after a new connection, and a pause outlives the old one', async t => {
      const all = await connected();
      const { near, far, until, settle, breakConnection, end } = all;
      far.pause();
      await fill(all, new Uint8Array(200 * KIB));
      breakConnection();
      t.ok(await until(() => near.connects === 2 && far.connects === 2));
      t.equal(near.send(new Uint8Array(linkMessageBytesMax)), 'accepted');
      await settle();
      t.same(far.messages, []);
      far.resume();
      t.ok(await until(() => far.messages.length > 0));
      t.equal(far.messages.at(-1)?.length, linkMessageBytesMax);
      await end();
    });

    t.test('close is told to the other side, and final', async t => {
      const { near, far, until, end } = await connected();
      near.send(bytesOf('perhaps'));
      near.close();
      t.ok(await until(() => far.reasons.length === 1));
      t.equal(far.send(bytesOf('x')), 'disconnected');
      await end();
      t.throws(() => near.link.send(bytesOf('x')), AssertionError);
      t.throws(() => near.link.close(), AssertionError);
    });

    t.test('close from within a message is final at once', async t => {
      const { near, far, until, end } = await connected();
      far.onMessage = () => far.close();
      for (let i = 0; i < 5; i++) near.send(Uint8Array.of(i));
      t.ok(await until(() => near.reasons.length === 1));
      await end();
      t.equal(far.messages.length, 1);
    });

    t.test('close from within connected and disconnected is final at once', async t => {
      const { near, far, until, breakConnection, end } = await connected();
      far.onDisconnected = () => far.close();
      breakConnection();
      t.ok(await until(() => far.isClosed && near.reasons.length >= 1));
      await end();
      const other = await unstarted();
      other.near.onConnected = () => other.near.close();
      other.near.start();
      other.far.start();
      t.ok(await other.until(() => other.near.isClosed));
      await other.end();
    });

    t.test('a link may be closed before it has ever connected', async t => {
      const { near, far, end } = await unstarted();
      near.start();
      near.close();
      await end();
      t.same([near.connects, far.connects], [0, 0]);
    });
  });
}

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
