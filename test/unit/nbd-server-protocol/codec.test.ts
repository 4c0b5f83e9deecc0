/**
 * Parsers: requests, options, strings, replies and errors, with what is malformed. Ids of the checklist: T1 T2 X11 X15;
 * PARSE-n and ERRNO-n are our own.
 */
import t from 'tap';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';

function parse(bytes: Uint8Array, available = bytes.length, extended = false): [number, nbd.Request] {
  const request = new nbd.Request();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return [nbd.parseRequest(view, 0, available, extended, request), request];
}

function header(extended: boolean, offset: bigint, length: bigint, command = 0, flags = 0): Uint8Array {
  const bytes = new Uint8Array(extended ? 32 : 28);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, extended ? nbd.EXTENDED_REQUEST_MAGIC : nbd.REQUEST_MAGIC);
  view.setUint16(4, flags);
  view.setUint16(6, command);
  view.setBigUint64(8, 0xfedcba9876543210n);
  view.setBigUint64(16, offset);
  if (extended) view.setBigUint64(24, length);
  else view.setUint32(24, Number(length));
  return bytes;
}

t.test('PARSE-1: a request is incomplete until its last byte, and a wrong magic is told at the fourth', async t => {
  for (const extended of [false, true]) {
    const bytes = header(extended, 5n, 6n);
    for (let available = 0; available < bytes.length; available += 1) {
      t.equal(parse(bytes, available, extended)[0], nbd.REQUEST_INCOMPLETE);
    }
    t.equal(parse(bytes, bytes.length, extended)[0], bytes.length);
    t.equal(parse(bytes, 4, !extended)[0], nbd.REQUEST_MALFORMED);
  }
});

t.test('PARSE-2: all fields of a request come through', async t => {
  for (const extended of [false, true]) {
    const [, request] = parse(header(extended, 2n ** 52n + 3n, 2n ** 32n - 1n, 6, 0x12), undefined, extended);
    t.same(
      [request.flags, request.command, request.cookieHigh, request.cookieLow, request.offsetBytes, request.lengthBytes],
      [0x12, 6, 0xfedcba98, 0x76543210, 2 ** 52 + 3, 2 ** 32 - 1],
    );
    t.notOk(request.outOfRange);
  }
});

t.test('X15: what does not fit a safe integer is out of range, and never wraps around', async t => {
  const max = 2n ** 53n - 1n;
  const cases: [boolean, bigint, bigint, boolean][] = [
    [false, max, 0n, false],
    [false, max, 1n, true],
    [false, max + 1n, 0n, true],
    [false, 2n ** 64n - 1n, 0n, true],
    [false, 2n ** 64n - 1n, 2n ** 32n - 1n, true],
    [true, 0n, max, false],
    [true, 1n, max, true],
    [true, 0n, 2n ** 63n, true],
    [true, 2n ** 64n - 1n, 2n ** 64n - 1n, true],
    [true, 2n ** 64n - 4096n, 4096n, true],
  ];
  for (const [extended, offset, length, expected] of cases) {
    const [, request] = parse(header(extended, offset, length), undefined, extended);
    t.equal(request.outOfRange, expected, `${offset} + ${length}`);
    t.ok(Number.isSafeInteger(request.offsetBytes) && Number.isSafeInteger(request.lengthBytes));
  }
});

t.test('PARSE-3: what carries a payload', async t => {
  t.equal(parse(header(false, 0n, 9n, nbd.CMD_WRITE))[1].payloadBytes, 9);
  t.equal(parse(header(false, 0n, 9n, nbd.CMD_READ, nbd.CMD_FLAG_PAYLOAD_LEN))[1].payloadBytes, 0);
  t.equal(parse(header(true, 0n, 9n, nbd.CMD_READ, nbd.CMD_FLAG_PAYLOAD_LEN), undefined, true)[1].payloadBytes, 9);
  t.equal(parse(header(true, 0n, 9n, nbd.CMD_WRITE), undefined, true)[1].payloadBytes, 9);
  t.equal(parse(header(true, 0n, 9n, nbd.CMD_TRIM), undefined, true)[1].payloadBytes, 0);
});

function option(number: number, data: Uint8Array, queriesMax = 4): nbd.OptionMessage {
  const padded = new Uint8Array(data.length + 20).fill(0x41);
  padded.set(data, 10);
  return nbd.parseOptionData(number, new DataView(padded.buffer), padded, 10, data.length, queriesMax);
}

const u32 = (value: number): number[] => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
const of = (...bytes: (number | number[])[]): Uint8Array => new Uint8Array(bytes.flat());

t.test('PARSE-4: options without data refuse data', async t => {
  for (const number of [nbd.OPT_LIST, nbd.OPT_STARTTLS, nbd.OPT_STRUCTURED_REPLY, nbd.OPT_EXTENDED_HEADERS]) {
    t.not(option(number, of()).kind, 'malformed');
    t.equal(option(number, of(0)).kind, 'malformed');
  }
  t.equal(option(nbd.OPT_ABORT, of(1, 2)).kind, 'abort', 'ABORT ignores data');
  t.equal(option(nbd.OPT_PEEK_EXPORT, of(1, 2)).kind, 'unknown');
  t.equal(option(0xffffffff, of(1, 2)).kind, 'unknown');
});

t.test('T2: lengths inside of INFO and GO are held against the option', async t => {
  for (const number of [nbd.OPT_INFO, nbd.OPT_GO]) {
    t.match(option(number, of(u32(2), 0x61, 0x62, 0, 1, 0, 3)), { name: 'ab', requests: [3] });
    t.match(option(number, of(u32(0), 0, 0)), { name: '', requests: [] });
    for (const bad of [
      of(),
      of(0, 0, 0),
      of(u32(1)),
      of(u32(0)),
      of(u32(0), 0),
      of(u32(3), 0x61, 0x62, 0, 0),
      of(u32(0xffffffff), 0x61, 0x62, 0, 0),
      of(u32(1), 0x61, 0, 1),
      of(u32(1), 0x61, 0, 1, 0),
      of(u32(1), 0x61, 0, 1, 0, 0, 0),
      of(u32(1), 0x61, 0, 0, 0, 0),
      of(u32(1), 0x61, 255, 255),
    ]) {
      t.equal(option(number, bad).kind, 'malformed', Buffer.from(bad).toString('hex'));
    }
  }
});

t.test('T2: lengths and counts inside of the metadata options are held against the option', async t => {
  for (const number of [nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT]) {
    t.match(option(number, of(u32(1), 0x61, u32(1), u32(2), 0x62, 0x3a)), { name: 'a', queries: ['b:'] });
    t.match(option(number, of(u32(0), u32(0))), { queries: [] });
    for (const bad of [
      of(u32(1)),
      of(u32(0)),
      of(u32(0), u32(1)),
      of(u32(0), u32(0), 0),
      of(u32(0), u32(0xffffffff)),
      of(u32(0), u32(0x40000000), u32(0)),
      of(u32(0), u32(1), u32(0xffffffff)),
      of(u32(0), u32(1), u32(2), 0x61),
      of(u32(0), u32(1), u32(0), 0),
    ]) {
      t.equal(option(number, bad).kind, 'malformed', Buffer.from(bad).toString('hex'));
    }
    const five = of(u32(0), u32(5), u32(0), u32(0), u32(0), u32(0), u32(0));
    t.equal(option(number, five).kind, 'tooBig');
  }
});

t.test('T1: strings with NUL, broken UTF-8 or more than 4096 bytes are refused', async t => {
  const name = (bytes: Uint8Array): Uint8Array => of(u32(bytes.length), [...bytes], 0, 0);
  t.match(option(nbd.OPT_GO, name(new Uint8Array(4096).fill(0x61))), { kind: 'go' });
  t.match(option(nbd.OPT_GO, name(new Uint8Array(4097).fill(0x61))), { kind: 'tooBig' });
  t.match(option(nbd.OPT_GO, name(of(0x61, 0))), { kind: 'malformed', reason: /NUL/ });
  t.match(option(nbd.OPT_GO, name(of(0xc3))), { kind: 'malformed', reason: /UTF-8/ });
  t.match(option(nbd.OPT_GO, name(of(0xed, 0xa0, 0x80))), { kind: 'malformed' }, 'a lone surrogate');
  t.match(option(nbd.OPT_EXPORT_NAME, of(0xff)), { kind: 'malformed' });
});

t.test('T1: strings that go out are cut between characters and hold no NUL', async t => {
  t.equal(nbd.encodeText('é'.repeat(3000)).length, 4096);
  t.equal(Buffer.from(nbd.encodeText('aé', 2)).toString(), 'a');
  t.equal(Buffer.from(nbd.encodeText('a€b', 3)).toString(), 'a');
  t.equal(Buffer.from(nbd.encodeText('a\0b')).toString(), 'ab');
});

t.test('PARSE-5: the header of an option', async t => {
  const bytes = nbd.encodeOption(77, new Uint8Array(5));
  const view = new DataView(bytes.buffer);
  const out = { option: 0, dataBytes: 0 };
  for (let available = 0; available < 16; available += 1) {
    t.equal(nbd.parseOptionHeader(view, 0, available, out), nbd.OPTION_INCOMPLETE);
  }
  t.equal(nbd.parseOptionHeader(view, 0, 16, out), 16);
  t.same(out, { option: 77, dataBytes: 5 });
  view.setUint8(7, 0);
  t.equal(nbd.parseOptionHeader(view, 0, 7, out), nbd.OPTION_INCOMPLETE);
  t.equal(nbd.parseOptionHeader(view, 0, 8, out), nbd.OPTION_MALFORMED);
  view.setUint8(0, 0);
  t.equal(nbd.parseOptionHeader(view, 0, 4, out), nbd.OPTION_MALFORMED);
});

t.test('X11: every Linux errno becomes one of the eight values of the protocol', async t => {
  const known = [1, 5, 12, 22, 28, 75, 95, 108];
  for (let errno = 1; errno < 200; errno += 1) t.ok(known.includes(nbd.nbdErrorOfErrno(errno)), `${errno}`);
  t.equal(nbd.nbdErrorOfErrno(0), 0);
  for (const value of known) t.equal(nbd.nbdErrorOfErrno(value), value);
  t.equal(nbd.nbdErrorOfErrno(122), nbd.NBD_ENOSPC, 'EDQUOT');
  t.equal(nbd.nbdErrorOfErrno(27), nbd.NBD_ENOSPC, 'EFBIG');
  t.equal(nbd.nbdErrorOfErrno(30), nbd.NBD_EPERM, 'EROFS');
  t.equal(nbd.nbdErrorOfErrno(110), nbd.NBD_EIO, 'ETIMEDOUT');
  t.equal(nbd.nbdErrorName(22), 'EINVAL');
  t.equal(nbd.nbdErrorName(7), 'error 7');
});

t.test('PARSE-6: a client reads back what a server wrote', async t => {
  const bytes = new Uint8Array(256);
  const view = new DataView(bytes.buffer);
  const target = { cookieHigh: 1, cookieLow: 2, offsetHigh: 3, offsetLow: 4 };
  const out = new nbd.ReplyHeader();
  const length = nbd.encodeError(view, bytes, 0, true, target, 5, nbd.encodeText('bad'));
  for (let available = 0; available < 32; available += 1) {
    t.equal(nbd.parseReplyHeader(view, 0, available, out), nbd.REPLY_INCOMPLETE);
  }
  t.equal(nbd.parseReplyHeader(view, 0, length, out), 32);
  t.match(out, { kind: 'extended', cookieHigh: 1, cookieLow: 2, offsetHigh: 3, offsetLow: 4, done: true });
  t.same(nbd.parseChunkError(view, bytes, 32, out.payloadBytes), { error: 5, text: 'bad' });
  t.equal(nbd.parseChunkError(view, bytes, 32, 5), undefined);
  t.equal(nbd.parseChunkError(view, bytes, 32, 8), undefined, 'a text longer than the chunk');
  view.setUint32(0, 0x12345678);
  t.equal(nbd.parseReplyHeader(view, 0, length, out), nbd.REPLY_MALFORMED);
  for (const extended of [false, true]) {
    const head = nbd.encodeBlockStatus(view, 0, extended, target, true, 9, 2);
    let at = head + nbd.encodeExtent(view, head, extended, 512, 1);
    at += nbd.encodeExtent(view, at, extended, 1024, 2);
    const size = nbd.parseReplyHeader(view, 0, at, out);
    const extents = [
      { lengthBytes: 512, flags: 1 },
      { lengthBytes: 1024, flags: 2 },
    ];
    t.same(nbd.parseBlockStatus(view, size, out.payloadBytes, extended), { contextId: 9, extents });
    t.equal(nbd.parseBlockStatus(view, size, out.payloadBytes - 1, extended), undefined);
    t.equal(nbd.parseBlockStatus(view, size, extended ? 8 : 4, extended), undefined, 'no extent');
  }
});
