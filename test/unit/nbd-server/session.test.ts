/**
 * The transmission phase: ordering, back-pressure, memory, and the ways in which a connection ends.
 * Ids of the checklist: B7 X1 X2 X3 X4 X13 X17 X18 X19 E2 E3, and of our own:
 * MEM-n: memory and back-pressure; END-n: the end of a connection; SPLIT-n: how bytes arrive; HOLE-n: runs of zeroes.
 */
import t from 'tap';
import { EIO, ENOSPC } from '../../../src/base/errno.ts';
import { nbdInlineBytesMax, nbdReplyBytes, nbdRequestsInFlightMax } from '../../../src/base/limits.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';
import { MemoryVolume } from '../../support/memory-volume.ts';
import { Harness, pattern, type Reply, randomSource, sameBytes } from './harness.ts';

const MODES = [
  { name: 'simple', wishes: {} },
  { name: 'structured', wishes: { structuredReplies: true, blockStatus: true } },
  { name: 'extended', wishes: { extendedHeaders: true, blockStatus: true } },
] as const;

for (const { name, wishes } of MODES) {
  t.test(`B7: with ${name} replies, what was written is read, at any size and alignment`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    const sizes = [1, 511, 4096, 5000, nbdInlineBytesMax - 1, nbdInlineBytesMax, nbdInlineBytesMax + 1, 1 * MIB + 7];
    for (const [index, size] of sizes.entries()) {
      const offset = index * 2 * MIB + index * 3;
      const data = pattern(size, index);
      t.equal(client.write(offset, data).error, 0);
      t.ok(sameBytes(harness.volume.peek(offset, size), data), `${size} bytes arrive in the volume`);
      t.ok(sameBytes(client.read(offset, size).data, data), `${size} bytes come back`);
    }
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X1: with ${name} replies, cookies of any value come back unchanged`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const cookie of [
      [0, 0],
      [0xffffffff, 0xffffffff],
      [0x80000000, 0],
      [1, 2],
    ] as const) {
      const good = client.write(0, pattern(10), { cookie });
      t.same([good.cookieHigh, good.cookieLow, good.error], [...cookie, 0]);
      const read = client.read(0, 10, { cookie });
      t.same([read.cookieHigh, read.cookieLow, read.error], [...cookie, 0]);
      const bad = client.read(2 ** 40, 10, { cookie });
      t.same([bad.cookieHigh, bad.cookieLow, bad.error], [...cookie, nbd.NBD_EINVAL]);
    }
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X1: with ${name} replies, two requests with the same cookie get two replies`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    harness.volume.deferred = true;
    client.request(nbd.CMD_READ, 0, 100, { cookie: [7, 7] });
    client.request(nbd.CMD_READ, 4096, 100, { cookie: [7, 7] });
    harness.loop.run();
    harness.volume.completeAll();
    t.same(
      client.replies().map(reply => [reply.cookieHigh, reply.cookieLow, reply.error]),
      [
        [7, 7, 0],
        [7, 7, 0],
      ],
    );
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X3: with ${name} replies, requests complete in any order and their data is not mixed up`, async t => {
    const seed = 11;
    t.comment(`seed ${seed}`);
    const random = randomSource(seed);
    const harness = new Harness();
    const client = harness.enter(wishes);
    const all = pattern(4 * MIB, 5);
    harness.volume.poke(0, all);
    harness.volume.deferred = true;
    const asked = new Map<number, [number, number]>();
    for (let cookie = 1; cookie <= 100; cookie += 1) {
      const length = 1 + Math.floor(random() * 100 * KIB);
      const offset = Math.floor(random() * (all.length - length));
      asked.set(cookie, [offset, length]);
      client.request(nbd.CMD_READ, offset, length, { cookie: [0, cookie] });
    }
    const replies: Reply[] = [];
    for (let rounds = 0; asked.size > replies.length && rounds < 10_000; rounds += 1) {
      harness.loop.run();
      const count = Math.min(harness.volume.waiting.length, 1 + Math.floor(random() * 5));
      for (let index = 0; index < count; index += 1) {
        harness.volume.completeNext(Math.floor(random() * harness.volume.waiting.length));
      }
      replies.push(...client.replies());
    }
    t.equal(replies.length, 100);
    for (const reply of replies) {
      const [offset, length] = asked.get(reply.cookieLow)!;
      t.ok(sameBytes(reply.data, all.subarray(offset, offset + length)), `read ${reply.cookieLow}`);
    }
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`SPLIT-1: with ${name} replies, bytes may arrive one at a time`, async t => {
    const harness = new Harness();
    const client = harness.connect();
    client.stream.pieceBytes = () => 1;
    client.handshake(wishes);
    const data = pattern(600);
    t.equal(client.write(5, data).error, 0);
    t.ok(sameBytes(client.read(5, 600).data, data));
    const large = pattern(nbdInlineBytesMax + 100, 9);
    t.equal(client.write(MIB, large).error, 0);
    t.ok(sameBytes(harness.volume.peek(MIB, large.length), large));
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`SPLIT-2: with ${name} replies, all requests in one segment, then in random pieces`, async t => {
    const seed = 4;
    t.comment(`seed ${seed}`);
    const random = randomSource(seed);
    for (const pieces of [() => Number.MAX_SAFE_INTEGER, () => 1 + Math.floor(random() * 5000)]) {
      const harness = new Harness();
      const client = harness.enter(wishes);
      client.stream.pieceBytes = pieces;
      const parts: Uint8Array[] = [];
      const written: [number, Uint8Array][] = [];
      for (let index = 0; index < 300; index += 1) {
        const data = pattern(1 + Math.floor(random() * 60 * KIB), index);
        written.push([index * 64 * KIB, data]);
        parts.push(client.encode(nbd.CMD_WRITE, index * 64 * KIB, data.length, { payload: data }));
        if (index % 7 === 0) parts.push(client.encode(nbd.CMD_FLUSH, 0, 0));
      }
      client.stream.write(Buffer.concat(parts));
      const replies = client.replies();
      t.equal(replies.length, 300 + 43);
      t.ok(replies.every(reply => reply.error === 0));
      for (const [offset, data] of written) t.ok(sameBytes(harness.volume.peek(offset, data.length), data));
      client.leave();
      t.same(harness.leaks(), []);
    }
  });

  t.test(`X13: with ${name} replies, a refused write is consumed and the next request is answered`, async t => {
    const harness = new Harness({ volumes: [new MemoryVolume({ sizeBytes: 100 * MIB })] });
    const client = harness.enter(wishes);
    for (const length of [1, 4096, nbdInlineBytesMax, 300 * KIB, 32 * MIB]) {
      const refused = client.write(100 * MIB - length + 1, new Uint8Array(length));
      t.equal(refused.error, nbd.NBD_ENOSPC, `${length} bytes beyond the end`);
      t.equal(client.read(0, 512).error, 0, 'still in step');
    }
    t.equal(client.write(0, new Uint8Array(32 * MIB + 4096)).error, nbd.NBD_EINVAL, 'above the maximum');
    t.equal(client.read(0, 512).error, 0, 'still in step');
    t.equal(client.write(0, pattern(100), { flags: 1 << 14 }).error, nbd.NBD_EINVAL, 'unknown flag');
    t.equal(client.read(0, 512).error, 0, 'still in step');
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X13: with ${name} replies, a payload of absurd length ends the connection without taking memory`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    client.request(nbd.CMD_WRITE, 0, 0xffffffff);
    harness.loop.run();
    t.ok(client.stream.closed);
    t.same(harness.leaks(), []);
  });

  t.test(`READ-1: with ${name} replies, a READ of 64 MiB is refused and the connection lives`, async t => {
    const harness = new Harness({ volumes: [new MemoryVolume({ sizeBytes: 128 * MIB })] });
    const client = harness.enter(wishes);
    t.equal(client.read(0, 64 * MIB).error, nbd.NBD_EINVAL);
    t.equal(client.read(0, 0xffffffff).error, nbd.NBD_EINVAL);
    t.equal(client.read(0, 32 * MIB).data.length, 32 * MIB, 'the maximum works');
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X14: with ${name} replies, requests of length 0 are answered`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const command of [nbd.CMD_READ, nbd.CMD_WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES, nbd.CMD_CACHE]) {
      t.equal(client.command(command, 4096, 0).error, 0, `command ${command}`);
    }
    t.equal(client.command(nbd.CMD_BLOCK_STATUS, 0, 0).error, nbd.NBD_EINVAL);
    t.equal(harness.volume.submitted, 0, 'the volume never sees them');
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`END-1: with ${name} replies, a volume's error is reported and the connection lives`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const [command, number] of [
      ['read', 0],
      ['write', 1],
      ['flush', 3],
      ['trim', 4],
      ['cache', 5],
      ['writeZeroes', 6],
    ] as const) {
      harness.volume.failWith.set(command, command === 'write' ? ENOSPC : EIO);
      const length = command === 'flush' ? 0 : 100 * KIB;
      const payload = command === 'write' ? { payload: new Uint8Array(length) } : {};
      client.request(number, 0, length, payload);
      const reply = client.reply();
      t.equal(reply.error, command === 'write' ? nbd.NBD_ENOSPC : nbd.NBD_EIO, command);
      if (name !== 'simple') t.match(reply.text, /^the volume reported/);
    }
    client.leave();
    t.same(harness.leaks(), []);
  });
}

t.test('X2: READ errors are chunks under structured replies, and simple ones otherwise', async t => {
  for (const [wishes, kind] of [
    [{}, 'simple'],
    [{ structuredReplies: true }, 'structured'],
    [{ extendedHeaders: true }, 'extended'],
  ] as const) {
    const harness = new Harness();
    const client = harness.enter(wishes);
    const reply = client.read(2 ** 45, 1);
    t.same([reply.kind, reply.error], [kind, nbd.NBD_EINVAL]);
    client.leave();
    t.same(harness.leaks(), []);
  }
});

t.test('X4: a wrong request magic ends the connection, with nothing more sent', async t => {
  const harness = new Harness();
  const client = harness.enter();
  client.stream.write(new Uint8Array([1, 2, 3, 4]));
  t.equal(client.bytes().length, 0);
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
});

t.test('E2: with extended headers a compact request is a violation, and the other way round', async t => {
  for (const extended of [false, true]) {
    const harness = new Harness();
    const client = harness.enter({ extendedHeaders: extended });
    const bytes = new Uint8Array(32);
    nbd.encodeRequest(new DataView(bytes.buffer), 0, !extended, 0, nbd.CMD_READ, 0, 1, 0, 10);
    client.stream.write(bytes);
    harness.loop.run();
    t.ok(client.stream.closed);
    t.same(harness.leaks(), []);
  }
});

t.test('E2: extended replies echo the request offset, even one that is no safe integer', async t => {
  const harness = new Harness();
  const client = harness.enter({ extendedHeaders: true });
  const bytes = client.encode(nbd.CMD_TRIM, 0, 1);
  new DataView(bytes.buffer).setBigUint64(16, 0xfedcba9876543210n);
  client.stream.write(bytes);
  const reply = client.bytes();
  t.equal(new DataView(reply.buffer).getBigUint64(16), 0xfedcba9876543210n);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('E3: PAYLOAD_LEN on a command without payload: consumed, EINVAL, in step', async t => {
  const harness = new Harness();
  const client = harness.enter({ extendedHeaders: true, blockStatus: true });
  const commands = [nbd.CMD_READ, nbd.CMD_FLUSH, nbd.CMD_TRIM, nbd.CMD_BLOCK_STATUS, nbd.CMD_DISC, 99];
  for (const command of commands) {
    const payload = new Uint8Array(70_000);
    client.request(command, 0, payload.length, { payload, flags: nbd.CMD_FLAG_PAYLOAD_LEN });
    t.equal(client.reply().error, nbd.NBD_EINVAL, `command ${command}`);
  }
  t.equal(client.command(nbd.CMD_FLUSH, 0, 0).error, 0);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('E3: lengths of 64 bits pass where no payload travels', async t => {
  const harness = new Harness({ volumes: [new MemoryVolume({ sizeBytes: 2 ** 43 })] });
  const client = harness.enter({ extendedHeaders: true, blockStatus: true });
  t.equal(client.command(nbd.CMD_WRITE_ZEROES, 0, 2 ** 42).error, 0);
  t.equal(client.command(nbd.CMD_TRIM, 2 ** 42, 2 ** 42).error, 0);
  t.same(client.command(nbd.CMD_BLOCK_STATUS, 0, 2 ** 43).extents, [{ lengthBytes: 2 ** 43, flags: 3 }]);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('MEM-1: no more requests are in flight than the limit; the rest waits in the socket', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true });
  harness.volume.deferred = true;
  for (let index = 0; index < 2 * nbdRequestsInFlightMax + 5; index += 1) client.request(nbd.CMD_FLUSH, 0, 0);
  harness.loop.run();
  t.equal(harness.volume.waiting.length, nbdRequestsInFlightMax);
  const receives = client.stream.receiveCount;
  harness.loop.run();
  t.equal(client.stream.receiveCount, receives, 'nothing is received meanwhile');
  while (harness.volume.waiting.length > 0) {
    harness.volume.completeAll();
    harness.loop.run();
  }
  t.equal(client.replies().length, 2 * nbdRequestsInFlightMax + 5);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test(
  'MEM-6: small writes that wait take no more memory than the limit, and each connection has one at least',
  async t => {
    const harness = new Harness({ limits: { smallWriteBytes: 64 * KIB } });
    const clients = [harness.enter(), harness.enter(), harness.enter()];
    harness.volume.deferred = true;
    for (const client of clients) {
      for (let index = 0; index < 20; index += 1) {
        client.request(nbd.CMD_WRITE, index * 8192, 8192, { payload: pattern(8192) });
        harness.loop.run();
      }
    }
    t.equal(harness.volume.waiting.length, 8 + 1 + 1);
    completeEverything(harness);
    for (const client of clients) t.equal(client.replies().length, 20);
    for (const client of clients) client.leave();
    t.same(harness.leaks(), []);
  },
);

for (const encrypted of [true, false]) {
  const how = encrypted ? 'under TLS' : 'in clear';
  t.test(`MEM-2: replies that wait for the socket are bounded, and all arrive when it moves again, ${how}`, async t => {
    const harness = new Harness();
    const client = harness.connect(encrypted);
    client.handshake({ structuredReplies: true });
    const data = pattern(64 * MIB, 3);
    harness.volume.poke(0, data);
    client.stream.hold(true);
    const count = 400;
    for (let index = 0; index < count; index += 1) client.request(nbd.CMD_READ, index * 16 * KIB, 16 * KIB);
    harness.loop.run();
    // One buffer on its way, one full behind it. In clear the first has left with two replies (MEM-6).
    t.ok(harness.volume.submitted * 16 * KIB <= 2 * nbdReplyBytes, `${harness.volume.submitted} were admitted`);
    if (encrypted) t.ok(harness.volume.submitted * 16 * KIB > 1.8 * nbdReplyBytes, 'both buffers are used');
    else t.ok((harness.volume.submitted - 2) * 16 * KIB > 0.9 * nbdReplyBytes, 'the buffer behind it is used');
    client.stream.hold(false);
    const replies = client.replies();
    t.equal(replies.length, count);
    for (const [index, reply] of replies.entries()) {
      t.ok(sameBytes(reply.data, data.subarray(index * 16 * KIB, (index + 1) * 16 * KIB)));
    }
    client.leave();
    t.same(harness.leaks(), []);
  });
}

t.test('MEM-3: when the payload pool is empty, clients wait their turn and nobody overtakes', async t => {
  const harness = new Harness({ limits: { payloadPoolBytes: 8 * MIB } });
  const [first, second, third] = [harness.enter(), harness.enter(), harness.enter()];
  harness.volume.deferred = true;
  // 1 MiB and its head room take a block of 2 MiB: with two of them a volume has as much as is left.
  for (let index = 0; index < 3; index += 1) first.request(nbd.CMD_READ, index * MIB, MIB);
  harness.loop.run();
  second.request(nbd.CMD_READ, 0, MIB);
  harness.loop.run();
  third.request(nbd.CMD_READ, 0, 40 * KIB);
  harness.loop.run();
  t.equal(harness.volume.waiting.length, 2);
  t.equal(harness.server.statistics().payloadPoolWaiters, 3);
  harness.volume.completeNext();
  harness.loop.run();
  t.equal(harness.volume.waiting.length, 2, 'the first client goes on');
  t.equal(harness.volume.waiting[1].offsetBytes, 2 * MIB);
  for (let round = 0; round < 10; round += 1) {
    harness.volume.completeAll();
    harness.loop.run();
  }
  t.equal(first.replies().length, 3);
  t.equal(second.replies().length, 1);
  t.equal(third.replies().length, 1);
  for (const client of [first, second, third]) client.leave();
  t.same(harness.leaks(), []);
});

t.test('MEM-5: a client that is lost while it waits for the pool gives its place up', async t => {
  const harness = new Harness({ limits: { payloadPoolBytes: 1 * MIB } });
  const [lost, other] = [harness.enter(), harness.enter()];
  harness.volume.deferred = true;
  lost.request(nbd.CMD_READ, 0, 10);
  lost.request(nbd.CMD_READ, 0, 600 * KIB);
  lost.request(nbd.CMD_READ, 0, 600 * KIB);
  harness.loop.run();
  lost.stream.hold(true);
  harness.volume.completeNext();
  harness.loop.run();
  other.request(nbd.CMD_READ, 0, 600 * KIB);
  harness.loop.run();
  t.equal(harness.server.statistics().payloadPoolWaiters, 2);
  lost.stream.reset();
  harness.loop.run();
  t.equal(harness.server.statistics().payloadPoolWaiters, 1);
  harness.volume.completeAll();
  harness.loop.run();
  harness.volume.completeAll();
  t.equal(other.replies().length, 1);
  other.leave();
  t.same(harness.leaks(), []);
});

t.test('MEM-4: replies of one turn leave in one send (but see MEM-6), a large read in one with its header', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true });
  harness.volume.poke(0, pattern(MIB));
  client.bytes();
  const before = client.stream.sendCount;
  const parts: Uint8Array[] = [];
  for (let index = 0; index < 20; index += 1) {
    parts.push(client.encode(nbd.CMD_WRITE, index * 4096, 4096, { payload: pattern(4096, index) }));
  }
  client.stream.write(Buffer.concat(parts));
  t.equal(client.replies().length, 20);
  t.equal(client.stream.sendCount - before, 1);
  t.equal(client.read(0, 64 * KIB).data.length, 64 * KIB);
  t.equal(client.stream.sendCount - before, 2);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('MEM-6: half of the reads leave before the turn ends, for the client to go on', async t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  for (let index = 0; index < 8; index += 1) client.request(nbd.CMD_READ, index * 4096, 4096);
  harness.loop.run();
  const before = client.stream.sendCount;
  const sends = () => client.stream.sendCount - before;
  harness.loop.post(() => {
    for (let count = 0; count < 3; count++) harness.volume.completeNext();
    t.same([sends(), harness.loop.hurries], [0, 0], 'more are under way than answered');
    harness.volume.completeNext();
    t.same([sends(), harness.loop.hurries], [1, 1]);
    harness.volume.completeAll();
    t.same([sends(), harness.loop.hurries], [1, 1], 'the rest waits for the end of the turn');
  });
  t.equal(client.replies().length, 8);
  t.equal(sends(), 2);
  client.request(nbd.CMD_READ, 0, 4096);
  harness.loop.run();
  harness.loop.post(() => harness.volume.completeNext());
  t.equal(client.replies().length, 1);
  t.same([sends(), harness.loop.hurries], [3, 1], 'a single one is not worth a call of its own');
  client.leave();
  t.same(harness.leaks(), []);
});

t.test(
  'MEM-6: writes that were committed together leave at once, in one send, under TLS at the end of the turn',
  async t => {
    for (const encrypted of [false, true]) {
      const harness = new Harness();
      const client = harness.connect(encrypted);
      client.handshake();
      harness.volume.deferred = true;
      for (let index = 0; index < 8; index += 1) {
        client.request(nbd.CMD_WRITE, index * 4096, 4096, { payload: pattern(4096, index) });
      }
      harness.loop.run();
      const before = client.stream.sendCount;
      const requests = [...harness.volume.waiting];
      harness.loop.post(() => {
        harness.volume.completeAll();
        t.equal(client.stream.sendCount, before);
        for (const request of requests) request.hurryReply();
        t.equal(client.stream.sendCount - before, encrypted ? 0 : 1);
      });
      t.equal(client.replies().length, 8);
      t.equal(client.stream.sendCount - before, 1);
      client.leave();
      t.same(harness.leaks(), []);
    }
  },
);

t.test('MEM-6: a reply is not hurried onto a connection that was lost in the same turn', async t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  for (const offset of [0, 4096]) client.request(nbd.CMD_WRITE, offset, 4096, { payload: pattern(4096) });
  harness.loop.run();
  const requests = [...harness.volume.waiting];
  const before = client.stream.sendCount;
  harness.loop.post(() => harness.volume.completeNext());
  client.stream.reset();
  harness.loop.post(() => {
    harness.volume.completeNext();
    for (const request of requests) request.hurryReply();
  });
  harness.loop.run();
  t.equal(client.stream.sendCount, before);
  t.same(harness.leaks(), []);
});

t.test('MEM-4, MEM-6: under TLS replies to reads leave in one send, too', async t => {
  const harness = new Harness();
  const client = harness.connect(true);
  client.handshake({ structuredReplies: true });
  harness.volume.poke(0, pattern(MIB));
  const before = client.stream.sendCount;
  const parts = Array.from({ length: 20 }, (_, index) => client.encode(nbd.CMD_READ, index * 4096, 4096));
  client.stream.write(Buffer.concat(parts));
  t.equal(client.replies().length, 20);
  t.same([client.stream.sendCount - before, harness.loop.hurries], [1, 0]);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('MEM-6: with several connections at work replies wait for the end of the turn', async t => {
  const harness = new Harness();
  const clients = [harness.enter(), harness.enter()];
  harness.volume.deferred = true;
  const sendsOfRound = () => {
    for (const client of clients) {
      for (let index = 0; index < 8; index += 1) client.request(nbd.CMD_READ, index * 4096, 4096);
    }
    harness.loop.run();
    const before = clients.map(client => client.stream.sendCount);
    harness.loop.post(() => harness.volume.completeAll());
    for (const client of clients) t.equal(client.replies().length, 8);
    return clients.map((client, index) => client.stream.sendCount - before[index]);
  };
  t.same(sendsOfRound(), [1, 1]);
  clients.pop()!.leave();
  t.same(sendsOfRound(), [1], 'the other was at work just now');
  harness.loop.advance(30);
  t.same(sendsOfRound(), [2]);
  clients.pop()!.leave();
  t.same(harness.leaks(), []);
});

t.test('HOLE-1: runs of zeroes travel as holes, short ones as data, and the whole is right', async t => {
  for (const wishes of [{ structuredReplies: true }, { extendedHeaders: true }]) {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const block of [1, 4, 5, 9, 40, 41, 200]) harness.volume.poke(block * 4096, pattern(4096, block));
    for (const [offset, length] of [
      [0, 4096],
      [0, 12 * 4096],
      [0, 8 * 4096],
      [100, 5 * 4096],
      [4096 + 50, 7 * 4096],
      [4096, 4096],
      [0, 300 * 4096],
      [3 * 4096, 250 * 4096 + 13],
      [10, 20],
      [42 * 4096, 100 * 4096],
    ]) {
      const reply = client.read(offset, length);
      t.ok(sameBytes(reply.data, harness.volume.peek(offset, length)), `${offset}+${length}`);
    }
    t.same(client.read(0, 4096).holes, [[0, 4096]]);
    t.same(client.read(0, 3 * 4096).holes, [
      [0, 4096],
      [8192, 4096],
    ]);
    t.equal(client.read(0, 300 * 4096).holes.length, 6);
    const whole = client.read(0, 300 * 4096, { flags: nbd.CMD_FLAG_DF });
    t.same([whole.dataChunks, whole.holes.length], [1, 0], 'DF: one content chunk');
    client.leave();
    t.same(harness.leaks(), []);
  }
});

t.test('HOLE-2: more holes than are kept are sent as zeroes', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true });
  for (let block = 0; block < 400; block += 2) harness.volume.poke(block * 4096, pattern(4096, block));
  const reply = client.read(0, 400 * 4096);
  t.ok(sameBytes(reply.data, harness.volume.peek(0, 400 * 4096)));
  t.equal(reply.holes.length, 64);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('X18: DISC lets what is in flight finish, answers it, then closes', async t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  client.request(nbd.CMD_WRITE, 0, 5, { payload: pattern(5) });
  client.request(nbd.CMD_READ, 0, 200 * KIB);
  client.request(nbd.CMD_DISC, 0, 0);
  client.request(nbd.CMD_FLUSH, 0, 0);
  harness.loop.run();
  t.equal(harness.volume.waiting.length, 2, 'what follows DISC is not served');
  t.notOk(client.stream.shutDown);
  harness.volume.completeAll();
  t.equal(client.replies().length, 2);
  t.ok(client.stream.shutDown, 'our half is shut down');
  t.notOk(client.stream.closed);
  client.stream.end();
  harness.loop.run();
  t.ok(client.stream.closed, 'closed with the client');
  t.same(harness.leaks(), []);
});

t.test('END-2: a client that does not close after DISC is closed upon after a second', async t => {
  const harness = new Harness();
  const client = harness.enter();
  client.request(nbd.CMD_DISC, 0, 0);
  harness.loop.run();
  t.notOk(client.stream.closed);
  harness.loop.advance(1001);
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
});

t.test('END-3: the end of the stream without DISC answers what is in flight', async t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  client.request(nbd.CMD_READ, 0, 10);
  client.stream.end();
  harness.loop.run();
  harness.volume.completeAll();
  t.equal(client.replies().length, 1);
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
});

/** Completes what is in flight, and what is then taken of the input. */
function completeEverything({ volume, loop }: Harness): void {
  do {
    volume.completeAll();
    loop.run();
  } while (volume.waiting.length > 0);
}

t.test('nothing is sent on a connection that was ended by what was read once a request in flight had completed', t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  for (let count = 0; count <= nbdRequestsInFlightMax; count += 1) client.request(nbd.CMD_TRIM, 0, 4096);
  client.stream.write(new Uint8Array(28).fill(0x55));
  harness.loop.run();
  t.equal(harness.volume.waiting.length, nbdRequestsInFlightMax);
  harness.volume.completeAll();
  harness.loop.run();
  t.ok(client.stream.closed);
  harness.volume.completeAll();
  t.same(harness.leaks(), []);
  t.end();
});

for (const hungUp of [true, false]) {
  t.test(`what waited for long is ${hungUp ? 'not ' : ''}carried out ${hungUp ? 'after a hang-up' : 'else'}`, t => {
    const harness = new Harness();
    const client = harness.enter();
    harness.volume.deferred = true;
    for (let count = 0; count < nbdRequestsInFlightMax; count += 1) client.request(nbd.CMD_TRIM, 0, 4096);
    client.request(nbd.CMD_WRITE, 0, 5, { payload: pattern(5) });
    // More than the session's buffer takes: what is behind lies in the socket.
    for (let count = 0; count < 80; count += 1) client.request(nbd.CMD_WRITE, 0, 4096, { payload: pattern(4096) });
    harness.loop.run();
    t.ok(client.stream.unreadByServer > 0);
    harness.loop.advance(1000);
    t.equal(harness.volume.submitted, nbdRequestsInFlightMax);
    if (hungUp) client.stream.end();
    completeEverything(harness);
    t.equal(harness.volume.submitted, nbdRequestsInFlightMax + (hungUp ? 0 : 81));
    t.equal(client.stream.closed, hungUp);
    client.leave();
    t.same(harness.leaks(), []);
    t.end();
  });
}

t.test('what still lay in the socket when the waiting was over is not carried out after a hang-up either', t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  client.stream.pieceBytes = () => 28;
  for (let count = 0; count <= nbdRequestsInFlightMax + 5; count += 1) client.request(nbd.CMD_TRIM, 0, 4096);
  harness.loop.run();
  harness.loop.advance(1000);
  t.equal(harness.volume.submitted, nbdRequestsInFlightMax);
  harness.volume.completeNext(0);
  harness.loop.run();
  t.equal(harness.volume.submitted, nbdRequestsInFlightMax + 1, 'the waiting is over for one');
  client.stream.end();
  completeEverything(harness);
  t.equal(harness.volume.submitted, nbdRequestsInFlightMax + 1);
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
  t.end();
});

t.test('a client that ends its half is answered as before once nothing waits any more', t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  for (let count = 0; count <= nbdRequestsInFlightMax; count += 1) client.request(nbd.CMD_TRIM, 0, 4096);
  harness.loop.advance(1000);
  completeEverything(harness);
  client.replies();
  harness.loop.advance(1000);
  client.request(nbd.CMD_FLUSH, 0, 0);
  client.stream.end();
  harness.loop.run();
  harness.volume.completeAll();
  t.equal(client.replies().length, 1);
  t.same(harness.leaks(), []);
  t.end();
});

t.test('X19: a write whose payload breaks off never reaches the volume', async t => {
  for (const length of [1000, 500 * KIB]) {
    for (const breakOff of ['end', 'reset'] as const) {
      const harness = new Harness();
      const client = harness.enter();
      const bytes = client.encode(nbd.CMD_WRITE, 0, length, { payload: pattern(length) });
      client.stream.write(bytes.subarray(0, bytes.length - 1));
      harness.loop.run();
      client.stream[breakOff]();
      harness.loop.run();
      t.equal(harness.volume.submitted, 0);
      t.ok(client.stream.closed);
      t.same(harness.leaks(), []);
    }
  }
});

t.test('X19: a connection that vanishes takes nothing with it, and others do not notice', async t => {
  const harness = new Harness();
  const other = harness.enter();
  const client = harness.enter({ structuredReplies: true, blockStatus: true });
  harness.volume.deferred = true;
  client.request(nbd.CMD_READ, 0, 100);
  client.request(nbd.CMD_READ, 0, 100 * KIB);
  client.request(nbd.CMD_BLOCK_STATUS, 0, 100 * KIB);
  client.request(nbd.CMD_WRITE, 0, 100, { payload: pattern(100) });
  client.request(nbd.CMD_WRITE, 0, 100 * KIB, { payload: pattern(100 * KIB) });
  harness.loop.run();
  client.stream.reset();
  harness.loop.run();
  t.ok(client.stream.closed);
  t.equal(harness.server.statistics().connections.length, 2, 'it stays until the volume is done with it');
  harness.volume.completeAll();
  harness.loop.run();
  t.equal(harness.server.statistics().connections.length, 1);
  harness.volume.deferred = false;
  t.equal(other.read(0, 10).error, 0);
  other.leave();
  t.same(harness.leaks(), []);
});

t.test('X19: a connection breaks while large replies are being sent: their memory comes back', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true });
  harness.volume.poke(0, pattern(3 * MIB));
  client.stream.hold(true);
  for (let index = 0; index < 10; index += 1) client.request(nbd.CMD_READ, 0, 3 * MIB);
  harness.loop.run();
  client.stream.reset();
  t.same(harness.leaks(), []);
});

t.test('END-4: a client that takes no data for a minute is let go, one that takes some is not', async t => {
  const harness = new Harness();
  const [stuck, slow] = [harness.enter(), harness.enter()];
  for (const client of [stuck, slow]) {
    client.stream.hold(true);
    client.request(nbd.CMD_READ, 0, 10 * MIB);
  }
  harness.loop.run();
  for (let minute = 0; minute < 3; minute += 1) {
    harness.loop.advance(40_000);
    slow.stream.hold(false);
    harness.loop.turn();
    slow.stream.hold(true);
  }
  t.ok(stuck.stream.closed);
  t.notOk(slow.stream.closed);
  slow.stream.hold(false);
  t.equal(slow.replies().length, 1);
  slow.leave();
  t.same(harness.leaks(), []);
});

t.test('END-5: a payload that stops half-way is given up after a minute; an idle client is not', async t => {
  const harness = new Harness();
  const [stuck, idle] = [harness.enter(), harness.enter()];
  const bytes = stuck.encode(nbd.CMD_WRITE, 0, MIB, { payload: new Uint8Array(MIB) });
  stuck.stream.write(bytes.subarray(0, 500_000));
  harness.loop.run();
  harness.loop.advance(10 * 60_000);
  t.ok(stuck.stream.closed);
  t.notOk(idle.stream.closed);
  t.equal(idle.read(0, 1).error, 0);
  idle.leave();
  t.same(harness.leaks(), []);
});

t.test('END-8: a payload that trickles is given up, one that is merely slow is not', async t => {
  const harness = new Harness();
  const [trickle, slow] = [harness.enter(), harness.enter()];
  const bytes = trickle.encode(nbd.CMD_WRITE, 0, MIB, { payload: new Uint8Array(MIB) });
  let sent = 0;
  for (let at = 0; at < bytes.length; at += 70_000) {
    slow.stream.write(bytes.subarray(at, at + 70_000));
    if (!trickle.stream.closed) trickle.stream.write(bytes.subarray(sent, sent + 28));
    sent += 28;
    harness.loop.advance(50_000);
  }
  t.ok(trickle.stream.closed);
  t.equal(slow.replies().length, 1);
  slow.leave();
  t.same(harness.leaks(), []);
});

t.test('X17: draining twice is draining once', async t => {
  const harness = new Harness();
  const client = harness.enter();
  const drains = [harness.server.drain(), harness.server.drain()];
  harness.loop.run();
  client.stream.end();
  harness.loop.run();
  await Promise.all(drains);
  t.same(harness.leaks(), []);
});

t.test('X17: a draining server answers what is in flight, leaves what comes unanswered, then disconnects', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true });
  harness.volume.deferred = true;
  client.request(nbd.CMD_WRITE, 0, 5, { payload: pattern(5) });
  harness.loop.run();
  let drained = false;
  const drain = harness.server.drain().then(() => {
    drained = true;
  });
  harness.loop.run();
  client.request(nbd.CMD_READ, 0, 100);
  client.request(nbd.CMD_WRITE, 0, 50 * KIB, { payload: new Uint8Array(50 * KIB) });
  harness.loop.run();
  t.same(client.replies(), [], 'an error would be final, a client that comes again sends them again');
  t.equal(harness.volume.waiting.length, 1, 'and neither reaches the volume');
  t.notOk(client.stream.shutDown);
  harness.volume.completeAll();
  t.equal(client.reply().error, 0, 'the write from before is answered');
  t.ok(client.stream.shutDown);
  t.notOk(drained);
  client.stream.end();
  harness.loop.run();
  await drain;
  t.ok(client.stream.closed);
  const late = harness.connect();
  t.ok(late.stream.closed, 'later connections are refused');
  t.same(harness.leaks(), []);
});

t.test('X17: draining while a client waits for the pool gives its place up', async t => {
  const harness = new Harness({ limits: { payloadPoolBytes: MIB } });
  const client = harness.enter();
  harness.volume.deferred = true;
  client.request(nbd.CMD_READ, 0, 600 * KIB);
  client.request(nbd.CMD_READ, 0, 600 * KIB);
  client.request(nbd.CMD_READ, 0, 900 * KIB);
  harness.loop.run();
  t.equal(harness.volume.waiting.length, 1);
  const drain = harness.server.drain();
  harness.loop.run();
  harness.volume.completeAll();
  t.same(
    client
      .replies()
      .map(reply => reply.error)
      .sort(),
    [0],
  );
  client.stream.end();
  harness.loop.run();
  await drain;
  t.same(harness.leaks(), []);
});

t.test('END-6: connections above the limit are closed at once', async t => {
  const harness = new Harness({ limits: { connectionsMax: 2 } });
  const clients = [harness.enter(), harness.enter()];
  t.ok(harness.connect().stream.closed);
  clients[0].leave();
  const next = harness.enter();
  t.equal(next.read(0, 1).error, 0);
  next.leave();
  clients[1].leave();
  t.same(harness.leaks(), []);
  t.equal(harness.server.statistics().connectionsRefused, 1);
});

t.test('END-7: statistics count requests, bytes, errors and time', async t => {
  const harness = new Harness();
  const client = harness.enter();
  harness.volume.deferred = true;
  client.request(nbd.CMD_READ, 0, 1000);
  harness.loop.run();
  harness.loop.advance(5);
  harness.volume.completeAll();
  t.equal(client.replies().length, 1);
  harness.volume.deferred = false;
  client.read(2 ** 40, 5);
  client.command(77, 0, 0);
  const now = harness.server.statistics();
  const read = now.commands.find(each => each.command === 'read')!;
  t.same([read.answered, read.failed, read.bytes], [2, 1, 1000]);
  t.ok(read.latencyUs.p50 >= 4700 && read.latencyUs.p50 <= 5400, `${read.latencyUs.p50} µs`);
  t.equal(now.unknownCommands, 1);
  t.match(now.connections, [{ peer: 'memory', exportName: 'disk', phase: 'transmission' }]);
  client.leave();
  t.same(harness.leaks(), []);
});
