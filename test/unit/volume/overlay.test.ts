/** The overlay against plain maps: newest entries, chunks over blocks, dirty lists, reservations. */
import t from 'tap';
import { NO_SUM } from '../../../src/base/checksum.ts';
import type { Location } from '../../../src/base/location.ts';
import type { BlockNumber, ChunkNumber, OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import type { ChunkEntry } from '../../../src/index/chunk-entry.ts';
import { Overlay } from '../../../src/volume/overlay.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';

const BLOCKS = 4;
const V = 3 as VolumeNumber;
const chunkOf = (block: number) => Math.floor(block / BLOCKS) as ChunkNumber;
const entryAt = (op: number): ChunkEntry => ({
  op: op as OpNumber,
  location: (op * 16) as Location,
  sums: new Uint32Array(BLOCKS),
});

t.test('an overlay has of each block and chunk what was entered last', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  for (const base of [0, 2 ** 33]) {
    const overlay = new Overlay(200);
    overlay.enterSegment(0);
    const blocks = new Map<number, { position: number; sum: number }>();
    const chunks = new Map<number, ChunkEntry>();
    const ops = new Map<number, number>();
    const listed = new Map<number, Set<number>>();
    const list = (segment: number, chunk: number) => {
      const known = listed.get(segment) ?? new Set();
      listed.set(segment, known.add(chunk));
    };
    let segment = 0;
    for (let op = 1; op < 6000; op++) {
      const block = base + random(160);
      const chunk = chunkOf(block);
      switch (random(9)) {
        case 0:
        case 1:
        case 2:
        case 3:
          overlay.setBlock(V, block as BlockNumber, chunk, op as OpNumber, op * 100, op % 7);
          blocks.set(block, { position: op * 100, sum: op % 7 });
          ops.set(chunk, op);
          list(segment, chunk);
          break;
        case 4: {
          const entry = entryAt(op);
          overlay.setChunk(V, chunk, entry);
          chunks.set(chunk, entry);
          for (let i = 0; i < BLOCKS; i++) blocks.delete(chunk * BLOCKS + i);
          ops.set(chunk, op);
          list(segment, chunk);
          break;
        }
        case 5: {
          const row = overlay.findBlock(V, block as BlockNumber);
          if (row >= 0) overlay.removeBlock(row);
          blocks.delete(block);
          break;
        }
        case 6: {
          const row = overlay.findChunk(V, chunk);
          if (row >= 0 && overlay.entryOf(row) !== undefined) overlay.removeEntry(row);
          chunks.delete(chunk);
          break;
        }
        case 7: {
          const row = overlay.findChunk(V, chunk);
          if (row >= 0) overlay.removeChunk(row);
          chunks.delete(chunk);
          for (let i = 0; i < BLOCKS; i++) blocks.delete(chunk * BLOCKS + i);
          break;
        }
        default:
          if (random(10) === 0) overlay.enterSegment(++segment);
      }
      const row = overlay.findBlock(V, block as BlockNumber);
      const known = blocks.get(block);
      if (row >= 0 !== (known !== undefined)) t.fail(`op ${op}: block ${block}`);
      if (known !== undefined && (overlay.positionOf(row) !== known.position || overlay.sumOf(row) !== known.sum)) {
        t.fail(`op ${op}: an old entry of block ${block}`);
      }
      if (overlay.blockCount !== blocks.size) t.fail('the count of blocks');
      const rowOfChunk = overlay.findChunk(V, chunk);
      const inChunk = [...blocks.keys()].filter(other => chunkOf(other) === chunk).sort((a, b) => a - b);
      if (rowOfChunk < 0) {
        if (inChunk.length > 0 || chunks.has(chunk)) t.fail('a chunk was lost');
        continue;
      }
      if (overlay.entryOf(rowOfChunk) !== chunks.get(chunk)) t.fail('an old chunk entry');
      if (overlay.opOf(rowOfChunk) !== ops.get(chunk)) t.fail('an old op number');
      const linked: number[] = [];
      let oldest = Number.POSITIVE_INFINITY;
      for (let at = overlay.firstBlock(rowOfChunk); at >= 0; at = overlay.nextBlock(at)) {
        linked.push(overlay.blockOf(at));
        oldest = Math.min(oldest, overlay.positionOf(at));
      }
      if (overlay.oldestOf(rowOfChunk) > oldest) t.fail(`op ${op}: a block of chunk ${chunk} is older than its oldest`);
      if (random(3) === 0) overlay.learnOldest(rowOfChunk, oldest);
      if (linked.sort((a, b) => a - b).join() !== inChunk.join()) t.fail(`op ${op}: blocks of chunk ${chunk}`);
    }
    const alive = new Set([...chunks.keys(), ...[...blocks.keys()].map(chunkOf)]);
    t.equal(overlay.chunkCount, alive.size);
    const dirty = new Set<number>();
    for (let i = 0; i <= segment; i++) {
      const { volumes, chunks: numbers } = overlay.takeDirty(i, i + 1);
      t.ok(volumes.every(volume => volume === V));
      t.same(new Set(numbers), listed.get(i) ?? new Set(), `segment ${i} lists the chunks that it has operations of`);
      for (const number of numbers) dirty.add(number);
    }
    t.ok(
      [...alive].every(chunk => dirty.has(chunk)),
      'every chunk is in the list of some segment',
    );
    const seen: number[] = [];
    overlay.forChunks(V, base / BLOCKS + 10, base / BLOCKS + 20, chunk => void seen.push(chunk));
    const expected = [...alive].filter(chunk => chunk >= base / BLOCKS + 10 && chunk < base / BLOCKS + 20);
    t.same(
      seen.sort((a, b) => a - b),
      expected.sort((a, b) => a - b),
    );
    overlay.forChunks(V, 0, Number.POSITIVE_INFINITY, (_, row) => overlay.removeChunk(row));
    t.equal(overlay.chunkCount + overlay.blockCount, 0);
  }
  t.end();
});

t.test('a list that was taken gets what comes after it anew, also of the same chunk', t => {
  const overlay = new Overlay(10);
  overlay.enterSegment(5);
  const set = (block: number, op: number) =>
    overlay.setBlock(V, block as BlockNumber, chunkOf(block), op as OpNumber, op, 1);
  set(0, 1);
  set(1, 2);
  set(4, 3);
  t.same(overlay.takeDirty(5, 6).chunks, [0, 1], 'each chunk once');
  t.same(overlay.takeDirty(5, 6).chunks, []);
  set(2, 4);
  t.same(overlay.takeDirty(5, 6).chunks, [0]);
  t.end();
});

t.test('a list that could not be finished is put back in front of what has come meanwhile', t => {
  const overlay = new Overlay(10);
  overlay.enterSegment(5);
  const set = (block: number, op: number) =>
    overlay.setBlock(V, block as BlockNumber, chunkOf(block), op as OpNumber, op, 1);
  set(0, 1);
  set(4, 2);
  const list = overlay.takeDirty(5, 6);
  set(8, 3);
  overlay.putBackDirty(5, list, 1);
  set(12, 4);
  t.same(overlay.takeDirty(5, 6).chunks, [1, 2, 3]);
  overlay.enterSegment(6);
  set(0, 5);
  overlay.putBackDirty(5, list, 0);
  set(4, 6);
  t.same(overlay.takeDirty(5, 6).chunks, [0, 1], 'an older list does not take what belongs to the current one');
  t.same(overlay.takeDirty(6, 7).chunks, [0, 1]);
  t.end();
});

t.test('rows that are reserved are nobody else’s', t => {
  const overlay = new Overlay(10);
  overlay.enterSegment(0);
  t.ok(overlay.reserve(8));
  t.notOk(overlay.reserve(3));
  t.equal(overlay.fill, 0.8);
  overlay.setBlock(V, 0 as BlockNumber, 0 as ChunkNumber, 1 as OpNumber, 0, 1);
  t.notOk(overlay.reserve(2));
  overlay.release(8);
  t.ok(overlay.reserve(9));
  overlay.release(9);
  t.throws(() => overlay.release(1), /only what was reserved/);
  t.end();
});

t.test('operations on blocks that have rows already take no further ones', t => {
  const overlay = new Overlay(2);
  overlay.enterSegment(0);
  for (const block of [0, 1]) overlay.setBlock(V, block as BlockNumber, chunkOf(block), 1 as OpNumber, 100, 7);
  t.notOk(overlay.reserve(1), 'it is full');
  overlay.reserveReplaced(2);
  t.equal(overlay.usedRows, 4);
  overlay.release(2);
  for (const block of [0, 1]) overlay.setBlock(V, block as BlockNumber, chunkOf(block), 2 as OpNumber, 200, 7);
  t.equal(overlay.usedRows, 2);
  t.equal(overlay.fill, 1);
  t.end();
});

t.test('the blocks of some volumes are counted, and those that have data', t => {
  const overlay = new Overlay(10);
  overlay.enterSegment(0);
  const set = (volume: number, block: number, sum: number) => {
    const number = block as BlockNumber;
    overlay.setBlock(volume as VolumeNumber, number, chunkOf(block), 1 as OpNumber, block * 100, sum);
  };
  set(1, 0, 7);
  set(1, 1, NO_SUM);
  set(2, 0, 7);
  set(3, 5, 7);
  overlay.removeBlock(overlay.findBlock(3 as VolumeNumber, 5 as BlockNumber));
  const count = (...volumes: number[]) => overlay.blocksOf(new Set(volumes as VolumeNumber[]));
  t.same(count(), { rows: 0, withData: 0 });
  t.same(count(1), { rows: 2, withData: 1 });
  t.same(count(1, 2, 3), { rows: 3, withData: 2 });
  t.end();
});

t.test('room that recovery makes keeps what is there', t => {
  const overlay = new Overlay(4);
  overlay.enterSegment(0);
  for (let block = 0; block < 4; block++) {
    overlay.setBlock(V, (block * 5) as BlockNumber, chunkOf(block * 5), 1 as OpNumber, block, block);
  }
  overlay.makeRoom(100);
  for (let block = 4; block < 104; block++) {
    overlay.setBlock(V, (block * 5) as BlockNumber, chunkOf(block * 5), 1 as OpNumber, block, block);
  }
  for (let block = 0; block < 104; block++) {
    const row = overlay.findBlock(V, (block * 5) as BlockNumber);
    if (overlay.positionOf(row) !== block || overlay.sumOf(row) !== block) t.fail(`block ${block}`);
  }
  t.equal(overlay.blockCount, 104);
  t.end();
});
