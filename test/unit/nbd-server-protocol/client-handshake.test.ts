/** The client's handshake against scripted servers, good and bad. CLIENT-n are our own ids. */
import t from 'tap';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';

const wishes: nbd.ClientWishes = {
  exportName: 'disk',
  tls: false,
  structuredReplies: true,
  extendedHeaders: true,
  blockStatus: true,
};

function greeting(flags = 3): Uint8Array {
  const bytes = new Uint8Array(18);
  nbd.encodeGreeting(new DataView(bytes.buffer), 0, flags);
  return bytes;
}

function reply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(20 + data.length);
  nbd.encodeOptionReplyHeader(new DataView(bytes.buffer), 0, option, type, data.length);
  bytes.set(data, 20);
  return bytes;
}

/** Number of the option at the start of what the client sent. */
function optionOf(bytes: Uint8Array, offset = 0): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(offset + 8);
}

t.test('CLIENT-1: a client takes less where the server offers less, byte by byte', async t => {
  const client = new nbd.ClientHandshake(wishes);
  for (const byte of greeting(1)) client.input(new Uint8Array([byte]));
  const first = client.output();
  t.same([...first.subarray(0, 4)], [0, 0, 0, 1], 'NO_ZEROES was not offered');
  t.equal(optionOf(first, 4), nbd.OPT_EXTENDED_HEADERS);
  client.input(reply(nbd.OPT_EXTENDED_HEADERS, nbd.REP_ERR_UNSUP));
  t.equal(optionOf(client.output()), nbd.OPT_STRUCTURED_REPLY);
  client.input(reply(nbd.OPT_STRUCTURED_REPLY, nbd.REP_ERR_UNSUP));
  t.equal(optionOf(client.output()), nbd.OPT_GO, 'no contexts without structured replies');
  const info = new Uint8Array([0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 1, 1]);
  const last = [reply(nbd.OPT_GO, nbd.REP_INFO, info), reply(nbd.OPT_GO, nbd.REP_ACK), new Uint8Array([42])];
  for (const byte of last.flatMap(part => [...part])) client.input(new Uint8Array([byte]));
  t.equal(client.state, 'ready');
  t.match(client.agreement, {
    sizeBytes: 2 ** 32 + 5,
    transmissionFlags: 0x101,
    structuredReplies: false,
    extendedHeaders: false,
    allocationContextId: undefined,
    preferredBlockBytes: 4096,
  });
  t.same([...client.rest()], [42]);
});

t.test('CLIENT-2: TLS comes first, and a refusal of it is the end', async t => {
  for (const type of [nbd.REP_ACK, nbd.REP_ERR_POLICY]) {
    const client = new nbd.ClientHandshake({ ...wishes, tls: true });
    client.input(greeting());
    t.equal(optionOf(client.output(), 4), nbd.OPT_STARTTLS);
    client.input(reply(nbd.OPT_STARTTLS, type));
    t.equal(client.output().length, 0, 'nothing follows in clear');
    t.equal(client.state, type === nbd.REP_ACK ? 'tls' : 'failed');
    if (type !== nbd.REP_ACK) continue;
    client.tlsStarted();
    t.equal(optionOf(client.output()), nbd.OPT_EXTENDED_HEADERS);
  }
});

const unknown = new TextEncoder().encode('there is no such export');
const BAD: readonly [string, Uint8Array, RegExp][] = [
  ['a server of the old style', Buffer.concat([Buffer.from('NBDMAGIC'), new Uint8Array(10)]), /fixed newstyle/],
  ['a server without fixed newstyle', greeting(0), /fixed newstyle/],
  ['a wrong magic of a reply', Buffer.concat([greeting(), new Uint8Array(20)]), /wrong magic/],
  ['a reply of absurd length', Buffer.concat([greeting(), reply(11, 1).fill(0xff, 16)]), /too long/],
  [
    'an export that does not exist',
    Buffer.concat([greeting(), reply(11, nbd.REP_ACK), reply(10, nbd.REP_ACK), reply(7, nbd.REP_ERR_UNKNOWN, unknown)]),
    /no such export/,
  ],
];

for (const [name, bytes, failure] of BAD) {
  t.test(`CLIENT-3: ${name} fails the handshake, with the reason`, async t => {
    const client = new nbd.ClientHandshake(wishes);
    client.input(bytes);
    t.equal(client.state, 'failed');
    t.match(client.failure, failure);
    client.input(greeting());
    t.equal(client.state, 'failed', 'for good');
  });
}
