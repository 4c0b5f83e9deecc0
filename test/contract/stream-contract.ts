/**
 * The rules of `Stream` as tests. Every implementation is held to them: sockets on either ring, TLS, memory.
 *
 * The factory makes a connected pair; closing what is still open is the factory's `cleanUp`.
 */
import t from 'tap';
import type { MemoryPiece, Region, RegionSource } from '../../src/base/memory.ts';
import { type Stream, sendPiecesMax } from '../../src/base/stream.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import { io, randomFrom, sleep, testSeed } from './io-support.ts';

export interface StreamsUnderTest {
  readonly near: Stream;
  readonly far: Stream;
  readonly memory: RegionSource;
  /** Whether `far` knows that `near` has ended before it has received all that came earlier. */
  readonly knowsEndsAhead: boolean;
  cleanUp(): Promise<void>;
}

export type StreamsFactory = () => Promise<StreamsUnderTest>;

export function streamContract(name: string, make: StreamsFactory): void {
  t.test(`${name} keeps the rules of a stream`, async t => {
    /** A pair, each with its own buffer; `closed` tells the clean-up what the test has closed itself. */
    async function fresh() {
      const { near, far, memory, knowsEndsAhead, cleanUp } = await make();
      const closed = new Set<Stream>();
      t.teardown(async () => {
        for (const stream of [near, far]) if (!closed.has(stream)) stream.close();
        await cleanUp();
      });
      const close = (stream: Stream) => {
        closed.add(stream);
        stream.close();
      };
      return {
        near,
        far,
        memory,
        knowsEndsAhead,
        close,
        here: memory.allocate(64 * KIB),
        there: memory.allocate(64 * KIB),
      };
    }

    t.test('what is sent arrives, in both directions', async t => {
      const { near, far, here, there } = await fresh();
      put(here, 'ping');
      t.equal(await io(request => near.send(here, 0, 4, request)), 4);
      t.equal(await receiveExactly(far, there, 4), 'ping');
      put(there, 'pong!');
      t.equal(await io(request => far.send(there, 0, 5, request)), 5);
      t.equal(await receiveExactly(near, here, 5), 'pong!');
    });

    t.test('a receive completes with what is there, and not before there is something', async t => {
      const { near, far, here, there } = await fresh();
      let completed = false;
      const received = io(request => far.receive(there, 100, 50 * KIB, request)).then(result => {
        completed = true;
        return result;
      });
      await sleep(20);
      t.notOk(completed);
      put(here, 'abc');
      await io(request => near.send(here, 0, 3, request));
      const count = await received;
      t.ok(count >= 1 && count <= 3);
      t.equal(there.bytes[100], 'a'.charCodeAt(0));
      t.equal(there.bytes[99], 0);
    });

    t.test('a receive takes no more than it asked for', async t => {
      const { near, far, here, there } = await fresh();
      put(here, 'abcdef');
      await io(request => near.send(here, 0, 6, request));
      t.equal(await io(request => far.receive(there, 0, 1, request)), 1);
      t.equal(there.bytes[1], 0);
      t.equal(await receiveExactly(far, there, 5), 'bcdef');
    });

    t.test('a send larger than any socket buffer completes as a whole while the reader is slow', async t => {
      const { near, far, memory, there } = await fresh();
      const bytes = 24 * MIB;
      const big = memory.allocate(bytes);
      const words = new Uint32Array(big.bytes.buffer);
      for (let index = 0; index < words.length; index++) words[index] = index * 2654435761;
      const sent = io(request => near.send(big, 0, bytes, request));
      await sleep(20);
      t.same(await receiveAgainst(far, there, big.bytes), { received: bytes, same: true });
      t.equal(await sent, bytes);
    });

    t.test('pieces of several regions arrive one behind another', async t => {
      const { near, far, memory, here, there } = await fresh();
      const other = memory.allocate(4 * KIB);
      put(here, 'abcdefgh');
      put(other, 'xyz');
      const pieces = [
        { region: here, offset: 4, length: 3 },
        { region: other, offset: 0, length: 1 },
        { region: here, offset: 0, length: 2 },
        { region: other, offset: 2, length: 1 },
      ];
      t.equal(await io(request => near.sendPieces(pieces, 3, request)), 6, 'as many of them as it says');
      t.equal(await receiveExactly(far, there, 6), 'efgxab');
      t.equal(await io(request => near.sendPieces(pieces.slice(1), 1, request)), 1);
      t.equal(await receiveExactly(far, there, 1), 'x');
      put(here, 'plain');
      t.equal(await io(request => near.send(here, 0, 5, request)), 5, 'and a send as before');
      t.equal(await receiveExactly(far, there, 5), 'plain');
    });

    t.test('as many pieces as there may be, larger than any socket buffer, while the reader is slow', async t => {
      const { near, far, memory, there } = await fresh();
      const seed = testSeed();
      t.comment(`seed ${seed}`);
      const random = randomFrom(seed);
      const big = memory.allocate(24 * MIB);
      const words = new Uint32Array(big.bytes.buffer);
      for (let index = 0; index < words.length; index++) words[index] = index * 2654435761;
      const pieces: MemoryPiece[] = [];
      for (let index = 0; index < sendPiecesMax; index++) {
        const length = 1 + random(200 * KIB);
        pieces.push({ region: big, offset: random(big.bytes.length - length), length });
      }
      const expected = Buffer.concat(pieces.map(({ offset, length }) => big.bytes.subarray(offset, offset + length)));
      const sent = io(request => near.sendPieces(pieces, pieces.length, request));
      await sleep(20);
      t.same(await receiveAgainst(far, there, expected), { received: expected.length, same: true });
      t.equal(await sent, expected.length);
    });

    t.test('close ends a send of pieces that waits for a reader that does not read', async t => {
      const { near, memory, close } = await fresh();
      const region = memory.allocate(64 * MIB);
      const pieces = Array.from({ length: 64 }, (_, index) => ({ region, offset: index * MIB, length: MIB }));
      const sent = io(request => near.sendPieces(pieces, pieces.length, request));
      await sleep(20);
      close(near);
      t.ok((await sent) < 0);
    });

    t.test('a send and a receive are under way at the same time', async t => {
      const { near, far, here, there } = await fresh();
      const received = io(request => near.receive(here, 0, 10, request));
      put(there, 'x');
      const sends = [io(request => near.send(here, 100, 1000, request)), io(request => far.send(there, 0, 1, request))];
      t.same(await Promise.all(sends), [1000, 1]);
      t.equal(await received, 1);
    });

    t.test('after shutdown the other side reads what was sent, then the end', async t => {
      const { near, far, here, there } = await fresh();
      put(here, 'bye');
      const sent = io(request => near.send(here, 0, 3, request));
      near.shutdown();
      t.equal(await receiveExactly(far, there, 3), 'bye');
      t.equal(await sent, 3);
      t.equal(await io(request => far.receive(there, 0, 10, request)), 0);
    });

    for (const way of ['shutdown', 'close'] as const) {
      t.test(`that the peer has ended by ${way} is known before what it sent has been received`, async t => {
        const { near, far, knowsEndsAhead, here, there, close } = await fresh();
        put(here, 'bye');
        await io(request => near.send(here, 0, 3, request));
        t.notOk(far.peerHasEnded);
        if (way === 'shutdown') near.shutdown();
        else close(near);
        if (knowsEndsAhead) for (let round = 0; round < 200 && !far.peerHasEnded; round++) await sleep(5);
        if (knowsEndsAhead) t.ok(far.peerHasEnded);
        t.equal(await receiveExactly(far, there, 3), 'bye');
        t.equal(await io(request => far.receive(there, 0, 10, request)), 0);
        t.ok(far.peerHasEnded);
      });
    }

    t.test('after shutdown the other direction still works', async t => {
      const { near, far, here, there } = await fresh();
      near.shutdown();
      t.equal(await io(request => far.receive(there, 0, 10, request)), 0);
      put(there, 'still here');
      t.equal(await io(request => far.send(there, 0, 10, request)), 10);
      t.equal(await receiveExactly(near, here, 10), 'still here');
    });

    t.test('what was sent before close arrives', async t => {
      const { near, far, here, there, close } = await fresh();
      put(here, 'last words');
      t.equal(await io(request => near.send(here, 0, 10, request)), 10);
      close(near);
      t.equal(await receiveExactly(far, there, 10), 'last words');
      t.equal(await io(request => far.receive(there, 0, 10, request)), 0);
    });

    t.test('close ends a receive that is under way with an error', async t => {
      const { near, here, close } = await fresh();
      const received = io(request => near.receive(here, 0, 10, request));
      await sleep(5);
      close(near);
      t.ok((await received) < 0);
    });

    t.test('close ends a receive that was asked for in the same turn', async t => {
      const { near, here, close } = await fresh();
      const received = io(request => near.receive(here, 0, 10, request));
      close(near);
      t.ok((await received) < 0);
    });

    t.test('close ends a send that waits for a reader that does not read', async t => {
      const { near, memory, close } = await fresh();
      const big = memory.allocate(64 * MIB);
      const sent = io(request => near.send(big, 0, 64 * MIB, request));
      await sleep(20);
      close(near);
      t.ok((await sent) < 0);
    });

    t.test('a send to a side that has closed fails in the end', async t => {
      const { near, far, here, close } = await fresh();
      close(far);
      let result = 1;
      for (let attempt = 0; attempt < 200 && result > 0; attempt++) {
        result = await io(request => near.send(here, 0, 64 * KIB, request));
        if (result > 0) await sleep(1);
      }
      t.ok(result < 0, `ended with ${result}`);
    });

    t.test('a conversation of random lengths arrives as it was sent', async t => {
      const seed = testSeed();
      t.comment(`seed ${seed}`);
      const random = randomFrom(seed);
      const { near, far, here, there } = await fresh();
      for (let index = 0; index < here.bytes.length; index++) here.bytes[index] = random(256);
      for (let round = 0; round < 200; round++) {
        const offset = random(32 * KIB);
        const length = 1 + random(32 * KIB);
        const sent = io(request => near.send(here, offset, length, request));
        let at = 0;
        while (at < length) {
          const room = 1 + random(length - at);
          const count = await io(request => far.receive(there, at, room, request));
          if (count <= 0 || count > room) t.fail(`round ${round}: received ${count} of ${room} (seed ${seed})`);
          at += count;
        }
        await sent;
        const same =
          Buffer.compare(there.bytes.subarray(0, length), here.bytes.subarray(offset, offset + length)) === 0;
        if (!same) t.fail(`round ${round}: ${length} bytes differ (seed ${seed})`);
      }
    });
  });
}

function put(region: Region, text: string): void {
  region.bytes.set(new TextEncoder().encode(text));
}

/** Receives as much as is expected, less at the end of the stream, and says whether it is the same. */
async function receiveAgainst(stream: Stream, region: Region, expected: Uint8Array) {
  let received = 0;
  let same = true;
  while (received < expected.length) {
    const count = await io(request => stream.receive(region, 0, 64 * KIB, request));
    if (count <= 0) break;
    same &&= Buffer.compare(region.bytes.subarray(0, count), expected.subarray(received, received + count)) === 0;
    received += count;
  }
  return { received, same };
}

/** `length` bytes as text, in as many receives as it takes; less at the end of the stream. */
async function receiveExactly(stream: Stream, region: Region, length: number): Promise<string> {
  let at = 0;
  while (at < length) {
    const count = await io(request => stream.receive(region, at, length - at, request));
    if (count <= 0) break;
    at += count;
  }
  return new TextDecoder().decode(region.bytes.slice(0, at));
}
