/**
 * The handshake, option by option, good and bad. Ids of the checklist: B2–B6 G1–G5 O1–O8 T1 T2 S1–S6 S8 X8 E1 E2 E6 E7
 * and, for its unnumbered lines: NAME-n EXPORT_NAME, ABORT-n, LIST-n, TLS-n STARTTLS, GO-n INFO and GO, SR-n
 * STRUCTURED_REPLY, META-n LIST_ and SET_META_CONTEXT.
 */
import t, { type Test } from 'tap';
import { nbdHandshakeTimeoutMs, nbdOptionBytesMax, nbdOptionsPerHandshakeMax } from '../../../src/base/limits.ts';
import type { Stream } from '../../../src/base/stream.ts';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';
import { MemoryStream } from '../../support/memory-stream.ts';
import { MemoryVolume } from '../../support/memory-volume.ts';
import { Harness, type OptionReply, TestClient } from './harness.ts';

const NO_TLS_FLAGS = 0x0d6d;
const go = (name: string, ...requests: number[]): Uint8Array => nbd.encodeInfoRequest(name, requests);
const meta = (name: string, ...queries: string[]): Uint8Array => nbd.encodeMetaContextQueries(name, queries);
const types = (replies: readonly OptionReply[]): number[] => replies.map(reply => reply.type);
const u32 = (value: number): Uint8Array => new Uint8Array([value >>> 24, value >>> 16, value >>> 8, value]);

/** A client in the option phase. */
function haggling(options: ConstructorParameters<typeof Harness>[0] = {}, flags = 3): [Harness, TestClient] {
  const harness = new Harness(options);
  const client = harness.connect();
  client.hello(flags);
  return [harness, client];
}

/** The connection still answers options; leaves, and finds nothing left behind. */
function finish(t: Test, harness: Harness, ...clients: TestClient[]): void {
  for (const client of clients) {
    if (!client.stream.closed) t.same(types(client.option(nbd.OPT_ABORT)), [nbd.REP_ACK], 'ABORT is acknowledged');
    client.stream.end();
  }
  t.same(harness.leaks(), []);
}

t.test('G1 G2: the greeting is NBDMAGIC, IHAVEOPT and the two flags, at once', async t => {
  const harness = new Harness();
  const client = harness.connect();
  t.equal(Buffer.from(client.bytes()).toString('hex'), '4e42444d4147494349484156454f50540003');
  client.stream.end();
  t.same(harness.leaks(), []);
  t.ok(client.stream.closed, 'a client that leaves without a word is let go');
});

for (const flags of [4, 0x80000000, 0xffffffff, 7]) {
  t.test(`G3: client flags ${flags.toString(16)} end the connection`, async t => {
    const [harness, client] = haggling({}, flags);
    harness.loop.run();
    t.ok(client.stream.closed);
    t.same(harness.leaks(), []);
  });
}

for (const [flags, length] of [
  [3, 10],
  [1, 134],
  [2, 10],
  [0, 134],
]) {
  t.test(`G4 NAME-1: with client flags ${flags} EXPORT_NAME is answered with ${length} bytes`, async t => {
    const [harness, client] = haggling({}, flags);
    client.stream.write(nbd.encodeOption(nbd.OPT_EXPORT_NAME, nbd.encodeText('disk')));
    const bytes = Buffer.from(client.bytes());
    t.equal(bytes.length, length);
    t.equal(bytes.readBigUInt64BE(0), BigInt(harness.volume.sizeBytes));
    t.equal(bytes.readUInt16BE(8), NO_TLS_FLAGS);
    t.ok(bytes.subarray(10).every(byte => byte === 0));
    t.equal(client.read(0, 5).error, 0, 'the transmission has begun');
    client.leave();
    t.same(harness.leaks(), []);
  });
}

t.test('NAME-2: the empty name is the default export; an unknown one ends the connection', async t => {
  for (const [name, alive] of [
    ['', true],
    ['nothing', false],
    ['\ufffd'.repeat(2000), false],
  ] as const) {
    const [harness, client] = haggling();
    client.stream.write(nbd.encodeOption(nbd.OPT_EXPORT_NAME, new TextEncoder().encode(name)));
    t.equal(client.bytes().length, alive ? 10 : 0);
    t.equal(client.stream.closed, !alive);
    if (alive) client.leave();
    t.same(harness.leaks(), []);
  }
});

t.test('G5: a client without fixed newstyle gets no TLS', async t => {
  const upgrade = async (): Promise<Stream> => Promise.reject(new Error('not to be called'));
  const [harness, client] = haggling({ tls: { mode: 'selective', upgrade } }, 2);
  t.same(types(client.option(nbd.OPT_STARTTLS)), [nbd.REP_ERR_POLICY]);
  finish(t, harness, client);
  const [forced, refused] = haggling({ tls: { mode: 'forced', upgrade } }, 2);
  forced.loop.run();
  t.ok(refused.stream.closed, 'and where TLS is forced there is nothing for it');
  t.same(forced.leaks(), []);
});

t.test('B4 O1 O2: unknown options are refused, their data is skipped, and GO works behind them', async t => {
  const [harness, client] = haggling();
  for (const option of [0, nbd.OPT_PEEK_EXPORT, 12, 77, 0x7fffffff, 0xffffffff]) {
    for (const data of [new Uint8Array(0), new Uint8Array(1000).fill(0x49), new Uint8Array(nbdOptionBytesMax)]) {
      const replies = client.option(option, data);
      t.same(types(replies), [nbd.REP_ERR_UNSUP]);
      t.equal(replies[0].option, option);
    }
  }
  t.same(types(client.option(nbd.OPT_GO, go('disk'))), [nbd.REP_INFO, nbd.REP_ACK]);
  t.equal(client.read(0, 1).error, 0);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('B5 ABORT-1: ABORT is acknowledged, with data or without, and the connection ends', async t => {
  for (const data of [new Uint8Array(0), new Uint8Array(10)]) {
    const [harness, client] = haggling();
    t.same(types(client.option(nbd.OPT_ABORT, data)), [nbd.REP_ACK]);
    t.ok(client.stream.shutDown);
    client.stream.end();
    t.same(harness.leaks(), []);
  }
});

t.test('ABORT-2: a client that is gone before the answer to ABORT does no harm', async t => {
  const [harness, client] = haggling();
  client.stream.write(nbd.encodeOption(nbd.OPT_ABORT));
  client.stream.reset();
  t.same(harness.leaks(), []);
});

t.test('O4: a wrong option magic ends the connection', async t => {
  const [harness, client] = haggling();
  client.stream.write(new Uint8Array(16));
  t.equal(client.bytes().length, 0);
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
});

t.test('O6: an option of absurd length ends the connection before its data', async t => {
  for (const option of [77, nbd.OPT_GO, nbd.OPT_EXPORT_NAME, nbd.OPT_SET_META_CONTEXT]) {
    const [harness, client] = haggling();
    const header = nbd.encodeOption(option);
    header.set(u32(0xffffffff), 12);
    client.stream.write(header);
    harness.loop.run();
    t.ok(client.stream.closed);
    t.same(harness.leaks(), []);
  }
});

t.test('O6: options without end are an attack', async t => {
  const [harness, client] = haggling();
  const one = nbd.encodeOption(77);
  client.stream.write(Buffer.concat(new Array(nbdOptionsPerHandshakeMax).fill(one)));
  t.equal(client.optionReplies().length, nbdOptionsPerHandshakeMax);
  t.notOk(client.stream.closed);
  client.stream.write(one);
  harness.loop.run();
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
});

t.test('O8: a handshake that takes too long is ended, however busy it looks', async t => {
  const harness = new Harness();
  const [silent, busy, done] = [harness.connect(), harness.connect(), harness.enter()];
  busy.hello();
  for (let seconds = 0; seconds < 14; seconds += 1) {
    harness.loop.advance(1000);
    busy.option(77);
  }
  t.notOk(silent.stream.closed || busy.stream.closed);
  harness.loop.advance(nbdHandshakeTimeoutMs - 14_000 + 1);
  t.ok(silent.stream.closed && busy.stream.closed);
  t.notOk(done.stream.closed, 'the transmission has no such limit');
  done.leave();
  t.same(harness.leaks(), []);
});

t.test('O5: while shutting down, options are answered with ERR_SHUTDOWN, ABORT with ACK', async t => {
  const [harness, client] = haggling();
  harness.loop.run();
  const drain = harness.server.drain();
  for (const option of [nbd.OPT_LIST, nbd.OPT_GO, 77, nbd.OPT_STRUCTURED_REPLY]) {
    t.same(types(client.option(option)), [nbd.REP_ERR_SHUTDOWN]);
  }
  finish(t, harness, client);
  await drain;
});

t.test('O5: who does not leave while shutting down is put out after a second', async t => {
  const [harness, client] = haggling();
  harness.loop.run();
  const drain = harness.server.drain();
  harness.loop.advance(1001);
  await drain;
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
});

t.test('B6 LIST-1: all exports are listed with their descriptions, then ACK', async t => {
  const volumes = [new MemoryVolume({ name: 'a' }), new MemoryVolume({ name: 'bé', description: 'text' })];
  const [harness, client] = haggling({ volumes });
  const replies = client.option(nbd.OPT_LIST);
  t.same(types(replies), [nbd.REP_SERVER, nbd.REP_SERVER, nbd.REP_ACK]);
  t.equal(Buffer.from(replies[0].data).toString('hex'), '0000000161');
  t.equal(Buffer.from(replies[1].data).toString('hex'), `0000000362c3a9${Buffer.from('text').toString('hex')}`);
  t.same(types(client.option(nbd.OPT_LIST, new Uint8Array(1))), [nbd.REP_ERR_INVALID], 'no data');
  finish(t, harness, client);
});

t.test('LIST-2: a list longer than any buffer arrives whole', async t => {
  const description = 'd'.repeat(4000);
  const volumes = Array.from(
    { length: 4096 },
    (_, index) => new MemoryVolume({ name: `${index}`.padEnd(128, 'x'), description }),
  );
  const [harness, client] = haggling({ volumes });
  const replies = client.option(nbd.OPT_LIST);
  t.equal(replies.length, 4097);
  t.ok(replies.every(reply => reply.option === nbd.OPT_LIST));
  t.equal(replies[4096].type, nbd.REP_ACK);
  finish(t, harness, client);
});

for (const [name, option] of [
  ['INFO', nbd.OPT_INFO],
  ['GO', nbd.OPT_GO],
] as const) {
  t.test(`B3 GO-1: ${name} answers with INFO_EXPORT and ACK`, async t => {
    const [harness, client] = haggling();
    const replies = client.option(option, go('disk'));
    t.same(types(replies), [nbd.REP_INFO, nbd.REP_ACK]);
    t.equal(Buffer.from(replies[0].data).toString('hex'), '000000000000040000000d6d');
    t.equal(replies[1].data.length, 0);
    if (option === nbd.OPT_GO) t.equal(client.read(0, 1).error, 0, 'the transmission begins without padding');
    else t.same(types(client.option(nbd.OPT_INFO, go(''))), [nbd.REP_INFO, nbd.REP_ACK], 'haggling goes on');
    client.stream.end();
    t.same(harness.leaks(), []);
  });

  t.test(`GO-2: ${name} tells what was asked for, each once, and passes over what it does not know`, async t => {
    const volumes = [new MemoryVolume({ name: 'disk', description: 'about it' })];
    const [harness, client] = haggling({ volumes });
    const replies = client.option(option, go('', 3, 1, 99, 2, 3, 0, 1, 0xffff));
    t.same(types(replies), [...new Array(4).fill(nbd.REP_INFO), nbd.REP_ACK]);
    const data = replies.map(reply => Buffer.from(reply.data).toString('hex'));
    t.same(data.slice(1, 4), [
      '0003000000010000100002000000',
      `0001${Buffer.from('disk').toString('hex')}`,
      `0002${Buffer.from('about it').toString('hex')}`,
    ]);
    client.stream.end();
    t.same(harness.leaks(), []);
  });

  t.test(
    `GO-3: ${name} of an unknown export is ERR_UNKNOWN, with nothing before it, and can be tried again`,
    async t => {
      const [harness, client] = haggling();
      t.same(types(client.option(option, go('nothing', 3))), [nbd.REP_ERR_UNKNOWN]);
      t.same(types(client.option(option, go('disk'))), [nbd.REP_INFO, nbd.REP_ACK]);
      client.stream.end();
      t.same(harness.leaks(), []);
    },
  );

  t.test(`GO-4 T2: ${name} with lengths that do not fit is ERR_INVALID, a long name ERR_TOO_BIG`, async t => {
    const [harness, client] = haggling();
    const broken = [
      new Uint8Array(0),
      u32(0),
      Buffer.concat([u32(0xffffffff), new Uint8Array(2)]),
      Buffer.concat([u32(5), new Uint8Array(6).fill(0x61)]),
      Buffer.concat([go('disk', 3), new Uint8Array(1)]),
      go('a\u0001').fill(0, 5, 6),
    ];
    for (const data of broken) t.same(types(client.option(option, data)), [nbd.REP_ERR_INVALID]);
    const long = Buffer.concat([u32(4097), new Uint8Array(4097).fill(0x61), new Uint8Array(2)]);
    t.same(types(client.option(option, long)), [nbd.REP_ERR_TOO_BIG]);
    t.same(types(client.option(option, go('disk'))), [nbd.REP_INFO, nbd.REP_ACK]);
    client.stream.end();
    t.same(harness.leaks(), []);
  });
}

t.test('GO-5: INFO and then GO tell the same', async t => {
  const [harness, client] = haggling();
  client.option(nbd.OPT_STRUCTURED_REPLY);
  const data = (replies: readonly OptionReply[]): string[] =>
    replies.map(each => Buffer.from(each.data).toString('hex'));
  t.same(data(client.option(nbd.OPT_INFO, go('disk', 1, 3))), data(client.option(nbd.OPT_GO, go('disk', 1, 3))));
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('GO-6: a minimum block size above 1 is told to who asks, and does not stop who does not', async t => {
  const [harness, client] = haggling({ volumes: [new MemoryVolume({ minimumBlockBytes: 512 })] });
  const replies = client.option(nbd.OPT_INFO, go('', 3));
  t.equal(Buffer.from(replies[1].data).toString('hex'), '0003000002000000100002000000');
  t.same(types(client.option(nbd.OPT_GO, go(''))), [nbd.REP_INFO, nbd.REP_ACK]);
  t.equal(client.read(0, 512).error, 0);
  t.equal(client.read(1, 512).error, nbd.NBD_EINVAL);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('X8: flags promise what is served: DF with structured replies, no writes on a read-only export', async t => {
  const volumes = [new MemoryVolume({ name: 'rw' }), new MemoryVolume({ name: 'ro', readOnly: true })];
  const [harness, client] = haggling({ volumes });
  const flags = (name: string): number => {
    const { data } = client.option(nbd.OPT_INFO, go(name))[0];
    return data[10] * 256 + data[11];
  };
  t.equal(flags('rw'), 0x0d6d);
  t.equal(flags('ro'), 0x050f);
  client.option(nbd.OPT_STRUCTURED_REPLY);
  t.equal(flags('rw'), 0x0ded);
  t.equal(flags('ro'), 0x058f);
  for (const value of [0x0ded, 0x058f]) {
    t.ok(value & nbd.TRANSMISSION_HAS_FLAGS);
    t.notOk(value & (nbd.TRANSMISSION_SEND_RESIZE | nbd.TRANSMISSION_BLOCK_STATUS_PAYLOAD), 'R1 E5: not offered');
  }
  finish(t, harness, client);
});

t.test('SR-1: STRUCTURED_REPLY is acknowledged once; with data, or again, it is ERR_INVALID', async t => {
  const [harness, client] = haggling();
  t.same(types(client.option(nbd.OPT_STRUCTURED_REPLY, new Uint8Array(3))), [nbd.REP_ERR_INVALID]);
  t.same(types(client.option(nbd.OPT_STRUCTURED_REPLY)), [nbd.REP_ACK]);
  t.same(types(client.option(nbd.OPT_STRUCTURED_REPLY)), [nbd.REP_ERR_INVALID]);
  finish(t, harness, client);
});

t.test('E1: EXTENDED_HEADERS is acknowledged without structured replies, and rules them out afterwards', async t => {
  const [harness, client] = haggling();
  t.same(types(client.option(nbd.OPT_EXTENDED_HEADERS, new Uint8Array(1))), [nbd.REP_ERR_INVALID]);
  t.same(types(client.option(nbd.OPT_EXTENDED_HEADERS)), [nbd.REP_ACK]);
  t.same(types(client.option(nbd.OPT_EXTENDED_HEADERS)), [nbd.REP_ERR_INVALID]);
  t.same(types(client.option(nbd.OPT_STRUCTURED_REPLY)), [nbd.REP_ERR_EXT_HEADER_REQD]);
  t.same(types(client.option(nbd.OPT_SET_META_CONTEXT, meta('', 'base:allocation'))), [4, nbd.REP_ACK]);
  finish(t, harness, client);
  const [other, both] = haggling();
  t.same(types(both.option(nbd.OPT_STRUCTURED_REPLY)), [nbd.REP_ACK]);
  t.same(types(both.option(nbd.OPT_EXTENDED_HEADERS)), [nbd.REP_ACK], 'it takes precedence');
  t.same(types(both.option(nbd.OPT_GO, go(''))), [nbd.REP_INFO, nbd.REP_ACK], 'E2: GO works');
  const request = new Uint8Array(32);
  nbd.encodeRequest(new DataView(request.buffer), 0, true, 0, nbd.CMD_FLUSH, 0, 1, 0, 0);
  both.stream.write(request);
  t.equal(both.bytes().length, 32);
  both.stream.end();
  t.same(other.leaks(), []);
});

t.test('E3: EXPORT_NAME after extended headers is not served', async t => {
  const [harness, client] = haggling();
  client.option(nbd.OPT_EXTENDED_HEADERS);
  client.stream.write(nbd.encodeOption(nbd.OPT_EXPORT_NAME, nbd.encodeText('disk')));
  harness.loop.run();
  t.ok(client.stream.closed);
  t.same(harness.leaks(), []);
});

// --- metadata contexts -----------------------------------------------------------------------------------------------

/** Queries, and the contexts that LIST and SET answer with. */
const QUERIES: readonly [string, readonly string[], number, number][] = [
  ['META-1: no query', [], 1, 0],
  ['META-2: base:allocation', ['base:allocation'], 1, 1],
  ['META-3: base: is a wildcard for LIST only', ['base:'], 1, 0],
  ['META-4: an unknown leaf', ['base:nothing'], 0, 0],
  ['META-5: an unknown namespace', ['x-foo:bar', 'qemu:dirty-bitmap:x', 'x-foo:'], 0, 0],
  ['META-6: no namespace at all', ['allocation', '', ':', 'base'], 0, 0],
  ['META-7: the same twice', ['base:allocation', 'base:allocation'], 1, 1],
  ['META-8: known among unknown', ['a:b', 'base:allocation', 'base:x'], 1, 1],
];

for (const [name, queries, listed, selected] of QUERIES) {
  t.test(`${name}: ${listed} listed, ${selected} selected`, async t => {
    const [harness, client] = haggling();
    client.option(nbd.OPT_STRUCTURED_REPLY);
    for (const [option, count] of [
      [nbd.OPT_LIST_META_CONTEXT, listed],
      [nbd.OPT_SET_META_CONTEXT, selected],
    ]) {
      const replies = client.option(option, meta('disk', ...queries));
      t.same(types(replies), [...new Array(count).fill(nbd.REP_META_CONTEXT), nbd.REP_ACK]);
      for (const reply of replies.slice(0, -1)) {
        const id = option === nbd.OPT_LIST_META_CONTEXT ? '00000000' : '00000001';
        t.equal(Buffer.from(reply.data).toString('hex'), id + Buffer.from('base:allocation').toString('hex'));
      }
    }
    finish(t, harness, client);
  });
}

t.test('META-9: broken queries are ERR_INVALID, too many ERR_TOO_BIG, an unknown export ERR_UNKNOWN', async t => {
  const [harness, client] = haggling();
  client.option(nbd.OPT_STRUCTURED_REPLY);
  for (const option of [nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT]) {
    for (const data of [
      new Uint8Array(0),
      Buffer.concat([u32(0), u32(1)]),
      Buffer.concat([u32(0), u32(1), u32(0xffffffff)]),
      Buffer.concat([u32(0), u32(0xffffffff)]),
      Buffer.concat([u32(0xffffffff), u32(0)]),
      Buffer.concat([meta('', 'base:'), new Uint8Array(1)]),
    ]) {
      t.same(types(client.option(option, data)), [nbd.REP_ERR_INVALID]);
    }
    t.same(types(client.option(option, meta('', ...new Array(65).fill('a:b')))), [nbd.REP_ERR_TOO_BIG]);
    t.same(types(client.option(option, meta('nothing', 'base:'))), [nbd.REP_ERR_UNKNOWN]);
  }
  finish(t, harness, client);
});

t.test('META-10: SET needs structured replies, LIST does not', async t => {
  const [harness, client] = haggling();
  t.same(types(client.option(nbd.OPT_SET_META_CONTEXT, meta('', 'base:allocation'))), [nbd.REP_ERR_INVALID]);
  t.same(types(client.option(nbd.OPT_LIST_META_CONTEXT, meta(''))), [nbd.REP_META_CONTEXT, nbd.REP_ACK]);
  finish(t, harness, client);
});

/** What comes between SET of `base:allocation` for `a` and GO, and whether BLOCK_STATUS works after it. */
const REPLACED: readonly [string, (client: TestClient) => void, string, boolean][] = [
  ['META-11: the export entered is the one named', () => {}, 'a', true],
  ['META-12: another export is entered', () => {}, 'b', false],
  ['META-13: the default export is another name', () => {}, '', false],
  ['META-14: a SET of nothing follows', client => client.option(nbd.OPT_SET_META_CONTEXT, meta('a')), 'a', false],
  ['META-15: a SET that fails follows', client => client.option(nbd.OPT_SET_META_CONTEXT, meta('?', 'x:')), 'a', false],
  ['META-16: a broken SET follows', client => client.option(nbd.OPT_SET_META_CONTEXT, u32(9)), 'a', false],
  ['META-17: a LIST follows', client => client.option(nbd.OPT_LIST_META_CONTEXT, meta('b')), 'a', true],
];

for (const [name, between, entered, works] of REPLACED) {
  t.test(`${name}: block status ${works ? 'works' : 'is EINVAL'}`, async t => {
    const volumes = [new MemoryVolume({ name: 'a' }), new MemoryVolume({ name: 'b' })];
    const [harness, client] = haggling({ volumes });
    client.option(nbd.OPT_STRUCTURED_REPLY);
    t.equal(client.option(nbd.OPT_SET_META_CONTEXT, meta('a', 'base:allocation')).length, 2);
    between(client);
    client.option(nbd.OPT_GO, go(entered));
    t.equal(client.command(nbd.CMD_BLOCK_STATUS, 0, 4096).error, works ? 0 : nbd.NBD_EINVAL);
    client.leave();
    t.same(harness.leaks(), []);
  });
}

// --- TLS modes -------------------------------------------------------------------------------------------------------

/** Upgrades to another stream in memory, which the test holds. */
class Upgrades {
  readonly made: MemoryStream[] = [];
  harness!: Harness;
  readonly upgrade = async (stream: Stream): Promise<Stream> => {
    (stream as MemoryStream).closed = true;
    const secure = new MemoryStream(this.harness.loop, true);
    this.made.push(secure);
    return secure;
  };
}

function secured(mode: 'forced' | 'selective', tlsOnly?: string): [Harness, TestClient, Upgrades] {
  const upgrades = new Upgrades();
  const volumes = [new MemoryVolume({ name: 'open' }), new MemoryVolume({ name: 'secret' })];
  const tls = { mode, upgrade: upgrades.upgrade, tlsOnly: (volume: { name: string }) => volume.name === tlsOnly };
  const [harness, client] = haggling({ tls, volumes });
  upgrades.harness = harness;
  return [harness, client, upgrades];
}

async function startTls(t: Test, harness: Harness, client: TestClient, upgrades: Upgrades): Promise<TestClient> {
  t.same(types(client.option(nbd.OPT_STARTTLS)), [nbd.REP_ACK]);
  await Promise.resolve();
  await Promise.resolve();
  harness.loop.run();
  t.equal(upgrades.made.length, 1);
  return new TestClient(harness.loop, upgrades.made[0]);
}

t.test('B1 S2: without TLS, STARTTLS is ERR_POLICY and nothing is ever ERR_TLS_REQD', async t => {
  const [harness, client] = haggling();
  t.same(types(client.option(nbd.OPT_STARTTLS)), [nbd.REP_ERR_POLICY]);
  t.same(types(client.option(nbd.OPT_STARTTLS, new Uint8Array(1))), [nbd.REP_ERR_INVALID]);
  t.same(types(client.option(nbd.OPT_GO, go('nothing'))), [nbd.REP_ERR_UNKNOWN]);
  finish(t, harness, client);
});

t.test('S3: where TLS is forced, all but STARTTLS and ABORT is ERR_TLS_REQD before it', async t => {
  const [harness, client] = secured('forced');
  for (const option of [3, 4, 6, 7, 8, 9, 10, 11, 77]) {
    for (const data of [new Uint8Array(0), go('open', 3), new Uint8Array(9)]) {
      t.same(types(client.option(option, data)), [nbd.REP_ERR_TLS_REQD], `option ${option}`);
    }
  }
  finish(t, harness, client);
  const [other, named] = secured('forced');
  named.stream.write(nbd.encodeOption(nbd.OPT_EXPORT_NAME, nbd.encodeText('open')));
  t.equal(named.bytes().length, 0);
  t.ok(named.stream.closed, 'EXPORT_NAME ends the connection');
  t.same(other.leaks(), []);
});

t.test('S3 S5 TLS-1: after STARTTLS everything works, and a second STARTTLS is ERR_INVALID', async t => {
  const [harness, client, upgrades] = secured('forced');
  const secure = await startTls(t, harness, client, upgrades);
  t.same(types(secure.option(nbd.OPT_STARTTLS)), [nbd.REP_ERR_INVALID]);
  t.same(types(secure.option(nbd.OPT_GO, go('nothing'))), [nbd.REP_ERR_UNKNOWN]);
  t.same(types(secure.option(77)), [nbd.REP_ERR_UNSUP]);
  t.same(types(secure.option(nbd.OPT_GO, go('open'))), [nbd.REP_INFO, nbd.REP_ACK]);
  t.equal(secure.read(0, 10).error, 0);
  t.equal(harness.server.statistics().connections[0].encrypted, true);
  secure.leave();
  t.ok(secure.stream.shutDown, 'S8: TLS is shut down before the close');
  t.same(harness.leaks(), []);
});

t.test('TLS-2 E6: STARTTLS makes the server forget what was agreed in clear', async t => {
  const [harness, client, upgrades] = secured('selective');
  client.option(nbd.OPT_STRUCTURED_REPLY);
  client.option(nbd.OPT_SET_META_CONTEXT, meta('open', 'base:allocation'));
  client.option(nbd.OPT_EXTENDED_HEADERS);
  const secure = await startTls(t, harness, client, upgrades);
  t.same(types(secure.option(nbd.OPT_STRUCTURED_REPLY)), [nbd.REP_ACK], 'neither structured nor extended as yet');
  t.same(types(secure.option(nbd.OPT_GO, go('open'))), [nbd.REP_INFO, nbd.REP_ACK]);
  t.equal(secure.read(0, 10).kind, 'structured');
  t.equal(secure.command(nbd.CMD_BLOCK_STATUS, 0, 10).error, nbd.NBD_EINVAL);
  secure.leave();
  t.same(harness.leaks(), []);
});

t.test('S6: bytes in clear behind STARTTLS end the connection', async t => {
  const [harness, client, upgrades] = secured('forced');
  client.stream.write(
    Buffer.concat([nbd.encodeOption(nbd.OPT_STARTTLS), nbd.encodeOption(nbd.OPT_LIST).subarray(0, 1)]),
  );
  harness.loop.run();
  t.ok(client.stream.closed);
  t.equal(upgrades.made.length, 0);
  t.same(harness.leaks(), []);
});

t.test('S6: a TLS handshake that fails ends the connection', async t => {
  const upgrade = async (stream: Stream): Promise<Stream> => {
    stream.close();
    throw new Error('no common cipher');
  };
  const [harness, client] = haggling({ tls: { mode: 'forced', upgrade } });
  t.same(types(client.option(nbd.OPT_STARTTLS)), [nbd.REP_ACK]);
  await Promise.resolve();
  await Promise.resolve();
  t.same(harness.leaks(), []);
  t.match(harness.log.lines, [/TLS handshake failed.*no common cipher/]);
});

t.test('S6: a TLS handshake that comes about after the time limit is closed upon', async t => {
  let resolve: (stream: Stream) => void = () => {};
  const upgrade = (): Promise<Stream> =>
    new Promise(done => {
      resolve = done;
    });
  const [harness, client] = haggling({ tls: { mode: 'forced', upgrade } });
  t.same(types(client.option(nbd.OPT_STARTTLS)), [nbd.REP_ACK]);
  harness.loop.advance(nbdHandshakeTimeoutMs + 1);
  const secure = new MemoryStream(harness.loop, true);
  resolve(secure);
  await Promise.resolve();
  await Promise.resolve();
  t.ok(secure.closed);
  t.same(harness.leaks(), []);
});

t.test('S4: in selective mode an export that needs TLS does not exist without it, and others do', async t => {
  const [harness, client, upgrades] = secured('selective', 'secret');
  t.same(types(client.option(nbd.OPT_LIST)), [nbd.REP_SERVER, nbd.REP_ACK]);
  t.same(types(client.option(nbd.OPT_INFO, go('secret', 3))), [nbd.REP_ERR_TLS_REQD]);
  t.same(types(client.option(nbd.OPT_GO, go('secret', 3))), [nbd.REP_ERR_TLS_REQD]);
  t.same(types(client.option(nbd.OPT_INFO, go('open'))), [nbd.REP_INFO, nbd.REP_ACK]);
  t.same(types(client.option(nbd.OPT_LIST_META_CONTEXT, meta('secret'))), [nbd.REP_ERR_UNKNOWN]);
  const secure = await startTls(t, harness, client, upgrades);
  t.same(types(secure.option(nbd.OPT_LIST)), [nbd.REP_SERVER, nbd.REP_SERVER, nbd.REP_ACK]);
  t.same(types(secure.option(nbd.OPT_GO, go('secret'))), [nbd.REP_INFO, nbd.REP_ACK]);
  secure.leave();
  t.same(harness.leaks(), []);
  const [other, named] = secured('selective', 'secret');
  named.stream.write(nbd.encodeOption(nbd.OPT_EXPORT_NAME, nbd.encodeText('secret')));
  other.loop.run();
  t.ok(named.stream.closed, 'EXPORT_NAME ends the connection');
  t.same(other.leaks(), []);
});
