/** One connection, the far end of it in the test's hands: the hello and who is refused, time limits, damage, gathering. */
import t from 'tap';
import { linkBufferBytes, linkGreetingsMax, linkHeartbeatMs, linkSilenceMs } from '../../../src/base/limits.ts';
import { plainRegion } from '../../../src/base/memory.ts';
import { FRAME_HEADER_BYTES, FrameKind, HELLO_BYTES, type LinkIdentity, putHello } from '../../../src/link/frame.ts';
import { LinkAcceptor } from '../../../src/link/link-acceptor.ts';
import { ACCEPTOR, DIALER, frameOf, plainChecksums, SILENT_LOG } from '../../support/link-rig.ts';
import { LinkSide } from '../../support/link-side.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { MemoryStream } from '../../support/memory-stream.ts';

const FRAMES = Object.fromEntries(Object.entries(FrameKind).map(([name, kind]) => [kind, name]));

function helloOf(identity: LinkIdentity): Uint8Array {
  const payload = new Uint8Array(HELLO_BYTES);
  putHello(payload, 0, identity);
  return frameOf(FrameKind.hello, payload);
}

const messageOf = (...bytes: number[]) => frameOf(FrameKind.message, Uint8Array.from(bytes));

/** Kinds of the frames that were sent, each with its payload's first byte, or only its kind when it has none. */
function kindsOf(bytes: Uint8Array): string[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kinds: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    const payload = view.getUint32(at + 8, true);
    const first = payload > 0 ? ` ${bytes[at + FRAME_HEADER_BYTES]}` : '';
    kinds.push(`${FRAMES[bytes[at + 5]]}${first}`);
    at += FRAME_HEADER_BYTES + payload;
  }
  return kinds;
}

/** An acceptor that has a link to DIALER, and connections to it. */
function setUp() {
  const loop = new MemoryLoop();
  const allocated: number[] = [];
  const regions = {
    allocate(bytes: number) {
      allocated.push(bytes);
      return plainRegion(bytes);
    },
  };
  const warnings: string[] = [];
  const log = { ...SILENT_LOG, warn: (fields: object) => void warnings.push(JSON.stringify(fields)) };
  const ports = { turns: loop, clock: loop, regions, checksums: plainChecksums, log };
  const acceptor = new LinkAcceptor(ports, ACCEPTOR);
  const side = new LinkSide(acceptor.linkTo(DIALER.node));
  side.start();
  const connect = (...parts: Uint8Array[]): MemoryStream => {
    const stream = new MemoryStream(loop);
    stream.write(...parts);
    acceptor.accept(stream);
    loop.run();
    return stream;
  };
  const connected = (): MemoryStream => {
    const stream = connect(helloOf(DIALER));
    stream.read();
    return stream;
  };
  return { loop, acceptor, side, connect, connected, allocated, warnings };
}

t.test('a hello is answered with one, and the link is connected', t => {
  const { connect, side } = setUp();
  const stream = connect(helloOf(DIALER));
  t.same(stream.read(), helloOf(ACCEPTOR));
  t.equal(side.connects, 1);
  t.same(side.violations, []);
  t.end();
});

t.test('messages right behind the hello arrive, in pieces of one byte as well', t => {
  for (const pieceBytes of [1, 7, 1000]) {
    const { loop, side, acceptor } = setUp();
    const stream = new MemoryStream(loop);
    stream.pieceBytes = () => pieceBytes;
    stream.write(helloOf(DIALER), messageOf(1, 2, 3), frameOf(FrameKind.heartbeat, new Uint8Array(0)), messageOf(4));
    acceptor.accept(stream);
    loop.run();
    t.same(side.messages, [Uint8Array.of(1, 2, 3), Uint8Array.of(4)], `pieces of ${pieceBytes}`);
  }
  t.end();
});

t.test('who is refused is told why, and then disconnected', t => {
  const foreign = helloOf(DIALER);
  foreign[4] = 2;
  const stranger = { ...DIALER, node: '3'.repeat(32) };
  const elsewhere = { ...DIALER, cluster: 'd'.repeat(32) };
  const cases: [string, Uint8Array, string][] = [
    ['refusal 1', foreign, 'foreign-version'],
    ['refusal 2', helloOf(elsewhere), 'foreign-cluster'],
    ['refusal 3', helloOf(stranger), 'foreign-node'],
    ['refusal 3', helloOf(ACCEPTOR), 'foreign-node'],
  ];
  for (const [sent, hello, reason] of cases) {
    const { connect, side, warnings } = setUp();
    const stream = connect(hello);
    t.same(kindsOf(stream.read()), [sent], reason);
    t.ok(stream.shutDown && stream.closed);
    t.equal(side.connects, 0);
    t.match(warnings.join(), reason);
  }
  t.end();
});

t.test('a refusal that nobody takes is given up', t => {
  const { loop, acceptor } = setUp();
  const stream = new MemoryStream(loop);
  stream.hold(true);
  stream.write(helloOf({ ...DIALER, cluster: 'd'.repeat(32) }));
  acceptor.accept(stream);
  loop.advance(4900);
  t.notOk(stream.closed);
  loop.advance(200);
  t.ok(stream.closed);
  t.equal(loop.timerCount, 0);
  t.end();
});

t.test('what is no hello ends the connection without an answer', t => {
  const damaged = helloOf(DIALER);
  damaged[30] ^= 1;
  const cases: [string, Uint8Array][] = [
    ['another protocol', new TextEncoder().encode('GET / HTTP/1.1\r\nHost: a\r\n')],
    ['a message', messageOf(1)],
    ['a refusal', frameOf(FrameKind.refusal, Uint8Array.of(1, 0, 0, 0))],
    ['a heartbeat', frameOf(FrameKind.heartbeat, new Uint8Array(0))],
    ['a damaged hello', damaged],
  ];
  for (const [what, bytes] of cases) {
    const { connect, side } = setUp();
    const stream = connect(bytes);
    t.ok(stream.closed, what);
    t.equal(stream.read().length, 0);
    t.equal(side.connects, 0);
  }
  t.end();
});

t.test('one who says nothing, or half of a hello, holds a page for five seconds', t => {
  const { connect, loop, allocated } = setUp();
  const streams = [connect(), connect(helloOf(DIALER).subarray(0, 30))];
  streams[1].write(new Uint8Array(0));
  loop.advance(4900);
  t.same(
    streams.map(stream => stream.closed),
    [false, false],
  );
  loop.advance(200);
  t.same(
    streams.map(stream => stream.closed),
    [true, true],
  );
  t.same(allocated, [4096, 4096]);
  t.equal(loop.timerCount, 0);
  t.end();
});

t.test('a message before the hello is answered costs no memory', t => {
  const { connect, allocated } = setUp();
  connect(frameOf(FrameKind.message, new Uint8Array(linkBufferBytes / 2)));
  t.same(allocated, [4096]);
  t.end();
});

t.test('only so many may be about to say hello', t => {
  const { connect, loop } = setUp();
  const streams = Array.from({ length: linkGreetingsMax }, () => connect());
  t.ok(connect().closed, 'one more is closed at once');
  t.notOk(streams.some(stream => stream.closed));
  streams[0].write(helloOf(DIALER));
  loop.run();
  t.notOk(connect().closed, 'with one gone there is room');
  t.end();
});

t.test('an acceptor that is closed takes nobody, and its links go on', t => {
  const { connect, connected, acceptor, side, loop } = setUp();
  const stream = connected();
  const greeting = connect();
  acceptor.close();
  t.ok(greeting.closed);
  t.ok(connect(helloOf(DIALER)).closed);
  stream.write(messageOf(1));
  loop.run();
  t.equal(side.messages.length, 1);
  t.end();
});

t.test('a newer connection of the same node replaces the older one', t => {
  const { connected, side, loop } = setUp();
  const older = connected();
  side.onDisconnected = () => t.equal(side.send(Uint8Array.of(9)), 'disconnected');
  const newer = connected();
  t.ok(older.closed);
  t.same([side.connects, side.reasons], [2, ['replaced']]);
  newer.write(messageOf(1));
  older.write(messageOf(2));
  loop.run();
  t.same(side.messages, [Uint8Array.of(1)]);
  t.same(side.violations, []);
  t.end();
});

t.test('a link that is closed when it hears of the end of the older connection takes no newer one', t => {
  const { connected, side, loop } = setUp();
  connected();
  side.onDisconnected = () => side.close();
  const newer = connected();
  t.ok(newer.closed);
  t.equal(side.connects, 1);
  t.same(side.violations, []);
  t.equal(loop.timerCount, 0);
  t.end();
});

t.test('messages of a turn leave in one send', t => {
  const { connected, side, loop } = setUp();
  const stream = connected();
  const before = stream.sendCount;
  for (let i = 0; i < 20; i++) side.send(Uint8Array.of(i));
  loop.run();
  t.equal(stream.sendCount, before + 1);
  t.same(
    kindsOf(stream.read()),
    Array.from({ length: 20 }, (_, i) => `message ${i}`),
  );
  t.end();
});

t.test('one send at a time: what comes meanwhile goes with the next, and the queue has its bound', t => {
  const { connected, side, loop } = setUp();
  const stream = connected();
  stream.hold(true);
  const message = new Uint8Array(100 * 1024);
  let bytes = 0;
  for (let round = 0; round < 4; round++) {
    while (side.send(message) === 'accepted') bytes += message.length;
    loop.run();
  }
  t.ok(bytes <= 2 * linkBufferBytes && bytes > 2 * (linkBufferBytes - 2 * message.length), `${bytes} bytes wait`);
  const before = stream.sendCount;
  const rooms = side.rooms;
  stream.hold(false);
  loop.run();
  t.equal(side.rooms, rooms + 1);
  t.equal(stream.sendCount, before + 1);
  const sent = kindsOf(stream.read());
  t.equal(sent.length, bytes / message.length);
  t.same(side.violations, []);
  t.end();
});

t.test('an idle connection lives on heartbeats', t => {
  const { connected, side, loop } = setUp();
  const stream = connected();
  const beat = frameOf(FrameKind.heartbeat, new Uint8Array(0));
  for (let i = 0; i < 60; i++) {
    stream.write(beat);
    loop.advance(linkHeartbeatMs);
  }
  const idle = kindsOf(stream.read());
  t.ok(idle.length >= 58 && idle.every(kind => kind === 'heartbeat'), `${idle.length} heartbeats in a minute`);
  t.same(side.reasons, []);
  t.end();
});

t.test('silence ends it after the time that the limits say', t => {
  const { connected, side, loop } = setUp();
  const stream = connected();
  loop.advance(linkSilenceMs);
  t.same(side.reasons, []);
  loop.advance(linkHeartbeatMs + 1);
  t.same(side.reasons, ['silent']);
  t.ok(stream.closed);
  t.equal(loop.timerCount, 0);
  t.end();
});

t.test('a paused side does not take for silence what it does not listen to', t => {
  const { connected, side, loop } = setUp();
  const stream = connected();
  side.pause();
  stream.write(messageOf(1));
  loop.advance(60_000);
  t.same([side.reasons, side.messages], [[], []]);
  t.ok(kindsOf(stream.read()).length > 50, 'and is heard of itself');
  side.resume();
  loop.run();
  t.equal(side.messages.length, 1);
  loop.advance(linkSilenceMs + linkHeartbeatMs);
  t.same(side.reasons, ['silent'], 'then it listens again');
  t.end();
});

t.test('a pause leaves the bytes with the stream', t => {
  const { connected, side, loop } = setUp();
  const stream = connected();
  side.pause();
  stream.write(messageOf(1));
  loop.run();
  const taken = stream.receiveCount;
  for (let i = 0; i < 100; i++) stream.write(frameOf(FrameKind.message, new Uint8Array(100 * 1024)));
  loop.run();
  t.equal(stream.receiveCount, taken);
  t.ok(stream.unreadByServer > 100 * 100 * 1024);
  t.end();
});

t.test('how a connection ends is told', t => {
  const damaged = messageOf(1, 2, 3);
  damaged[21] ^= 4;
  const cases: [string, (stream: MemoryStream) => void][] = [
    ['ended', stream => stream.end()],
    ['failed', stream => stream.reset()],
    ['invalid', stream => stream.write(damaged)],
    ['invalid', stream => stream.write(helloOf(DIALER))],
    ['invalid', stream => stream.write(frameOf(FrameKind.refusal, Uint8Array.of(1, 0, 0, 0)))],
    [
      'ended',
      stream => {
        stream.write(messageOf(1).subarray(0, 15));
        stream.end();
      },
    ],
  ];
  for (const [reason, happen] of cases) {
    const { connected, side, loop } = setUp();
    const stream = connected();
    happen(stream);
    loop.run();
    t.same([side.reasons, side.messages], [[reason], []], reason);
    t.ok(stream.closed);
    t.equal(side.link.send(Uint8Array.of(1)), 'disconnected');
    t.equal(loop.timerCount, 0);
  }
  t.end();
});
