/**
 * Golden bytes: every message of the protocol as it stands on the wire, written out by hand from the protocol document.
 * A change here is a change of the protocol. Ids of the checklist: G1 G4 O1 X1 E2 E4; WIRE-n are our own.
 */
import t from 'tap';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';

const bytes = new Uint8Array(512);
const view = new DataView(bytes.buffer);
const target: nbd.ReplyTarget = {
  cookieHigh: 0x01020304,
  cookieLow: 0xfffefdfc,
  offsetHigh: 0x00000007,
  offsetLow: 0x80000001,
};
const text = (value: string): Uint8Array => nbd.encodeText(value);

/** What `encode` writes at an odd offset, as hex; nothing around it may change. */
function written(encode: (offset: number) => number): string {
  bytes.fill(0xaa);
  const offset = 13;
  const length = encode(offset);
  const around = [...bytes.subarray(0, offset), ...bytes.subarray(offset + length)];
  if (!around.every(byte => byte === 0xaa)) throw new Error('bytes around the message were written');
  return Buffer.from(bytes.subarray(offset, offset + length)).toString('hex');
}

const hex = (...parts: string[]): string => parts.join('').replaceAll(' ', '');
const COOKIE = '01020304 fffefdfc';
const OFFSET = '00000007 80000001';

const GOLDEN: readonly [string, (offset: number) => number, string][] = [
  ['G1: greeting', at => nbd.encodeGreeting(view, at, 3), hex('4e42444d41474943', '49484156454f5054', '0003')],
  [
    'G4: EXPORT_NAME without zeroes',
    at => nbd.encodeExportNameReply(view, bytes, at, 2 ** 40 + 5, 0x0d6d, true),
    hex('0000010000000005', '0d6d'),
  ],
  [
    'G4: EXPORT_NAME with zeroes',
    at => nbd.encodeExportNameReply(view, bytes, at, 1, 1, false),
    hex('0000000000000001', '0001', '00'.repeat(124)),
  ],
  ['O1: ACK', at => nbd.encodeAck(view, at, 7), hex('0003e889045565a9', '00000007', '00000001', '00000000')],
  [
    'O1: error with a text',
    at => nbd.encodeOptionError(view, bytes, at, 99, nbd.REP_ERR_UNSUP, text('no')),
    hex('0003e889045565a9', '00000063', '80000001', '00000002', '6e6f'),
  ],
  [
    'WIRE-1: SERVER',
    at => nbd.encodeServer(view, bytes, at, 3, text('ab'), text('xyz')),
    hex('0003e889045565a9', '00000003', '00000002', '00000009', '00000002', '6162', '78797a'),
  ],
  [
    'WIRE-2: INFO_EXPORT',
    at => nbd.encodeInfoExport(view, at, 7, 2 ** 32, 0x0101),
    hex('0003e889045565a9', '00000007', '00000003', '0000000c', '0000', '0000000100000000', '0101'),
  ],
  [
    'WIRE-3: INFO_NAME',
    at => nbd.encodeInfoText(view, bytes, at, 6, nbd.INFO_NAME, text('é')),
    hex('0003e889045565a9', '00000006', '00000003', '00000004', '0001', 'c3a9'),
  ],
  [
    'WIRE-4: INFO_BLOCK_SIZE',
    at => nbd.encodeInfoBlockSize(view, at, 7, 1, 4096, 32 * 1024 * 1024),
    hex('0003e889045565a9', '00000007', '00000003', '0000000e', '0003', '00000001', '00001000', '02000000'),
  ],
  [
    'WIRE-5: META_CONTEXT',
    at => nbd.encodeMetaContext(view, bytes, at, 10, 1, text('base:allocation')),
    hex('0003e889045565a9', '0000000a', '00000004', '00000013', '00000001', '626173653a616c6c6f636174696f6e'),
  ],
  ['X1: simple reply', at => nbd.encodeSimpleReply(view, at, target, 22), hex('67446698', '00000016', COOKIE)],
  ['WIRE-6: NONE', at => nbd.encodeNone(view, at, false, target), hex('668e33ef', '0001', '0000', COOKIE, '00000000')],
  [
    'WIRE-7: OFFSET_DATA',
    at => nbd.encodeOffsetData(view, at, false, target, false, 2 ** 33 + 1, 0x1000),
    hex('668e33ef', '0000', '0001', COOKIE, '00001008', '0000000200000001'),
  ],
  [
    'WIRE-8: OFFSET_HOLE',
    at => nbd.encodeOffsetHole(view, at, false, target, true, 4096, 0x2000),
    hex('668e33ef', '0001', '0002', COOKIE, '0000000c', '0000000000001000', '00002000'),
  ],
  [
    'WIRE-9: ERROR',
    at => nbd.encodeError(view, bytes, at, false, target, 5, text('bad')),
    hex('668e33ef', '0001', '8001', COOKIE, '00000009', '00000005', '0003', '626164'),
  ],
  [
    'WIRE-10: ERROR_OFFSET',
    at => nbd.encodeErrorOffset(view, bytes, at, false, target, false, 5, text('bad'), 2 ** 32 + 2),
    hex('668e33ef', '0000', '8002', COOKIE, '00000011', '00000005', '0003', '626164', '0000000100000002'),
  ],
  [
    'WIRE-11: BLOCK_STATUS',
    at => {
      const header = nbd.encodeBlockStatus(view, at, false, target, true, 1, 2);
      const first = nbd.encodeExtent(view, at + header, false, 0xfffff000, 0);
      return header + first + nbd.encodeExtent(view, at + header + first, false, 512, 3);
    },
    hex('668e33ef', '0001', '0005', COOKIE, '00000014', '00000001', 'fffff00000000000', '0000020000000003'),
  ],
  [
    'E2: extended NONE',
    at => nbd.encodeNone(view, at, true, target),
    hex('6e8a278c', '0001', '0000', COOKIE, OFFSET, '0000000000000000'),
  ],
  [
    'E2: extended OFFSET_DATA',
    at => nbd.encodeOffsetData(view, at, true, target, true, 1, 16),
    hex('6e8a278c', '0001', '0001', COOKIE, OFFSET, '0000000000000018', '0000000000000001'),
  ],
  [
    'E2: extended OFFSET_HOLE',
    at => nbd.encodeOffsetHole(view, at, true, target, false, 1, 16),
    hex('6e8a278c', '0000', '0002', COOKIE, OFFSET, '000000000000000c', '0000000000000001', '00000010'),
  ],
  [
    'E2: extended ERROR',
    at => nbd.encodeError(view, bytes, at, true, target, 108, text('')),
    hex('6e8a278c', '0001', '8001', COOKIE, OFFSET, '0000000000000006', '0000006c', '0000'),
  ],
  [
    'E4: BLOCK_STATUS_EXT',
    at => {
      const header = nbd.encodeBlockStatus(view, at, true, target, true, 1, 1);
      return header + nbd.encodeExtent(view, at + header, true, 2 ** 40, 3);
    },
    hex(
      '6e8a278c',
      '0001',
      '0006',
      COOKIE,
      OFFSET,
      '0000000000000018',
      '0000000100000001',
      '0000010000000000',
      '0000000000000003',
    ),
  ],
  [
    'WIRE-12: compact request',
    at => nbd.encodeRequest(view, at, false, 1, nbd.CMD_WRITE, 0x01020304, 0xfffefdfc, 2 ** 40 + 7, 0xffffffff),
    hex('25609513', '0001', '0001', COOKIE, '0000010000000007', 'ffffffff'),
  ],
  [
    'WIRE-13: extended request',
    at => nbd.encodeRequest(view, at, true, 0x20, nbd.CMD_WRITE, 0x01020304, 0xfffefdfc, 7, 2 ** 40),
    hex('21e41c71', '0020', '0001', COOKIE, '0000000000000007', '0000010000000000'),
  ],
];

for (const [name, encode, expected] of GOLDEN) {
  t.test(`${name} has its bytes`, async t => {
    t.equal(written(encode), expected);
  });
}

t.test('WIRE-14: an option has its bytes', async t => {
  const option = nbd.encodeOption(nbd.OPT_GO, nbd.encodeInfoRequest('ab', [nbd.INFO_BLOCK_SIZE]));
  const expected = hex('49484156454f5054', '00000007', '0000000a', '00000002', '6162', '0001', '0003');
  t.equal(Buffer.from(option).toString('hex'), expected);
  const queries = nbd.encodeOption(nbd.OPT_SET_META_CONTEXT, nbd.encodeMetaContextQueries('a', ['b:', 'c']));
  t.equal(
    Buffer.from(queries).toString('hex'),
    hex('49484156454f5054', '0000000a', '00000014', '00000001', '61', '00000002', '00000002', '623a', '00000001', '63'),
  );
});
