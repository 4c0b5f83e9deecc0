/**
 * The rules of `IndexStore` as tests. Every implementation is held to them: LMDB in the product, maps in simulations.
 *
 * The factory makes an empty place for an index; `open` may be called again once the index before was closed, and then
 * shows what had been committed.
 */
import t from 'tap';
import type { Location } from '../../src/base/location.ts';
import type { Epoch, LogPosition, OpNumber, VolumeNumber } from '../../src/base/units.ts';
import { BLOCK_BYTES, KIB, MIB } from '../../src/base/units.ts';
import type { ChunkEntry } from '../../src/index/chunk-entry.ts';
import type { ColumnEntry, IndexStore, IndexTransaction, VolumeEntry } from '../../src/index/index-store.ts';
import { io, randomFrom, testSeed } from './io-support.ts';

/** In the programs that the tests of LMDB start. */
export const CHUNKS_PER_COMMIT = 40;

export interface IndexPlace {
  open(): IndexStore;
  remove(): void;
}

export function indexStoreContract(name: string, make: () => IndexPlace): void {
  t.test(`${name} keeps the rules of an index store`, async t => {
    /** An open index, and `reopen`, which closes it and opens it again. */
    function fresh() {
      const place = make();
      let index = place.open();
      t.teardown(async () => {
        await index.close();
        place.remove();
      });
      return {
        get index() {
          return index;
        },
        async reopen() {
          await index.close();
          index = place.open();
        },
      };
    }

    t.test('an index that was just made is empty', async t => {
      const { index } = fresh();
      t.equal(index.state(), undefined);
      t.equal(index.nextVolume(), 1);
      t.same([...index.volumes()], []);
      t.same([...index.columns()], []);
      t.equal(index.chunk(volume(1), 0), undefined);
      t.same([...index.chunks(volume(1), 0, 2 ** 40, 10)], []);
      t.ok(index.sizeBytes >= 0);
    });

    t.test('all kinds of entries come back as they were put, also from another process life', async t => {
      const store = fresh();
      const transaction = store.index.begin();
      transaction.putState({ cut: (2 ** 52 - 16) as LogPosition, epoch: 7 as Epoch });
      transaction.putNextVolume(volume(12));
      transaction.putVolume(volumeEntry(3, 'vol-3', 2 ** 52));
      transaction.putColumn(columnEntry(0, 5, 3, 64 * KIB));
      transaction.putChunk(volume(3), 9, chunkEntry(41, 16));
      await commit(transaction);
      for (const when of ['at once', 'after a reopen']) {
        const { index } = store;
        t.match(index.state(), { cut: 2 ** 52 - 16, epoch: 7 }, when);
        t.equal(index.nextVolume(), 12, when);
        t.same([...index.volumes()], [volumeEntry(3, 'vol-3', 2 ** 52)], when);
        t.same([...index.columns()], [columnEntry(0, 5, 3, 64 * KIB)], when);
        t.same(index.chunk(volume(3), 9), chunkEntry(41, 16), when);
        await store.reopen();
      }
    });

    t.test('volumes with chunks are named once each, in order, also those without an entry of their own', async t => {
      const { index } = fresh();
      t.same([...index.chunkVolumes()], []);
      const transaction = index.begin();
      for (const number of [2 ** 32 - 1, 7, 300, 7]) transaction.putChunk(volume(number), number, chunkEntry(1, 16));
      transaction.putChunk(volume(7), 2 ** 40, chunkEntry(1, 16));
      transaction.putVolume(volumeEntry(5, 'without', MIB));
      transaction.putColumn(columnEntry(0, 5, 6, 64 * KIB));
      await commit(transaction);
      t.same([...index.chunkVolumes()], [7, 300, 2 ** 32 - 1]);
      const removal = index.begin();
      removal.removeChunk(volume(300), 300);
      await commit(removal);
      t.same([...index.chunkVolumes()], [7, 2 ** 32 - 1]);
    });

    t.test('what was put is not seen before its commit, and all of it is seen after it', async t => {
      const { index } = fresh();
      const transaction = index.begin();
      transaction.putChunk(volume(1), 1, chunkEntry(1, 16));
      transaction.putChunk(volume(1), 2, chunkEntry(2, 16));
      transaction.putNextVolume(volume(9));
      t.equal(index.chunk(volume(1), 1), undefined);
      t.equal(index.nextVolume(), 1);
      await commit(transaction);
      t.same(
        [...index.chunks(volume(1), 0, 10, 10)].map(([chunk]) => chunk),
        [1, 2],
      );
      t.equal(index.nextVolume(), 9);
    });

    t.test('a transaction that is given up leaves nothing', async t => {
      const store = fresh();
      store.index.begin().putChunk(volume(1), 1, chunkEntry(1, 16));
      await commit(store.index.begin());
      await store.reopen();
      t.equal(store.index.chunk(volume(1), 1), undefined);
    });

    t.test('an empty transaction commits', async t => {
      const { index } = fresh();
      t.equal(await io(request => index.begin().commit(request)), 0);
    });

    t.test('within a transaction the later change of a key wins', async t => {
      const { index } = fresh();
      const transaction = index.begin();
      transaction.putChunk(volume(1), 1, chunkEntry(1, 16));
      transaction.removeChunk(volume(1), 1);
      transaction.removeChunk(volume(1), 2);
      transaction.putChunk(volume(1), 2, chunkEntry(2, 16));
      transaction.putChunk(volume(1), 3, chunkEntry(3, 16));
      transaction.putChunk(volume(1), 3, chunkEntry(4, 16));
      await commit(transaction);
      t.equal(index.chunk(volume(1), 1), undefined);
      t.same(index.chunk(volume(1), 2), chunkEntry(2, 16));
      t.same(index.chunk(volume(1), 3), chunkEntry(4, 16));
    });

    t.test('transactions committed in one turn take effect in their order', async t => {
      const { index } = fresh();
      const done: number[] = [];
      const commits = [1, 2, 3].map(op => {
        const transaction = index.begin();
        transaction.putChunk(volume(1), 0, chunkEntry(op, 16));
        transaction.putNextVolume(volume(op));
        return commit(transaction).then(() => done.push(op));
      });
      await Promise.all(commits);
      t.same(done, [1, 2, 3]);
      t.same(index.chunk(volume(1), 0), chunkEntry(3, 16));
      t.equal(index.nextVolume(), 3);
    });

    t.test('what a read returned is not changed by later commits', async t => {
      const { index } = fresh();
      await put(index, 1, 5, chunkEntry(1, 16));
      const before = index.chunk(volume(1), 5);
      await put(index, 1, 5, chunkEntry(2, 16));
      t.same(before, chunkEntry(1, 16));
      t.same(index.chunk(volume(1), 5), chunkEntry(2, 16));
    });

    t.test('a transaction keeps what it was given, whatever becomes of the array', async t => {
      const store = fresh();
      const column = columnEntry(0, 1, 1, 64 * KIB);
      const transaction = store.index.begin();
      transaction.putColumn({ ...column, slots: column.slots.slice() });
      await commit(transaction);
      await store.reopen();
      t.same([...store.index.columns()], [column]);
    });

    t.test('chunks are ordered by number, also beyond 2^32, and volumes do not mix', async t => {
      const { index } = fresh();
      const numbers = [0, 1, 255, 256, 65_535, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 38, 2 ** 39 + 5];
      const shuffled = [...numbers].reverse();
      const transaction = index.begin();
      for (const number of shuffled) transaction.putChunk(volume(2), number, chunkEntry(number + 1, 4));
      transaction.putChunk(volume(1), 2 ** 39, chunkEntry(1, 4));
      transaction.putChunk(volume(3), 0, chunkEntry(1, 4));
      transaction.putChunk(volume(258), 7, chunkEntry(1, 4));
      await commit(transaction);
      const all = [...index.chunks(volume(2), 0, 2 ** 40, 100)];
      t.same(
        all.map(([chunk]) => chunk),
        numbers,
      );
      t.same(
        all.map(([, entry]) => entry.op),
        numbers.map(number => number + 1),
      );
      t.same(
        [...index.chunks(volume(2), 0, Number.MAX_SAFE_INTEGER, 100)].map(([chunk]) => chunk),
        numbers,
        'the end may be beyond any chunk',
      );
    });

    t.test('a range has its start, not its end, and no more than its limit', async t => {
      const { index } = fresh();
      const transaction = index.begin();
      for (let chunk = 0; chunk < 20; chunk += 2) transaction.putChunk(volume(1), chunk, chunkEntry(1, 4));
      await commit(transaction);
      const range = (from: number, to: number, limit: number) =>
        [...index.chunks(volume(1), from, to, limit)].map(([chunk]) => chunk);
      t.same(range(4, 10, 100), [4, 6, 8]);
      t.same(range(5, 11, 100), [6, 8, 10]);
      t.same(range(0, 20, 3), [0, 2, 4]);
      t.same(range(7, 7, 100), []);
      t.same(range(19, 100, 100), []);
      t.same(range(3, 4, 100), []);
    });

    t.test('entries of the largest chunks keep all their checksums', async t => {
      const store = fresh();
      const blocks = (4 * MIB) / BLOCK_BYTES;
      const transaction = store.index.begin();
      for (let chunk = 0; chunk < 64; chunk++) transaction.putChunk(volume(1), chunk, chunkEntry(chunk + 1, blocks));
      await commit(transaction);
      await store.reopen();
      let seen = 0;
      for (const [chunk, entry] of store.index.chunks(volume(1), 0, 64, 64)) {
        t.same(entry, chunkEntry(chunk + 1, blocks));
        seen++;
      }
      t.equal(seen, 64);
    });

    t.test('op numbers and locations keep their 53 bits', async t => {
      const store = fresh();
      const entry = {
        op: (Number.MAX_SAFE_INTEGER - 1) as OpNumber,
        location: (2 ** 52 + 12_345) as Location,
        sums: Uint32Array.of(0, 0xffffffff, 1, 0x80000000),
      };
      await put(store.index, 1, 0, entry);
      await store.reopen();
      t.same(store.index.chunk(volume(1), 0), entry);
    });

    t.test('columns are ordered by device and number, and go when they are removed', async t => {
      const store = fresh();
      const transaction = store.index.begin();
      for (const [device, column] of [
        [1, 0],
        [0, 300],
        [0, 2],
        [2, 70_000],
      ]) {
        transaction.putColumn(columnEntry(device, column, 1, 16 * KIB));
      }
      await commit(transaction);
      const places = () => [...store.index.columns()].map(({ device, column }) => [device, column]);
      t.same(places(), [
        [0, 2],
        [0, 300],
        [1, 0],
        [2, 70_000],
      ]);
      const removal = store.index.begin();
      removal.removeColumn(0, 300);
      removal.removeColumn(5, 5);
      await commit(removal);
      await store.reopen();
      t.same(places(), [
        [0, 2],
        [1, 0],
        [2, 70_000],
      ]);
    });

    t.test('volumes are ordered by number, replaced, and go when they are removed', async t => {
      const store = fresh();
      const transaction = store.index.begin();
      for (const number of [300, 2, 70_000]) transaction.putVolume(volumeEntry(number, `v${number}`, MIB));
      await commit(transaction);
      const change = store.index.begin();
      change.putVolume({ ...volumeEntry(2, 'v2', 2 * MIB), state: 'deleting' });
      change.removeVolume(volume(300));
      await commit(change);
      await store.reopen();
      t.same(
        [...store.index.volumes()].map(({ number, sizeBytes, state }) => [number, sizeBytes, state]),
        [
          [2, 2 * MIB, 'deleting'],
          [70_000, MIB, 'present'],
        ],
      );
    });

    const seed = testSeed();
    t.test(`random transactions leave what a plain map has (seed ${seed})`, async t => {
      const store = fresh();
      const random = randomFrom(seed);
      const model = new Map<string, number>();
      for (let round = 0; round < 60; round++) {
        const transaction = store.index.begin();
        const changes = random(40);
        for (let i = 0; i < changes; i++) {
          const owner = 1 + random(3);
          const chunk = random(2) === 0 ? random(30) : 2 ** 32 - 10 + random(20);
          if (random(3) === 0) {
            transaction.removeChunk(volume(owner), chunk);
            model.delete(`${owner}/${chunk}`);
          } else {
            const op = 1 + random(1_000_000);
            transaction.putChunk(volume(owner), chunk, chunkEntry(op, 4));
            model.set(`${owner}/${chunk}`, op);
          }
        }
        await commit(transaction);
        if (random(10) === 0) await store.reopen();
        const found = new Map<string, number>();
        for (const owner of [1, 2, 3]) {
          let from = 0;
          // In pieces, as the destage walks it.
          for (;;) {
            const piece = [...store.index.chunks(volume(owner), from, 2 ** 33, 7)];
            for (const [chunk, entry] of piece) found.set(`${owner}/${chunk}`, entry.op);
            if (piece.length < 7) break;
            from = piece[6][0] + 1;
          }
        }
        const differs = [...new Set([...model.keys(), ...found.keys()])].filter(
          key => model.get(key) !== found.get(key),
        );
        if (differs.length > 0) {
          t.fail(`round ${round}: ${differs[0]} is ${found.get(differs[0])}, not ${model.get(differs[0])}`);
          return;
        }
      }
      t.pass('60 rounds');
    });
  });
}

export function volume(number: number): VolumeNumber {
  return number as VolumeNumber;
}

/** An entry whose every field follows from its op number. */
export function chunkEntry(op: number, blocks: number): ChunkEntry {
  const sums = new Uint32Array(blocks);
  for (let i = 0; i < blocks; i++) sums[i] = Math.imul(op + i, 0x9e3779b1);
  return { op: op as OpNumber, location: (op * 1024) as Location, sums };
}

export async function commit(transaction: IndexTransaction): Promise<void> {
  const result = await io(request => transaction.commit(request));
  if (result !== 0) throw new Error(`a commit failed with ${result}`);
}

function put(index: IndexStore, owner: number, chunk: number, entry: ChunkEntry): Promise<void> {
  const transaction = index.begin();
  transaction.putChunk(volume(owner), chunk, entry);
  return commit(transaction);
}

function volumeEntry(number: number, name: string, sizeBytes: number): VolumeEntry {
  return {
    number: volume(number),
    name,
    sizeBytes,
    chunkBytes: 64 * KIB,
    ack: 'written',
    readOnly: false,
    createdAt: '2026-01-01T00:00:00.000Z',
    state: 'present',
    lastOp: (2 ** 50) as OpNumber,
  };
}

function columnEntry(device: number, column: number, owner: number, chunkBytes: number): ColumnEntry {
  const slots = new Uint32Array((16 * MIB) / chunkBytes / 32);
  for (let i = 0; i < slots.length; i++) slots[i] = Math.imul(column + i + 1, 0x85ebca6b);
  return { device, column, volume: volume(owner), chunkBytes, slots };
}
