/**
 * The NBD server under random input: a million cases, each a message. Four parts, from the parsers to whole connections.
 *
 * | part | a case | what holds |
 * |---|---|---|
 * | parsers | one buffer, mutated | no throw, results within their bounds |
 * | handshake | one option, mutated | exactly one final reply, well-formed; EXPORT_NAME and nonsense end it |
 * | in step | one valid header with any command, flags, range | one reply with the error of an independent model, right data |
 * | broken | one request, bytes flipped anywhere | no throw, and everything is given back |
 *
 * SLEDGE_FUZZ_SEED sets the seed, SLEDGE_FUZZ_SCALE multiplies the counts.
 */
import t from 'tap';
import { nbdOptionsPerHandshakeMax } from '../../src/base/limits.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import { Handshake, type HandshakeOutcome } from '../../src/nbd-server/handshake.ts';
import { MetaContextRegistry } from '../../src/nbd-server/meta-context.ts';
import * as nbd from '../../src/nbd-server-protocol/index.ts';
import { MemoryExports, MemoryVolume } from '../support/memory-volume.ts';
import { Harness, pattern, randomSource, sameBytes, type TestClient } from '../unit/nbd-server/harness.ts';

const seed = Number(process.env['SLEDGE_FUZZ_SEED'] ?? Date.now() % 2 ** 31);
const scale = Number(process.env['SLEDGE_FUZZ_SCALE'] ?? 1);
t.comment(`seed ${seed}: set SLEDGE_FUZZ_SEED to repeat`);
const random = randomSource(seed);

const below = (limit: number): number => Math.floor(random() * limit);
const pick = <Item>(items: readonly Item[]): Item => items[below(items.length)];
const chance = (share: number): boolean => random() < share;

/** Numbers at which length checks go wrong. */
const EDGES = [
  0, 1, 2, 3, 4, 5, 6, 8, 255, 256, 4095, 4096, 4097, 65535, 65536, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
];

/** Changes a few bytes or words of `bytes`, in place. */
function mutate(bytes: Uint8Array): void {
  if (bytes.length === 0) return;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let count = 1 + below(3); count > 0; count -= 1) {
    const at = below(bytes.length);
    if (chance(0.5) && at + 4 <= bytes.length) view.setUint32(at, pick(EDGES));
    else if (chance(0.5)) bytes[at] = below(256);
    else bytes[at] ^= 1 << below(8);
  }
}

const TEXTS = [
  '',
  'disk',
  'ro',
  'nothing',
  'base:',
  'base:allocation',
  'x-a:b',
  'qemu:dirty-bitmap:',
  'é',
  '\u{1f4a9}',
];

function randomOptionData(option: number): Uint8Array {
  const text = pick(TEXTS);
  let data: Uint8Array;
  switch (option) {
    case nbd.OPT_EXPORT_NAME:
      data = nbd.encodeText(text);
      break;
    case nbd.OPT_INFO:
    case nbd.OPT_GO:
      data = nbd.encodeInfoRequest(
        text,
        Array.from({ length: below(6) }, () => below(5)),
      );
      break;
    case nbd.OPT_LIST_META_CONTEXT:
    case nbd.OPT_SET_META_CONTEXT:
      data = nbd.encodeMetaContextQueries(
        text,
        Array.from({ length: below(5) }, () => pick(TEXTS)),
      );
      break;
    default:
      data = chance(0.8) ? new Uint8Array(0) : pattern(below(40), below(1000));
  }
  if (chance(0.5)) {
    data = data.slice();
    mutate(data);
  }
  if (chance(0.1)) data = data.subarray(0, below(data.length + 1));
  return data;
}

t.test('parsers take any bytes', async t => {
  const count = 600_000 * scale;
  const bytes = new Uint8Array(256);
  const view = new DataView(bytes.buffer);
  const request = new nbd.Request();
  const header = new nbd.ReplyHeader();
  const optionHeader = { option: 0, dataBytes: 0 };
  let wrong = 0;
  for (let index = 0; index < count; index += 1) {
    const extended = chance(0.5);
    const available = below(80);
    switch (index % 4) {
      case 0: {
        nbd.encodeRequest(
          view,
          0,
          chance(0.9) ? extended : !extended,
          below(64),
          below(10),
          index,
          index,
          pick(EDGES),
          pick(EDGES),
        );
        mutate(bytes.subarray(0, 32));
        const result = nbd.parseRequest(view, 0, available, extended, request);
        if (result > available || ![-1, 0, 28, 32].includes(result)) wrong += 1;
        if (result > 0 && !(Number.isSafeInteger(request.offsetBytes) && Number.isSafeInteger(request.payloadBytes)))
          wrong += 1;
        if (result > 0 && !request.outOfRange && !Number.isSafeInteger(request.offsetBytes + request.lengthBytes))
          wrong += 1;
        break;
      }
      case 1: {
        const option = chance(0.95) ? 1 + below(12) : pick(EDGES);
        const data = randomOptionData(option);
        bytes.set(data.subarray(0, 256));
        const message = nbd.parseOptionData(option, view, bytes, 0, Math.min(256, data.length), 4);
        if ('queries' in message && message.queries.length > 4) wrong += 1;
        if ('name' in message && message.name.includes('\0')) wrong += 1;
        break;
      }
      case 2: {
        nbd.encodeChunkHeader(
          view,
          0,
          extended,
          { cookieHigh: 1, cookieLow: 2, offsetHigh: 3, offsetLow: 4 },
          below(8),
          chance(0.5),
          below(100),
        );
        mutate(bytes.subarray(0, 64));
        const result = nbd.parseReplyHeader(view, 0, available, header);
        if (result > available) wrong += 1;
        if (result > 0) {
          nbd.parseChunkError(view, bytes, result, Math.min(header.payloadBytes, 200));
          nbd.parseBlockStatus(view, result, Math.min(header.payloadBytes, 200), extended);
        }
        break;
      }
      default: {
        bytes.set(nbd.encodeOption(below(12)));
        mutate(bytes.subarray(0, 16));
        const result = nbd.parseOptionHeader(view, 0, available, optionHeader);
        if (result > available) wrong += 1;
      }
    }
  }
  t.equal(wrong, 0);
});

t.test('the handshake answers any option with exactly one final reply', async t => {
  const count = 300_000 * scale;
  const exports = new MemoryExports(
    new MemoryVolume(),
    new MemoryVolume({ name: 'ro', readOnly: true, description: 'd' }),
  );
  const contexts = new MetaContextRegistry();
  const input = new Uint8Array(8192);
  const inputView = new DataView(input.buffer);
  const bytes = new Uint8Array(256 * KIB);
  const output = { view: new DataView(bytes.buffer), bytes, used: 0, capacity: bytes.length };
  const ends = new Map<string, number>();
  let cases = 0;
  while (cases < count) {
    const tlsMode = pick(['none', 'forced', 'selective'] as const);
    const tlsOnly = (volume: { name: string }): boolean => volume.name === 'ro';
    const handshake = new Handshake({ exports, contexts, tlsMode, tlsOnly }, false);
    output.used = 0;
    handshake.greet(output);
    inputView.setUint32(0, chance(0.9) ? 3 : below(5));
    let outcome: HandshakeOutcome = handshake.step(inputView, input, 0, 4, output);
    for (let options = 0; outcome.kind === 'continue' && options < 40; options += 1) {
      cases += 1;
      output.used = 0;
      const option = chance(0.97) ? 1 + below(12) : pick(EDGES);
      const message = nbd.encodeOption(option, randomOptionData(option));
      if (chance(0.02)) mutate(message.subarray(0, 16));
      input.set(message);
      const available = chance(0.03) ? below(message.length) : message.length;
      do {
        outcome = handshake.step(inputView, input, 0, available, output);
      } while (outcome.kind === 'continue' && handshake.consumed === 0 && output.used > 0 && !isFinal(output));
      if (handshake.consumed > available) t.fail(`consumed ${handshake.consumed} of ${available}`);
      if (outcome.kind === 'continue' || outcome.kind === 'abort' || outcome.kind === 'startTls') {
        // LIST consumes its option first, and then writes entry by entry.
        while (outcome.kind === 'continue' && !isFinal(output))
          outcome = handshake.step(inputView, input, 0, 0, output);
        checkReplies(output, inputView.getUint32(8));
        if (outcome.kind === 'startTls') {
          handshake.tlsStarted();
          outcome = { kind: 'continue' };
        }
      }
    }
    ends.set(outcome.kind, (ends.get(outcome.kind) ?? 0) + 1);
  }
  for (const kind of ['transmission', 'abort', 'violation', 'needsBytes'] as const) {
    t.ok((ends.get(kind) ?? 0) > 100 * Math.min(1, scale), `${kind} was met ${ends.get(kind)} times`);
  }
});

interface Written {
  readonly view: DataView;
  readonly used: number;
}

/** Whether the last reply written is a final one. */
function isFinal(output: Written): boolean {
  let at = 0;
  let type = 0;
  while (at < output.used) {
    type = output.view.getUint32(at + 12);
    at += 20 + output.view.getUint32(at + 16);
  }
  return type === nbd.REP_ACK || type >= 0x80000000;
}

/** Replies of one option: all repeat its number, and only the last one is final. */
function checkReplies(output: Written, option: number): void {
  const { view, used } = output;
  let at = 0;
  let finals = 0;
  while (at < used) {
    if (finals > 0) throw new Error('a reply behind the final one');
    if (view.getUint32(at + 8) !== option) throw new Error('a reply to another option');
    const type = view.getUint32(at + 12);
    if (type === nbd.REP_ACK || type >= 0x80000000) finals += 1;
    if (type === nbd.REP_ACK && view.getUint32(at + 16) !== 0) throw new Error('ACK carries data');
    at += 20 + view.getUint32(at + 16);
  }
  if (at !== used || finals !== 1) throw new Error(`${finals} final replies`);
}

const SIZE = 1 * MIB + 300;
const POOL = 8 * MIB;
const WISHES = [
  {},
  { structuredReplies: true },
  { structuredReplies: true, blockStatus: true },
  { extendedHeaders: true },
  { extendedHeaders: true, blockStatus: true },
] as const;

interface Sent {
  readonly bytes: Uint8Array;
  readonly error: number;
  /** What a READ has to return. */
  readonly data: Uint8Array | undefined;
}

/** The error that a request has earned, written anew from the document, without a look at the server. */
function expectedError(command: number, flags: number, offset: number, length: number, client: TestClient): number {
  const { extended, agreement } = client;
  const chunks = extended || agreement.structuredReplies;
  const own = [chunks ? 4 : 0, extended ? 32 : 0, 0, 0, 0, 0, 2 | 16, 8][command];
  if (command > 7 || own === undefined || (flags & ~(own | 1)) !== 0) return nbd.NBD_EINVAL;
  if (command === nbd.CMD_FLUSH) return offset === 0 && length === 0 ? 0 : nbd.NBD_EINVAL;
  const fills = command === nbd.CMD_WRITE || command === nbd.CMD_WRITE_ZEROES;
  if (offset + length > SIZE) return fills ? nbd.NBD_ENOSPC : nbd.NBD_EINVAL;
  if (command === nbd.CMD_BLOCK_STATUS) {
    return agreement.allocationContextId === undefined || length === 0 ? nbd.NBD_EINVAL : 0;
  }
  return 0;
}

function randomRange(): [number, number] {
  const length = pick([0, 1, 511, 512, 4096, 4097, 32 * KIB, 32 * KIB + 1, below(20_000), below(SIZE), 2 ** below(20)]);
  const offset = pick([0, 1, 4096, SIZE - length, SIZE - 1, SIZE, below(SIZE), below(SIZE), below(SIZE), 2 ** 40]);
  return [Math.max(0, offset), length];
}

const PAYLOADS = pattern(4 * MIB, 77);

/** One request with its expected outcome; `shadow` follows what the volume holds. */
function randomRequest(client: TestClient, cookie: number, shadow: Uint8Array): Sent {
  const command = chance(0.9) ? pick([0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 7]) : pick([8, 9, 255, 65535]);
  let [offset, length] = command === nbd.CMD_FLUSH && chance(0.9) ? [0, 0] : randomRange();
  let flags = chance(0.7) ? 0 : pick([1, 2, 4, 8, 16, 3, 5, 64, 0x8000]);
  // What costs megabytes a case is met less often.
  if (length > 100_000 && chance(0.8)) length = below(5000);
  let payload = new Uint8Array(0);
  if (command === nbd.CMD_WRITE) {
    payload = PAYLOADS.slice(cookie, cookie + length);
  } else if (client.extended && chance(0.05)) {
    flags |= nbd.CMD_FLAG_PAYLOAD_LEN;
    payload = PAYLOADS.slice(0, length);
  }
  if (chance(0.02) && command !== nbd.CMD_FLUSH) offset = Number.MAX_SAFE_INTEGER - below(3);
  const bytes = client.encode(command, offset, length, { flags, payload, cookie: [cookie >>> 16, cookie] });
  const sentFlags = client.extended && command === nbd.CMD_WRITE ? flags | nbd.CMD_FLAG_PAYLOAD_LEN : flags;
  const error = expectedError(command, sentFlags, offset, length, client);
  if (error !== 0) return { bytes, error, data: undefined };
  if (command === nbd.CMD_WRITE) shadow.set(payload, offset);
  if (command === nbd.CMD_WRITE_ZEROES || command === nbd.CMD_TRIM) shadow.fill(0, offset, offset + length);
  return { bytes, error, data: command === nbd.CMD_READ ? shadow.slice(offset, offset + length) : undefined };
}

t.test('whatever valid headers ask for, the stream stays in step and the data is right', async t => {
  const count = 200_000 * scale;
  const volume = new MemoryVolume({ sizeBytes: SIZE });
  const harness = new Harness({ volumes: [volume], limits: { payloadPoolBytes: POOL } });
  const shadow = new Uint8Array(SIZE);
  let cases = 0;
  let wrong = 0;
  while (cases < count) {
    const client = harness.enter(pick(WISHES));
    const sizes = pick([1, 28, 40, 1000, 5000, 100_000, 1e9]);
    client.stream.pieceBytes = () => 1 + below(sizes);
    volume.log = [];
    // One at a time, many at once: either is in step. A case costs more, the smaller the pieces.
    const requests = sizes < 100 ? 10 : 300;
    const sent = new Map<number, Sent>();
    for (let index = 0; index < requests; index += 1) {
      const request = randomRequest(client, index, shadow);
      if (sizes < 100 && request.bytes.length > 10_000) {
        // Too slow byte by byte: sent in larger pieces.
        client.stream.pieceBytes = () => 1 + below(5000);
      }
      sent.set(index, request);
      client.stream.write(request.bytes);
      if (chance(0.1)) client.stream.hold(chance(0.5));
    }
    client.stream.hold(false);
    for (const reply of client.replies()) {
      const request = sent.get(reply.cookieLow);
      sent.delete(reply.cookieLow);
      if (request === undefined || reply.error !== request.error) wrong += 1;
      else if (request.data !== undefined && !sameBytes(reply.data, request.data)) wrong += 1;
    }
    if (sent.size > 0) t.fail(`${sent.size} requests without a reply`);
    cases += requests;
    client.leave();
  }
  t.equal(wrong, 0);
  t.same(harness.leaks(), []);
});

t.test('completions in any order, clients that stall, and every kind of end leave nothing behind', async t => {
  const count = 200_000 * scale;
  const volume = new MemoryVolume({ sizeBytes: SIZE });
  const harness = new Harness({ volumes: [volume], limits: { payloadPoolBytes: 4 * MIB } });
  volume.poke(0, pattern(SIZE / 2, 5));
  const ignored = new Uint8Array(SIZE);
  let cases = 0;
  while (cases < count) {
    volume.deferred = false;
    volume.failWith.clear();
    const clients = Array.from({ length: 1 + below(3) }, () => harness.enter(pick(WISHES)));
    volume.deferred = true;
    volume.log = [];
    if (chance(0.2)) volume.failWith.set(pick(['read', 'write', 'flush', 'blockStatus']), 1 + below(130));
    const flip = chance(0.3);
    for (let index = 0; index < 60; index += 1) {
      const client = pick(clients);
      const { bytes } = randomRequest(client, index, ignored);
      if (flip && chance(0.03)) mutate(bytes.subarray(0, 32));
      client.stream.write(bytes);
      cases += 1;
      if (chance(0.3)) harness.loop.turn();
      if (chance(0.1)) client.stream.hold(chance(0.6));
      for (let done = below(4); done > 0 && volume.waiting.length > 0; done -= 1)
        volume.completeNext(below(volume.waiting.length));
    }
    for (const client of clients) {
      const end = below(4);
      if (end === 0) client.request(nbd.CMD_DISC, 0, 0);
      if (end === 1) client.stream.reset();
      if (end === 2) client.stream.hold(false);
    }
    for (let turns = below(5); turns > 0; turns -= 1) harness.loop.turn();
    // Whoever stalled is given up in the end; whoever reads gets the rest.
    for (const client of clients) {
      if (chance(0.5)) client.stream.hold(false);
      client.stream.end();
    }
    for (let rounds = 0; harness.server.statistics().connections.length > 0; rounds += 1) {
      if (rounds > 2000) throw new Error('sessions do not end');
      harness.loop.run();
      volume.completeAll();
      if (rounds % 10 === 9) harness.loop.advance(20_000);
    }
    const leaks = harness.leaks();
    if (leaks.length > 0) {
      t.same(leaks, []);
      break;
    }
  }
  t.pass(`${cases} cases`);
});

t.test('raw bytes flipped anywhere in a connection do no harm', async t => {
  const count = 150_000 * scale;
  const harness = new Harness({ limits: { payloadPoolBytes: 64 * MIB } });
  const ignored = new Uint8Array(SIZE);
  let cases = 0;
  let entered = 0;
  while (cases < count) {
    const client = harness.connect();
    const template = harness.enter({ structuredReplies: true });
    const options = Array.from({ length: below(4) }, () => {
      const option = 1 + below(12);
      return nbd.encodeOption(option, randomOptionData(option));
    });
    const requests = Array.from({ length: 20 }, (_, index) => randomRequest(template, index, ignored).bytes);
    const parts = [
      new Uint8Array([0, 0, 0, 3]),
      ...options,
      nbd.encodeOption(nbd.OPT_STRUCTURED_REPLY),
      nbd.encodeOption(nbd.OPT_GO, nbd.encodeInfoRequest('', [])),
      ...requests,
    ];
    cases += parts.length;
    const all = new Uint8Array(Buffer.concat(parts));
    for (let flips = below(4); flips > 0; flips -= 1) mutate(all.subarray(0, chance(0.5) ? 200 : all.length));
    client.stream.pieceBytes = () => 1 + below(10_000);
    client.stream.write(all);
    harness.loop.run();
    if (harness.exports.open.size > 1) entered += 1;
    client.stream.end();
    template.leave();
    harness.loop.run();
  }
  harness.loop.advance(200_000);
  t.ok(entered > 0, `${entered} connections reached the transmission`);
  t.same(harness.leaks(), []);
  t.ok(nbdOptionsPerHandshakeMax > 40, 'the handshake part stays below the limit of options');
});

t.test('memory stays bounded', async t => {
  const { rss } = process.memoryUsage();
  t.ok(rss < 700 * MIB, `${Math.round(rss / MIB)} MiB resident`);
});
