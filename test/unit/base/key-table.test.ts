/** The hash table from keys to rows, against a map. */
import t from 'tap';
import { KeyTable, keyHigh, keyNumber, keyVolume } from '../../../src/base/key-table.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';

t.test('keys hold a volume of 24 bits and a number of 40', t => {
  for (const volume of [1, 2, 4096, 2 ** 24 - 1]) {
    for (const number of [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 - 1]) {
      const high = keyHigh(volume, number);
      t.equal(keyVolume(high), volume);
      t.equal(keyNumber(high, number >>> 0), number);
    }
  }
  t.end();
});

t.test('a table does what a map does, and rows stay where they are', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  for (const capacity of [1, 7, 100, 1000]) {
    const table = new KeyTable(capacity);
    const model = new Map<string, number>();
    for (let round = 0; round < 20_000; round++) {
      // Few keys, so that they meet, with neighbours as blocks have them.
      const high = keyHigh([0, 1, 2 ** 24 - 1][random(3)], random(2) * 2 ** 39);
      const low = (random(capacity * 2) * [1, 2 ** 20, -1][random(3)]) >>> 0;
      const key = `${high}/${low}`;
      const known = model.get(key);
      const found = table.find(high, low);
      if (found !== (known ?? -1)) t.fail(`${key} is in row ${found}, not ${known}`);
      if (known === undefined && model.size < capacity) {
        const row = table.insert(high, low);
        if (row >= capacity || [...model.values()].includes(row)) t.fail(`row ${row} was given twice`);
        model.set(key, row);
      } else if (known !== undefined && random(2) === 0) {
        table.remove(known);
        model.delete(key);
      }
      if (table.count !== model.size) t.fail('the count is wrong');
    }
    for (const [key, row] of model) {
      t.equal(`${table.highOf(row)}/${table.lowOf(row)}`, key);
      t.ok(table.isUsed(row));
    }
    const used = Array.from({ length: table.rowsTouched }, (_, row) => table.isUsed(row)).filter(Boolean).length;
    t.equal(used, model.size, 'and no other row is in use');
  }
  t.end();
});

t.test('rows are handed out densely', t => {
  const table = new KeyTable(100);
  for (let i = 0; i < 50; i++) t.equal(table.insert(0, i * 977), i);
  table.remove(7);
  t.notOk(table.isUsed(7));
  t.equal(table.insert(0, 5), 7, 'a freed one before a new one');
  t.equal(table.rowsTouched, 50);
  t.end();
});

t.test('a table that has grown keeps its keys in their rows', t => {
  const table = new KeyTable(10);
  for (let i = 0; i < 10; i++) table.insert(i, i * 31);
  table.remove(3);
  table.grow(1000);
  t.equal(table.capacity, 1000);
  for (let i = 0; i < 10; i++) t.equal(table.find(i, i * 31), i === 3 ? -1 : i);
  for (let i = 10; i < 1001; i++) table.insert(i, i * 31);
  t.equal(table.count, 1000);
  for (let i = 10; i < 1001; i++) if (table.find(i, i * 31) < 0) t.fail(`key ${i} was lost`);
  t.end();
});

t.test('what a row holds behind its key stays as it is, through growth and whatever comes and goes beside it', t => {
  const table = new KeyTable(4, 6);
  const set = (row: number, value: number) => {
    table.numbers[row * 3 + 1] = 2 ** 40 + value;
    table.words[row * 6 + 4] = -value;
    table.words[row * 6 + 5] = value;
  };
  for (let i = 0; i < 4; i++) set(table.insert(i, 2 ** 32 - 1 - i), i);
  table.remove(2);
  table.grow(100);
  for (let i = 4; i < 50; i++) set(table.insert(i, 2 ** 32 - 1 - i), i);
  for (let i = 10; i < 20; i++) table.remove(table.find(i, 2 ** 32 - 1 - i));
  for (let i = 0; i < 50; i++) {
    const row = table.find(i, 2 ** 32 - 1 - i);
    if (i === 2 || (i >= 10 && i < 20)) {
      if (row >= 0) t.fail(`${i} is still there`);
      continue;
    }
    const found = [table.numbers[row * 3 + 1], table.words[row * 6 + 4], table.words[row * 6 + 5]];
    if (found.join() !== [2 ** 40 + i, -i, i].join()) t.fail(`${i} has ${found}`);
  }
  t.throws(() => new KeyTable(4, 5), /whole numbers/);
  t.end();
});

t.test('misuse is a bug that shows', t => {
  const twice = new KeyTable(2);
  twice.insert(1, 1);
  t.throws(() => twice.insert(1, 1), /new to the table/);
  const full = new KeyTable(1);
  full.insert(1, 2);
  t.throws(() => full.insert(1, 3), /has room/);
  full.remove(0);
  t.throws(() => full.remove(0), /in use/);
  t.throws(() => new KeyTable(0), /1 to 2\^30/);
  t.end();
});
