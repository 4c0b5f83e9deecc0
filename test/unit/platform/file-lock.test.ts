import { closeSync, fstatSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { holderIn, lockFile, lockHolder } from '../../../src/platform/file-lock.ts';
import { holdLock } from '../../support/lock-holder.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

const LOCKS = `1: POSIX  ADVISORY  WRITE 11 fe:00:1234 11 11
2: FLOCK  ADVISORY  WRITE 22 fe:01:1234 0 EOF
3: FLOCK  ADVISORY  WRITE 33 fe:00:12345 0 EOF
4: FLOCK  ADVISORY  WRITE 44 fe:00:1234 0 EOF
4: -> FLOCK  ADVISORY  WRITE 55 fe:00:1234 0 EOF
5: FLOCK  ADVISORY  WRITE 0 08:11:77 0 EOF
6: FLOCK  ADVISORY  WRITE 66 103:100002:88 0 EOF
`;

t.test('the holder of a lock is told by device and inode, and not taken for who waits or locks otherwise', t => {
  t.equal(holderIn(LOCKS, 0xfe00n, 1234n), 44);
  t.equal(holderIn(LOCKS, 0xfe01n, 1234n), 22);
  t.equal(holderIn(LOCKS, 0xfe00n, 123n), undefined);
  t.equal(holderIn(LOCKS, 0x0811n, 77n), undefined, 'a process that is not seen from here');
  // Major 0x103 and minor 0x100002, as stat(2) packs them.
  t.equal(holderIn(LOCKS, 0x100010302n, 88n), 66);
  t.equal(holderIn('', 0xfe00n, 1234n), undefined);
  t.end();
});

t.test('the kernel names the holder of a lock', async t => {
  const path = join(temporaryDirectory(t), 'file');
  writeFileSync(path, '');
  const fd = openSync(path, 'r');
  t.teardown(() => closeSync(fd));
  t.equal(lockHolder(fd), undefined);
  lockFile(fd);
  const { ino } = fstatSync(fd);
  if (!readFileSync('/proc/locks', 'utf8').includes(`:${ino} `)) t.pass('this kernel does not tell');
  else t.equal(lockHolder(fd), process.pid);
});

t.test('a lock that another process holds is refused, and free once it lets go', async t => {
  const path = join(temporaryDirectory(t), 'file');
  writeFileSync(path, '');
  const holder = await holdLock(t, path);
  const fd = openSync(path, 'r');
  t.teardown(() => closeSync(fd));
  t.throws(() => lockFile(fd));
  await holder.release();
  lockFile(fd);
});
