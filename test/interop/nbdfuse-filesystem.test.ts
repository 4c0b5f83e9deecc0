/** A file system on the host itself: nbdfuse shows the volume as a file, the loop driver makes a disk of it. */
import { existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import {
  checksumFile,
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
import { startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;

const skip =
  skipUnlessInstalled('nbdfuse', 'losetup', 'mkfs.ext4', 'e2fsck', 'mount', 'umount', 'fusermount3', 'fstrim') ||
  skipUnless(process.getuid?.() === 0, 'needs root') ||
  skipUnlessUsable('/dev/fuse', '/dev/loop-control');

t.test('ext4 on nbdfuse and the loop driver keeps its files and passes e2fsck', { skip, timeout: 90_000 }, async t => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 128 * MIB;
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes }],
    unix: join(directory, 'socket'),
  });
  const fuseDirectory = join(directory, 'fuse');
  const mountPoint = join(directory, 'mounted');
  mkdirSync(fuseDirectory);
  mkdirSync(mountPoint);
  const file = join(fuseDirectory, 'nbd');
  const nbdfuse = startProgram('nbdfuse', [fuseDirectory, server.uri]);
  let loop = '';
  let mounted = false;
  t.teardown(async () => {
    if (mounted) await run('umount', [mountPoint]);
    if (loop !== '') await run('losetup', ['-d', loop]);
    await run('fusermount3', ['-u', fuseDirectory]);
    nbdfuse.kill('SIGKILL');
  });
  await waitUntil(() => existsSync(file), 10_000, 'nbdfuse');
  t.equal(statSync(file).size, sizeBytes);

  loop = (await runOk('losetup', ['-f', '--show', file])).trim();
  await runOk('mkfs.ext4', ['-q', '-F', loop]);
  await runOk('mount', [loop, mountPoint]);
  mounted = true;
  const written = join(directory, 'written');
  await writePatternFile(written, 24 * MIB + 123, 9);
  await runOk('cp', [written, join(mountPoint, 'file')]);
  mkdirSync(join(mountPoint, 'many'));
  for (let i = 0; i < 200; i++) writeFileSync(join(mountPoint, 'many', String(i)), 'x'.repeat(i * 17));
  await runOk('sync', ['-f', mountPoint]);
  await runOk('umount', [mountPoint]);
  mounted = false;
  await runOk('e2fsck', ['-f', '-n', loop]);

  await runOk('mount', [loop, mountPoint]);
  mounted = true;
  t.equal(await checksumFile(join(mountPoint, 'file')), await checksumFile(written));
  t.equal(statSync(join(mountPoint, 'many', '199')).size, 199 * 17);
  await runOk('rm', ['-r', join(mountPoint, 'file'), join(mountPoint, 'many')]);
  const trimmed = await run('fstrim', ['-v', mountPoint]);
  t.comment(trimmed.stdout.trim() || trimmed.stderr.trim());
  await runOk('umount', [mountPoint]);
  mounted = false;
  await runOk('e2fsck', ['-f', '-n', loop]);
  t.pass('the file system is clean');
});
