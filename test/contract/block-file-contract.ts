/**
 * The rules of `BlockFile` as tests. Every implementation is held to them: on io_uring, on threads, in simulations.
 *
 * The factory makes a fresh, zero-filled file of at least the size asked for.
 */
import t from 'tap';
import type { BlockFile, IoRequest } from '../../src/base/io.ts';
import type { Region, RegionSource } from '../../src/base/memory.ts';
import { BLOCK_BYTES, KIB, MIB } from '../../src/base/units.ts';
import { io, randomFrom, testSeed } from './io-support.ts';

export interface BlockFileUnderTest {
  readonly file: BlockFile;
  readonly memory: RegionSource;
  cleanUp(): Promise<void>;
}

export type BlockFileFactory = (sizeBytes: number) => Promise<BlockFileUnderTest>;

const EIO = 5;
const EOPNOTSUPP = 95;

export function blockFileContract(name: string, make: BlockFileFactory): void {
  t.test(`${name} keeps the rules of a block file`, async t => {
    async function fresh(sizeBytes: number): Promise<BlockFileUnderTest> {
      const made = await make(sizeBytes);
      t.teardown(() => made.cleanUp());
      return made;
    }

    t.test('what was never written reads as zeroes', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(64 * KIB);
      region.bytes.fill(1);
      t.equal(await io(request => file.read(MIB - 64 * KIB, region, 0, 64 * KIB, request)), 64 * KIB);
      t.ok(region.bytes.every(byte => byte === 0));
    });

    t.test('a read returns what was written, and nothing beside it changed', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(3 * BLOCK_BYTES);
      region.bytes.fill(9);
      t.equal(await io(request => file.write(BLOCK_BYTES, region, BLOCK_BYTES, BLOCK_BYTES, request)), BLOCK_BYTES);
      t.equal(await io(request => file.read(0, region, 0, 3 * BLOCK_BYTES, request)), 3 * BLOCK_BYTES);
      t.same(blockValues(region), [0, 9, 0]);
    });

    t.test('no completion is called from inside of the call that started the I/O', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(BLOCK_BYTES);
      // `io` rejects where one is.
      await io(request => file.write(0, region, 0, BLOCK_BYTES, request));
      await io(request => file.read(0, region, 0, BLOCK_BYTES, request));
      await io(request => file.sync(request));
      await io(request => file.discard(0, BLOCK_BYTES, request));
      t.pass('four kinds of I/O');
    });

    t.test('an I/O started by a completion completes, too', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(BLOCK_BYTES);
      let left = 100;
      await new Promise<void>(resolve => {
        const request: IoRequest = {
          ioCompleted(result) {
            t.equal(result, BLOCK_BYTES);
            left -= 1;
            if (left === 0) resolve();
            else if (left % 2 === 0) file.write(0, region, 0, BLOCK_BYTES, request);
            else file.read(0, region, 0, BLOCK_BYTES, request);
          },
        };
        file.write(0, region, 0, BLOCK_BYTES, request);
      });
    });

    t.test('ten thousand I/Os asked for at once all complete, once each', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(256 * BLOCK_BYTES);
      const count = 10_000;
      const completions = new Uint8Array(count);
      await new Promise<void>(resolve => {
        let left = count;
        for (let index = 0; index < count; index++) {
          const at = (index % 256) * BLOCK_BYTES;
          const request = {
            ioCompleted(result: number) {
              if (result === BLOCK_BYTES) completions[index] += 1;
              left -= 1;
              if (left === 0) setImmediate(resolve);
            },
          };
          if (index % 4 === 0) file.write(at, region, at, BLOCK_BYTES, request);
          else file.read(at, region, at, BLOCK_BYTES, request);
        }
      });
      t.ok(completions.every(times => times === 1));
    });

    t.test('writes side by side all arrive', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(MIB);
      for (let block = 0; block < 256; block++)
        region.bytes.fill(block, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      const writes = Array.from({ length: 256 }, (_, block) =>
        io(request => file.write(block * BLOCK_BYTES, region, block * BLOCK_BYTES, BLOCK_BYTES, request)),
      );
      t.ok((await Promise.all(writes)).every(result => result === BLOCK_BYTES));
      region.bytes.fill(0xee);
      await io(request => file.read(0, region, 0, MIB, request));
      t.same(
        blockValues(region),
        Array.from({ length: 256 }, (_, block) => block),
      );
    });

    t.test('an I/O of many megabytes is complete', async t => {
      const { file, memory } = await fresh(16 * MIB);
      const region = memory.allocate(16 * MIB);
      for (let at = 0; at < region.bytes.length; at += BLOCK_BYTES) region.bytes.fill(at / BLOCK_BYTES, at, at + 8);
      t.equal(await io(request => file.write(0, region, 0, 16 * MIB, request)), 16 * MIB);
      const copy = memory.allocate(16 * MIB);
      t.equal(await io(request => file.read(0, copy, 0, 16 * MIB, request)), 16 * MIB);
      t.equal(Buffer.compare(region.bytes, copy.bytes), 0);
    });

    t.test('a durable write is read back, whatever was written or read there before', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(3 * BLOCK_BYTES);
      region.bytes.fill(1);
      await io(request => file.write(0, region, 0, 3 * BLOCK_BYTES, request));
      await io(request => file.sync(request));
      await io(request => file.read(0, region, 0, 3 * BLOCK_BYTES, request));
      region.bytes.fill(2);
      t.equal(
        await io(request => file.writeDurable(BLOCK_BYTES, region, BLOCK_BYTES, BLOCK_BYTES, request)),
        BLOCK_BYTES,
      );
      await io(request => file.read(0, region, 0, 3 * BLOCK_BYTES, request));
      t.same(blockValues(region), [1, 2, 1]);
      region.bytes.fill(3);
      await io(request => file.write(0, region, 0, 2 * BLOCK_BYTES, request));
      await io(request => file.read(0, region, 0, 3 * BLOCK_BYTES, request));
      t.same(blockValues(region), [3, 3, 1], 'and gives way to the next write');
    });

    t.test('one durable write after another, each over a part of the one before, is read back', async t => {
      const { file, memory } = await fresh(MIB);
      const [region, copy] = [memory.allocate(2 * BLOCK_BYTES), memory.allocate(2 * BLOCK_BYTES)];
      await io(request => file.write(0, region, 0, 2 * BLOCK_BYTES, request));
      await io(request => file.sync(request));
      let wrong = 0;
      for (let round = 0; round < 300; round++) {
        const position = (round % 200) * BLOCK_BYTES;
        region.bytes.fill(round);
        const result = await io(request => file.writeDurable(position, region, 0, 2 * BLOCK_BYTES, request));
        await io(request => file.read(position, copy, 0, 2 * BLOCK_BYTES, request));
        if (result !== 2 * BLOCK_BYTES || Buffer.compare(region.bytes, copy.bytes) !== 0) wrong++;
      }
      t.equal(wrong, 0);
    });

    t.test('a write-back changes nothing that can be read, and what it covers can be written again', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(3 * BLOCK_BYTES);
      region.bytes.fill(4);
      await io(request => file.write(0, region, 0, 3 * BLOCK_BYTES, request));
      t.equal(await io(request => file.writeBack(0, 2 * BLOCK_BYTES, request)), 0);
      await io(request => file.read(0, region, 0, 3 * BLOCK_BYTES, request));
      t.same(blockValues(region), [4, 4, 4]);
      region.bytes.fill(5);
      await io(request => file.write(BLOCK_BYTES, region, 0, BLOCK_BYTES, request));
      t.equal(await io(request => file.writeBack(0, MIB, request)), 0, 'of what was never written, too');
      await io(request => file.read(0, region, 0, 3 * BLOCK_BYTES, request));
      t.same(blockValues(region), [4, 5, 4]);
    });

    t.test('a sync after a write succeeds', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(BLOCK_BYTES);
      await io(request => file.write(0, region, 0, BLOCK_BYTES, request));
      t.equal(await io(request => file.sync(request)), 0);
    });

    t.test('a discarded range reads as zeroes and its neighbours stay', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(3 * BLOCK_BYTES);
      region.bytes.fill(5);
      await io(request => file.write(0, region, 0, 3 * BLOCK_BYTES, request));
      const result = await io(request => file.discard(BLOCK_BYTES, BLOCK_BYTES, request));
      if (result === -EOPNOTSUPP) {
        t.pass('discard', { skip: 'not supported here' });
        return;
      }
      t.equal(result, 0);
      await io(request => file.read(0, region, 0, 3 * BLOCK_BYTES, request));
      t.same(blockValues(region), [5, 0, 5]);
    });

    t.test('a read that reaches beyond the end is an I/O error', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(2 * BLOCK_BYTES);
      const last = file.sizeBytes - BLOCK_BYTES;
      t.equal(await io(request => file.read(last, region, 0, 2 * BLOCK_BYTES, request)), -EIO);
      t.equal(await io(request => file.read(last, region, 0, BLOCK_BYTES, request)), BLOCK_BYTES);
    });

    t.test('what is not aligned is a bug of the caller', async t => {
      const { file, memory } = await fresh(MIB);
      const region = memory.allocate(2 * BLOCK_BYTES);
      const ignore = { ioCompleted() {} };
      if (file.alignmentBytes > 1) {
        t.throws(() => file.read(1, region, 0, BLOCK_BYTES, ignore), { name: 'AssertionError' });
        t.throws(() => file.write(0, region, 1, BLOCK_BYTES, ignore), { name: 'AssertionError' });
        t.throws(() => file.write(0, region, 0, BLOCK_BYTES - 1, ignore), { name: 'AssertionError' });
      } else {
        const text = new TextEncoder().encode('an odd length');
        region.bytes.set(text, 3);
        t.equal(await io(request => file.write(4095, region, 3, text.length, request)), text.length);
        t.equal(await io(request => file.read(4095, region, 100, text.length, request)), text.length);
        t.same(region.bytes.slice(100, 100 + text.length), text);
      }
      t.throws(() => file.read(0, region, BLOCK_BYTES, 2 * BLOCK_BYTES, ignore), { name: 'AssertionError' });
    });

    t.test('a random history reads as a model in memory does', async t => {
      const seed = testSeed();
      t.comment(`seed ${seed}`);
      await followModel(await fresh(MIB), randomFrom(seed), (same, what) => {
        if (!same) t.fail(`${what} (seed ${seed})`);
      });
    });
  });
}

function blockValues(region: Region): number[] {
  const values: number[] = [];
  for (let at = 0; at < region.bytes.length; at += BLOCK_BYTES) {
    const block = region.bytes.subarray(at, at + BLOCK_BYTES);
    values.push(block.every(byte => byte === block[0]) ? block[0] : -1);
  }
  return values;
}

async function followModel(
  { file, memory }: BlockFileUnderTest,
  random: (below: number) => number,
  check: (same: boolean, what: string) => void,
): Promise<void> {
  const blocks = MIB / BLOCK_BYTES;
  const model = new Uint8Array(blocks);
  const region = memory.allocate(16 * BLOCK_BYTES);
  for (let step = 0; step < 500; step++) {
    const first = random(blocks - 16);
    const count = 1 + random(16);
    const bytes = count * BLOCK_BYTES;
    const position = first * BLOCK_BYTES;
    const kind = random(8);
    if (kind === 0) {
      const result = await io(request => file.discard(position, bytes, request));
      if (result === 0) model.fill(0, first, first + count);
    } else if (kind < 4) {
      const value = 1 + random(255);
      region.bytes.fill(value);
      const result = await io(request => file.write(position, region, 0, bytes, request));
      check(result === bytes, `step ${step}: a write of ${bytes} bytes ended with ${result}`);
      model.fill(value, first, first + count);
    } else {
      const result = await io(request => file.read(position, region, 0, bytes, request));
      check(result === bytes, `step ${step}: a read of ${bytes} bytes ended with ${result}`);
      const wanted = [...model.subarray(first, first + count)];
      const got = blockValues(region).slice(0, count);
      check(wanted.join() === got.join(), `step ${step}: blocks from ${first} are ${got}, not ${wanted}`);
    }
  }
}
