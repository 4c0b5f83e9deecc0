import type { EventEmitter } from 'node:events';
import { existsSync, linkSync, mkdirSync, readdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import http, { request as httpRequest } from 'node:http';
import { syncBuiltinESMExports } from 'node:module';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { ControlClient } from '../../../src/admin/control-client.ts';
import { type ControlServer, startControlServer } from '../../../src/admin/control-server.ts';
import type { CreateVolumeRequest } from '../../../src/admin/node-control.ts';
import { SledgeError } from '../../../src/base/errors.ts';
import { MemoryNodeControl } from '../../support/memory-node-control.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

const WANTED: CreateVolumeRequest = {
  name: 'vol0',
  sizeBytes: 10 * 1024 ** 3,
  chunkBytes: 65_536,
  ack: 'durable',
  readOnly: true,
};

/** Of a tap test, what is needed here. */
type Cleaner = Parameters<typeof temporaryDirectory>[0];

interface Rig {
  readonly directory: string;
  readonly control: MemoryNodeControl;
  readonly client: ControlClient;
  readonly server: ControlServer;
  readonly logged: string[];
}

async function rig(test: Cleaner, directory = temporaryDirectory(test)): Promise<Rig> {
  const control = new MemoryNodeControl();
  const logged: string[] = [];
  const server = await startControlServer(directory, control, { error: (_, message) => logged.push(message) });
  let stopped: Promise<void> | undefined;
  const stopOnce = { path: server.path, stop: () => (stopped ??= server.stop()) };
  test.teardown(() => {
    // Closing twice would be an error; the test may have done it.
    void stopOnce.stop();
  });
  return { directory, control, client: new ControlClient(directory), server: stopOnce, logged };
}

interface RawAnswer {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly body: { error?: { code: string; message: string; hint: string; retryable: boolean } };
}

/** A request as some other program would make it. */
function raw(socketPath: string, method: string, path: string, body = ''): Promise<RawAnswer> {
  return new Promise((done, failed) => {
    const request = httpRequest({ socketPath, method, path, agent: false }, response => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => {
        text += piece;
      });
      response.on('end', () =>
        done({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: text === '' ? {} : (JSON.parse(text) as RawAnswer['body']),
        }),
      );
    });
    request.on('error', failed);
    request.end(body);
  });
}

t.test('volumes are made, listed, shown, grown and deleted over the socket', async t => {
  const { client } = await rig(t);
  t.same(await client.volumes(), []);
  const made = await client.createVolume(WANTED);
  t.match(made, { ...WANTED, number: 1, lastOp: 0 });
  await client.createVolume({ ...WANTED, name: 'another' });
  t.same(
    (await client.volumes()).map(volume => volume.name),
    ['another', 'vol0'],
  );
  t.same(await client.volume('vol0'), made);
  t.equal((await client.growVolume('vol0', 20 * 1024 ** 3)).sizeBytes, 20 * 1024 ** 3);
  await client.deleteVolume('vol0');
  t.same(
    (await client.volumes()).map(volume => volume.name),
    ['another'],
  );
});

t.test('the status arrives as the node gave it', async t => {
  const { client, control } = await rig(t);
  control.problems.push({ severity: 'warning', what: 'w', why: 'y', todo: 't' });
  t.same(await client.status(), control.status());
});

t.test('a scrub is asked for, followed, and cancelled when its connection is closed', async t => {
  const { client, control, server, logged } = await rig(t);
  await client.createVolume(WANTED);
  t.equal(await client.scrubProgress('vol0'), undefined);
  const never = new AbortController().signal;
  t.match(await client.scrubVolume('vol0', 1_000_000, never), { volume: 'vol0', damagedBlocks: 0 });
  t.match(await raw(server.path, 'POST', '/v1/volumes/vol0/scrub', '{}'), { status: 200 });
  t.same(control.scrubsAsked, [
    ['vol0', 1_000_000],
    ['vol0', 64 * 1024 ** 2],
  ]);
  control.scrubHeld = { seconds: 1, bytesRead: 2, bytesDone: 3, bytesTotal: 4, damagedBlocks: 5 };
  const cancelled = new AbortController();
  const scrub = client.scrubVolume('vol0', 1_000_000, cancelled.signal);
  const refused = t.rejects(scrub, { code: 'cancelled' });
  while (control.scrubsRunning === 0) await new Promise(resolve => setTimeout(resolve, 5));
  t.same(await client.scrubProgress('vol0'), control.scrubHeld);
  cancelled.abort();
  await refused;
  while (control.scrubsRunning > 0) await new Promise(resolve => setTimeout(resolve, 5));
  for (const body of ['{"bytesPerSecond":1}', '{"bytesPerSecond":1e300}', '{"rate":100000}', '[]']) {
    t.match(await raw(server.path, 'POST', '/v1/volumes/vol0/scrub', body), { status: 400 }, body);
  }
  t.match(await raw(server.path, 'DELETE', '/v1/volumes/vol0/scrub'), { status: 405, headers: { allow: 'GET, POST' } });
  t.same(logged, []);
});

t.test("the node's errors arrive with their code, message and hint", async t => {
  const { client, control, logged } = await rig(t);
  await client.createVolume(WANTED);
  await t.rejects(client.createVolume(WANTED), { code: 'volume-exists', message: /vol0/ });
  await t.rejects(client.volume('nope'), { code: 'volume-unknown' });
  await t.rejects(client.growVolume('nope', 4096), { code: 'volume-unknown' });
  await t.rejects(client.growVolume('vol0', 4096), { code: 'shrink-refused' });
  await t.rejects(client.deleteVolume('nope'), { code: 'volume-unknown' });
  control.put({ name: 'busy', connections: 1 });
  await t.rejects(client.deleteVolume('busy'), { code: 'volume-busy', retryable: true });
  control.nextFailure = new SledgeError('no-space', 'full', { hint: 'a hint of its own' });
  await t.rejects(client.growVolume('vol0', 20 * 1024 ** 3), { code: 'no-space', hint: 'a hint of its own' });
  t.same(logged, [], 'none of these is a fault of the server');
});

t.test('a bug behind the socket becomes an error that is logged, and the server goes on', async t => {
  const { client, control, logged } = await rig(t);
  control.nextFailure = new TypeError('not a function');
  await t.rejects(client.createVolume(WANTED), { code: 'io', message: /not a function/ });
  t.same(logged, ['a control request failed']);
  t.match(await client.createVolume(WANTED), { name: 'vol0' });
});

t.test('a caller that hangs up within its request is no failure of the server', async t => {
  const { server, logged, client } = await rig(t);
  const socket = connect(server.path);
  socket.on('error', () => {});
  socket.write('POST /v1/volumes HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"name"');
  await new Promise(resolve => setTimeout(resolve, 50));
  socket.destroy();
  await new Promise(resolve => setTimeout(resolve, 50));
  t.same(await client.volumes(), []);
  t.same(logged, []);
});

t.test('a connection that cannot be accepted is logged, and the server goes on', async t => {
  const { createServer: original } = http;
  let made: EventEmitter | undefined;
  const createServer = (...args: Parameters<typeof original>) => {
    const server = original(...args);
    made = server;
    return server;
  };
  Object.assign(http, { createServer });
  syncBuiltinESMExports();
  const { logged, client } = await rig(t).finally(() => {
    Object.assign(http, { createServer: original });
    syncBuiltinESMExports();
  });
  made?.emit('error', Object.assign(new Error('accept EMFILE'), { code: 'EMFILE' }));
  t.same(logged, ['a control connection failed']);
  t.same(await client.volumes(), []);
});

t.test('what arrives is checked before the node sees it', async t => {
  const { server, control } = await rig(t);
  const good = { name: 'vol0', sizeBytes: 4096 };
  const table: [string, unknown, string][] = [
    ['not an object', 5, 'usage'],
    ['an array', [], 'usage'],
    ['no size', { name: 'vol0' }, 'usage'],
    ['a size in text', { ...good, sizeBytes: '4096' }, 'usage'],
    ['an unknown key', { ...good, sice: 1 }, 'usage'],
    ['an unknown rule', { ...good, ack: 'maybe' }, 'usage'],
    ['a size between blocks', { ...good, sizeBytes: 5000 }, 'bad-size'],
    ['a negative size', { ...good, sizeBytes: -4096 }, 'bad-size'],
    ['too large a size', { ...good, sizeBytes: 2 ** 53 }, 'bad-size'],
    ['a chunk that is no power of two', { ...good, chunkBytes: 49_152 }, 'bad-size'],
    ['a name with a slash', { ...good, name: 'a/b' }, 'bad-name'],
    ['an empty name', { ...good, name: '' }, 'bad-name'],
  ];
  for (const [what, body, code] of table) {
    const answer = await raw(server.path, 'POST', '/v1/volumes', JSON.stringify(body));
    t.equal(answer.status, 400, what);
    t.equal(answer.body.error?.code, code, what);
    t.ok(answer.body.error?.hint, 'there is a hint');
  }
  const broken = await raw(server.path, 'POST', '/v1/volumes', '{"name":');
  t.match([broken.status, broken.body.error?.message], [400, /not JSON/]);
  t.same(control.volumes(), []);

  const minimal = await raw(server.path, 'POST', '/v1/volumes', JSON.stringify(good));
  t.match(minimal, { status: 201, body: { chunkBytes: 65_536, ack: 'written', readOnly: false } });
});

t.test('unknown paths and methods are told apart', async t => {
  const { server } = await rig(t);
  for (const path of ['/', '/v1', '/v2/status', '/v1/volume', '/v1/volumes/a/b', '/v1/volumes/a/grow/x']) {
    t.match(await raw(server.path, 'GET', path), { status: 404, body: { error: { code: 'usage' } } }, path);
  }
  t.match(await raw(server.path, 'GET', '/v1/volumes/%zz'), { status: 400, body: { error: { code: 'bad-name' } } });
  t.match(await raw(server.path, 'GET', '/v1/volumes/..%2fx'), { status: 400, body: { error: { code: 'bad-name' } } });
  t.match(await raw(server.path, 'GET', '/v1/volumes/nope'), {
    status: 404,
    body: { error: { code: 'volume-unknown' } },
  });
  t.match(await raw(server.path, 'POST', '/v1/status'), { status: 405, headers: { allow: 'GET' } });
  t.match(await raw(server.path, 'DELETE', '/v1/volumes'), { status: 405, headers: { allow: 'GET, POST' } });
  t.match(await raw(server.path, 'PUT', '/v1/volumes/x'), { status: 405, headers: { allow: 'GET, DELETE' } });
});

t.test('a body that is too large is refused, announced or not', async t => {
  const { server, client } = await rig(t);
  const answer = await raw(server.path, 'POST', '/v1/volumes', 'x'.repeat(65_537));
  t.match(answer, { status: 413, body: { error: { code: 'usage' } } });

  const socket = connect(server.path);
  t.teardown(() => socket.destroy());
  let text = '';
  socket.on('data', piece => {
    text += piece.toString();
  });
  socket.on('error', () => {});
  const closed = new Promise(done => socket.once('close', done));
  socket.write('POST /v1/volumes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n');
  for (let count = 0; count < 20; count++) socket.write(`1000\r\n${'x'.repeat(4096)}\r\n`);
  await closed;
  t.match(text, /^HTTP\/1\.1 413 /);
  t.same(await client.volumes(), [], 'the server goes on');
});

t.test('noise on the socket, and callers that leave in the middle, do not disturb the others', async t => {
  const { server, client } = await rig(t);
  const table = [
    '\0\x01\x02noise\r\n\r\n',
    'GET\r\n\r\n',
    'POST /v1/volumes HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{"name":',
    `GET /v1/status HTTP/1.1\r\nhost: ${'x'.repeat(100_000)}\r\n\r\n`,
  ];
  for (const text of table) {
    const socket = connect(server.path);
    socket.on('error', () => {});
    const closed = new Promise(done => socket.once('close', done));
    socket.resume();
    socket.end(text);
    await closed;
    t.match(await client.status(), { health: 'ok' });
  }
});

t.test('the socket is for its owner only', async t => {
  const { server } = await rig(t);
  t.equal(statSync(server.path).mode & 0o777, 0o600);
});

t.test('a socket that a killed server left behind is told apart, and replaced by the next server', async t => {
  const directory = temporaryDirectory(t);
  const client = new ControlClient(directory);
  await t.rejects(client.status(), { code: 'not-running', message: /no server runs there/ });

  await leaveSocketBehind(join(directory, 'control.sock'));
  await t.rejects(client.status(), { code: 'not-running', message: /left its socket behind/ });

  await rig(t, directory);
  t.match(await client.status(), { health: 'ok' });
});

t.test('a directory that is not there is named', async t => {
  const missing = join(temporaryDirectory(t), 'missing');
  await t.rejects(new ControlClient(missing).status(), { code: 'not-running', message: /no such directory/ });
});

t.test('a data directory with a path longer than a socket can have is served and reached', async t => {
  const directory = join(temporaryDirectory(t), 'd'.repeat(100), 'e'.repeat(100));
  await t.rejects(new ControlClient(directory).status(), { code: 'not-running', message: /no such directory/ });
  mkdirSync(directory, { recursive: true });
  await t.rejects(new ControlClient(directory).status(), { code: 'not-running', message: /no server runs there/ });
  const openBefore = readdirSync('/proc/self/fd').length;
  const { client, server } = await rig(t, directory);
  t.equal(server.path, join(directory, 'control.sock'));
  t.ok(existsSync(server.path));
  t.match(await client.createVolume(WANTED), { name: 'vol0' });
  await t.rejects(client.volume('nope'), { code: 'volume-unknown' });
  await server.stop();
  t.notOk(existsSync(server.path), 'the socket is gone');
  await t.rejects(client.status(), { code: 'not-running' });
  t.ok(readdirSync('/proc/self/fd').length <= openBefore, 'no descriptor stays open');
});

t.test('a stopped server answers what it has begun, then is gone', async t => {
  const { server, client, control } = await rig(t);
  let release: () => void = () => {};
  const held = new Promise<void>(done => {
    release = done;
  });
  const growVolume = control.growVolume.bind(control);
  let begun: () => void = () => {};
  const hasBegun = new Promise<void>(done => {
    begun = done;
  });
  control.growVolume = async (name, sizeBytes) => {
    begun();
    await held;
    return growVolume(name, sizeBytes);
  };
  await client.createVolume(WANTED);
  const growing = client.growVolume('vol0', 20 * 1024 ** 3);
  await hasBegun;
  const stopping = server.stop();
  release();
  t.match(await growing, { sizeBytes: 20 * 1024 ** 3 });
  await stopping;
  t.notOk(existsSync(server.path));
  await t.rejects(client.status(), { code: 'not-running' });
});

t.test('a data directory that is none gives address-unusable', async t => {
  const directory = temporaryDirectory(t);
  const file = join(directory, 'file');
  writeFileSync(file, '');
  const control = new MemoryNodeControl();
  await t.rejects(startControlServer(file, control, { error() {} }), { code: 'address-unusable' });
});

t.test('an answer that is not of a sledge is a protocol-error', async t => {
  const directory = temporaryDirectory(t);
  const server = createServer(socket => {
    socket.on('error', () => {});
    socket.end('HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello');
  });
  await new Promise<void>(done => server.listen(join(directory, 'control.sock'), done));
  t.teardown(() => server.close());
  await t.rejects(new ControlClient(directory).status(), { code: 'protocol-error' });
});

/** A socket file that nobody listens on: bound by a server that is then closed while its file is held by another name. */
async function leaveSocketBehind(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>(done => server.listen(path, done));
  linkSync(path, `${path}.kept`);
  await new Promise(done => server.close(done));
  renameSync(`${path}.kept`, path);
}
