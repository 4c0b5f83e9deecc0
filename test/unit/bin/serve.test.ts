import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import t from 'tap';
import { ControlClient } from '../../../src/admin/control-client.ts';
import { SledgeError } from '../../../src/base/errors.ts';
import {
  cacheBytesDefault,
  cacheBytesDefaultMax,
  cacheBytesMin,
  logBytesDefault,
  logBytesDefaultMax,
  logBytesMin,
} from '../../../src/base/limits.ts';
import { GIB, MIB } from '../../../src/base/units.ts';
import { CommandInput } from '../../../src/bin/command.ts';
import { isOpenToOthers, serveArguments, serveCommand } from '../../../src/bin/serve.ts';
import type { NodeOptions, RunningNode } from '../../../src/node/options.ts';
import type { ListenAddress } from '../../../src/platform/io-platform.ts';
import { memoryBytes, openFilesMax } from '../../../src/platform/system-limits.ts';
import { CommandRun } from '../../support/command-run.ts';
import { MemoryNodeControl } from '../../support/memory-node-control.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

function parse(...argv: string[]) {
  return serveArguments(new CommandInput(serveCommand, argv), {}, 4711);
}

/** Runs `sledge serve` over a node in memory; `started` comes true when the node was asked for. */
class ServeRun extends CommandRun {
  readonly control = new MemoryNodeControl();
  readonly order: string[] = [];
  options: NodeOptions | undefined;
  addresses: readonly ListenAddress[] = [
    { kind: 'tcp', host: '127.0.0.1', port: 4321 },
    { kind: 'unix', path: '/run/sledge.sock' },
  ];
  /** Held back until this resolves. */
  starting: Promise<void> = Promise.resolve();
  stopping: Promise<void> = Promise.resolve();

  override startNode = async (options: NodeOptions): Promise<RunningNode> => {
    this.options = options;
    this.order.push('start');
    for (const volume of options.volumes) this.control.put(volume);
    await this.starting;
    return {
      control: this.control,
      addresses: this.addresses,
      stop: async () => {
        this.order.push('stop');
        await this.stopping;
      },
    };
  };

  /** Resolves as soon as what was printed matches. */
  printedMatch(pattern: RegExp): Promise<void> {
    return new Promise(done => {
      const look = () => {
        if (!pattern.test(this.printed)) return;
        this.events.off('printed', look);
        done();
      };
      this.events.on('printed', look);
      look();
    });
  }
}

function later(): { promise: Promise<void>; resolve: () => void } {
  let resolvePromise: () => void = () => {};
  const promise = new Promise<void>(done => {
    resolvePromise = done;
  });
  return { promise, resolve: () => resolvePromise() };
}

const turn = () => new Promise(done => setImmediate(done));

t.test('without options the defaults are served', t => {
  t.match(parse(), {
    logLevel: 'info',
    node: {
      dataDirectory: './data',
      devices: [],
      volumes: [],
      cacheBytes: cacheBytesDefault(memoryBytes()),
      logBytes: undefined,
      listen: [{ kind: 'tcp', host: '127.0.0.1', port: 10809 }],
      tls: undefined,
    },
  });
  t.end();
});

t.test('the cache takes a quarter of the memory, within bounds', t => {
  t.equal(cacheBytesDefault(8 * GIB + 5), 2 * GIB);
  t.equal(cacheBytesDefault(256 * GIB), cacheBytesDefaultMax);
  t.equal(cacheBytesDefault(MIB), cacheBytesMin);
  t.ok(memoryBytes() >= 64 * MIB && memoryBytes() <= 2 ** 50, 'of memory that there is');
  t.end();
});

t.test('the log takes a sixteenth of its file system, within bounds', t => {
  t.equal(logBytesDefault(16 * GIB + 5, 65_536), GIB);
  t.equal(logBytesDefault(1024 * GIB, Number.MAX_SAFE_INTEGER), logBytesDefaultMax);
  t.equal(logBytesDefault(GIB / 2, 65_536), logBytesMin);
  t.equal(logBytesDefault(1024 * GIB, 4096), logBytesDefaultMax, 'a quarter of the files may be of the log');
  t.equal(logBytesDefault(1024 * GIB, 1024), 2 * GIB);
  t.equal(logBytesDefault(1024 * GIB, 16), logBytesMin);
  t.ok(openFilesMax() >= 256, 'files that there may be');
  t.end();
});

t.test('every option reaches the node', t => {
  const { node, logLevel } = parse(
    ...[
      '--data',
      '/srv/d',
      '--listen',
      '[::1]:0',
      '--listen=unix:/run/s',
      '--device',
      '/dev/sdb',
      '--device',
      'f:1GiB',
    ],
    ...['--volume', 'a:1GiB', '--volume', 'b:2GiB', '--cache', '64MiB', '--log', '128MiB', '--log-level', 'debug'],
    ...['--tls-certificates', '/certs', '--tls', 'require'],
  );
  t.equal(logLevel, 'debug');
  t.same(node, {
    dataDirectory: '/srv/d',
    listen: [
      { kind: 'tcp', host: '::1', port: 0 },
      { kind: 'unix', path: '/run/s' },
    ],
    devices: [{ path: '/dev/sdb' }, { path: resolve('f'), sizeBytes: 1024 ** 3 }],
    volumes: [
      { name: 'a', sizeBytes: 1024 ** 3 },
      { name: 'b', sizeBytes: 2 * 1024 ** 3 },
    ],
    cacheBytes: 64 * 1024 ** 2,
    logBytes: 128 * 1024 ** 2,
    tls: { mode: 'require', certificates: '/certs' },
  });
  t.same(parse('--tls-psk', '/keys').node.tls, { mode: 'offer', psk: '/keys' });
  t.end();
});

t.test('sockets of the service manager replace the default address and join those asked for', t => {
  const env = { LISTEN_FDS: '1', LISTEN_PID: '4711' };
  const alone = serveArguments(new CommandInput(serveCommand, []), env, 4711);
  t.same(alone.node.listen, [{ kind: 'fd', fd: 3 }]);
  const joined = serveArguments(new CommandInput(serveCommand, ['--listen', '127.0.0.1:1']), env, 4711);
  t.same(joined.node.listen, [
    { kind: 'fd', fd: 3 },
    { kind: 'tcp', host: '127.0.0.1', port: 1 },
  ]);
  t.end();
});

t.test('options that cannot be are wrong use, before anything is started', async t => {
  const table: string[][] = [
    ['--listen', 'nowhere'],
    ['--volume', 'vol0'],
    ['--volume', 'vol0:1GiB', '--volume', 'vol0:2GiB'],
    ['--device', ''],
    ['--cache', '1MiB'],
    ['--log', '1MiB'],
    ['--tls', 'require'],
    ['--tls', 'maybe', '--tls-psk', 'f'],
    ['--tls-psk', 'f', '--tls-certificates', 'd'],
    ['--log-level', 'loud'],
    ['surplus'],
  ];
  for (const argv of table) {
    const run = new ServeRun();
    const { code } = await run.run('serve', ...argv);
    t.equal(code, 2, argv.join(' '));
    t.same(run.order, [], 'nothing was started');
  }
});

t.test('when ready it prints a URI and an nbd-client line for each volume and address', async t => {
  const data = temporaryDirectory(t);
  const run = new ServeRun();
  const done = run.run(
    'serve',
    '--data',
    data,
    '--volume',
    'vol0:1GiB',
    '--volume',
    'vol1:1GiB',
    '--log-level',
    'error',
  );
  await run.printedMatch(/Stop with/);
  for (const line of [
    'nbd://127.0.0.1:4321/vol0',
    'sudo nbd-client 127.0.0.1 4321 -N vol0 -b 4096 /dev/nbd0',
    'nbd+unix:///vol1?socket=/run/sledge.sock',
    'sudo nbd-client -unix /run/sledge.sock -N vol1 -b 4096 /dev/nbd1',
    `Data is in ${data}`,
  ]) {
    t.ok(run.printed.includes(line), line);
  }
  t.match(await new ControlClient(data).volumes(), [{ name: 'vol0' }, { name: 'vol1' }], 'the control plane answers');
  run.signals.emit('SIGTERM');
  t.equal((await done).code, 0);
  t.same(run.order, ['start', 'stop']);
  t.notOk(existsSync(join(data, 'control.sock')), 'the control socket is gone');
  t.equal(run.signals.listenerCount('SIGTERM') + run.signals.listenerCount('SIGINT'), 0);
});

t.test('with --json it prints one event a line', async t => {
  const data = temporaryDirectory(t);
  const run = new ServeRun();
  const done = run.run('serve', '--data', data, '--volume', 'vol0:1GiB', '--json', '--log-level', 'error');
  await run.printedMatch(/ready/);
  run.signals.emit('SIGINT');
  t.equal((await done).code, 0);
  const events = run.printed
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as object);
  t.match(events, [
    {
      event: 'ready',
      pid: 4711,
      dataDirectory: data,
      addresses: [
        { kind: 'tcp', host: '127.0.0.1', port: 4321, uri: 'nbd://127.0.0.1:4321/' },
        { kind: 'unix', path: '/run/sledge.sock', uri: 'nbd+unix:///?socket=/run/sledge.sock' },
      ],
      volumes: [{ name: 'vol0', uris: ['nbd://127.0.0.1:4321/vol0', 'nbd+unix:///vol0?socket=/run/sledge.sock'] }],
    },
    { event: 'stopping' },
    { event: 'stopped' },
  ]);
});

t.test('where TLS is required the URIs say so, and no nbd-client line promises to work without', async t => {
  const run = new ServeRun();
  const data = temporaryDirectory(t);
  const tls = ['--tls-certificates', '/certs', '--tls', 'require'];
  const done = run.run('serve', '--data', data, '--volume', 'vol0:1GiB', ...tls, '--log-level', 'error');
  await run.printedMatch(/Stop with/);
  t.match(run.printed, 'nbds://127.0.0.1:4321/vol0');
  t.notMatch(run.printed, 'nbd-client');
  run.signals.emit('SIGTERM');
  await done;
});

t.test('without a volume it says how to make one', async t => {
  const run = new ServeRun();
  const data = temporaryDirectory(t);
  const done = run.run('serve', '--data', data, '--log-level', 'error');
  await run.printedMatch(/Stop with/);
  t.match(run.printed, 'sledge volume create vol0 --size 10GiB');
  run.signals.emit('SIGTERM');
  await done;
});

t.test('a signal while starting stops the node as soon as it is up, and ends with 0', async t => {
  const run = new ServeRun();
  const start = later();
  run.starting = start.promise;
  const done = run.run('serve', '--data', temporaryDirectory(t), '--log-level', 'error');
  await turn();
  t.equal(run.options?.signal?.aborted, false);
  run.signals.emit('SIGTERM');
  t.equal(run.options?.signal?.aborted, true, 'the node is told');
  start.resolve();
  t.equal((await done).code, 0);
  t.same(run.order, ['start', 'stop']);
  t.equal(run.printed, '', 'it was never ready');
});

t.test('a node that gives up starting because of the signal is no failure', async t => {
  const run = new ServeRun();
  const start = later();
  run.starting = start.promise.then(() => {
    throw new SledgeError('shutting-down', 'not wanted any more');
  });
  const done = run.run('serve', '--data', temporaryDirectory(t), '--log-level', 'error');
  await turn();
  run.signals.emit('SIGINT');
  start.resolve();
  t.match(await done, { code: 0, error: '' });
});

t.test('a second signal does not wait', async t => {
  const run = new ServeRun();
  const stop = later();
  run.stopping = stop.promise;
  const done = run.run('serve', '--data', temporaryDirectory(t), '--json', '--log-level', 'error');
  await run.printedMatch(/ready/);
  run.signals.emit('SIGTERM');
  await run.printedMatch(/stopping/);
  t.equal(run.exitedNow, undefined);
  run.signals.emit('SIGTERM');
  t.equal(run.exitedNow, 1);
  stop.resolve();
  await done;
});

t.test('a node that cannot start is an error with exit code 1', async t => {
  const run = new ServeRun();
  run.starting = Promise.reject(new SledgeError('data-in-use', 'somebody else serves this'));
  const { code, error } = await run.run('serve', '--data', temporaryDirectory(t), '--log-level', 'error');
  t.equal(code, 1);
  t.match(error, /^sledge: somebody else serves this\n {2}Stop that server first/);
});

t.test('a node whose control socket cannot be made is stopped again', async t => {
  const run = new ServeRun();
  const missing = join(temporaryDirectory(t), 'missing');
  const { code, error } = await run.run('serve', '--data', missing, '--log-level', 'error');
  t.equal(code, 1);
  t.match(error, /control socket/);
  t.same(run.order, ['start', 'stop']);
});

t.test('addresses that other machines may reach are told apart from those of this one', t => {
  const tcp = (host: string) => isOpenToOthers({ kind: 'tcp', host, port: 1 });
  t.same(['127.0.0.1', '127.1.2.3', '::1', 'localhost'].map(tcp), [false, false, false, false]);
  t.same(['0.0.0.0', '::', '192.0.2.1', 'storage.example'].map(tcp), [true, true, true, true]);
  t.equal(isOpenToOthers({ kind: 'unix', path: '/run/s' }), false);
  t.equal(isOpenToOthers({ kind: 'fd', fd: 3 }), false);
  t.end();
});
