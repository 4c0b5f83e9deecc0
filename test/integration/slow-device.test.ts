/**
 * A block device that takes a second for each write, beside a quick one: the server runs on both, under load, with a log
 * that goes round many times. Who has nothing on the slow device goes on as if it were not there. (nbdkit is slow on
 * purpose; nbdfuse and the loop driver make a block device of it.)
 */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { columnBytes } from '../../src/base/limits.ts';
import { MIB } from '../../src/base/units.ts';
import type { BenchResult } from '../../src/bin/bench.ts';
import { writeRecordBytes } from '../../src/oplog/record.ts';
import {
  run,
  runOk,
  skipUnless,
  skipUnlessInstalled,
  skipUnlessUsable,
  startProgram,
  temporaryDirectory,
  waitUntil,
  writePatternFile,
} from '../support/nbd-programs.ts';
import {
  type RunningServer,
  skipOnStandIn,
  sledgeJson,
  sledgeProgram,
  startServer,
} from '../support/server-process.ts';

const LOG_BYTES = 64 * MIB;
const VOLUME_BYTES = 6 * MIB;

const skip =
  skipUnlessInstalled('nbdkit', 'nbdcopy', 'nbdfuse', 'losetup', 'fusermount3') ||
  skipUnless(process.getuid?.() === 0, 'needs root') ||
  skipUnlessUsable('/dev/fuse', '/dev/loop-control') ||
  skipOnStandIn();

async function randomWrites(server: RunningServer, volume: string, seconds: number): Promise<BenchResult> {
  const args = ['bench', server.uriOf(volume), '--mode', 'randwrite', '--depth', '8', '--seconds', String(seconds)];
  const text = await runOk(sledgeProgram, [...args, '--yes', '--json'], { timeoutMs: 100_000 });
  return JSON.parse(text) as BenchResult;
}

t.test('a slow device slows down what lies on it, and nothing else', { skip, timeout: 150_000 }, async t => {
  const directory = temporaryDirectory(t);
  const mountPoint = join(directory, 'fuse');
  const socket = join(directory, 'nbdkit');
  const file = join(mountPoint, 'nbd');
  mkdirSync(mountPoint);
  const nbdkit = startProgram('nbdkit', ['-f', '-U', socket, '--filter=delay', 'memory', '161M', 'wdelay=1']);
  await waitUntil(() => existsSync(socket), 10_000, 'nbdkit');
  const nbdfuse = startProgram('nbdfuse', [mountPoint, `nbd+unix:///?socket=${socket}`]);
  let loop = '';
  t.teardown(async () => {
    nbdkit.kill('SIGKILL');
    if (loop !== '') await run('losetup', ['-d', loop]);
    await run('fusermount3', ['-uz', mountPoint]);
    nbdfuse.kill('SIGKILL');
  });
  await waitUntil(() => existsSync(file), 10_000, 'nbdfuse');
  loop = (await runOk('losetup', ['-f', '--show', file])).trim();

  const dataDirectory = join(directory, 'data');
  // A column has 16 MiB. The slow device has one more than the quick one, so that it gets the first volume.
  const devices = ['--device', `${join(directory, 'quick')}:145MiB`, '--device', loop];
  const server = await startServer(t, {
    dataDirectory,
    volumes: [
      { name: 'ill', sizeBytes: VOLUME_BYTES },
      { name: 'well', sizeBytes: VOLUME_BYTES },
    ],
    unix: join(directory, 'socket'),
    sledgeArguments: [...devices, '--log', String(LOG_BYTES)],
    readyTimeoutMs: 60_000,
  });
  const pattern = join(directory, 'pattern');
  await writePatternFile(pattern, VOLUME_BYTES, 1);
  for (const volume of ['ill', 'well']) {
    await runOk('nbdcopy', ['--flush', pattern, server.uriOf(volume)], { timeoutMs: 100_000 });
  }
  const usedBytes = async () => (await sledgeJson(dataDirectory, 'status'))['devices'];
  t.match(await usedBytes(), [{ usedBytes: columnBytes }, { usedBytes: columnBytes }], 'each has a volume');

  const alone = await randomWrites(server, 'well', 3);
  // It is not answered to the end.
  const ill = randomWrites(server, 'ill', 60).catch(() => {});
  // The first that is carried to the device shows how it is.
  await randomWrites(server, 'well', 6);
  t.match(await sledgeJson(dataDirectory, 'status'), { health: 'degraded', problems: [{ what: /is set aside/ }] });
  const beside = await randomWrites(server, 'well', 6);
  t.comment(`${Math.round(alone.perSecond)} writes a second alone, ${Math.round(beside.perSecond)} beside`);
  t.ok(beside.requests * writeRecordBytes(1) > 3 * LOG_BYTES, 'the log went round');
  t.ok(beside.latencyUs.max < 3_000_000, `the longest took ${beside.latencyUs.max / 1000} ms`);
  // What is under way ends with an error then.
  nbdkit.kill('SIGKILL');
  await server.kill();
  await ill;
});
