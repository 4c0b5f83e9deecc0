/** The bytes of frames: golden forms of every kind, and that nothing else passes for one. */
import t from 'tap';
import { linkMessageBytesMax } from '../../../src/base/limits.ts';
import {
  emptyFrame,
  FRAME_HEADER_BYTES,
  FrameKind,
  getHello,
  getRefusal,
  HELLO_BYTES,
  parseFrame,
  putHello,
  putRefusal,
  REFUSAL_BYTES,
  sealFrame,
} from '../../../src/link/frame.ts';
import { plainChecksums } from '../../support/link-rig.ts';

const CLUSTER = '000102030405060708090a0b0c0d0e0f';
const NODE = 'f0e0d0c0b0a090807060504030201000';

function make(kind: FrameKind, payloadBytes: number, fill: (bytes: Uint8Array, at: number) => void): Uint8Array {
  const bytes = new Uint8Array(FRAME_HEADER_BYTES + payloadBytes);
  fill(bytes, FRAME_HEADER_BYTES);
  const length = sealFrame(new DataView(bytes.buffer), bytes, 0, kind, payloadBytes, plainChecksums);
  if (length !== bytes.length) throw new Error(`sealed ${length} bytes`);
  return bytes;
}

const frames: Record<string, Uint8Array> = {
  hello: make(FrameKind.hello, HELLO_BYTES, (bytes, at) => putHello(bytes, at, { cluster: CLUSTER, node: NODE })),
  refusal: make(FrameKind.refusal, REFUSAL_BYTES, (bytes, at) =>
    putRefusal(new DataView(bytes.buffer), at, 'foreign-cluster'),
  ),
  message: make(FrameKind.message, 9, (bytes, at) => bytes.set(new TextEncoder().encode('123456789'), at)),
  heartbeat: make(FrameKind.heartbeat, 0, () => {}),
};

/** The sums were taken with another implementation of CRC32C. */
const golden: Record<string, readonly string[]> = {
  hello: [
    '534c4c4b0101000020000000c49c0db71d4d939e',
    '000102030405060708090a0b0c0d0e0ff0e0d0c0',
    'b0a090807060504030201000',
  ],
  refusal: ['534c4c4b0102000004000000466800f754dc0a21', '02000000'],
  message: ['534c4c4b0103000009000000839206e318c191d7', '313233343536373839'],
  heartbeat: ['534c4c4b010400000000000000000000aff6302b'],
};

function parse(bytes: Uint8Array, payloadBytesMax = linkMessageBytesMax, frame = emptyFrame()) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return parseFrame(view, bytes, 0, bytes.length, payloadBytesMax, frame, plainChecksums);
}

/** `bytes` with one header field changed and the header's sum made right again. */
function forged(bytes: Uint8Array, offset: number, value: number): Uint8Array {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  view.setUint32(offset, value, true);
  view.setUint32(16, plainChecksums.checksum(copy, 0, 16, 0), true);
  return copy;
}

t.test('the bytes of every kind', t => {
  for (const [name, bytes] of Object.entries(frames)) {
    const lines = Buffer.from(bytes)
      .toString('hex')
      .match(/.{1,40}/g);
    t.same(lines, golden[name], name);
  }
  t.end();
});

t.test('what was put is read back', t => {
  for (const [name, bytes] of Object.entries(frames)) {
    const frame = emptyFrame();
    t.equal(parse(bytes, linkMessageBytesMax, frame), 'whole', name);
    t.equal(frame.kind, FrameKind[name as keyof typeof FrameKind]);
    t.equal(frame.frameBytes, bytes.length);
    t.equal(frame.payloadBytes, bytes.length - FRAME_HEADER_BYTES);
  }
  t.same(getHello(frames['hello'], FRAME_HEADER_BYTES), { cluster: CLUSTER, node: NODE });
  const { refusal } = frames;
  t.equal(getRefusal(new DataView(refusal.buffer), FRAME_HEADER_BYTES), 'foreign-cluster');
  for (const number of [0, 4, 0xffffffff]) {
    const unknown = refusal.slice();
    new DataView(unknown.buffer).setUint32(FRAME_HEADER_BYTES, number, true);
    t.equal(getRefusal(new DataView(unknown.buffer), FRAME_HEADER_BYTES), 'foreign-version', `reason ${number}`);
  }
  t.end();
});

t.test('every cut is incomplete, and says how much it takes to go on', t => {
  for (const [name, bytes] of Object.entries(frames)) {
    for (let length = 0; length < bytes.length; length++) {
      const frame = emptyFrame();
      const parsed = parse(bytes.slice(0, length), linkMessageBytesMax, frame);
      const wanted = length < FRAME_HEADER_BYTES ? FRAME_HEADER_BYTES : bytes.length;
      if (parsed !== 'incomplete' || frame.frameBytes !== wanted) t.fail(`${name} cut at ${length}: ${parsed}`);
    }
    t.pass(`${name}: ${bytes.length} cuts`);
  }
  t.end();
});

t.test('every flipped bit is found', t => {
  for (const [name, bytes] of Object.entries(frames)) {
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const copy = bytes.slice();
      copy[bit >> 3] ^= 1 << (bit & 7);
      const expected = bit >> 3 === 4 ? 'foreign-version' : 'invalid';
      if (parse(copy) !== expected) t.fail(`${name}, bit ${bit}: ${parse(copy)}`);
    }
    t.pass(`${name}: ${bytes.length * 8} bits`);
  }
  t.end();
});

t.test('a damaged length is found before anything is waited for', t => {
  const header = frames['message'].slice(0, FRAME_HEADER_BYTES);
  header[9] ^= 1;
  t.equal(parse(header), 'invalid');
  t.end();
});

t.test('lengths, kinds and flags that do not belong are refused, however well they are summed', t => {
  const { hello, refusal, message, heartbeat } = frames;
  const LENGTH = 8;
  for (const length of [0, linkMessageBytesMax + 1, 0x7fffffff, 0x80000000, 0xffffffff]) {
    t.equal(parse(forged(message, LENGTH, length)), 'invalid', `a message of ${length} bytes`);
  }
  t.equal(parse(forged(message, LENGTH, linkMessageBytesMax)), 'incomplete', 'the longest may come');
  t.equal(parse(forged(message, LENGTH, HELLO_BYTES + 1), HELLO_BYTES), 'invalid', 'but not before the hello');
  t.equal(parse(forged(hello, LENGTH, HELLO_BYTES - 1)), 'invalid');
  t.equal(parse(forged(refusal, LENGTH, 0)), 'invalid');
  t.equal(parse(forged(heartbeat, LENGTH, 1)), 'invalid');
  for (const kind of [0, 5, 255]) t.equal(parse(forged(heartbeat, 4, 1 | (kind << 8))), 'invalid', `kind ${kind}`);
  t.equal(parse(forged(heartbeat, 4, 1 | (FrameKind.heartbeat << 8) | (1 << 16))), 'invalid', 'flags');
  t.equal(parse(forged(heartbeat, 4, 2 | (FrameKind.heartbeat << 8))), 'foreign-version');
  t.equal(parse(forged(message, 12, 0)), 'invalid', 'the payload of another header');
  t.end();
});

t.test('another protocol is not taken for a foreign version', t => {
  t.equal(parse(new TextEncoder().encode('GET / HTTP/1.1\r\nHost: a\r\n')), 'invalid');
  t.end();
});
