/**
 * Requests that have to be refused, sent through libnbd with its own checks off, and a few through a bare socket where
 * libnbd has no words for them. After each refusal the same connection still works: nothing of a refused write is left
 * in the stream.
 */
import { join } from 'node:path';
import t from 'tap';
import { nbdsh, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import {
  engineUnderTest,
  type RunningServer,
  skipOnStandIn,
  sledgeJson,
  startServer,
} from '../support/server-process.ts';

const MIB = 2 ** 20;
const sizeBytes = 64 * MIB;
const skip = skipUnlessInstalled('nbdsh');
const directory = temporaryDirectory(t);

let started: Promise<RunningServer> | undefined;

/** One server for all: a refusal that harmed it would fail the tests that follow. */
function server(): Promise<RunningServer> {
  started ??= startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes }],
    unix: join(directory, 'socket'),
  });
  return started;
}

/** Runs Python with `h` connected, strict mode off, `size` set, and `alive()`: a write and its read on the connection. */
async function withHandle(script: string): Promise<unknown[]> {
  const uri = (await server()).uri;
  return await nbdsh(`
h.set_strict_mode(0)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(${JSON.stringify(uri)})
size = h.get_size()
marks = 0
def alive():
    global marks
    marks += 1
    mark = bytes([marks]) * 4096
    try:
        h.pwrite(mark, 48 << 20)
        return h.pread(4096, 48 << 20) == mark
    except nbd.Error as failure:
        return str(failure)
def emit_attempt(function, *args, **named):
    emit([attempt(function, *args, **named), alive()])
${script}`);
}

const nothing = 'lambda *arguments: 0';

t.test('a write past the end is ENOSPC, and its payload is consumed', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.pwrite, b"x" * 4096, size)
emit_attempt(h.pwrite, b"x" * 4096, size - 1)
emit_attempt(h.pwrite, b"x", size)
emit_attempt(h.pwrite, b"x" * 1048576, size - 4096)
emit_attempt(h.pwrite, b"x" * 4096, 1 << 62)
emit_attempt(h.pwrite, b"x" * 4096, (1 << 63) - 4096)
`);
  t.strictSame(answers, Array(6).fill(['ENOSPC', true]));
});

t.test('a write across the end changes nothing inside', { skip }, async t => {
  const answers = await withHandle(`
h.pwrite(b"a" * 8192, size - 8192)
emit_attempt(h.pwrite, b"b" * 8192, size - 4096)
emit(h.pread(8192, size - 8192) == b"a" * 8192)
`);
  t.strictSame(answers, [['ENOSPC', true], true]);
});

t.test('the last byte and the last block are written and read', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.pwrite, b"z", size - 1)
emit(h.pread(1, size - 1) == b"z")
emit_attempt(h.pwrite, b"y" * 4096, size - 4096)
emit(h.pread(4096, size - 4096) == b"y" * 4096)
`);
  t.strictSame(answers, [['ok', true], true, ['ok', true], true]);
});

t.test('a read past the end is EINVAL', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.pread, 4096, size)
emit_attempt(h.pread, 4096, size - 1)
emit_attempt(h.pread, 1, size)
emit_attempt(h.pread, 4096, 1 << 62)
emit_attempt(h.pread, 4096, (1 << 63) - 1)
`);
  t.strictSame(answers, Array(5).fill(['EINVAL', true]));
});

t.test('a trim, a cache or a block status past the end is EINVAL', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.trim, 4096, size)
emit_attempt(h.trim, 8192, size - 4096)
emit_attempt(h.cache, 8192, size - 4096)
emit_attempt(h.block_status, 8192, size, ${nothing})
`);
  t.strictSame(answers, Array(4).fill(['EINVAL', true]));
});

t.test('write zeroes past the end is ENOSPC', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.zero, 4096, size)
emit_attempt(h.zero, 8192, size - 4096)
emit_attempt(h.zero, 0xfffff000, 4096)
`);
  t.strictSame(answers, Array(3).fill(['ENOSPC', true]));
});

t.test('flags that nobody knows, or that do not belong to the command, are EINVAL', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.pread, 4096, 0, flags=1 << 7)
emit_attempt(h.pwrite, b"x" * 4096, 0, flags=1 << 7)
emit_attempt(h.pwrite, b"x" * 4096, 0, flags=nbd.CMD_FLAG_FAST_ZERO)
emit_attempt(h.trim, 4096, 0, flags=1 << 7)
emit_attempt(h.zero, 4096, 0, flags=1 << 7)
emit_attempt(h.flush, flags=1 << 7)
emit_attempt(h.cache, 4096, 0, flags=1 << 7)
`);
  t.strictSame(answers, Array(7).fill(['EINVAL', true]));
});

t.test('FUA is accepted on every command', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.pwrite, b"x" * 4096, 0, flags=nbd.CMD_FLAG_FUA)
emit_attempt(h.zero, 4096, 0, flags=nbd.CMD_FLAG_FUA)
emit_attempt(h.trim, 4096, 0, flags=nbd.CMD_FLAG_FUA)
emit_attempt(h.pread, 4096, 0, flags=nbd.CMD_FLAG_FUA)
emit_attempt(h.flush, flags=nbd.CMD_FLAG_FUA)
emit_attempt(h.block_status, 4096, 0, ${nothing}, flags=nbd.CMD_FLAG_FUA)
`);
  t.strictSame(answers, Array(6).fill(['ok', true]));
});

t.test('the other flags are accepted where they belong', { skip }, async t => {
  const answers = await withHandle(`
emit_attempt(h.pread_structured, 65536, 0, ${nothing}, flags=nbd.CMD_FLAG_DF)
emit_attempt(h.zero, 65536, 0, flags=nbd.CMD_FLAG_NO_HOLE)
emit_attempt(h.block_status, 65536, 0, ${nothing}, flags=nbd.CMD_FLAG_REQ_ONE)
`);
  t.strictSame(answers, [
    ['ok', true],
    ['ok', true],
    ['ok', true],
  ]);
});

// nbdkit 1.32 ends with a failed assertion on this one.
t.test(
  'FAST_ZERO is done or refused by its own error, and EINVAL where it is not offered',
  {
    skip: skip || skipOnStandIn(),
  },
  async t => {
    const answers = await withHandle(`
h.pwrite(b"old" * 1000, 0)
offered = h.can_fast_zero()
answer = attempt(h.zero, 65536, 0, flags=nbd.CMD_FLAG_FAST_ZERO)
emit([answer in (("ok", "ENOTSUP", "EOPNOTSUPP") if offered else ("EINVAL",)), alive()])
emit(h.pread(3000, 0) == (bytes(3000) if answer == "ok" else b"old" * 1000))
`);
    t.strictSame(answers, [[true, true], true]);
  },
);

t.test('requests of no length do not end the connection', { skip }, async t => {
  const answers = await withHandle(`
for function, args in ((h.pread, (0, 0)), (h.pwrite, (b"", 0)), (h.trim, (0, 0)), (h.zero, (0, 0)), (h.cache, (0, 0)),
                       (h.pread, (0, size)), (h.block_status, (0, 0, ${nothing}))):
    answer = attempt(function, *args)
    emit([answer in ("ok", "EINVAL", "ENOSPC"), alive()])
`);
  t.strictSame(answers, Array(7).fill([true, true]));
});

t.test('32 MiB go in one request; more is refused or served, and a new connection works', { skip }, async t => {
  const answers = await withHandle(`
big = bytes(range(256)) * 131072
emit_attempt(h.pwrite, big, 4096)
emit(h.pread(len(big), 4096) == big)
emit([attempt(h.pread, 48 << 20, 0) in ("ok", "EINVAL", "EOVERFLOW"), alive()])
emit(attempt(h.pwrite, bytes(40 << 20), 0) != "")
`);
  t.strictSame(answers, [['ok', true], true, [true, true], true]);
  t.strictSame(await withHandle('emit(alive())'), [true]);
});

t.test('a trim or a zero may be longer than any payload', { skip }, async t => {
  const answers = await withHandle(`
h.pwrite(b"old" * 1000, 0)
h.pwrite(b"old" * 1000, size - 4096)
emit_attempt(h.zero, size, 0)
emit(h.pread(3000, 0) == bytes(3000) and h.pread(3000, size - 4096) == bytes(3000))
emit_attempt(h.trim, size, 0)
`);
  t.strictSame(answers, [['ok', true], true, ['ok', true]]);
});

t.test('block status without a negotiated context is EINVAL', { skip }, async t => {
  const uri = (await server()).uri;
  const answers = await nbdsh(`
h.set_strict_mode(0)
h.connect_uri(${JSON.stringify(uri)})
emit(attempt(h.block_status, 4096, 0, ${nothing}))
h.pwrite(b"still here", 0)
emit(h.pread(10, 0) == b"still here")
`);
  t.strictSame(answers, ['EINVAL', true]);
});

t.test(
  'whatever would change a read-only volume is EPERM, and reads go on',
  { skip: skip || skipOnStandIn() },
  async t => {
    const running = await server();
    await sledgeJson(join(directory, 'data'), 'volume', 'create', 'fixed', '--size', '16MiB', '--read-only');
    const answers = await nbdsh(`
h.set_strict_mode(0)
h.connect_uri(${JSON.stringify(running.uriOf('fixed'))})
emit(h.is_read_only())
emit(attempt(h.pwrite, b"x" * 4096, 0))
emit(attempt(h.pwrite, b"x" * 1048576, 0, flags=nbd.CMD_FLAG_FUA))
emit(attempt(h.zero, 4096, 0))
emit(attempt(h.trim, 4096, 0))
emit(attempt(h.flush))
emit(h.pread(4096, 0) == bytes(4096))
`);
    t.strictSame(answers, [true, 'EPERM', 'EPERM', 'EPERM', 'EPERM', 'ok', true]);
  },
);

/** A client of a few lines, for requests that libnbd cannot be made to send: `request` gives the reply's error. */
const bareClient = `
import socket, struct
def receive(s, length):
    data = b""
    while len(data) < length:
        piece = s.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
def enter(path, name):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(path)
    receive(s, 18)
    s.sendall(struct.pack(">I", 3))
    s.sendall(b"IHAVEOPT" + struct.pack(">III", 7, 6 + len(name), len(name)) + name + struct.pack(">H", 0))
    while True:
        magic, option, kind, length = struct.unpack(">QIII", receive(s, 20))
        receive(s, length)
        if kind == 1:
            return s
def request(s, command, flags, cookie, offset, length, payload=b"", wants=0):
    s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload)
    magic, error, echoed = struct.unpack(">IIQ", receive(s, 16))
    assert magic == 0x67446698 and echoed == cookie
    return error, receive(s, wants) if error == 0 else b""
`;

t.test('commands that nobody knows are EINVAL, whatever their cookie', { skip }, async t => {
  const path = join(directory, 'socket');
  await server();
  const answers = await nbdsh(`${bareClient}
s = enter(${JSON.stringify(path)}, b"disk")
for command in (9, 11, 100, 65535):
    for cookie in (0, 1, 2 ** 63, 2 ** 64 - 1):
        error, data = request(s, command, 0, cookie, 0, 4096)
        emit(error)
error, data = request(s, 1, 0, 7, 0, 4, b"good")
error, data = request(s, 0, 0, 8, 0, 4, wants=4)
emit(data.decode())
`);
  t.strictSame(answers, [...Array(16).fill(22), 'good']);
});

t.test('offset plus length beyond 64 bits is out of range and does not wrap around', { skip }, async t => {
  const path = join(directory, 'socket');
  await server();
  const answers = await nbdsh(`${bareClient}
s = enter(${JSON.stringify(path)}, b"disk")
request(s, 1, 0, 1, 0, 4, b"kept")
for command, payload in ((0, b""), (1, b"x" * 8192), (4, b""), (6, b"")):
    error, data = request(s, command, 0, 2, 2 ** 64 - 4096, 8192, payload)
    emit(error)
error, data = request(s, 0, 0, 3, 0, 4, wants=4)
emit(data.decode())
`);
  t.strictSame(answers, [22, 28, 22, 28, 'kept']);
});

t.test('simple replies are sent to a client that did not ask for structured ones', { skip }, async t => {
  const path = join(directory, 'socket');
  await server();
  const answers = await nbdsh(`${bareClient}
s = enter(${JSON.stringify(path)}, b"disk")
emit(request(s, 1, 0, 1, 5000, 5, b"plain")[0])
emit(request(s, 0, 0, 2, 5000, 5, wants=5)[1].decode())
emit(request(s, 0, 0, 3, 2 ** 40, 5)[0])
`);
  t.strictSame(answers, [0, 'plain', 22]);
});

t.test('a client that vanishes in the middle of a write disturbs nobody', { skip }, async t => {
  const path = join(directory, 'socket');
  await server();
  const answers = await nbdsh(`${bareClient}
keep = enter(${JSON.stringify(path)}, b"disk")
request(keep, 1, 0, 1, 8192, 4096, b"k" * 4096)
for sent in (0, 1, 4095):
    gone = enter(${JSON.stringify(path)}, b"disk")
    gone.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 9, 8192, 4096) + b"g" * sent)
    gone.close()
half = enter(${JSON.stringify(path)}, b"disk")
half.sendall(struct.pack(">IHH", 0x25609513, 0, 1))
half.close()
emit(request(keep, 0, 0, 2, 8192, 4096, wants=4096)[1] == b"k" * 4096)
`);
  t.strictSame(answers, [true]);
  t.equal((await server()).engine, engineUnderTest());
});
