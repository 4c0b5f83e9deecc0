/** The small parts that everything is made of: queues, pools, sums, sizes, places, errors. */
import t from 'tap';
import { assert, assertNever } from '../../../src/base/assert.ts';
import { BouncePool, BounceShare } from '../../../src/base/bounce-pool.ts';
import { NO_SUM, takeSums } from '../../../src/base/checksum.ts';
import { crc32c, crc32cBlocks } from '../../../src/base/crc32c.ts';
import { EIO, ENOSPC, errnoName } from '../../../src/base/errno.ts';
import { SledgeError } from '../../../src/base/errors.ts';
import { completion, Gather, IoWindow } from '../../../src/base/io-wait.ts';
import { bounceBufferBytes } from '../../../src/base/limits.ts';
import { getUint64, putUint64 } from '../../../src/base/little-endian.ts';
import { locationDevice, locationOf, locationPosition } from '../../../src/base/location.ts';
import { plainRegion } from '../../../src/base/memory.ts';
import { RingQueue } from '../../../src/base/ring-queue.ts';
import { formatBytes, isPowerOfTwo, parseBytes, roundDown, roundUp } from '../../../src/base/units.ts';
import { addon } from '../../../src/platform/addon.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';

t.test('a ring queue gives back what was put in, in order, however it grows', t => {
  const random = randomFrom(testSeed());
  const queue = new RingQueue<number>();
  const model: number[] = [];
  for (let round = 0; round < 5000; round++) {
    if (random(5) < 3) {
      queue.push(round);
      model.push(round);
    } else if (model.length > 0) {
      if (queue.peek() !== model[0]) t.fail('peek');
      if (queue.shift() !== model.shift()) t.fail('shift');
    }
    if (queue.length !== model.length) t.fail('length');
  }
  while (model.length > 0) if (queue.shift() !== model.shift()) t.fail('shift');
  t.equal(queue.peek(), undefined);
  t.throws(() => queue.shift(), /not empty/);
  t.end();
});

t.test('a bounce pool is bounded, and buffers go to those who wait in order of their waiting', t => {
  const pool = new BouncePool({ allocate: plainRegion }, 6);
  const share = new BounceShare();
  const taken = [pool.take(share), pool.take(share), pool.take(share)];
  t.same(taken, [0, bounceBufferBytes, 2 * bounceBufferBytes]);
  t.equal(pool.region.bytes.length, 6 * bounceBufferBytes);
  t.equal(pool.take(share), -1, 'as many as are free are enough');
  const got: string[] = [];
  pool.wait(share, { bufferReady: offset => void got.push(`a ${offset}`) });
  pool.wait(share, { bufferReady: offset => void got.push(`b ${offset}`) });
  pool.give(share, taken[1]);
  t.same(got, [`a ${bounceBufferBytes}`]);
  t.equal(pool.take(share), -1, 'whoever comes later does not overtake');
  pool.give(share, taken[0]);
  t.same(got, [`a ${bounceBufferBytes}`, 'b 0']);
  t.equal(pool.inUse, 3);
  for (const offset of taken) pool.give(share, offset);
  t.equal(pool.inUse, 0);
  t.ok(pool.take(share) >= 0);
  t.throws(() => pool.give(share, 5), /as it was taken/);
  t.throws(() => pool.give(new BounceShare(), 0), /by who took it/);
  t.end();
});

t.test('who wants all of a bounce pool leaves some for others, and all come to their turn', t => {
  const pool = new BouncePool({ allocate: plainRegion }, 16);
  const shares = [new BounceShare(), new BounceShare(), new BounceShare()];
  const offsets = shares.map(() => [] as number[]);
  const want = (user: number) => {
    const offset = pool.take(shares[user]);
    if (offset >= 0) offsets[user].push(offset);
    else pool.wait(shares[user], { bufferReady: given => void offsets[user].push(given) });
  };
  for (let i = 0; i < 100; i++) want(0);
  t.equal(offsets[0].length, 8, 'half');
  for (let i = 0; i < 100; i++) want(1);
  t.equal(offsets[1].length, 4, 'half of what was left');
  want(2);
  t.equal(offsets[2].length, 1);
  t.equal(new Set(offsets.flat()).size, 13, 'each buffer once');
  const random = randomFrom(testSeed());
  let served = 0;
  for (; served < 1000 && pool.inUse > 0; served++) {
    const users = [0, 1, 2].filter(user => offsets[user].length > 0);
    const user = users[random(users.length)];
    pool.give(shares[user], offsets[user].shift()!);
  }
  t.equal(served, 201);
  t.same(
    shares.map(share => [share.held, share.waiting.length]),
    [
      [0, 0],
      [0, 0],
      [0, 0],
    ],
  );
  t.end();
});

t.test('CRC32C has the values of RFC 3720 and of the native one', t => {
  t.equal(crc32c(new Uint8Array(32), 0, 32, 0), 0x8a9136aa);
  t.equal(crc32c(new Uint8Array(32).fill(0xff), 0, 32, 0), 0x62a8ab43);
  t.equal(
    crc32c(
      Uint8Array.from({ length: 32 }, (_, i) => i),
      0,
      32,
      0,
    ),
    0x46dd794e,
  );
  t.equal(crc32c(new TextEncoder().encode('123456789'), 0, 9, 0), 0xe3069283);
  const random = randomFrom(testSeed());
  const bytes = Uint8Array.from({ length: 16384 }, () => random(256));
  for (let round = 0; round < 200; round++) {
    const from = random(8000);
    const length = random(8000);
    const middle = random(length + 1);
    const sum = crc32c(bytes, from, length, 0);
    if (addon.checksum(bytes, from, length, 0) !== sum) t.fail('native differs');
    if (crc32c(bytes, from + middle, length - middle, crc32c(bytes, from, middle, 0)) !== sum) t.fail('in two parts');
  }
  const sums = [new Uint32Array(4), new Uint32Array(4)];
  crc32cBlocks(bytes, 0, 4, sums[0], 0);
  addon.checksumBlocks(bytes, 0, 4, sums[1], 0);
  t.same(sums[0], sums[1]);
  t.end();
});

t.test('no block has the sum that stands for "never written"', t => {
  // Four bytes can bring the sum of a block to any value: those of the sum itself, laid where they cancel it out.
  const checksums = {
    checksum: crc32c,
    checksumBlocks: (_bytes: Uint8Array, _offset: number, count: number, sums: Uint32Array, index: number) => {
      for (let i = 0; i < count; i++) sums[index + i] = i % 2 === 0 ? 0 : 7;
    },
  };
  const sums = new Uint32Array(5);
  takeSums(checksums, new Uint8Array(16384), 0, 3, sums, 1);
  t.same([...sums], [0, 0xffffffff, 7, 0xffffffff, 0], 'a CRC of 0 is stored as another value');
  t.equal(NO_SUM, 0);
  t.end();
});

t.test('a gather resolves with the first error when all have come', async t => {
  const gather = new Gather();
  gather.expect().ioCompleted(5);
  gather.expect();
  gather.expect();
  gather.ioCompleted(-EIO);
  gather.ioCompleted(-ENOSPC);
  t.equal(await gather.close(), -EIO);
  t.equal(await new Gather().close(), 0);
  t.equal(await completion(request => request.ioCompleted(42)), 42);
});

t.test('a window keeps a bounded number of I/Os under way', async t => {
  const window = new IoWindow();
  const heard: number[] = [];
  const request = window.joinedBy({ ioCompleted: result => heard.push(result) });
  window.begin();
  await window.room(2);
  window.begin();
  t.equal(window.inFlight, 2);
  let room = false;
  const waits = window.room(2).then(() => {
    room = true;
  });
  await new Promise(resolve => setImmediate(resolve));
  t.notOk(room);
  request.ioCompleted(-EIO);
  await waits;
  t.ok(room);
  t.equal(window.error, -EIO);
  const drained = window.drained();
  request.ioCompleted(0);
  t.equal(await drained, -EIO, 'with the first error');
  t.same(heard, [-EIO, 0], 'who joined hears of each');
});

t.test('64-bit numbers and places survive the way to disk and back', t => {
  const view = new DataView(new ArrayBuffer(16));
  for (const value of [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 52, Number.MAX_SAFE_INTEGER]) {
    putUint64(view, 3, value);
    t.equal(getUint64(view, 3), value);
    t.equal(view.getBigUint64(3, true), BigInt(value));
  }
  for (const device of [0, 1, 4095]) {
    for (const position of [0, 4096, 2 ** 40, 2 ** 52 - 4096]) {
      const location = locationOf(device, position);
      t.ok(Number.isSafeInteger(location));
      t.equal(locationDevice(location), device);
      t.equal(locationPosition(location), position);
    }
  }
  t.end();
});

t.test('sizes are read and printed as people write them', t => {
  const cases: [string, number | undefined][] = [
    ['4096', 4096],
    ['64KiB', 65536],
    ['10G', 10 * 2 ** 30],
    ['1.5TiB', 1.5 * 2 ** 40],
    [' 1 MiB ', 2 ** 20],
    ['5B', 5],
    ['', undefined],
    ['1.5', undefined],
    ['-1', undefined],
    ['1KB', undefined],
    ['1e3', undefined],
    ['9999999T', undefined],
    ['0x10', undefined],
  ];
  for (const [text, bytes] of cases) t.equal(parseBytes(text), bytes, JSON.stringify(text));
  t.equal(formatBytes(10 * 2 ** 30), '10 GiB');
  t.equal(formatBytes(1536), '1.5 KiB');
  t.equal(formatBytes(1000), '1000 bytes');
  t.equal(roundUp(4097, 4096), 8192);
  t.equal(roundDown(4097, 4096), 4096);
  t.ok(isPowerOfTwo(65536));
  for (const value of [0, 3, -4, 1.5]) t.notOk(isPowerOfTwo(value));
  t.end();
});

t.test('errors have a code, a hint and whether they may go away; errno values have names', t => {
  const error = new SledgeError('volume-busy', 'vol0 has clients', { cause: 1 });
  t.match(error, { code: 'volume-busy', retryable: true, hint: /Disconnect/, message: 'vol0 has clients', cause: 1 });
  t.equal(new SledgeError('io', 'x', { hint: 'other' }).hint, 'other');
  t.equal(errnoName(-5), 'EIO');
  t.equal(errnoName(28), 'ENOSPC');
  t.equal(errnoName(200), 'errno 200');
  t.throws(() => assert(false, 'because'), { name: 'AssertionError', message: 'because' });
  t.throws(() => assertNever('x' as never), /no case for "x"/);
  t.end();
});
