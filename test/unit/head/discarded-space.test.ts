/** How the space of dropped slots is given back: one discard at a time, neighbours as one, and no slot forgotten. */
import t from 'tap';
import { EOPNOTSUPP } from '../../../src/base/errno.ts';
import { discardBytesMax } from '../../../src/base/limits.ts';
import type { Location } from '../../../src/base/location.ts';
import { locationOf } from '../../../src/base/location.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { DiscardedSpace } from '../../../src/head/discarded-space.ts';
import { Device } from '../../../src/sled/device.ts';
import { Sled } from '../../../src/sled/sled.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from '../oplog/controlled-file.ts';

const CHUNK = 64 * KIB;

function rig() {
  const loop = new MemoryLoop();
  const sled = new Sled(loop);
  const files = [0, 1].map(number => {
    const file = new ControlledFile(loop, MIB + 256 * MIB);
    const identity = { node: '0'.repeat(32), device: String(number).repeat(32), number };
    const layout = { columnBytes: 16 * MIB, firstColumn: MIB, columnCount: 16, serial: 1 };
    sled.add(new Device(`/d${number}`, file, { ...identity, ...layout }));
    file.hold.add('discard');
    return file;
  });
  const free: [Location, number][] = [];
  const space = new DiscardedSpace(sled, { discarded: (location, length) => void free.push([location, length]) });
  return { loop, files, free, space };
}

t.test('neighbours that wait are given back as one, one discard at a time', t => {
  const { loop, files, free, space } = rig();
  const places = Array.from({ length: 10 }, (_, i) => locationOf(0, MIB + i * CHUNK));
  for (const place of places) space.discard(place, CHUNK);
  t.same(
    files[0].held.map(io => [io.position, io.length]),
    [[MIB, CHUNK]],
    'the first is begun at once',
  );
  files[0].held[0].finish();
  loop.run();
  t.same(
    files[0].held.map(io => [io.position, io.length]),
    [[MIB + CHUNK, 9 * CHUNK]],
  );
  t.same(free, [[places[0], CHUNK]], 'a slot is free when its discard has ended');
  files[0].letGo();
  loop.run();
  t.same(free, [
    [places[0], CHUNK],
    [places[1], 9 * CHUNK],
  ]);
  t.end();
});

t.test('what does not follow, is on another device, or would be too long is not joined', t => {
  const { loop, files, free, space } = rig();
  const given: [Location, number][] = [
    [locationOf(0, MIB), CHUNK],
    [locationOf(0, MIB + 8 * CHUNK), CHUNK],
    [locationOf(0, MIB + 10 * CHUNK), CHUNK],
    [locationOf(1, MIB + 11 * CHUNK), CHUNK],
    [locationOf(1, MIB + 16 * MIB), discardBytesMax],
    [locationOf(1, MIB + 16 * MIB + discardBytesMax), CHUNK],
  ];
  for (const [location, length] of given) space.discard(location, length);
  for (const file of files) file.letGo();
  loop.run();
  const byLocation = (a: [Location, number], b: [Location, number]) => a[0] - b[0];
  t.same(free.sort(byLocation), given);
  t.equal(files[0].counts.discard, 3);
  t.equal(files[1].counts.discard, 3);
  t.end();
});

t.test('a discard that the device does not know sets the slot free all the same', t => {
  const { loop, files, free, space } = rig();
  files[0].hold.clear();
  files[0].failing.set('discard', -EOPNOTSUPP);
  space.discard(locationOf(0, MIB), CHUNK);
  loop.run();
  t.equal(free.length, 1);
  t.end();
});

t.test('a stop waits for the discard under way and begins no other', async t => {
  const { loop, files, space } = rig();
  space.discard(locationOf(0, MIB), CHUNK);
  space.discard(locationOf(0, 2 * MIB), CHUNK);
  let stopped = false;
  const stopping = space.stop().then(() => {
    stopped = true;
  });
  await new Promise(resolve => setImmediate(resolve));
  t.notOk(stopped);
  files[0].held[0].finish();
  loop.run();
  await stopping;
  t.equal(files[0].counts.discard, 1);
  await space.stop();
});

t.test('a device that takes its time over a discard holds up no other', t => {
  const { loop, files, free, space } = rig();
  files[1].hold.clear();
  space.discard(locationOf(0, MIB), CHUNK);
  space.discard(locationOf(1, MIB), CHUNK);
  loop.run();
  t.same(free, [[locationOf(1, MIB), CHUNK]]);
  files[0].letGo();
  loop.run();
  t.equal(free.length, 2);
  t.end();
});
