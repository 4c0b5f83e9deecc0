/** The stored form of a chunk's entry. */
import t from 'tap';
import { chunkBytesMax, chunkBytesMin } from '../../../src/base/limits.ts';
import type { Location } from '../../../src/base/location.ts';
import type { OpNumber } from '../../../src/base/units.ts';
import { decodeEntry, encodeEntry, entryBytes, isEmpty } from '../../../src/index/chunk-entry.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';

t.test('an entry has the bytes that the format says', t => {
  const entry = {
    op: (2 ** 33 + 7) as OpNumber,
    location: (2 ** 40 + 256) as Location,
    sums: Uint32Array.of(0x11223344, 0, 0xffffffff, 1),
  };
  t.same(Buffer.from(encodeEntry(entry)).toString('hex').match(/.{16}/g), [
    '0700000002000000',
    '0001000000010000',
    '4433221100000000',
    'ffffffff01000000',
  ]);
  t.end();
});

t.test('entries of every length survive, at any place in memory', t => {
  const random = randomFrom(testSeed());
  for (const blocks of [chunkBytesMin / 4096, 16, chunkBytesMax / 4096]) {
    for (let round = 0; round < 20; round++) {
      const entry = {
        op: (random(2 ** 31) * 2 ** 22) as OpNumber,
        location: (random(4096) * 2 ** 40 + random(2 ** 31)) as Location,
        sums: Uint32Array.from({ length: blocks }, () => random(2 ** 31) * 2),
      };
      const bytes = encodeEntry(entry);
      t.equal(bytes.length, entryBytes(blocks));
      const memory = new Uint8Array(bytes.length + 7);
      memory.set(bytes, 3);
      const decoded = decodeEntry(memory.subarray(3, 3 + bytes.length));
      memory.fill(0xaa);
      t.same(decoded, entry, 'and do not share memory with what they came from');
    }
  }
  t.throws(() => decodeEntry(new Uint8Array(15)), /length/);
  t.throws(() => decodeEntry(new Uint8Array(18)), /length/);
  t.ok(isEmpty(new Uint32Array(4)));
  t.notOk(isEmpty(Uint32Array.of(0, 0, 0, 1)));
  t.end();
});
