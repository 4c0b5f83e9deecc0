/** The loop: the order of things within a turn, fairness towards Node's own loop, and rest when there is nothing to do. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { type AddressInfo, connect, createServer } from 'node:net';
import { performance } from 'node:perf_hooks';
import t from 'tap';
import type { IoRequest, TurnTask } from '../../../src/base/io.ts';
import { BLOCK_BYTES } from '../../../src/base/units.ts';
import type { IoPlatform, PlatformFile } from '../../../src/platform/io-platform.ts';
import { createIoPlatform } from '../../../src/platform/platform.ts';
import { IO_KINDS, io, sleep, temporaryFolder } from '../../contract/io-support.ts';

for (const kind of IO_KINDS) {
  t.test(`turns on ${kind}`, async t => {
    async function opened(mode: 'direct' | 'buffered') {
      const folder = temporaryFolder();
      const platform = createIoPlatform({ kind });
      const file = await platform.openFile({ path: folder.join('file'), mode, create: true });
      await file.resize(256 * BLOCK_BYTES);
      t.teardown(async () => {
        await file.close();
        await platform.close();
        folder.remove();
      });
      return { platform, file, region: platform.allocate(64 * BLOCK_BYTES) };
    }

    t.test('tasks run in the order of asking, after the completions of their turn', async t => {
      const { platform, file, region } = await opened('direct');
      const events: string[] = [];
      const task = (name: string): TurnTask => ({ runAtEndOfTurn: () => events.push(name) });
      await io(request =>
        file.read(0, region, 0, BLOCK_BYTES, {
          ioCompleted(result) {
            platform.atEndOfTurn(task('first'));
            platform.atEndOfTurn(task('second'));
            events.push('completed');
            platform.atEndOfTurn({ runAtEndOfTurn: () => request.ioCompleted(result) });
          },
        }),
      );
      t.same(events, ['completed', 'first', 'second']);
    });

    t.test('a task that a task asks for runs in the same turn', async t => {
      const { platform } = await opened('direct');
      let macrotask = 0;
      setImmediate(() => {
        macrotask += 1;
      });
      await new Promise<void>(resolve => {
        platform.atEndOfTurn({
          runAtEndOfTurn() {
            const now = macrotask;
            platform.atEndOfTurn({
              runAtEndOfTurn() {
                t.equal(macrotask, now);
                resolve();
              },
            });
          },
        });
      });
    });

    t.test('tasks that ask for each other for ever do not stop I/O or timers', async t => {
      const { platform, file, region } = await opened('direct');
      let running = true;
      const task: TurnTask = {
        runAtEndOfTurn() {
          if (running) platform.atEndOfTurn(task);
        },
      };
      platform.atEndOfTurn(task);
      t.equal(await io(request => file.read(0, region, 0, BLOCK_BYTES, request)), BLOCK_BYTES);
      await sleep(5);
      running = false;
    });

    t.test('what is hurried happens before the turn ends', async t => {
      const { platform, file, region } = await opened('direct');
      region.bytes.fill(7, 0, BLOCK_BYTES);
      let seen = 0;
      const result = await io(request => {
        platform.atEndOfTurn({
          runAtEndOfTurn() {
            file.write(0, region, 0, BLOCK_BYTES, request);
            platform.hurry();
            for (const until = performance.now() + 5000; seen !== 7 && performance.now() < until; ) {
              seen = readFileSync(file.path)[0];
            }
          },
        });
      });
      t.same([result, seen], [BLOCK_BYTES, 7]);
    });

    t.test('a late task runs when its microseconds are over, and one that was cancelled does not', async t => {
      const { platform, file, region } = await opened('direct');
      for (let round = 0; round < 20; round++) {
        const begun = performance.now();
        const late = await new Promise<number>(resolve => {
          platform.afterMicros({ runAtEndOfTurn: () => resolve(performance.now() - begun) }, 200);
        });
        t.ok(late >= 0.2, `${late} ms`);
      }
      platform.afterMicros({ runAtEndOfTurn: () => t.fail('it was cancelled') }, 200);
      platform.cancelAfterMicros();
      t.equal(await io(request => file.read(0, region, 0, BLOCK_BYTES, request)), BLOCK_BYTES);
      await sleep(5);
    });

    t.test('what Node waits for ends a sleep in the ring: timers, threads, signals, new sockets', async t => {
      const { file, region } = await opened('direct');
      // A sleep in the ring follows each of these reads.
      const read = () => io(request => file.read(0, region, 0, BLOCK_BYTES, request));
      for (let round = 0; round < 20; round++) {
        await read();
        const begun = performance.now();
        await sleep(10);
        t.ok(performance.now() - begun < 1000, 'a timer');
        await read();
        await stat('/');
        await read();
        await new Promise<void>(resolve => {
          process.once('SIGUSR2', () => resolve());
          process.kill(process.pid, 'SIGUSR2');
        });
        await read();
        const server = createServer(socket => socket.end('x'));
        await new Promise<void>(resolve => server.listen(0, '127.0.0.1', () => resolve()));
        await read();
        const { port } = server.address() as AddressInfo;
        await new Promise<void>((resolve, reject) => {
          connect(port, '127.0.0.1', () => void read())
            .on('data', () => resolve())
            .on('error', reject);
        });
        await new Promise(resolve => server.close(resolve));
      }
    });

    t.test('bytes for the ring end a sleep before which Node has begun to watch another socket', async t => {
      const { platform, region } = await opened('direct');
      // Nothing comes through it: Node only begins to look.
      const silent = createServer();
      await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', () => resolve()));
      const watched = connect((silent.address() as AddressInfo).port, '127.0.0.1').pause();
      await once(watched, 'connect');
      let arrived: (ms: number) => void;
      const arrival = new Promise<number>(resolve => {
        arrived = resolve;
      });
      const listener = await platform.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 }, stream => {
        const begun = performance.now();
        stream.receive(region, 0, 100, {
          ioCompleted() {
            arrived(performance.now() - begun);
            stream.close();
          },
        });
        watched.resume();
      });
      const port = listener.address.kind === 'tcp' ? listener.address.port : 0;
      // Its end would wake Node as well, but seconds later.
      const sender = spawn('bash', ['-c', `exec 3<>/dev/tcp/127.0.0.1/${port}; sleep 0.1; echo >&3; exec sleep 5`]);
      const waited = await arrival;
      t.ok(waited < 2000, `${waited} ms`);
      sender.kill();
      watched.destroy();
      await once(sender, 'exit');
      await new Promise(resolve => silent.close(resolve));
      await listener.close();
    });

    t.test('a buffered write asked for by a task completes within its turn', async t => {
      const { platform, file, region } = await opened('buffered');
      let microtaskRan = false;
      const ranBefore = await new Promise<boolean>(resolve => {
        platform.atEndOfTurn({
          runAtEndOfTurn() {
            queueMicrotask(() => {
              microtaskRan = true;
            });
            file.write(0, region, 0, 100, { ioCompleted: () => resolve(microtaskRan) });
          },
        });
      });
      t.equal(ranBefore, false);
    });

    t.test('timers and promises are served while the ring is busy', async t => {
      const { file, region } = await opened('direct');
      const busy = keepBusy(file, region, 16);
      let ticks = 0;
      const timer = setInterval(() => {
        ticks += 1;
      }, 2);
      await sleep(100);
      clearInterval(timer);
      const count = await busy.stop();
      t.ok(count > 100, `${count} reads`);
      t.ok(ticks > 10, `${ticks} ticks of 50`);
    });

    t.test('I/O asked for by a timer is submitted at once', async t => {
      const { file, region } = await opened('direct');
      await sleep(5);
      const before = performance.now();
      await io(request => file.read(0, region, 0, BLOCK_BYTES, request));
      t.ok(performance.now() - before < 200);
    });

    t.test('a platform that waits for a connection and for bytes uses no processor time', async t => {
      const { platform } = await opened('direct');
      const listener = await platform.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 }, stream => {
        stream.receive(platform.allocate(BLOCK_BYTES), 0, 100, { ioCompleted: () => stream.close() });
      });
      const client = await platform.connect(listener.address);
      await sleep(20);
      const before = process.cpuUsage();
      await sleep(300);
      const { user, system } = process.cpuUsage(before);
      client.close();
      await sleep(5);
      await listener.close();
      t.ok(user + system < 30_000, `${user + system} µs of 300 000`);
    });

    t.test('what is beyond the room of the ring waits, and completes', async t => {
      const { file, platform, small } = await smallRing(t, kind);
      const region = platform.allocate(BLOCK_BYTES);
      const results = await Promise.all(
        Array.from({ length: 100 }, () => io(request => file.read(0, region, 0, BLOCK_BYTES, request))),
      );
      t.ok(results.every(result => result === BLOCK_BYTES));
      t.equal(small, 4);
    });

    t.test('under more load than the ring has room for, nothing is lost or done twice', async t => {
      const { file, platform, small } = await smallRing(t, kind);
      const region = platform.allocate(BLOCK_BYTES);
      const depth = small * 8;
      const counts = new Uint32Array(depth);
      let left = depth;
      await new Promise<void>(resolve => {
        for (let index = 0; index < depth; index++) {
          const request: IoRequest = {
            ioCompleted() {
              counts[index] += 1;
              if (counts[index] < 50) file.read(0, region, 0, BLOCK_BYTES, request);
              else left -= 1;
              if (left === 0) resolve();
            },
          };
          file.read(0, region, 0, BLOCK_BYTES, request);
        }
      });
      t.ok(counts.every(count => count === 50));
    });

    t.test('a platform refuses to close while a file is open', async t => {
      const { platform } = await opened('direct');
      await t.rejects(platform.close(), { name: 'AssertionError', message: /1 RingFile/ });
    });

    t.test('a file refuses to close while I/O is under way', async t => {
      const { file, region } = await opened('direct');
      const read = io(request => file.read(0, region, 0, BLOCK_BYTES, request));
      await t.rejects(file.close(), { name: 'AssertionError' });
      t.equal(await read, BLOCK_BYTES);
    });
  });
}

t.test('where io_uring is forbidden, threads serve and the reason is told', async t => {
  const script = `
    const { createIoPlatform } = await import(${JSON.stringify(new URL('../../../src/platform/platform.js', import.meta.url).href)});
    const platform = createIoPlatform();
    console.log(platform.kind + ', ' + platform.kindReason);
    try { createIoPlatform({ kind: 'io_uring' }); } catch (error) { console.log(error.code); }
    await platform.close();
  `;
  const { SLEDGE_IO: _, ...environment } = process.env;
  const { status, stdout, stderr } = spawnSync(
    'python3',
    ['-c', FORBID_IO_URING, process.execPath, '--input-type=module', '-e', script],
    { encoding: 'utf8', env: environment },
  );
  if (status === 77 || process.arch !== 'x64') {
    t.pass('forbidden', { skip: 'io_uring cannot be forbidden here' });
    return;
  }
  t.same(
    { status, stdout, stderr },
    {
      status: 0,
      stdout: 'threads, io_uring is not to be had: EPERM\nnot-supported\n',
      stderr: '',
    },
  );
});

t.test('SLEDGE_IO chooses the kind, and nonsense in it is refused', async t => {
  const before = process.env['SLEDGE_IO'];
  t.teardown(() => {
    if (before === undefined) delete process.env['SLEDGE_IO'];
    else process.env['SLEDGE_IO'] = before;
  });
  process.env['SLEDGE_IO'] = 'threads';
  const platform = createIoPlatform();
  t.equal(platform.kind, 'threads');
  t.equal(platform.kindReason, 'asked for');
  await platform.close();
  process.env['SLEDGE_IO'] = 'magic';
  t.throws(() => createIoPlatform(), { code: 'usage' });
});

/** Runs a command with a seccomp filter, as containers have one, that answers io_uring_setup (425) with EPERM. */
const FORBID_IO_URING = `
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
program = Program(len(steps), ctypes.addressof(code))
if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, ctypes.byref(program)) != 0:
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
`;

async function smallRing(t: { teardown(callback: () => Promise<void>): unknown }, kind: 'io_uring' | 'threads') {
  const small = 4;
  const folder = temporaryFolder();
  const platform: IoPlatform = createIoPlatform({ kind, entries: small });
  const file = await platform.openFile({ path: folder.join('file'), mode: 'direct', create: true });
  await file.resize(BLOCK_BYTES);
  t.teardown(async () => {
    await file.close();
    await platform.close();
    folder.remove();
  });
  return { platform, file, small };
}

function keepBusy(file: PlatformFile, region: ReturnType<IoPlatform['allocate']>, depth: number) {
  let running = true;
  let left = depth;
  let count = 0;
  let stopped: (count: number) => void = () => {};
  for (let index = 0; index < depth; index++) {
    const request: IoRequest = {
      ioCompleted() {
        count += 1;
        if (running) {
          file.read(index * BLOCK_BYTES, region, index * BLOCK_BYTES, BLOCK_BYTES, request);
        } else {
          left -= 1;
          if (left === 0) stopped(count);
        }
      },
    };
    file.read(index * BLOCK_BYTES, region, index * BLOCK_BYTES, BLOCK_BYTES, request);
  }
  return {
    stop: () =>
      new Promise<number>(resolve => {
        stopped = resolve;
        running = false;
      }),
  };
}
