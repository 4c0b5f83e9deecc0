/** The records of attached devices, and the lock under which they come and go. */
import { join } from 'node:path';
import t from 'tap';
import type { DeviceRecord } from '../../../src/attach/device-record.ts';
import { AttachDirectory } from '../../../src/platform/attach-directory.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

function recordOf(backend: string): DeviceRecord {
  return {
    format: 1,
    index: 4000,
    backend,
    options: {
      target: { kind: 'uri', uri: 'nbd://h/v' },
      name: 'vol0',
      connections: 1,
      deadTimeoutSeconds: null,
      requestTimeoutSeconds: 4,
      readOnly: false,
      tlsCertificates: null,
      tlsPsk: null,
    },
    sizeBytes: 2 ** 20,
    transmissionFlags: 1,
    pid: process.pid,
    pidStart: 1,
    state: 'connected',
    stateSince: '2026-01-01T00:00:00.000Z',
    reconnects: 0,
    lastError: '',
    attachedAt: '2026-01-01T00:00:00.000Z',
  };
}

t.test('a record is removed for its own device, not for a later one of that number', async t => {
  const directory = new AttachDirectory(temporaryDirectory(t));
  const [old, later] = [recordOf('sledge:old'), recordOf('sledge:later')];
  directory.write(later);
  await directory.remove(old);
  t.same(directory.read(4000), later);
  await directory.remove(later);
  t.equal(directory.read(4000), undefined);
  await directory.remove(later);
});

t.test('who removes a record waits for who makes a device, and looks again', async t => {
  const directory = new AttachDirectory(temporaryDirectory(t));
  const [old, later] = [recordOf('sledge:old'), recordOf('sledge:later')];
  directory.write(old);
  const unlock = await directory.lock();
  const removed = directory.remove(old);
  directory.write(later);
  unlock();
  await removed;
  t.same(directory.read(4000), later);
});

t.test('a lock that is held too long is reported with its holder; what fails otherwise is not waited for', async t => {
  const directory = new AttachDirectory(temporaryDirectory(t));
  const unlock = await directory.lock();
  // Where the kernel does not tell the holder, the hint says how to find it.
  const hint = new RegExp(`kill ${process.pid}|fuser -v ${directory.path}`);
  await t.rejects(directory.lock(50), { code: 'device-in-use', hint });
  unlock();
  (await directory.lock(0))();
  await t.rejects(new AttachDirectory(join(directory.path, 'none')).lock(), { code: 'io' });
});
