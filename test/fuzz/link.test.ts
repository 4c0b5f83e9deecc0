/**
 * What a link hears, under random input. Two parts, each a hello and some frames, cut into random pieces:
 *
 * | part | a case | what holds |
 * |---|---|---|
 * | damage | bits flipped, the rest cut off | what arrives is a beginning of what was sent, unchanged |
 * | nonsense | frames forged with right sums, random bytes between them | whatever arrives was sent |
 *
 * And in both: no throw; little memory before the hello, a fixed amount after it; nothing left when it is over.
 * SLEDGE_FUZZ_SEED sets the seed, SLEDGE_FUZZ_SCALE multiplies the counts.
 */
import t from 'tap';
import { linkBufferBytes } from '../../src/base/limits.ts';
import { FrameKind, HELLO_BYTES, putHello } from '../../src/link/frame.ts';
import { LinkAcceptor } from '../../src/link/link-acceptor.ts';
import { ACCEPTOR, DIALER, frameOf, plainChecksums, SILENT_LOG } from '../support/link-rig.ts';
import { LinkSide } from '../support/link-side.ts';
import { MemoryLoop } from '../support/memory-loop.ts';
import { MemoryStream } from '../support/memory-stream.ts';
import { SimRegions } from '../support/sim-memory.ts';
import { SimRandom } from '../support/sim-random.ts';

const seed = Number(process.env['SLEDGE_FUZZ_SEED'] ?? Date.now() % 2 ** 31);
const scale = Number(process.env['SLEDGE_FUZZ_SCALE'] ?? 1);
const CASES = 20_000 * scale;
t.comment(`seed ${seed}: set SLEDGE_FUZZ_SEED to repeat`);
const random = new SimRandom(seed);

/** Numbers at which length checks go wrong. */
const EDGES = [
  0,
  1,
  4,
  19,
  20,
  31,
  32,
  33,
  0xffff,
  2 ** 20 - 20,
  2 ** 20,
  2 ** 20 + 1,
  0x7fffffff,
  0x80000000,
  2 ** 32 - 1,
];
const MEMORY_BYTES_MAX = 4096 + 3 * linkBufferBytes;

const hello = (() => {
  const payload = new Uint8Array(HELLO_BYTES);
  putHello(payload, 0, DIALER);
  return frameOf(FrameKind.hello, payload);
})();

function randomBytes(length: number): Uint8Array {
  return Uint8Array.from({ length }, () => random.below(256));
}

const messages = Array.from({ length: 50 }, () => randomBytes(1 + random.below(random.oneOf([4, 60, 3000]))));
const messageFrames = messages.map(message => frameOf(FrameKind.message, message));
const heartbeat = frameOf(FrameKind.heartbeat, new Uint8Array(0));
/** A hello under the header of a message is one. */
const known = new Set([...messages, hello.slice(-HELLO_BYTES)].map(message => Buffer.from(message).toString('hex')));

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(parts));
}

/** Lets an acceptor hear the bytes; what arrived, and whether it has hung up. */
function hear(bytes: Uint8Array): { arrived: Uint8Array[]; isOver: boolean } {
  const loop = new MemoryLoop();
  const pooled = new SimRegions();
  let allocatedBytes = 0;
  const regions = {
    allocate(length: number) {
      allocatedBytes += length;
      return pooled.allocate(length);
    },
  };
  const ports = { turns: loop, clock: loop, regions, checksums: plainChecksums, log: SILENT_LOG };
  const acceptor = new LinkAcceptor(ports, ACCEPTOR);
  const side = new LinkSide(acceptor.linkTo(DIALER.node));
  side.start();
  const stream = new MemoryStream(loop);
  stream.pieceBytes = () => 1 + random.below(random.oneOf([2, 40, 5000]));
  acceptor.accept(stream);
  stream.write(bytes);
  loop.run();
  const isOver = stream.closed;
  if (!isOver) stream.end();
  loop.run();
  if (!stream.closed || loop.timerCount > 0) throw new Error('something is left');
  if (allocatedBytes > (side.connects === 0 ? 4096 : MEMORY_BYTES_MAX))
    throw new Error(`${allocatedBytes} bytes taken`);
  if (side.violations.length > 0) throw new Error(side.violations.join());
  pooled.giveBack();
  return { arrived: side.messages, isOver };
}

t.test(`${CASES} damaged conversations`, t => {
  let [whole, hungUp] = [0, 0];
  for (let i = 0; i < CASES; i++) {
    const sent = Array.from({ length: random.below(6) }, () => random.below(messages.length));
    const bytes = joined([hello, ...sent.flatMap(index => [messageFrames[index], heartbeat])]);
    for (let flips = random.below(3); flips > 0; flips--) bytes[random.below(bytes.length)] ^= 1 << random.below(8);
    const { arrived, isOver } = hear(random.chance(30) ? bytes.slice(0, random.below(bytes.length)) : bytes);
    if (isOver) hungUp++;
    if (arrived.length === sent.length) whole++;
    const same = arrived.every((message, at) => Buffer.compare(message, messages[sent[at] ?? 0]) === 0);
    if (!same || arrived.length > sent.length) t.fail(`case ${i}: something else arrived`);
  }
  t.ok(whole > CASES / 10 && hungUp > CASES / 10, `${whole} whole, ${hungUp} hung up on`);
  t.end();
});

function nonsense(): Uint8Array {
  switch (random.below(4)) {
    case 0:
      return randomBytes(random.below(60));
    case 1:
      return hello;
    case 2:
      return random.oneOf(messageFrames);
    default: {
      // A header that says anything, with the right sum.
      const bytes = Uint8Array.from(random.oneOf([...messageFrames, heartbeat, hello]));
      const view = new DataView(bytes.buffer);
      if (random.chance(70)) view.setUint32(8, random.oneOf(EDGES), true);
      else view.setUint32(random.oneOf([4, 12]), random.oneOf([0, 0x201, 0x301, 0x401, 0x501, 0x10301, 0x302]), true);
      view.setUint32(16, plainChecksums.checksum(bytes, 0, 16, 0), true);
      return bytes;
    }
  }
}

t.test(`${CASES} conversations of nonsense`, t => {
  let [count, hungUp] = [0, 0];
  for (let i = 0; i < CASES; i++) {
    const parts = Array.from({ length: random.below(6) }, nonsense);
    const { arrived, isOver } = hear(joined(random.chance(80) ? [hello, ...parts] : parts));
    if (isOver) hungUp++;
    count += arrived.length;
    for (const message of arrived) {
      if (!known.has(Buffer.from(message).toString('hex'))) t.fail(`case ${i}: a message that nobody sent`);
    }
  }
  t.ok(count > CASES / 10 && hungUp > CASES / 10, `${count} messages, ${hungUp} hung up on`);
  t.end();
});
