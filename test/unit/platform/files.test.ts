/** Opening, claiming and resizing files and devices, and what the system refuses. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { MIB } from '../../../src/base/units.ts';
import type { OpenFileOptions } from '../../../src/platform/io-platform.ts';
import { openForRing } from '../../../src/platform/open-file.ts';
import { createIoPlatform } from '../../../src/platform/platform.ts';
import { IO_KINDS, io, temporaryFolder } from '../../contract/io-support.ts';

const EIO = 5;
const ENOSPC = 28;

for (const kind of IO_KINDS) {
  t.test(`files on ${kind}`, async t => {
    const folder = temporaryFolder();
    const platform = createIoPlatform({ kind });
    t.teardown(async () => {
      await platform.close();
      folder.remove();
    });
    const open = (name: string, options: Partial<OpenFileOptions> = {}) =>
      platform.openFile({ path: folder.join(name), mode: 'direct', ...options });

    t.test('a missing file is refused, or made where that is asked for', async t => {
      await t.rejects(open('missing'), { code: 'device-missing', message: /missing: ENOENT/ });
      const file = await open('made', { create: true });
      t.equal(file.sizeBytes, 0);
      t.equal(file.kind, 'file');
      await file.close();
    });

    t.test('an exclusive creation is refused where there is a file', async t => {
      writeFileSync(folder.join('there'), 'x');
      await t.rejects(open('there', { create: 'exclusive' }), { code: 'device-foreign' });
      t.equal(readFileSync(folder.join('there'), 'utf8'), 'x');
    });

    t.test('a directory and a FIFO are refused', async t => {
      mkdirSync(folder.join('directory'));
      await t.rejects(open('directory'), { code: 'device-unusable' });
      spawnSync('mkfifo', [folder.join('fifo')]);
      await t.rejects(open('fifo'), { code: 'device-unusable' });
      await t.rejects(platform.openFile({ path: '/dev/null', mode: 'buffered' }), { code: 'device-unusable' });
    });

    t.test('a claimed file is refused to another process and to this one, until it is closed', async t => {
      const file = await open('claimed', { create: true, claim: true });
      await t.rejects(open('claimed', { claim: true }), { code: 'device-in-use', message: /claimed/ });
      const lock = ['--exclusive', '--nonblock', folder.join('claimed'), 'true'];
      t.not(spawnSync('flock', lock).status, 0);
      await file.close();
      t.equal(spawnSync('flock', lock).status, 0);
      const again = await open('claimed', { claim: true });
      await again.close();
    });

    t.test('a file with durable writes is claimed by both of its descriptors', async t => {
      const options = { path: folder.join('both'), mode: 'buffered', claim: true, durableWrites: true } as const;
      const first = await openForRing({ ...options, create: true });
      for (const fd of [first.fd, first.durableFd!]) {
        await t.rejects(openForRing(options), { code: 'device-in-use' });
        closeSync(fd);
      }
      const file = await platform.openFile(options);
      await file.close();
    });

    t.test('a refused claim leaves no descriptor open', async t => {
      const file = await open('claimed', { create: true, claim: true });
      const before = descriptorCount();
      for (let attempt = 0; attempt < 10; attempt++) {
        await open('claimed', { claim: true, durableWrites: attempt % 2 === 0 }).catch(() => {});
      }
      // Node itself opens and closes some meanwhile, but not one for each attempt.
      t.ok(descriptorCount() < before + 10);
      await file.close();
    });

    t.test('resize grows with zeroes and shrinks', async t => {
      const file = await open('sized', { create: true });
      await file.resize(2 * MIB);
      t.equal(file.sizeBytes, 2 * MIB);
      t.equal(statSync(file.path).size, 2 * MIB);
      await file.resize(MIB);
      t.equal(file.sizeBytes, MIB);
      await file.close();
      const again = await open('sized');
      t.equal(again.sizeBytes, MIB);
      await again.close();
    });

    t.test('preallocated blocks are there', async t => {
      const file = await open('reserved', { create: true });
      await file.preallocate(0, MIB);
      t.equal(file.sizeBytes, MIB);
      t.ok(statSync(file.path).blocks * 512 >= MIB);
      await file.close();
    });

    t.test('discard gives blocks back', async t => {
      const file = await open('holes', { create: true });
      await file.preallocate(0, MIB);
      t.equal(await io(request => file.discard(0, MIB, request)), 0);
      t.ok(statSync(file.path).blocks * 512 < MIB);
      t.equal(statSync(file.path).size, MIB);
      await file.close();
    });

    t.test('a read of a file that lost its end meanwhile is an I/O error', async t => {
      const file = await open('cut', { create: true });
      await file.resize(MIB);
      truncateSync(file.path, MIB / 2);
      const region = platform.allocate(MIB);
      t.equal(await io(request => file.read(0, region, 0, MIB, request)), -EIO);
      await file.close();
    });

    t.test('an I/O error of the system reaches the completion', async t => {
      const file = await platform.openFile({ path: '/proc/self/mem', mode: 'buffered', readOnly: true });
      const region = platform.allocate(4096);
      t.equal(await io(request => file.read(0, region, 0, 4096, request)), -EIO);
      await file.close();
    });

    t.test('a file opened for reading only is not written', async t => {
      writeFileSync(folder.join('read-only'), Buffer.alloc(4096, 1));
      const file = await open('read-only', { readOnly: true });
      const region = platform.allocate(4096);
      t.equal(await io(request => file.read(0, region, 0, 4096, request)), 4096);
      t.equal(region.bytes[4095], 1);
      t.throws(() => file.write(0, region, 0, 4096, { ioCompleted() {} }), { name: 'AssertionError' });
      await file.close();
    });

    t.test('a full file system is ENOSPC to a write and no-space to the control plane', async t => {
      mkdirSync(folder.join('small'));
      const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder.join('small')]);
      if (mounted.status !== 0) {
        t.pass('full', { skip: 'no tmpfs can be mounted here' });
        return;
      }
      t.teardown(() => spawnSync('umount', [folder.join('small')]));
      const region = platform.allocate(2 * MIB);
      for (const mode of ['buffered', 'direct'] as const) {
        const file = await open(`small/${mode}`, { create: true, mode });
        const result = await io(request => file.write(0, region, 0, 2 * MIB, request));
        t.equal(result, -ENOSPC, mode);
        await t.rejects(file.preallocate(0, 2 * MIB), { code: 'no-space', message: /ENOSPC/ });
        await file.resize(0);
        await file.close();
      }
    });

    t.test('a block device is opened with its size and claimed', async t => {
      const image = folder.join('image');
      writeFileSync(image, '');
      truncateSync(image, 8 * MIB);
      const attached = spawnSync('losetup', ['--find', '--show', image], { encoding: 'utf8' });
      const path = attached.stdout?.trim() ?? '';
      if (attached.status !== 0 || path === '') {
        t.pass('block device', { skip: 'no loop device can be attached here' });
        return;
      }
      t.teardown(() => spawnSync('losetup', ['--detach', path]));
      const device = await platform.openFile({ path, mode: 'direct', claim: true });
      t.equal(device.kind, 'block device');
      t.equal(device.sizeBytes, 8 * MIB);
      t.ok(device.alignmentBytes >= 512 && device.alignmentBytes <= 4096);
      await t.rejects(platform.openFile({ path, mode: 'direct', claim: true }), { code: 'device-in-use' });
      const region = platform.allocate(4096);
      region.bytes.fill(3);
      t.equal(await io(request => device.write(4096, region, 0, 4096, request)), 4096);
      t.equal(await io(request => device.sync(request)), 0);
      t.equal(await io(request => device.discard(4096, 4096, request)), 0);
      t.equal(await io(request => device.read(4096, region, 0, 4096, request)), 4096);
      t.ok(region.bytes.every(byte => byte === 0));
      await device.close();
    });
  });
}

function descriptorCount(): number {
  return Number(spawnSync('sh', ['-c', `ls /proc/${process.pid}/fd | wc -l`], { encoding: 'utf8' }).stdout);
}
