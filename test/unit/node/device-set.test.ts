/** Which devices a start takes, which it refuses, and that what it refuses is as it was. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { SledgeError } from '../../../src/base/errors.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { DeviceOption } from '../../../src/node/options.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { isAll } from '../head/head-rig.ts';
import { startTestNode } from './node-rig.ts';

const SIZE = MIB + 32 * MIB;

function rig(test: Test) {
  const directory = temporaryDirectory(test);
  const path = (name: string) => join(directory, name);
  return {
    directory,
    path,
    disk: (name: string): DeviceOption => ({ path: path(name), sizeBytes: SIZE }),
    blank(name: string): DeviceOption {
      writeFileSync(path(name), '');
      truncateSync(path(name), SIZE);
      return { path: path(name) };
    },
    /** A start that is refused, and what it says. */
    async refused(devices: readonly DeviceOption[]): Promise<SledgeError> {
      const error = await startTestNode(directory, { devices }).then(
        () => undefined,
        (error: unknown) => error,
      );
      if (!(error instanceof SledgeError)) throw new Error(`the start is not refused: ${error}`);
      return error;
    },
    devices: async (options: readonly DeviceOption[] = []) => {
      const { node } = await startTestNode(directory, { devices: options });
      const devices = node.status().devices.map(({ name, path }) => [name, path.slice(directory.length + 1)]);
      await node.stop();
      return devices;
    },
  };
}

/** Runs the command that a hint ends with. */
function follow(hint: string): void {
  const [program, ...words] = hint.slice(hint.indexOf('dd ')).split(' ');
  execFileSync(program, words, { stdio: 'ignore' });
}

t.test('while a later one is refused a blank one is not taken, and a first start leaves nothing', async t => {
  const { path, blank, refused, directory, devices } = rig(t);
  writeFileSync(path('other'), new Uint8Array(SIZE).fill(1));
  const given = [blank('new'), { path: path('other') }];
  t.match(await refused(given), { code: 'device-foreign' });
  t.ok(isAll(readFileSync(path('new')), 0));
  writeFileSync(path('small'), new Uint8Array(MIB));
  t.match(await refused([given[0], { path: path('small') }]), { code: 'no-space' });
  t.ok(isAll(readFileSync(path('new')), 0));
  t.notOk(existsSync(join(directory, 'data')));
  t.same(await devices([given[0]]), [['device 0', 'new']]);
});

t.test("somebody else's file is not enlarged, however short it is", async t => {
  const { path, refused } = rig(t);
  for (const bytes of [100, 10 * KIB, MIB]) {
    const content = new Uint8Array(bytes);
    content[bytes > 4096 ? 17 : 99] = 1;
    writeFileSync(path('image'), content);
    t.match(await refused([{ path: path('image'), sizeBytes: SIZE }]), { code: 'device-foreign' });
    t.equal(statSync(path('image')).size, bytes);
  }
  writeFileSync(path('image'), new Uint8Array(60 * KIB));
  t.match(await refused([{ path: path('image'), sizeBytes: SIZE }]), { code: 'device-foreign' });
});

t.test('devices that have changed names are known, and recorded under their new ones', async t => {
  const { path, disk, devices, directory, refused } = rig(t);
  const volumes = [{ name: 'vol0', sizeBytes: 64 * MIB }];
  const running = await startTestNode(directory, { devices: ['a', 'b', 'c'].map(disk), volumes });
  await running.request('vol0', 'write', 0, new Uint8Array(40 * MIB).fill(7));
  await running.stop();
  renameSync(path('a'), path('x'));
  renameSync(path('b'), path('a'));
  renameSync(path('c'), path('b'));
  renameSync(path('x'), path('c'));
  const turned = [
    ['device 0', 'c'],
    ['device 1', 'a'],
    ['device 2', 'b'],
  ];
  t.same((await devices()).sort(), turned);
  t.same((await devices(['a', 'b'].map(disk))).sort(), turned);
  const again = await startTestNode(directory);
  t.ok(isAll((await again.request('vol0', 'read', 0, 40 * MIB)).bytes, 7));
  await again.stop();
  renameSync(path('a'), path('x'));
  writeFileSync(path('a'), new Uint8Array(SIZE).fill(1));
  const error = await refused([]);
  t.match(error, { code: 'device-missing' });
  t.notMatch(error.hint, /dd /, 'what is under the name of one of its own is not to be wiped');
  t.same((await devices([{ path: path('x') }])).sort(), [
    ['device 0', 'c'],
    ['device 1', 'x'],
    ['device 2', 'b'],
  ]);
});

t.test('a device of another node is taken once it was wiped as the hint says', async t => {
  const [other, own] = [rig(t), rig(t)];
  await other.devices([other.disk('a')]);
  const error = await own.refused([other.disk('a')]);
  t.match(error, { code: 'device-foreign', message: /another node/ });
  follow(error.hint);
  t.equal((await own.devices([other.disk('a')])).length, 1);
});

t.test('a copy of a device, and one with a number that another one has, are refused', async t => {
  const { path, disk, devices, refused, directory } = rig(t);
  await devices([disk('a')]);
  copyFileSync(path('a'), path('copy'));
  t.match(await refused([disk('copy'), disk('a')]), { code: 'device-foreign', message: /copy/ });
  const file = join(directory, 'data', 'node.json');
  const before = readFileSync(file);
  await devices([disk('stray')]);
  writeFileSync(file, before);
  await devices([disk('b')]);
  const error = await refused([disk('stray')]);
  t.match(error, { code: 'device-foreign', message: /stray has the same number as .*b, and is not on record/ });
  follow(error.hint);
  t.same(await devices([disk('stray')]), [
    ['device 0', 'a'],
    ['device 1', 'b'],
    ['device 2', 'stray'],
  ]);
});
