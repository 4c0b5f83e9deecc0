/** Several connections to one volume (CAN_MULTI_CONN): what one has been told is written, every other one sees. */
import { join } from 'node:path';
import t from 'tap';
import { nbdsh, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { skipOnStandIn, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('nbdsh');

t.test('a write answered on one connection is read on each other one', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
    tcp: true,
  });
  const seed = 20_240_607;
  t.comment(`seed ${seed}`);
  const answers = await nbdsh(`
import random
rng = random.Random(${seed})
handles = []
for i in range(4):
    handle = nbd.NBD()
    handle.connect_uri(${JSON.stringify(server.uri)})
    handles.append(handle)
emit(all(handle.can_multi_conn() for handle in handles))
model = bytearray(1 << 20)
wrong = 0
for turn in range(600):
    length = rng.choice((1, 512, 4096, 5000, 65536, 100000))
    offset = rng.randrange(len(model) - length)
    data = rng.randbytes(length)
    kind = rng.randrange(5)
    writer = rng.choice(handles)
    if kind == 0:
        writer.zero(length, offset)
        data = bytes(length)
    elif kind == 1:
        writer.pwrite(data, offset, nbd.CMD_FLAG_FUA)
    else:
        writer.pwrite(data, offset)
    model[offset:offset + length] = data
    if turn % 50 == 0:
        rng.choice(handles).flush()
    reader = rng.choice(handles)
    start = rng.randrange(max(1, offset - 100), offset + 1) if offset > 0 else 0
    end = min(len(model), offset + length + 100)
    if reader.pread(end - start, start) != model[start:end]:
        wrong += 1
emit(wrong)
emit(handles[0].pread(len(model), 0) == model)
`);
  t.strictSame(answers, [true, 0, true]);
});

t.test('many requests in flight on several connections each get their own answer', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
    unix: join(directory, 'socket'),
  });
  const answers = await nbdsh(`
handles = []
for i in range(4):
    handle = nbd.NBD()
    handle.connect_uri(${JSON.stringify(server.uri)})
    handles.append(handle)
def settle():
    while any(handle.aio_in_flight() for handle in handles):
        for handle in handles:
            while handle.aio_in_flight() and handle.poll(0) > 0:
                pass
            handle.poll(1)
for block in range(2048):
    buffer = nbd.Buffer.from_bytearray(bytearray(block.to_bytes(4, "big") * 1024))
    handles[block % 4].aio_pwrite(buffer, block * 4096)
    if block % 256 == 255:
        settle()
buffers = [nbd.Buffer(4096) for block in range(2048)]
for block in range(2048):
    handles[(block + 1) % 4].aio_pread(buffers[block], block * 4096)
    if block % 256 == 255:
        settle()
emit(sum(buffers[block].to_bytearray() != block.to_bytes(4, "big") * 1024 for block in range(2048)))
`);
  t.strictSame(answers, [0]);
});

t.test('what was answered survives kill -9, on whichever connection', { skip: skip || skipOnStandIn() }, async t => {
  const directory = temporaryDirectory(t);
  const options = {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
    unix: join(directory, 'socket'),
  };
  const first = await startServer(t, options);
  await nbdsh(`
handles = []
for i in range(3):
    handle = nbd.NBD()
    handle.connect_uri(${JSON.stringify(first.uri)})
    handles.append(handle)
for block in range(600):
    handles[block % 3].pwrite((block + 1).to_bytes(4, "big") * 1024, block * 8192)
`);
  await first.kill();
  const second = await startServer(t, options);
  const answers = await nbdsh(`
h.connect_uri(${JSON.stringify(second.uri)})
emit(sum(h.pread(8192, block * 8192) != (block + 1).to_bytes(4, "big") * 1024 + bytes(4096) for block in range(600)))
`);
  t.strictSame(answers, [0]);
});

t.test(
  'SIGTERM ends the server with 0 while clients are connected, and keeps what they wrote',
  {
    skip: skip || skipOnStandIn(),
  },
  async t => {
    const directory = temporaryDirectory(t);
    const options = {
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
      unix: join(directory, 'socket'),
    };
    const first = await startServer(t, options);
    const client = nbdsh(`
import os, signal
h.connect_uri(${JSON.stringify(first.uri)})
answered = 0
try:
    for block in range(100000):
        h.pwrite((block + 1).to_bytes(4, "big") * 1024, block % 4096 * 4096)
        answered = block + 1
        if answered == 200:
            os.kill(${first.pid}, signal.SIGTERM)
except nbd.Error:
    pass
emit(answered)
`);
    const [answered] = (await client) as [number];
    t.equal(await first.ended(), 0);
    t.ok(answered >= 200 && answered < 100_000, `${answered} writes were answered`);
    const second = await startServer(t, options);
    const newest = Math.min(answered, 4096);
    const [wrong] = await nbdsh(`
h.connect_uri(${JSON.stringify(second.uri)})
wrong = 0
for block in range(max(0, ${answered} - ${newest}), ${answered}):
    if h.pread(4096, block % 4096 * 4096) not in ((block + 1).to_bytes(4, "big") * 1024, (block + 4097).to_bytes(4, "big") * 1024):
        wrong += 1
emit(wrong)
`);
    t.equal(wrong, 0);
  },
);
