/** Starts and checks beside another process that has the devices or the directory: what waits, and who is named. */
import { closeSync, existsSync, openSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MIB } from '../../../src/base/units.ts';
import { checkDirectory } from '../../../src/node/check-directory.ts';
import { userOf } from '../../../src/node/directory-lock.ts';
import { lockFile } from '../../../src/platform/file-lock.ts';
import { holdLock } from '../../support/lock-holder.ts';
import type { Cleaner } from '../../support/nbd-programs.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { isAll } from '../head/head-rig.ts';
import { startTestNode } from './node-rig.ts';

const HELD_MS = 300;

/** A data directory with a device beside it, whose server has stopped. */
async function stoppedNode(t: Cleaner): Promise<{ directory: string; data: string; device: string }> {
  const directory = temporaryDirectory(t);
  const device = join(directory, 'disk');
  const devices = [{ path: device, sizeBytes: 65 * MIB }];
  const running = await startTestNode(directory, { devices, volumes: [{ name: 'vol0', sizeBytes: MIB }] });
  await running.request('vol0', 'write', 0, new Uint8Array(4096).fill(7));
  await running.stop();
  return { directory, data: join(directory, 'data'), device };
}

/** Starts a node one of whose files is locked for a moment, and sees that it waits for that. */
async function startedWhileHeld(t: Test, directory: string, path: string) {
  const holder = await holdLock(t, path);
  const begun = performance.now();
  const starting = startTestNode(directory);
  setTimeout(() => void holder.release(), HELD_MS);
  const running = await starting;
  const ms = performance.now() - begun;
  t.ok(ms >= HELD_MS && ms < 2000, `${Math.round(ms)} ms`);
  return running;
}

t.test('a start waits for a device that a server which was killed still has for a moment', async t => {
  const { directory, device } = await stoppedNode(t);
  const running = await startedWhileHeld(t, directory, device);
  t.ok(isAll((await running.request('vol0', 'read', 0, 4096)).bytes, 7));
  await running.stop();
});

t.test('it waits for a file of the log as well, which its own server claims', async t => {
  const { directory, data } = await stoppedNode(t);
  const segment = join(data, 'log', '000001.log');
  const running = await startedWhileHeld(t, directory, segment);
  const fd = openSync(segment, 'r');
  t.throws(() => lockFile(fd));
  await running.stop();
  lockFile(fd);
  closeSync(fd);
});

t.test('a check waits for it, too', async t => {
  const { data, device } = await stoppedNode(t);
  const holder = await holdLock(t, device);
  const checking = checkDirectory(data);
  setTimeout(() => void holder.release(), HELD_MS);
  const report = await checking;
  t.match(report, { errors: 0, warnings: 0 });
  t.ok(report.summary !== null);
});

t.test('a device that stays in use is refused after two seconds, and who has it is named', async t => {
  const { directory, device } = await stoppedNode(t);
  const holder = await holdLock(t, device);
  const begun = performance.now();
  await t.rejects(startTestNode(directory), {
    code: 'device-in-use',
    message: new RegExp(`^${device} is claimed by (process ${holder.pid}|another process)$`),
  });
  const ms = performance.now() - begun;
  t.ok(ms >= 2000 && ms < 3000, `${Math.round(ms)} ms`);
  await holder.release();
  const running = await startTestNode(directory);
  await running.stop();
});

t.test('a directory that is being checked is not said to be in use by the server that is gone', async t => {
  const { directory, data } = await stoppedNode(t);
  t.ok(existsSync(join(data, 'lock')), 'with the pid of the server that has stopped: this process');
  const holder = await holdLock(t, join(data, 'lock'));
  await t.rejects(startTestNode(directory), {
    code: 'data-in-use',
    message: new RegExp(
      `^${data} is in use by (process ${holder.pid}|another process \\(the lock file names \\d+\\))$`,
    ),
    hint: /wait until it has ended/,
  });
  await t.rejects(checkDirectory(data), { code: 'data-in-use', message: /in use by (?!the server)/ });
  await holder.release();
  const running = await startTestNode(directory);
  t.teardown(() => running.stop());
  await t.rejects(checkDirectory(data), {
    code: 'data-in-use',
    message: new RegExp(`the server with pid ${process.pid}|names ${process.pid}`),
  });
});

t.test('who uses a directory is said as far as it is known', t => {
  for (const [holder, recorded, isAlive, name] of [
    [42, 42, true, 'the server with pid 42'],
    [42, 17, true, 'process 42'],
    [42, 17, false, 'process 42'],
    [42, undefined, false, 'process 42'],
    [undefined, 17, true, 'another process (the lock file names 17)'],
    [undefined, 17, false, 'another process'],
    [undefined, undefined, false, 'another process'],
  ] as const) {
    t.equal(userOf(holder, recorded, isAlive).name, name, `${holder} ${recorded} ${isAlive}`);
  }
  t.end();
});
