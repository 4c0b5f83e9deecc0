/** Listening, connecting and accepting: addresses, stale sockets, resets, and running out of descriptors. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer, connect as nodeConnect, Socket } from 'node:net';
import { createInterface } from 'node:readline';
import t from 'tap';
import type { Stream } from '../../../src/base/stream.ts';
import { addon } from '../../../src/platform/addon.ts';
import type { IoPlatform, ListenAddress, Listener } from '../../../src/platform/io-platform.ts';
import { createIoPlatform } from '../../../src/platform/platform.ts';
import { detachStream } from '../../../src/platform/ring-stream.ts';
import { tcpAddress } from '../../../src/platform/socket-address.ts';
import { IO_KINDS, io, sleep, temporaryFolder } from '../../contract/io-support.ts';

const LOOPBACK: ListenAddress = { kind: 'tcp', host: '127.0.0.1', port: 0 };

for (const kind of IO_KINDS) {
  t.test(`sockets on ${kind}`, async t => {
    const folder = temporaryFolder();
    const platform = createIoPlatform({ kind });
    t.teardown(async () => {
      await platform.close();
      folder.remove();
    });

    t.test('the real port stands in the address, and in the names of peers', async t => {
      const { listener, next } = await listening(platform, LOOPBACK);
      const client = await platform.connect(listener.address);
      const server = await next();
      t.match(listener.address, { kind: 'tcp', host: '127.0.0.1' });
      t.equal(client.peer, `127.0.0.1:${portOf(listener)}`);
      t.match(server.peer, /^127\.0\.0\.1:\d+$/);
      client.close();
      server.close();
      await listener.close();
    });

    t.test('an address in use is refused', async t => {
      const { listener } = await listening(platform, LOOPBACK);
      await t.rejects(
        platform.listen(listener.address, () => {}),
        { code: 'address-in-use', message: /127\.0\.0\.1/ },
      );
      await listener.close();
      const unix: ListenAddress = { kind: 'unix', path: folder.join('used') };
      const first = await platform.listen(unix, stream => stream.close());
      await t.rejects(
        platform.listen(unix, () => {}),
        { code: 'address-in-use' },
      );
      await first.close();
    });

    t.test('addresses that make no sense are refused', async t => {
      await t.rejects(
        platform.listen({ kind: 'tcp', host: 'no.such.host.invalid', port: 1 }, () => {}),
        {
          code: 'bad-address',
        },
      );
      await t.rejects(
        platform.listen({ kind: 'unix', path: `/tmp/${'x'.repeat(200)}` }, () => {}),
        {
          code: 'bad-address',
        },
      );
      await t.rejects(
        platform.listen({ kind: 'tcp', host: '192.0.2.1', port: 0 }, () => {}),
        {
          code: 'address-unusable',
        },
      );
      await t.rejects(
        platform.listen({ kind: 'fd', fd: 0x7ffffff }, () => {}),
        { code: 'address-unusable' },
      );
    });

    t.test('every address is IPv4 and IPv6', async t => {
      const { listener, next } = await listening(platform, { kind: 'tcp', host: '::', port: 0 });
      for (const host of ['127.0.0.1', '::1']) {
        const client = await platform.connect({ kind: 'tcp', host, port: portOf(listener) }).catch(() => undefined);
        if (client === undefined && host === '::1') continue; // no IPv6 on this machine
        const server = await next();
        t.match(server.peer, host === '::1' ? /^\[::1\]:\d+$/ : /^127\.0\.0\.1:\d+$/);
        client?.close();
        server.close();
      }
      await listener.close();
    });

    t.test("a killed server's socket file is replaced", async t => {
      const path = folder.join('stale');
      const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 9))`;
      spawnSync(process.execPath, ['-e', script]);
      t.ok(existsSync(path));
      const listener = await platform.listen({ kind: 'unix', path }, stream => stream.close());
      const client = await platform.connect({ kind: 'unix', path });
      t.equal(client.peer, 'unix');
      client.close();
      await listener.close();
      t.notOk(existsSync(path));
    });

    t.test('a file that is no socket is never removed', async t => {
      const path = folder.join('precious');
      writeFileSync(path, 'data');
      await t.rejects(
        platform.listen({ kind: 'unix', path }, () => {}),
        { code: 'address-in-use' },
      );
      t.ok(existsSync(path));
    });

    t.test('a listening descriptor is adopted, whichever mode it is in', async t => {
      for (const nonBlocking of [false, true]) {
        const { bytes, length } = await tcpAddress('127.0.0.1', 0);
        const fd = addon.listenOn(bytes, length, 16, false);
        addon.setNonBlocking(fd, nonBlocking);
        const { listener, next } = await listening(platform, { kind: 'fd', fd });
        await sleep(5);
        const client = await platform.connect(listener.address);
        const server = await next();
        t.equal(client.peer, `127.0.0.1:${portOf(listener)}`);
        client.close();
        server.close();
        await listener.close();
      }
    });

    t.test('a connection that is refused says so', async t => {
      const { listener } = await listening(platform, LOOPBACK);
      await listener.close();
      await t.rejects(platform.connect(listener.address), { code: 'connection-failed', message: /ECONNREFUSED/ });
      await t.rejects(platform.connect({ kind: 'unix', path: folder.join('nobody') }), { code: 'connection-failed' });
    });

    t.test('connections that were accepted outlive their listener', async t => {
      const { listener, next } = await listening(platform, LOOPBACK);
      const client = await platform.connect(listener.address);
      const server = await next();
      await listener.close();
      const region = platform.allocate(4096);
      t.equal(await io(request => client.send(region, 0, 100, request)), 100);
      t.equal(await io(request => server.receive(region, 0, 4096, request)), 100);
      client.close();
      server.close();
    });

    t.test('a connection reset is an error of what is under way', async t => {
      const { listener, next } = await listening(platform, LOOPBACK);
      const peer = nodeConnect({ port: portOf(listener), host: '127.0.0.1' });
      const server = await next();
      const region = platform.allocate(4096);
      const received = io(request => server.receive(region, 0, 4096, request));
      await sleep(5);
      peer.resetAndDestroy();
      t.equal(await received, -104);
      server.close();
      await listener.close();
    });

    t.test('a detached stream goes on as a socket of Node', async t => {
      const { listener, next } = await listening(platform, LOOPBACK);
      const client = await platform.connect(listener.address);
      const region = platform.allocate(4096);
      region.bytes.set(new TextEncoder().encode('before'));
      await io(request => client.send(region, 0, 6, request));
      const server = await next();
      t.equal(await io(request => server.receive(region, 0, 4096, request)), 6);
      const socket = new Socket({ fd: detachStream(server) });
      socket.write('from node');
      t.equal(await io(request => client.receive(region, 0, 4096, request)), 9);
      await io(request => client.send(region, 0, 9, request));
      const [data] = (await once(socket, 'data')) as [Buffer];
      t.equal(data.toString(), 'from node');
      const closed = once(socket, 'close');
      client.close();
      socket.end();
      await closed;
      await listener.close();
    });

    t.test('connecting to a server of Node works', async t => {
      const server = createServer(socket => socket.pipe(socket));
      const path = folder.join('node');
      await new Promise<void>(resolve => server.listen(path, resolve));
      const client = await platform.connect({ kind: 'unix', path });
      const region = platform.allocate(4096);
      const received = io(request => client.receive(region, 1000, 100, request));
      await io(request => client.send(region, 0, 5, request));
      t.equal(await received, 5);
      client.close();
      await new Promise(resolve => server.close(resolve));
    });

    t.test('two thousand connections leave no descriptor and no operation behind', async t => {
      const { listener, next } = await listening(platform, { kind: 'unix', path: folder.join('cycles') });
      const region = platform.allocate(4096);
      const before = descriptorCount();
      for (let cycle = 0; cycle < 2000; cycle++) {
        const client = await platform.connect(listener.address);
        const server = await next();
        const received = io(request => server.receive(region, 0, 10, request));
        // Every way to end: by either side, with something under way or not.
        if (cycle % 2 === 0) {
          client.close();
          await received;
          server.close();
        } else {
          server.close();
          await received;
          client.close();
        }
      }
      await sleep(10);
      t.equal(descriptorCount(), before);
      await listener.close();
    });

    t.test('out of descriptors, connections wait without work and are served later', async t => {
      if (process.env['SLEDGE_SANITIZED'] === 'thread') {
        t.pass('descriptors', { skip: 'the thread sanitizer needs more descriptors than this leaves' });
        return;
      }
      const path = folder.join('crowd');
      const child = spawn(
        'bash',
        ['-c', 'ulimit -n 96; exec "$0" "$@"', process.execPath, ...crowdServer(kind, path)],
        {
          stdio: ['ignore', 'pipe', 'inherit'],
        },
      );
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      t.equal((await lines.next()).value, 'listening');
      const clients: Socket[] = [];
      for (let count = 0; count < 120; count++) {
        const client = nodeConnect(path);
        client.on('error', () => {});
        clients.push(client);
      }
      await sleep(300);
      const before = ticksOf(child.pid ?? 0);
      await sleep(500);
      const used = ticksOf(child.pid ?? 0) - before;
      t.ok(used <= 10, `${used} of 50 ticks used while out of descriptors`);
      // Most of them leave: then those have to be answered that came last.
      const stay = clients.slice(100);
      const answered = stay.map(client => once(client, 'data'));
      for (const client of clients.slice(0, 100)) client.destroy();
      await Promise.all(answered);
      t.pass('all that stayed were answered');
      for (const client of stay) client.destroy();
      const exit = once(child, 'exit');
      child.kill();
      await exit;
    });
  });
}

/** A server that answers each connection with one byte and keeps it until the client leaves. */
function crowdServer(kind: string, path: string): string[] {
  const module = new URL('../../../src/platform/platform.js', import.meta.url).href;
  const script = `
    import { createIoPlatform } from ${JSON.stringify(module)};
    const platform = createIoPlatform({ kind: ${JSON.stringify(kind)} });
    const region = platform.allocate(4096);
    await platform.listen({ kind: 'unix', path: ${JSON.stringify(path)} }, stream => {
      stream.send(region, 0, 1, { ioCompleted() {} });
      stream.receive(region, 0, 1, { ioCompleted: () => stream.close() });
    });
    console.log('listening');
  `;
  return ['--input-type=module', '-e', script];
}

/** User and system time of a process, in hundredths of a second. */
function ticksOf(pid: number): number {
  const stat = spawnSync('cat', [`/proc/${pid}/stat`], { encoding: 'utf8' }).stdout;
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

async function listening(platform: IoPlatform, address: ListenAddress) {
  const arrived: Stream[] = [];
  const waiting: ((stream: Stream) => void)[] = [];
  const listener = await platform.listen(address, stream => {
    const first = waiting.shift();
    if (first === undefined) arrived.push(stream);
    else first(stream);
  });
  const next = () =>
    new Promise<Stream>(resolve => {
      const first = arrived.shift();
      if (first === undefined) waiting.push(resolve);
      else resolve(first);
    });
  return { listener, next };
}

function portOf(listener: Listener): number {
  return listener.address.kind === 'tcp' ? listener.address.port : 0;
}

function descriptorCount(): number {
  return readdirSync('/proc/self/fd').length;
}
