/**
 * Netlink bytes, golden: made by hand from the kernel's headers (with Python's struct), not by the code under test. And
 * what comes from outside may be cut or changed anywhere.
 */
import t from 'tap';
import {
  encodeConnect,
  encodeDisconnect,
  encodeFamilyRequest,
  encodeReconfigure,
  parseConnected,
  parseFamily,
  parseLinkDead,
} from '../../../src/attach/nbd-netlink.ts';
import { AttributeList, Attributes, parseDatagram } from '../../../src/attach/netlink-message.ts';
import { SimRandom, seedOfRun } from '../../support/sim-random.ts';

const FAMILY = 0x1c;
const FAMILY_ANSWER =
  '6000000010000000070000000000000001010000080002006e626400060001001c00000008000300010000000800040000000000080005000a00' +
  '000024000700200001000800020005000000110001006e62645f6d635f67726f757000000000';
const CONNECTED = '1c0000001c0000000201000000000000010100000800010003000000';
const LINK_DEAD = '1c0000001c0000000000000000000000040100000800010003000000';
const DONE = '2400000002000001020100004d0000000000000000000000000000000000000000000000';
const BUSY = '2400000002000001020100004d000000f0ffffff00000000000000000000000000000000';

t.test('the question for the driver is golden', t => {
  t.equal(hex(encodeFamilyRequest(7)), '1c00000010000500070000000000000003010000080002006e626400');
  t.end();
});

t.test('CONNECT is golden, with sizes and timeouts above 32 bits', t => {
  const bytes = encodeConnect(FAMILY, 258, {
    index: 3,
    sizeBytes: 2 ** 40 + 4096,
    blockBytes: 4096,
    transmissionFlags: 0x16d,
    requestTimeoutSeconds: 4,
    deadTimeoutSeconds: 2 ** 31,
    backend: 'sledge:x',
    sockets: [9, 10],
  });
  t.equal(
    hex(bytes),
    '840000001c00050002010000000000000101000008000100030000000c00020000100000000100000c00030000100000000000000c0004000400' +
      '0000000000000c0005006d010000000000000c00080000000080000000000d000a00736c656467653a78000000001c0007800c0001800800' +
      '0100090000000c000180080001000a000000',
  );
  t.end();
});

t.test('CONNECT without a device leaves the choice to the kernel', t => {
  const bytes = encodeConnect(FAMILY, 1, {
    index: undefined,
    sizeBytes: 1048576,
    blockBytes: 512,
    transmissionFlags: 3,
    requestTimeoutSeconds: 30,
    deadTimeoutSeconds: 60,
    backend: 'b',
    sockets: [5],
  });
  t.equal(
    hex(bytes),
    '680000001c0005000100000000000000010100000c00020000001000000000000c00030000020000000000000c0004001e000000000000000c00' +
      '050003000000000000000c0008003c0000000000000006000a0062000000100007800c0001800800010005000000',
  );
  t.end();
});

t.test('RECONFIGURE and DISCONNECT are golden', t => {
  t.equal(
    hex(encodeReconfigure(FAMILY, 2, { index: 3, backend: 'sledge:x', sizeBytes: 8192, sockets: [11] })),
    '480000001c00050002000000000000000301000008000100030000000d000a00736c656467653a78000000000c00020000200000000000001000' +
      '07800c000180080001000b000000',
  );
  t.equal(hex(encodeDisconnect(FAMILY, 3, 3)), '1c0000001c0005000300000000000000020100000800010003000000');
  t.end();
});

t.test('the driver is found by its family and its group', t => {
  const [message] = parseDatagram(bytesOf(FAMILY_ANSWER));
  t.match(message, { kind: 'generic', family: 16, sequence: 7 });
  if (message?.kind === 'generic') t.same(parseFamily(message.attributes), { family: FAMILY, group: 5 });
  t.equal(parseFamily(new Attributes(new Uint8Array(0))), undefined);
  t.end();
});

t.test('the answer to CONNECT, and the ends of requests', t => {
  const messages = parseDatagram(bytesOf(CONNECTED + DONE));
  t.same(messages.map(parseConnected), [3, undefined]);
  t.same(messages[1], { kind: 'ended', sequence: 258, result: 0 });
  t.same(parseDatagram(bytesOf(BUSY)), [{ kind: 'ended', sequence: 258, result: -16 }]);
  t.end();
});

t.test('the death of a link is told from anything else', t => {
  const [dead] = parseDatagram(bytesOf(LINK_DEAD));
  const [connected] = parseDatagram(bytesOf(CONNECTED));
  t.equal(parseLinkDead(FAMILY, dead!), 3);
  t.equal(parseLinkDead(FAMILY + 1, dead!), undefined, 'of another family');
  t.equal(parseLinkDead(FAMILY, connected!), undefined);
  t.end();
});

t.test('a datagram cut anywhere gives the messages that are whole', t => {
  const whole = bytesOf(CONNECTED + DONE);
  for (let length = 0; length <= whole.length; length++) {
    const count = parseDatagram(whole.subarray(0, length)).length;
    const expected = (length >= CONNECTED.length / 2 ? 1 : 0) + (length === whole.length ? 1 : 0);
    if (count !== expected) t.fail(`${count} messages of ${length} bytes`);
  }
  t.pass('all lengths');
  t.end();
});

t.test('changed bytes are read without harm', t => {
  const seed = seedOfRun();
  t.comment(`seed ${seed}`);
  const random = new SimRandom(seed);
  const whole = bytesOf(FAMILY_ANSWER + CONNECTED + LINK_DEAD + BUSY);
  for (let turn = 0; turn < 20_000; turn++) {
    const changed = whole.slice();
    for (let count = 0; count < 3; count++) changed[random.below(changed.length)] = random.below(256);
    for (const message of parseDatagram(changed)) {
      parseConnected(message);
      parseLinkDead(FAMILY, message);
      if (message.kind === 'generic') parseFamily(message.attributes);
    }
  }
  t.pass('nothing was thrown, and every loop ended');
  t.end();
});

t.test('attributes come back as they were put in', t => {
  const inner = new AttributeList().u32(1, 0xffffffff).text(2, 'naïve');
  const read = new Attributes(new AttributeList().nested(9, inner).u32(3, 0).bytes());
  t.equal(read.nested(9)?.number(1), 0xffffffff);
  t.equal(read.nested(9)?.text(2), 'naïve');
  t.equal(read.number(3), 0);
  t.equal(read.number(4), undefined);
  t.end();
});

t.test('numbers that do not fit are bugs', t => {
  t.throws(() => new AttributeList().u32(1, 2 ** 32));
  t.throws(() => new AttributeList().u32(1, -1));
  t.throws(() => new AttributeList().u64(1, 2 ** 53));
  t.end();
});

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

function bytesOf(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'hex'));
}
