/** A pass over all that a volume has in mass storage: what it finds, what it leaves alone, how fast it goes. */
import t, { type Test } from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import type { Location } from '../../../src/base/location.ts';
import { locationPosition } from '../../../src/base/location.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { Scrub } from '../../../src/head/scrub.ts';
import { HeadRig, isAll, pump, type RigOptions } from './head-rig.ts';

const CHUNK = 64 * KIB;
const FAST = 2 ** 40;

/** A head whose volume has `chunks` chunks of ones in mass storage and nothing in the log. */
async function destaged(chunks: number, options: RigOptions = {}): Promise<HeadRig> {
  const rig = await HeadRig.start({ columns: 8, ...options });
  for (let i = 0; i < chunks; i += 16) await rig.write(i * CHUNK, Math.min(16, chunks - i) * CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  // The log's timer for a mark runs out.
  await rig.advance(100);
  return rig;
}

function newScrub(rig: HeadRig, bytesPerSecond = FAST): Scrub {
  return new Scrub({ head: rig.head, clock: rig.loop }, rig.volume(), bytesPerSecond);
}

async function scrubbed(t: Test, rig: HeadRig): Promise<Scrub> {
  const scrub = newScrub(rig);
  t.equal(await pump(rig.loop, scrub.run()), true);
  t.equal(rig.head.bounce.inUse, 0, 'buffers are given back');
  return scrub;
}

function checksumErrors(rig: HeadRig): number {
  return rig.store.deviceInfo!.errors.checksum;
}

function locationOfBlock(rig: HeadRig, block: number): Location {
  const entry = rig.volume().peek(rig.volume().chunkOf(block as never))!;
  return (entry.location + (block % rig.volume().blocksPerChunk)) as Location;
}

function flip(rig: HeadRig, block: number): Location {
  const location = locationOfBlock(rig, block);
  rig.store.device.flip(locationPosition(location) + 1234, 0x10);
  return location;
}

t.test(
  'a clean volume: all that is mapped is read, wherever the index or the overlay has it, and nothing cached',
  async t => {
    const rig = await destaged(20);
    await rig.write(40 * CHUNK + 4096, 4096, 2);
    await rig.write(40 * CHUNK + 8 * KIB, 4096, 3);
    await rig.do('trim', 3 * CHUNK, CHUNK);
    await rig.do('writeZeroes', 5 * CHUNK, 8 * KIB);
    await pump(rig.loop, rig.destage.all());
    await rig.write(50 * CHUNK, 2 * CHUNK, 4);
    await rig.write(60 * CHUNK, 4096, 5);
    await rig.write(10 * CHUNK, 8 * KIB, 6);
    const { cache } = rig.head;
    const before = { count: cache.count, hits: cache.hits, misses: cache.misses };
    const scrub = await scrubbed(t, rig);
    t.equal(
      scrub.bytesRead,
      17 * CHUNK + 2 * (CHUNK - 8 * KIB) + 8 * KIB + 2 * CHUNK,
      'no hole, nothing that the log holds',
    );
    t.equal(scrub.damagedBlocks, 0);
    t.equal(scrub.bytesDone, rig.head.slots.usedBytes(rig.volume().number));
    t.same({ count: cache.count, hits: cache.hits, misses: cache.misses }, before);
    t.same(rig.events, []);
    t.equal(checksumErrors(rig), 0);
  },
);

for (const chunkBytes of [16 * KIB, CHUNK, 4 * MIB]) {
  t.test(`a flipped byte is found in its block and no other, with chunks of ${chunkBytes / KIB} KiB`, async t => {
    const rig = await destaged(128, { chunkBytes });
    const location = flip(rig, 1031);
    const scrub = await scrubbed(t, rig);
    t.same(scrub.damage, [{ block: 1031, location, fault: 'mismatch' }]);
    t.equal(scrub.damagedBlocks, 1);
    t.equal(scrub.bytesRead, 128 * CHUNK, 'what is certain is not read again');
    t.same(rig.events, [`corrupt vol1 1031 location ${location}`]);
    t.equal(checksumErrors(rig), 1, 'counted once in a pass');
    t.equal((await rig.do('read', 1031 * 4096, 4096)).errno, EIO);
    t.ok(isAll(await rig.read(1030 * 4096, 4096), 1));
    await rig.write(1031 * 4096, 4096, 7);
    t.equal((await scrubbed(t, rig)).damagedBlocks, 0, 'the log has something newer of it');
    await pump(rig.loop, rig.destage.all());
    t.equal((await scrubbed(t, rig)).damagedBlocks, 0, 'and now the device has');
    t.equal(checksumErrors(rig), 2, 'the client read is the other one');
  });
}

t.test('each damaged block of a chunk is found, and the first ones are named', async t => {
  const rig = await destaged(80);
  for (let block = 0; block < 1200; block++) flip(rig, block);
  const scrub = await scrubbed(t, rig);
  t.equal(scrub.damagedBlocks, 1200);
  t.equal(scrub.damage.length, 1024);
  t.equal(new Set(scrub.damage.map(({ block }) => block)).size, 1024);
  t.equal(checksumErrors(rig), 1200);
});

t.test('what is rewritten in place, replaced, trimmed or moved while it is read is no damage', async t => {
  const rig = await destaged(4);
  rig.store.device.hold.add('read');
  const scrub = newScrub(rig);
  const running = scrub.run();
  await rig.settle();
  t.equal(rig.store.device.held.length, 4);
  const before = [0, 16, 32, 48].map(block => locationOfBlock(rig, block));
  await rig.write(4096, 4096, 2);
  await rig.write(CHUNK, CHUNK, 3);
  await rig.do('trim', 2 * CHUNK, CHUNK);
  await rig.write(3 * CHUNK, CHUNK, 4);
  await rig.write(3 * CHUNK + 4096, 4096, 5);
  await pump(rig.loop, rig.destage.all());
  await rig.settle();
  t.equal(locationOfBlock(rig, 0), before[0], 'the first one was rewritten in its place');
  t.not(locationOfBlock(rig, 16), before[1], 'the second one was moved');
  // Somebody else has the slots that came free.
  for (const location of before.slice(1))
    rig.store.device.poke(locationPosition(location), new Uint8Array(CHUNK).fill(9));
  rig.store.device.letGo();
  t.equal(await pump(rig.loop, running), true);
  t.equal(scrub.damagedBlocks, 0);
  t.same(rig.events, []);
  t.equal(checksumErrors(rig), 0);
  t.equal((await scrubbed(t, rig)).damagedBlocks, 0);
});

t.test('damage beside blocks that are written all the time is found all the same, once', async t => {
  const rig = await destaged(1);
  const location = flip(rig, 5);
  rig.store.device.hold.add('read');
  const scrub = newScrub(rig);
  const running = pump(rig.loop, scrub.run());
  let rounds = 0;
  for (; scrub.damagedBlocks === 0 && rounds < 20; rounds++) {
    await rig.settle();
    await rig.write(6 * 4096, 4096, rounds);
    for (const io of [...rig.store.device.held]) io.finish();
    await rig.settle();
  }
  rig.store.device.letGo();
  t.equal(await running, true);
  t.same(scrub.damage, [{ block: 5, location, fault: 'mismatch' }]);
  t.ok(rounds > 1 && rounds <= 6, `after ${rounds} reads`);
  t.equal(checksumErrors(rig), 1);
});

t.test('a block that is rewritten in its place during each look is no damage', async t => {
  const rig = await destaged(1);
  rig.store.device.hold.add('read');
  const scrub = newScrub(rig);
  let ended = false;
  const running = scrub.run().finally(() => {
    ended = true;
  });
  await rig.settle();
  let rounds = 0;
  for (; !ended && rounds < 20; rounds++) {
    await rig.write(5 * 4096, 4096, 10 + rounds);
    await pump(rig.loop, rig.destage.all());
    for (const io of [...rig.store.device.held]) io.finish();
    await rig.settle();
  }
  t.equal(await running, true);
  t.equal(rounds, 5, 'it is read with its chunk, and four times by itself');
  t.equal(scrub.damagedBlocks, 0);
  t.equal(checksumErrors(rig), 0);
});

t.test('a read that fails is made again block by block; what stays unreadable is named and counted', async t => {
  const rig = await destaged(1);
  const { device } = rig.store;
  device.hold.add('read');
  let scrub = newScrub(rig);
  let running = scrub.run();
  await rig.settle();
  device.held[0].finish(-EIO);
  await rig.settle();
  device.letGo();
  t.equal(await pump(rig.loop, running), true);
  t.equal(scrub.damagedBlocks, 0, 'it was readable after all');

  device.hold.add('read');
  scrub = newScrub(rig);
  running = scrub.run();
  for (let reads = 0; reads < 17; reads++) {
    await rig.settle();
    const [io] = device.held;
    io.finish(
      io.position <= locationPosition(locationOfBlock(rig, 7))
        ? reads === 0 || reads === 8
          ? -EIO
          : undefined
        : undefined,
    );
  }
  device.hold.clear();
  t.equal(await pump(rig.loop, running), true);
  t.same(scrub.damage, [{ block: 7, location: locationOfBlock(rig, 7), fault: 'unreadable' }]);
  t.match(rig.store.deviceInfo!.errors, { read: 1, checksum: 0 });
  t.same(rig.events, [`unreadable vol1 7 location ${locationOfBlock(rig, 7)}`]);
});

t.test('the rate holds, and bounds what is under way', async t => {
  const rig = await destaged(64);
  const timers = rig.loop.timerCount;
  const scrub = newScrub(rig, MIB);
  let ended = false;
  const running = scrub.run().then(() => {
    ended = true;
  });
  await rig.settle();
  let milliseconds = 0;
  for (; !ended && milliseconds < 10_000; milliseconds += 5) {
    rig.loop.advance(5);
    await rig.settle();
    const most = (milliseconds + 5 + 60) * (MIB / 1000) + CHUNK;
    if (scrub.bytesRead > most) t.fail(`${scrub.bytesRead} bytes after ${milliseconds} ms`);
  }
  await running;
  t.equal(scrub.bytesRead, 4 * MIB);
  t.ok(milliseconds > 3800 && milliseconds < 4300, `${milliseconds} ms for 4 s of work`);
  t.equal(rig.loop.timerCount, timers, 'no timer is left');

  rig.store.device.hold.add('read');
  const fast = newScrub(rig);
  const held = fast.run();
  await rig.settle();
  t.equal(rig.store.device.held.length, 4);
  t.ok(rig.store.device.held.every(io => io.length <= CHUNK));
  rig.store.device.letGo();
  t.equal(await pump(rig.loop, held), true);
});

t.test('time that was lost is not caught up with at once', async t => {
  const rig = await destaged(64);
  const scrub = newScrub(rig, MIB);
  const running = scrub.run();
  await rig.settle();
  rig.loop.advance(2000);
  await rig.settle();
  t.ok(scrub.bytesRead <= 4 * CHUNK, `${scrub.bytesRead} bytes`);
  scrub.cancel();
  t.equal(await pump(rig.loop, running), false);
});

t.test('a scrub that is cancelled, waiting or reading, begins nothing more and gives everything back', async t => {
  const rig = await destaged(64);
  const timers = rig.loop.timerCount;
  const waiting = newScrub(rig, 64 * KIB);
  const first = waiting.run();
  await rig.settle();
  t.equal(waiting.bytesRead, CHUNK);
  waiting.cancel();
  t.equal(await pump(rig.loop, first), false);
  t.equal(rig.loop.timerCount, timers, 'no timer is left');

  rig.store.device.hold.add('read');
  const reading = newScrub(rig);
  const second = reading.run();
  await rig.settle();
  const { read } = rig.store.device.counts;
  reading.cancel();
  let ended = false;
  void second.then(() => {
    ended = true;
  });
  await rig.settle();
  t.equal(ended, false, 'buffers are in use until the device is done with them');
  rig.store.device.letGo();
  t.equal(await pump(rig.loop, second), false);
  t.equal(rig.store.device.counts.read, read);
  t.equal(rig.head.bounce.inUse, 0);
});

t.test('a volume that grows meanwhile is gone through to its new end', async t => {
  const rig = await destaged(512, { volumeBytes: 32 * MIB });
  const scrub = newScrub(rig, 64 * MIB);
  const running = scrub.run();
  await rig.settle();
  const grown = rig.head.resize(rig.volume(), 40 * MIB);
  await rig.settle();
  t.equal(await grown, 0);
  await rig.write(39 * MIB, CHUNK, 2);
  await pump(rig.loop, rig.destage.all());
  const location = flip(rig, (39 * MIB) / 4096);
  await rig.advance(5000);
  t.equal(await pump(rig.loop, running), true);
  t.same(scrub.damage, [{ block: (39 * MIB) / 4096, location, fault: 'mismatch' }]);
  t.equal(scrub.bytesRead, 513 * CHUNK);
});
