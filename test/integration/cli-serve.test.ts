/** `sledge serve`, `sledge volume` and `sledge status` as processes: what a user and a script see of them. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { run } from '../support/nbd-programs.ts';
import { ServerProcess, sledgeProgram } from '../support/server-process.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const MIB = 1024 ** 2;
/** Small, so that a test takes little of the disk. */
const SMALL = ['--log', '64MiB', '--cache', '16MiB'];

type Cleaner = Parameters<typeof temporaryDirectory>[0];

interface Ready {
  readonly event: string;
  readonly pid: number;
  readonly addresses: readonly { readonly kind: string; readonly host?: string; readonly port?: number }[];
  readonly volumes: readonly { readonly name: string; readonly uris: readonly string[] }[];
}

/** Starts `sledge serve --json` and waits until it is ready; it is gone when the test ends. */
async function serve(test: Cleaner, data: string, ...more: string[]): Promise<{ server: ServerProcess; ready: Ready }> {
  const server = start(test, data, ...more);
  await server.readyEvent(30_000);
  return { server, ready: eventsOf(server)[0] as Ready };
}

function start(test: Cleaner, data: string, ...more: string[]): ServerProcess {
  const listen = more.includes('--listen') ? [] : ['--listen', '127.0.0.1:0'];
  const server = new ServerProcess(sledgeProgram, ['serve', '--data', data, '--json', ...listen, ...SMALL, ...more]);
  test.teardown(() => void server.child.kill('SIGKILL'));
  return server;
}

/** The events on standard output; the log's lines have no event. */
function eventsOf(server: ServerProcess): object[] {
  return server.output
    .split('\n')
    .filter(line => line.startsWith('{"event":'))
    .map(line => JSON.parse(line) as object);
}

async function sledge(...words: string[]) {
  // Well below tap's own limit, so that a server that should have refused to start is ended here.
  const result = await run(sledgeProgram, words, { timeoutMs: 12_000 });
  return { ...result, json: () => JSON.parse(result.stdout) as Record<string, unknown> };
}

t.test('a server says where it is, changes volumes while it runs, and keeps them over a restart', async t => {
  const data = join(temporaryDirectory(t), 'data');
  const first = await serve(t, data, '--volume', 'vol0:64MiB');
  t.match(first.ready, {
    pid: first.server.child.pid,
    addresses: [{ kind: 'tcp', host: '127.0.0.1' }],
    volumes: [{ name: 'vol0' }],
  });
  const port = first.ready.addresses[0]?.port ?? 0;
  t.ok(port > 0, 'the port that was free');
  t.same(first.ready.volumes[0]?.uris, [`nbd://127.0.0.1:${port}/vol0`]);

  const made = await sledge(
    'volume',
    'create',
    'vol1',
    '--size',
    '32MiB',
    '--ack',
    'durable',
    '--data',
    data,
    '--json',
  );
  t.equal(made.code, 0, made.stderr);
  t.match(made.json(), { name: 'vol1', sizeBytes: 32 * MIB, ack: 'durable', readOnly: false });
  const grown = await sledge('volume', 'grow', 'vol1', '--size', '48MiB', '--data', data, '--json');
  t.match(grown.json(), { sizeBytes: 48 * MIB });
  t.equal((await sledge('volume', 'create', 'gone', '--size', '4MiB', '--data', data)).code, 0);
  t.equal((await sledge('volume', 'delete', 'gone', '--data', data)).code, 0);

  const again = await sledge('volume', 'create', 'vol1', '--size', '32MiB', '--data', data, '--json');
  t.equal(again.code, 1);
  t.match(again.json(), { error: { code: 'volume-exists' } });
  const shrunk = await sledge('volume', 'grow', 'vol1', '--size', '4MiB', '--data', data, '--json');
  t.match(shrunk.json(), { error: { code: 'shrink-refused' } });

  first.server.child.kill('SIGTERM');
  t.equal(await first.server.ended(20_000), 0, first.server.output);
  t.match(eventsOf(first.server).slice(1), [{ event: 'stopping' }, { event: 'stopped' }]);

  const second = await serve(t, data, '--volume', 'vol0:128MiB');
  const list = await sledge('volume', 'list', '--data', data, '--json');
  t.match(
    list.json(),
    {
      volumes: [
        { name: 'vol0', sizeBytes: 64 * MIB },
        { name: 'vol1', sizeBytes: 48 * MIB },
      ],
    },
    'one that exists keeps its size',
  );
  t.match(second.server.output, /"level":"warn"[^\n]*vol0/, 'which the log says');
  second.server.child.kill('SIGINT');
  t.equal(await second.server.ended(20_000), 0);
});

t.test('the status says that all is well', async t => {
  const data = temporaryDirectory(t);
  const { server } = await serve(t, data, '--volume', 'vol0:64MiB');
  const json = await sledge('status', '--data', data, '--json');
  t.equal(json.code, 0);
  t.match(json.json(), {
    health: 'ok',
    problems: [],
    pid: server.child.pid,
    volumes: [{ name: 'vol0', connections: 0 }],
    devices: [{ state: 'ok' }],
    connections: 0,
    eventLoopDelayMs: {
      lastMinute: { p50: Number, p99: Number, p999: Number, max: Number },
      sinceStart: { p50: Number, p99: Number, p999: Number, max: Number },
    },
  });
  const wanted = process.env['SLEDGE_IO'];
  if (wanted !== undefined) t.match(json.json(), { io: { kind: wanted } }, 'on the kind of I/O that was asked for');
  const text = await sledge('status', '--data', data);
  t.equal(text.code, 0);
  t.match(text.stdout, /health: ok/);
  t.match(text.stdout, /vol0 +64 MiB/);
  t.match(text.stdout, /loop: late by p50 .* in the last minute\n +p50 .* since the start\n/);
});

t.test('without --json people get lines that are ready to paste, and the log as text', async t => {
  const data = temporaryDirectory(t);
  const socket = join(data, 'nbd.sock');
  const words = ['serve', '--data', join(data, 'd'), '--listen', `unix:${socket}`, '--volume', 'vol0:64MiB', ...SMALL];
  const server = new ServerProcess(sledgeProgram, words);
  t.teardown(() => void server.child.kill('SIGKILL'));
  await server.readyAddress(undefined, socket, 30_000);
  await until(() => server.output.includes('Stop with'));
  t.match(server.output, `sudo nbd-client -unix ${socket} -N vol0 -b 4096 /dev/nbd0`);
  server.child.kill('SIGTERM');
  t.equal(await server.ended(20_000), 0);
  t.match(server.output, /^\d{4}-\d\d-\d\d \S+ info {2}stopped$/m);
  t.notOk(existsSync(socket), 'the socket is gone');
});

t.test('a directory that is served cannot be served again', async t => {
  const data = temporaryDirectory(t);
  await serve(t, data);
  const second = await sledge('serve', '--data', data, '--listen', '127.0.0.1:0', '--json', ...SMALL);
  t.equal(second.code, 1);
  t.match(second.json(), { error: { code: 'data-in-use', retryable: true } });
  t.equal((await sledge('status', '--data', data)).code, 0, 'the first one is not disturbed');
});

t.test('an address that is taken is named, and nothing is left running', async t => {
  const holder = createServer();
  await new Promise<void>(done => holder.listen(0, '127.0.0.1', done));
  t.teardown(() => holder.close());
  const address = holder.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const data = temporaryDirectory(t);
  const result = await sledge('serve', '--data', data, '--listen', `127.0.0.1:${port}`, '--json', ...SMALL);
  t.equal(result.code, 1);
  t.match(result.json(), { error: { code: 'address-in-use', message: new RegExp(String(port)) } });
});

t.test('a directory with files of somebody else is left alone', async t => {
  const data = temporaryDirectory(t);
  writeFileSync(join(data, 'thesis.txt'), 'do not touch');
  const result = await sledge('serve', '--data', data, '--listen', '127.0.0.1:0', '--json', ...SMALL);
  t.equal(result.code, 1);
  t.match(result.json(), { error: { code: 'not-a-data-directory' } });
  t.same(readdirSync(data), ['thesis.txt']);
});

t.test('after a kill the status says that nobody serves, and the next server starts', async t => {
  const data = temporaryDirectory(t);
  const { server } = await serve(t, data, '--volume', 'vol0:64MiB');
  server.child.kill('SIGKILL');
  await server.ended(5_000);
  const status = await sledge('status', '--data', data, '--json');
  t.equal(status.code, 1);
  t.match(status.json(), { error: { code: 'not-running', message: /left its socket behind/ } });
  const next = await serve(t, data);
  t.match(next.ready, { volumes: [{ name: 'vol0' }] });
});

t.test('a signal while starting ends the server in order, whenever it comes', async t => {
  const data = temporaryDirectory(t);
  for (const delayMs of [80, 150, 250, 400]) {
    const server = start(t, data, '--volume', 'vol0:64MiB');
    await sleep(delayMs);
    server.child.kill('SIGTERM');
    const code = await server.ended(20_000);
    // Before the program has begun there is nobody to catch it.
    t.ok(code === 0 || (code === 143 && eventsOf(server).length === 0), `after ${delayMs} ms: ${code}`);
  }
  await serve(t, data);
});

t.test('a server whose output nobody reads any more stops in order', async t => {
  const data = temporaryDirectory(t);
  const { server } = await serve(t, data);
  server.child.stdout?.destroy();
  server.child.kill('SIGTERM');
  t.equal(await server.ended(20_000), 0, server.output);
  t.match(server.output, /"msg":"stopped"/);
});

t.test('a data directory with a very long path works', async t => {
  const data = join(temporaryDirectory(t), 'x'.repeat(120), 'y'.repeat(120));
  mkdirSync(data, { recursive: true });
  await serve(t, data, '--volume', 'vol0:64MiB');
  t.match((await sledge('volume', 'show', 'vol0', '--data', data, '--json')).json(), { name: 'vol0' });
});

t.test('a relative directory is that of the one who calls', async t => {
  const directory = temporaryDirectory(t);
  await serve(t, join(directory, 'data'));
  const status = await run(sledgeProgram, ['status', '--json'], { directory });
  t.match(JSON.parse(status.stdout), { health: 'ok' });
});

async function until(condition: () => boolean): Promise<void> {
  for (let count = 0; count < 500 && !condition(); count++) await sleep(10);
}

function sleep(ms: number): Promise<void> {
  return new Promise(done => setTimeout(done, ms));
}
