/** BLOCK_STATUS of a whole head against a map of every block, before, while and after data is destaged. */
import t from 'tap';
import { KIB, MIB, TIB } from '../../../src/base/units.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';
import { HeadRig, pump, type TestRequest } from '../head/head-rig.ts';

const CHUNK = 16 * KIB;
const BLOCK = 4096;

/** One flag for each block of the range that the answer speaks of. */
function flagsOf(request: TestRequest): number[] {
  return request.extents.flatMap(extent => {
    if (extent.lengthBytes % BLOCK !== 0) throw new Error('extents of this test are whole blocks');
    return new Array<number>(extent.lengthBytes / BLOCK).fill(extent.flags);
  });
}

t.test('answers say of each block what it is', async t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const size = 2 * MIB;
  const rig = await HeadRig.start({ chunkBytes: CHUNK, volumeBytes: size });
  /** 0 data, 2 zeroes that are allocated, 3 a hole; what zeroes within a chunk become depends on its slot. */
  const data = new Array<boolean>(size / BLOCK).fill(false);
  const fresh = new Array<boolean>(size / BLOCK).fill(true);
  for (let round = 0; round < 300; round++) {
    const block = random(size / BLOCK);
    const count = Math.min(1 + random(12), size / BLOCK - block);
    const what = random(8);
    if (what < 4) {
      await rig.write(block * BLOCK, count * BLOCK, 1 + random(200));
      data.fill(true, block, block + count);
      fresh.fill(false, block, block + count);
    } else if (what < 5) {
      await rig.do('trim', block * BLOCK, count * BLOCK);
      data.fill(false, block, block + count);
    } else if (what < 6) {
      await rig.do('writeZeroes', block * BLOCK, count * BLOCK);
      data.fill(false, block, block + count);
    } else if (what < 7 && round % 5 === 0) {
      await pump(rig.loop, rig.destage.all());
    }
    const from = random(size / BLOCK);
    const length = Math.min(1 + random(200), size / BLOCK - from);
    const request = await rig.do('blockStatus', from * BLOCK, length * BLOCK);
    t.equal(request.errno, 0);
    const flags = flagsOf(request);
    if (flags.length < 1) t.fail('an answer says something about its start');
    for (let i = 1; i < request.extents.length; i++) {
      if (request.extents[i].flags === request.extents[i - 1].flags) t.fail('neighbours that are alike are one extent');
    }
    if (flags.length < length) t.fail(`${flags.length} of ${length} blocks: nothing here is large`);
    for (const [i, flag] of flags.entries()) {
      if (from + i >= size / BLOCK) t.fail('beyond the end of the volume');
      if ((flag === 0) !== data[from + i]) t.fail(`round ${round}: block ${from + i} is ${flag}`);
      if (flag !== 0 && flag !== 2 && flag !== 3) t.fail(`flags ${flag}`);
      if (flag === 2 && fresh.slice(chunkStart(from + i), chunkStart(from + i) + 4).every(Boolean)) {
        t.fail(`block ${from + i} is in a chunk that was never written, and no hole`);
      }
    }
  }
});

function chunkStart(block: number): number {
  return Math.floor(block / 4) * 4;
}

t.test('an empty volume of 16 TiB is one hole, also while others are busy', async t => {
  const rig = await HeadRig.start({ volumes: 2, volumeBytes: 16 * TIB });
  const empty = await rig.do('blockStatus', 0, 4 * 2 ** 30);
  t.same(
    empty.extents.map(extent => extent.flags),
    [3],
  );
  for (let i = 0; i < 500; i++) rig.submit('write', i * 2 ** 33, new Uint8Array(BLOCK).fill(1), {}, 2);
  await rig.settle();
  const before = performance.now();
  for (let i = 0; i < 100; i++) await rig.do('blockStatus', i * 2 ** 36, 4 * 2 ** 30, {}, 1);
  const milliseconds = (performance.now() - before) / 100;
  t.comment(`${milliseconds.toFixed(2)} ms an answer`);
  t.ok(milliseconds < 50);
});

t.test('the last chunk ends with the volume', async t => {
  const size = 10 * CHUNK + 2 * BLOCK;
  const rig = await HeadRig.start({ chunkBytes: CHUNK, volumeBytes: size });
  await rig.write(10 * CHUNK, 2 * BLOCK, 1);
  for (let round = 0; round < 2; round++) {
    const request = await rig.do('blockStatus', 9 * CHUNK, size - 9 * CHUNK);
    t.same(request.extents, [
      { lengthBytes: CHUNK, flags: 3 },
      { lengthBytes: 2 * BLOCK, flags: 0 },
    ]);
    await pump(rig.loop, rig.destage.all());
  }
});

t.test('a fragmented volume is answered in parts, each of them right', async t => {
  const rig = await HeadRig.start({ chunkBytes: CHUNK, volumeBytes: 512 * MIB, columns: 30, overlayRows: 64 * KIB });
  const count = (512 * MIB) / CHUNK / 2;
  for (let i = 0; i < count; i++) {
    rig.submit('write', i * 2 * CHUNK, new Uint8Array(BLOCK).fill(1));
    if (i % 2000 === 1999) await rig.settle();
  }
  await rig.settle();
  for (let round = 0; round < 2; round++) {
    let position = 0;
    let answers = 0;
    while (position < 512 * MIB) {
      const request = await rig.do('blockStatus', position, 512 * MIB - position);
      for (const extent of request.extents) {
        for (let at = position; at < position + extent.lengthBytes; at += BLOCK) {
          const isData = at % (2 * CHUNK) === 0;
          if ((extent.flags === 0) !== isData) t.fail(`${at} has flags ${extent.flags}`);
        }
        position += extent.lengthBytes;
      }
      if (++answers > 100) throw new Error('the answers do not come to an end');
    }
    t.equal(position, 512 * MIB, `in ${answers} answers`);
    t.ok(answers > 1);
    await pump(rig.loop, rig.destage.all());
  }
});
