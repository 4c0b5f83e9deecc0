/** Patterns written and verified by qemu-io: alignments, zeroes, discards, FUA, many at once; and after a restart. */
import { join } from 'node:path';
import t from 'tap';
import { describeFailure, run, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { type RunningServer, skipOnStandIn, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('qemu-io');

/** Runs the commands in order on one connection; a pattern that does not match is a failure. */
async function qemuIo(server: RunningServer, ...commands: readonly string[]): Promise<void> {
  const args = ['-f', 'raw', '-t', 'none', ...commands.flatMap(command => ['-c', command]), server.uri];
  const result = await run('qemu-io', args);
  if (result.code !== 0 || /failed|error/i.test(result.stdout + result.stderr)) {
    throw new Error(describeFailure('qemu-io', args, result));
  }
}

function options(directory: string) {
  return {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
    unix: join(directory, 'socket'),
  };
}

t.test('patterns at every alignment are read back, and their neighbours stay', { skip }, async t => {
  const server = await startServer(t, options(temporaryDirectory(t)));
  await qemuIo(
    server,
    'write -P 0x11 0 1M',
    'write -P 0x22 4096 4096',
    'write -P 0x33 513 1000',
    'write -P 0x44 65535 2',
    'write -P 0x55 131071 65538',
    'write -P 0x66 1048575 1',
    'read -P 0x11 0 513',
    'read -P 0x33 513 1000',
    'read -P 0x11 1513 2583',
    'read -P 0x22 4096 4096',
    'read -P 0x11 8192 57343',
    'read -P 0x44 65535 2',
    'read -P 0x11 65537 65534',
    'read -P 0x55 131071 65538',
    'read -P 0x11 196609 851966',
    'read -P 0x66 1048575 1',
    'read -P 0 1M 1M',
  );
  t.pass('all patterns match');
});

t.test('zeroes and discards read back as zeroes, aligned or not', { skip }, async t => {
  const server = await startServer(t, options(temporaryDirectory(t)));
  await qemuIo(
    server,
    'write -P 0xaa 0 4M',
    'write -z 4096 8192',
    'write -z -u 1000000 100',
    'write -z -u 1M 1M',
    'write -z 2097151 3',
    'read -P 0xaa 0 4096',
    'read -P 0 4096 8192',
    'read -P 0xaa 12288 987712',
    'read -P 0 1000000 100',
    'read -P 0xaa 1000100 48476',
    'read -P 0 1M 1M',
    'read -P 0 2M 2',
    'read -P 0xaa 2097154 1000',
    'discard 3M 1M',
    'read -P 0xaa 2097154 1048574',
    'write -P 0xbb 3M 64k',
    'read -P 0xbb 3M 64k',
  );
  t.pass('all patterns match');
});

t.test('FUA writes, flushes and many writes in flight', { skip }, async t => {
  const server = await startServer(t, options(temporaryDirectory(t)));
  const many = Array.from({ length: 64 }, (_, i) => `aio_write -q -P ${i + 1} ${i * 100_000} 70000`);
  const reads = Array.from({ length: 64 }, (_, i) => `read -P ${i + 1} ${i * 100_000} 70000`);
  await qemuIo(server, ...many, 'aio_flush', ...reads, 'write -f -P 0xcc 32M 4096', 'flush', 'read -P 0xcc 32M 4096');
  t.pass('all patterns match');
});

t.test('patterns are still there after a restart and after kill -9', { skip: skip || skipOnStandIn() }, async t => {
  const directory = temporaryDirectory(t);
  const first = await startServer(t, options(directory));
  await qemuIo(first, 'write -P 1 0 8M', 'write -P 2 12345 6789', 'write -z 2M 1M', 'discard 4M 64k');
  t.equal(await first.stop(), 0);
  const checks = ['read -P 1 0 12345', 'read -P 2 12345 6789', 'read -P 0 2M 1M', 'read -P 1 5M 3M'];
  const second = await startServer(t, options(directory));
  await qemuIo(second, ...checks, 'write -P 3 16M 1M', 'write -P 4 17000001 5');
  await second.kill();
  const third = await startServer(t, options(directory));
  await qemuIo(third, ...checks, 'read -P 3 16M 222784', 'read -P 4 17000001 5', 'read -P 3 17000006 825786');
  t.pass('all patterns match');
});
