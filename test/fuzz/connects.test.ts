/**
 * A hundred thousand clients that come and go, in every state of half-finished, leave nothing behind in the server: no
 * descriptor, no connection on the status page, no memory that grows with their number. SLEDGE_CONNECTS sets the number.
 */
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { nbdsh, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { skipOnStandIn, sledgeJson, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const CONNECTS = Number(process.env['SLEDGE_CONNECTS'] ?? 100_000);
/** Clients before the measured ones: by then the server's heap has the size it works with (30 to 40 MiB more than idle). */
const CONNECTS_BEFORE = Math.ceil(CONNECTS / 2);
const AT_ONCE = 64;
/** What the measured clients may add to the server's memory: what differs from one garbage collection to the next. */
const RSS_GROWTH_MAX = 24 * MIB;

/** What a client sends before it leaves, from nothing to a broken request. */
const WORDS: readonly Buffer[] = [
  Buffer.alloc(0),
  Buffer.from([0]),
  Buffer.from([0, 0, 0, 3]),
  Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.from('IHAVEOPT'), Buffer.from([0, 0, 0, 3, 0, 0])]),
  Buffer.concat([
    Buffer.from([0, 0, 0, 3]),
    Buffer.from('IHAVEOPT'),
    Buffer.from([0, 0, 0, 1, 0, 0, 0, 4]),
    Buffer.from('disk'),
  ]),
  Buffer.concat([
    Buffer.from([0, 0, 0, 3]),
    Buffer.from('IHAVEOPT'),
    Buffer.from([0, 0, 0, 1, 0, 0, 0, 4]),
    Buffer.from('disk'),
    Buffer.from('2560951300000001', 'hex'),
  ]),
];

async function comeAndGo(path: string, words: Buffer, abrupt: boolean): Promise<void> {
  const socket = connect(path);
  // A server at its limit closes at once: that is an answer too.
  socket.on('error', () => {});
  socket.resume();
  await once(socket, 'connect').catch(() => {});
  if (words.length > 0) socket.write(words);
  if (abrupt) socket.destroy();
  else socket.end();
  if (!socket.closed) await once(socket, 'close').catch(() => {});
}

const descriptors = (pid: number) => readdirSync(`/proc/${pid}/fd`).length;

function residentBytes(pid: number): number {
  const line = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(line![1]) * 1024;
}

async function settled(dataDirectory: string): Promise<number> {
  for (let tries = 0; ; tries++) {
    const { connections } = (await sledgeJson(dataDirectory, 'status')) as { connections: number };
    if (connections === 0 || tries === 50) return connections;
    await delay(100);
  }
}

const skip = skipOnStandIn() || skipUnlessInstalled('nbdsh');

t.test(`${CONNECTS} connects and half-open clients leave nothing behind`, { skip }, async t => {
  const directory = temporaryDirectory(t);
  const dataDirectory = join(directory, 'data');
  const unix = join(directory, 'socket');
  const server = await startServer(t, { dataDirectory, unix, volumes: [{ name: 'disk', sizeBytes: 16 * MIB }] });
  const crowd = async (count: number) => {
    let next = 0;
    const one = async () => {
      while (next < count) {
        const number = next++;
        await comeAndGo(unix, WORDS[number % WORDS.length], number % 3 === 0);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
  };
  const serves = () =>
    nbdsh(`
h.connect_uri(${JSON.stringify(server.uriOf('disk', { transport: 'unix' }))})
h.pwrite(b"x" * 4096, 0)
emit(h.pread(4096, 0) == b"x" * 4096)
`);
  // The first write has a further log segment made: from then on nothing but clients opens anything.
  await serves();
  await crowd(CONNECTS_BEFORE);
  t.equal(await settled(dataDirectory), 0);
  const fdsBefore = descriptors(server.pid);
  const rssBefore = residentBytes(server.pid);

  const started = performance.now();
  await crowd(CONNECTS);
  t.comment(`${Math.round(CONNECTS / ((performance.now() - started) / 1000))} connects a second`);
  t.equal(await settled(dataDirectory), 0, 'no connection is left');
  t.equal(descriptors(server.pid), fdsBefore, 'no descriptor is left');
  const growth = residentBytes(server.pid) - rssBefore;
  t.comment(`resident memory grew by ${(growth / MIB).toFixed(1)} MiB`);
  t.ok(growth < RSS_GROWTH_MAX, 'memory does not grow with the number of clients');

  const idle: Socket[] = [];
  for (let i = 0; i < 200; i++) {
    const socket = connect(unix).on('error', () => {});
    idle.push(socket);
    await once(socket, 'connect');
  }
  t.strictSame(await serves(), [true], 'half-open clients do not keep others from being served');
  for (const socket of idle) socket.destroy();
  t.equal(await settled(dataDirectory), 0);
  t.equal(descriptors(server.pid), fdsBefore, 'nor do half-open ones leave a descriptor');
});
