/** CRC32C of the addon: golden values of RFC 3720, and the slow twin as an oracle. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { crc32c, crc32cBlocks } from '../../src/base/crc32c.ts';
import { BLOCK_BYTES } from '../../src/base/units.ts';
import { addon } from '../../src/platform/addon.ts';
import { randomFrom, testSeed } from '../contract/io-support.ts';

const WAYS = { chosen: addon.checksum, ...addon.checksumWays, TypeScript: crc32c };

/** RFC 3720 §B.4, and the check value that CRC catalogues give. */
const GOLDEN: readonly [string, Uint8Array, number][] = [
  ['32 bytes of zeroes', new Uint8Array(32), 0x8a9136aa],
  ['32 bytes of ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ['32 bytes rising', Uint8Array.from({ length: 32 }, (_, index) => index), 0x46dd794e],
  ['32 bytes falling', Uint8Array.from({ length: 32 }, (_, index) => 31 - index), 0x113fdb5c],
  ['123456789', new TextEncoder().encode('123456789'), 0xe3069283],
  ['nothing', new Uint8Array(0), 0],
];

/** Around the lengths at which the native code changes its way: 8, 256, 3 × 168, 3 × 1360. */
const LENGTHS = [
  1, 7, 8, 9, 63, 255, 256, 257, 503, 504, 505, 511, 512, 769, 1008, 4079, 4080, 4081, 4096, 4584, 8160, 8192, 65536,
  100_003,
];

for (const [name, sum] of Object.entries(WAYS)) {
  t.test(`CRC32C ${name} has the values of the standard`, async t => {
    for (const [what, bytes, expected] of GOLDEN) t.equal(sum(bytes, 0, bytes.length, 0), expected, what);
  });
}

t.test('the processor’s ways to sum are there', async t => {
  const flags =
    readFileSync('/proc/cpuinfo', 'utf8')
      .match(/^flags.*$/m)?.[0]
      .split(/\s+/) ?? [];
  const has = (...names: string[]) => names.every(name => flags.includes(name));
  t.equal('stripes' in addon.checksumWays, has('sse4_2'));
  t.equal('fold' in addon.checksumWays, has('sse4_2', 'pclmulqdq', 'avx512f', 'avx512vl', 'vpclmulqdq'));
});

t.test('all ways to sum agree, at any offset, in one piece or in several', async t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const bytes = Uint8Array.from({ length: 100_200 }, () => random(256));
  for (const length of LENGTHS) {
    const offset = random(100);
    const cut = random(length + 1);
    const expected = crc32c(bytes, offset, length, 0);
    for (const [name, sum] of Object.entries(WAYS)) {
      const first = sum(bytes, offset, cut, 0);
      const joined = sum(bytes, offset + cut, length - cut, first);
      t.equal(sum(bytes, offset, length, 0), expected, `${length} bytes, ${name} (seed ${seed})`);
      // With nothing behind them that could be read by mistake.
      t.equal(sum(bytes.slice(offset, offset + length), 0, length, 0), expected, `${length} bytes alone, ${name}`);
      t.equal(joined, expected, `${length} bytes cut at ${cut}, ${name} (seed ${seed})`);
    }
  }
});

t.test('block sums are those of each block alone, and nothing beside them is written', async t => {
  const seed = testSeed();
  const random = randomFrom(seed);
  const bytes = Uint8Array.from({ length: 9 * BLOCK_BYTES + 3 }, () => random(256));
  const sums = new Uint32Array(12).fill(7);
  const expected = new Uint32Array(12).fill(7);
  addon.checksumBlocks(bytes, 3, 9, sums, 2);
  crc32cBlocks(bytes, 3, 9, expected, 2);
  t.same([...sums], [...expected], `seed ${seed}`);
  t.same([sums[0], sums[1], sums[11]], [7, 7, 7]);
});

t.test('a changed bit changes the sum', async t => {
  const bytes = new Uint8Array(BLOCK_BYTES);
  const before = addon.checksum(bytes, 0, BLOCK_BYTES, 0);
  for (let bit = 0; bit < BLOCK_BYTES * 8; bit += 97) {
    bytes[bit >> 3] ^= 1 << (bit & 7);
    if (addon.checksum(bytes, 0, BLOCK_BYTES, 0) === before) t.fail(`bit ${bit}`);
    bytes[bit >> 3] ^= 1 << (bit & 7);
  }
  t.equal(addon.checksum(bytes, 0, BLOCK_BYTES, 0), before);
});
