/**
 * Devices are sparse files: together they may promise more than their file system has. Here one of 128 MiB lies on a file
 * system of 64 MiB, of which a file takes a part for a while: a real ENOSPC, and real space that returns.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ControlClient } from '../../src/admin/control-client.ts';
import { nbdsh, programPath, skipUnlessInstalled, waitUntil } from '../support/nbd-programs.ts';
import { startServer } from '../support/server-process.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const MIB = 1024 ** 2;

/** A file system in memory that takes direct I/O; false where that cannot be had. */
function mounted(test: { teardown(callback: () => void): unknown }, path: string): boolean {
  mkdirSync(path);
  const env = { ...process.env, PATH: programPath };
  const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', path], { env });
  if (mount.status !== 0) return false;
  test.teardown(() => void spawnSync('umount', [path], { env }));
  try {
    const probe = join(path, 'probe');
    closeSync(openSync(probe, constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT));
    rmSync(probe);
    return true;
  } catch {
    return false;
  }
}

t.test(
  'where the file system of a device is full, writes get ENOSPC, reads go on, and all is well when space returns',
  { skip: skipUnlessInstalled('nbdsh') },
  async t => {
    const directory = temporaryDirectory(t);
    const small = join(directory, 'small');
    if (!mounted(t, small)) {
      t.pass('no file system of its own can be mounted here', { skip: 'needs a tmpfs that takes direct I/O' });
      return;
    }
    const filler = join(small, 'filler');
    writeFileSync(filler, new Uint8Array(40 * MIB).fill(1));
    const data = join(directory, 'data');
    const server = await startServer(t, {
      engine: 'sledge',
      dataDirectory: data,
      volumes: [{ name: 'vol0', sizeBytes: 96 * MIB }],
      unix: join(directory, 'nbd.sock'),
      sledgeArguments: ['--log', '64MiB', '--cache', '16MiB', '--device', `${join(small, 'disk')}:128MiB`],
    });
    const control = new ControlClient(data);
    const client = (script: string) =>
      nbdsh(`
h.connect_uri(${JSON.stringify(server.uri)})
MIB = 1024 * 1024
def data(n, length): return bytes([n % 250 + 1]) * length
def write(n, at, length):
    try:
        h.pwrite(data(n, length), at)
        return 0
    except nbd.Error as error:
        return error.errno
${script}
h.shutdown()
`);

    const [written] = await client(`
results = [write(i, i * MIB, MIB) for i in range(48)]
emit([results.count(0), sorted(set(results) - {0}), results])
`);
    const [whole, refused, results] = written as [number, unknown[], unknown[]];
    t.ok(whole >= 16 && whole < 30, `${whole} MiB of whole chunks found space`);
    t.same(refused, ['ENOSPC'], 'the others were refused for want of it');
    const status = await control.status();
    t.same(
      status.devices.map(device => device.state),
      ['ok'],
      'nothing is wrong with the device',
    );

    const [small0] = await client(`
results = [write(i, 64 * MIB + i * 8192, 4096) for i in range(200)]
h.flush()
wrong = [i for i in range(48) if ${JSON.stringify(results)}[i] == 0 and h.pread(MIB, i * MIB) != data(i, MIB)]
zero = [i for i in range(48) if ${JSON.stringify(results)}[i] != 0 and h.pread(MIB, i * MIB) != bytes(MIB)]
emit([results.count(0), wrong, zero])
`);
    t.same(small0, [200, [], []], 'the log takes small writes, and what was written is there, nothing else');

    // More than the log holds: it cannot be destaged, so that in the end small writes are refused, too.
    const [many] = await client(`
at = 64 * MIB
results = [write(i, at + (i * 12288) % (32 * MIB), 8192) for i in range(9000)]
emit([sorted(set(results) - {0})])
`);
    t.same(many, [['ENOSPC']], 'when the log is nearly full, small writes are refused as well');
    const stuck = await control.status();
    t.match(stuck.problems, [{ why: /no space left/ }], 'and the status says why');

    rmSync(filler);
    // It is tried again every second.
    let isStuck = true;
    await waitUntil(
      () => {
        void control.status().then(({ problems }) => {
          isStuck = problems.length > 0;
        });
        return !isStuck;
      },
      20_000,
      'the destage goes on',
    );
    const [after] = await client(`
results = [write(i + 7, i * MIB, MIB) for i in range(8)]
h.flush()
wrong = [i for i in range(8) if h.pread(MIB, i * MIB) != data(i + 7, MIB)]
emit([results.count(0), wrong])
`);
    t.same(after, [8, []], 'with space again all is written');
    t.same((await control.status()).problems, []);
  },
);
