/** Regions are given back when nobody holds them, and not before: the collector is made to run. */
import { readFileSync, writeFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import { KIB, MIB } from '../../src/base/units.ts';
import { createIoPlatform } from '../../src/platform/platform.ts';
import { IO_KINDS, sleep, temporaryFolder } from '../contract/io-support.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Finalizers run in a turn of Node's loop after the collection. */
async function collectAll(): Promise<void> {
  for (let round = 0; round < 4; round++) {
    collect();
    await sleep(2);
  }
}

function addressSpaceBytes(): number {
  const pages = Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[0]);
  return pages * 4096;
}

t.test('a region is page-aligned, zero-filled, and as large as asked for', async t => {
  const platform = createIoPlatform({ kind: 'threads' });
  const region = platform.allocate(12 * KIB);
  t.equal(region.bytes.length, 12 * KIB);
  t.equal(region.bytes.byteOffset, 0);
  t.equal(region.view.byteLength, 12 * KIB);
  t.ok(region.address > 0 && region.address % 4096 === 0);
  t.ok(region.bytes.every(byte => byte === 0));
  t.throws(() => platform.allocate(100), { name: 'AssertionError' });
  t.throws(() => platform.allocate(0), { name: 'AssertionError' });
  await platform.close();
});

t.test('memory that is not touched is not taken from the system', async t => {
  const platform = createIoPlatform({ kind: 'threads' });
  const before = process.memoryUsage.rss();
  const region = platform.allocate(1024 * MIB);
  t.ok(process.memoryUsage.rss() - before < 100 * MIB);
  t.equal(region.bytes[512 * MIB], 0);
  await platform.close();
});

t.test('memory that is wanted soon is taken in the background, and what is in it stays', async t => {
  const platform = createIoPlatform({ kind: 'threads' });
  const before = process.memoryUsage.rss();
  const region = platform.allocate(64 * MIB, true);
  // Where it may be touched in this very moment.
  for (let at = 0; at < MIB; at += KIB) region.bytes[at] = 1 + ((at >>> 10) % 250);
  for (let turn = 0; turn < 1000 && process.memoryUsage.rss() - before < 60 * MIB; turn++) await sleep(10);
  t.ok(process.memoryUsage.rss() - before >= 60 * MIB);
  let wrong = 0;
  for (let at = 0; at < MIB; at += KIB) if (region.bytes[at] !== 1 + ((at >>> 10) % 250)) wrong++;
  t.equal(wrong, 0);
  t.ok(region.bytes.subarray(MIB).every(byte => byte === 0));
  await platform.close();
});

t.test('thousands of regions that nobody holds are given back', async t => {
  const platform = createIoPlatform({ kind: 'threads' });
  await collectAll();
  const before = addressSpaceBytes();
  for (let round = 0; round < 20; round++) {
    for (let index = 0; index < 500; index++) platform.allocate(64 * KIB).bytes[0] = 1;
    await collectAll();
  }
  const grown = addressSpaceBytes() - before;
  t.ok(grown < 64 * MIB, `${Math.round(grown / MIB)} MiB of 625 MiB are still mapped`);
  await platform.close();
});

for (const kind of IO_KINDS) {
  t.test(`a region with I/O under way stays while nobody else holds it, on ${kind}`, async t => {
    const folder = temporaryFolder();
    const platform = createIoPlatform({ kind });
    const path = folder.join('file');
    writeFileSync(path, Buffer.alloc(MIB, 0x5a));
    const file = await platform.openFile({ path, mode: 'direct' });
    const listener = await platform.listen({ kind: 'unix', path: folder.join('socket') }, stream => {
      // Waits in the kernel with an address that only the table of operations keeps alive.
      const region = platform.allocate(64 * KIB);
      const weak = new WeakRef(region);
      stream.receive(region, 0, 64 * KIB, {
        ioCompleted(result) {
          t.equal(result, 5);
          t.equal(weak.deref()?.bytes[4], 'o'.charCodeAt(0));
          stream.close();
        },
      });
    });
    const client = await platform.connect(listener.address);
    let left = 500;
    const reads = new Promise<void>(resolve => {
      for (let index = 0; index < 500; index++) {
        const region = new WeakRef(platform.allocate(64 * KIB));
        file.read((index % 16) * 64 * KIB, region.deref()!, 0, 64 * KIB, {
          ioCompleted(result) {
            if (result !== 64 * KIB || region.deref()?.bytes[65535] !== 0x5a)
              t.fail(`read ${index} ended with ${result}`);
            left -= 1;
            if (left === 0) resolve();
          },
        });
      }
    });
    await collectAll();
    await reads;
    await collectAll();
    const hello = platform.allocate(4096);
    hello.bytes.set(new TextEncoder().encode('hello'));
    await new Promise(resolve => client.send(hello, 0, 5, { ioCompleted: resolve }));
    await sleep(10);
    client.close();
    await listener.close();
    await file.close();
    await platform.close();
    folder.remove();
  });
}

for (const kind of IO_KINDS) {
  t.test(`platforms made and closed over and over leave nothing behind, on ${kind}`, async t => {
    const make = async () => {
      const platform = createIoPlatform({ kind, threads: 2 });
      platform.atEndOfTurn({ runAtEndOfTurn() {} });
      await sleep(0);
      await platform.close();
    };
    for (let round = 0; round < 5; round++) await make();
    await collectAll();
    const before = addressSpaceBytes();
    for (let round = 0; round < 50; round++) await make();
    await collectAll();
    const grown = addressSpaceBytes() - before;
    t.ok(grown < 20 * MIB, `${Math.round(grown / MIB)} MiB are still mapped`);
  });
}
