/**
 * The structures that the head is made of, each against the plainest thing that does the same: random commands of
 * fast-check, shrunk when they fail. The seed is printed; `SLEDGE_TEST_SEED` repeats it.
 */
import fc from 'fast-check';
import t from 'tap';
import { NO_SUM } from '../../src/base/checksum.ts';
import { KeyTable, keyHigh, keyNumber, keyVolume } from '../../src/base/key-table.ts';
import { columnBytes } from '../../src/base/limits.ts';
import { type Location, locationPosition } from '../../src/base/location.ts';
import { plainRegion } from '../../src/base/memory.ts';
import type { BlockNumber, ChunkNumber, LogPosition, OpNumber, VolumeNumber } from '../../src/base/units.ts';
import { BLOCK_BYTES, KIB } from '../../src/base/units.ts';
import { SlotAllocator } from '../../src/head/slot-allocator.ts';
import type { ChunkEntry } from '../../src/index/chunk-entry.ts';
import type { ColumnEntry, IndexTransaction } from '../../src/index/index-store.ts';
import { Device } from '../../src/sled/device.ts';
import { FIRST_COLUMN_POSITION } from '../../src/sled/superblock.ts';
import { BlockCache } from '../../src/volume/block-cache.ts';
import { Overlay } from '../../src/volume/overlay.ts';
import { RangeSet } from '../../src/volume/range-set.ts';
import { SimFile } from '../support/sim-file.ts';
import { SimLoop } from '../support/sim-loop.ts';
import { SimRandom, seedOfRun } from '../support/sim-random.ts';

const seed = seedOfRun();
t.comment(`seed ${seed}`);

function holds<T>(t: Tap, numRuns: number, arbitrary: fc.Arbitrary<T>, property: (value: T) => void): void {
  const result = fc.check(fc.property(arbitrary, property), { seed, numRuns });
  if (result.failed) t.fail(`${fc.defaultReportMessage(result)}`);
  else t.pass(`${result.numRuns} runs, seed ${seed}`);
}

type Tap = Pick<typeof t, 'fail' | 'pass'>;

function equal(actual: unknown, expected: unknown, what: string): void {
  if (!Object.is(actual, expected)) throw new Error(`${what}: ${actual}, not ${expected}`);
}

const volumeNumber = fc.constantFrom(1, 2, 300).map(number => number as VolumeNumber);

t.test('a key table does what a map does, and keeps rows as they are', async t => {
  const number = fc.oneof(
    fc.nat(12),
    fc.nat(12).map(small => 2 ** 32 + small),
    fc.nat(12).map(small => small * 2 ** 20),
  );
  const command = fc.record({ add: fc.boolean(), volume: volumeNumber, number });
  holds(t, 500, fc.array(command, { maxLength: 200, size: 'max' }), commands => {
    const table = new KeyTable(24);
    const model = new Map<string, number>();
    for (const { add, volume, number } of commands) {
      const key = `${volume}/${number}`;
      const high = keyHigh(volume, number);
      const row = table.find(high, number >>> 0);
      equal(row, model.get(key) ?? -1, `row of ${key}`);
      if (row < 0 && add && table.count < 24) {
        const fresh = table.insert(high, number >>> 0);
        if ([...model.values()].includes(fresh)) throw new Error('a row is used twice');
        model.set(key, fresh);
      } else if (row >= 0 && !add) {
        table.remove(row);
        model.delete(key);
      }
      equal(table.count, model.size, 'count');
    }
    for (const [key, row] of model) {
      equal(`${keyVolume(table.highOf(row))}/${keyNumber(table.highOf(row), table.lowOf(row))}`, key, 'key of its row');
      equal(table.isUsed(row), true, 'in use');
    }
    let used = 0;
    for (let row = 0; row < table.rowsTouched; row++) if (table.isUsed(row)) used++;
    equal(used, model.size, 'rows in use');
  });
});

t.test('a range set does what a set of numbers does, in the fewest ranges', async t => {
  const range = fc.tuple(fc.nat(60), fc.integer({ min: -2, max: 20 }));
  holds(t, 1000, fc.array(range, { maxLength: 40, size: 'max' }), ranges => {
    const set = new RangeSet();
    const model = new Set<number>();
    for (const [start, length] of ranges) {
      set.add(start, start + length);
      for (let value = start; value < start + length; value++) model.add(value);
    }
    let runs = 0;
    for (let value = 0; value < 90; value++) {
      equal(set.has(value), model.has(value), `has ${value}`);
      if (model.has(value) && !model.has(value - 1)) runs++;
      let out = value;
      while (model.has(out)) out++;
      equal(set.nextOut(value), out, `next out of ${value}`);
      let into = value;
      while (into < 90 && !model.has(into)) into++;
      equal(set.nextIn(value), into === 90 ? Number.POSITIVE_INFINITY : into, `next in from ${value}`);
    }
    equal(set.rangeCount, runs, 'ranges');
    equal(set.isEmpty, runs === 0, 'empty');
    equal(
      [...set.ranges()].flat().join(),
      [...set.ranges()]
        .flat()
        .sort((a, b) => a - b)
        .join(),
      'ascending',
    );
  });
});

t.test('the overlay has the newest of each block and chunk, and lists what is dirty', async t => {
  const blocksPerChunk = 4;
  const command = fc.record({
    kind: fc.constantFrom(
      'block',
      'block',
      'block',
      'zero',
      'chunk',
      'removeBlock',
      'removeEntry',
      'removeChunk',
      'segment',
    ),
    volume: fc.constantFrom(1, 2),
    block: fc.oneof(
      fc.nat(30),
      fc.nat(8).map(small => 2 ** 32 - 4 + small),
    ),
  });
  holds(t, 500, fc.array(command, { maxLength: 150, size: 'max' }), commands => {
    const overlay = new Overlay(200);
    const blocks = new Map<string, { position: number; sum: number }>();
    const entries = new Map<string, ChunkEntry>();
    /** Chunks by the segment in which they were entered. */
    const dirty = new Map<number, Set<string>>();
    let segment = 0;
    let op = 0;
    overlay.enterSegment(0);
    for (const { kind, volume, block } of commands) {
      op++;
      const v = volume as VolumeNumber;
      const chunk = Math.floor(block / blocksPerChunk) as ChunkNumber;
      const chunkKey = `${volume}/${chunk}`;
      const blockKey = `${chunkKey}/${block}`;
      const ofChunk = () => [...blocks.keys()].filter(key => key.startsWith(`${chunkKey}/`));
      const touch = () => dirty.set(segment, (dirty.get(segment) ?? new Set()).add(chunkKey));
      const chunkRow = overlay.findChunk(v, chunk);
      equal(chunkRow >= 0, entries.has(chunkKey) || ofChunk().length > 0, `row of chunk ${chunkKey}`);
      switch (kind) {
        case 'block':
        case 'zero': {
          const sum = kind === 'zero' ? NO_SUM : op;
          overlay.setBlock(v, block as BlockNumber, chunk, op as OpNumber, op * 100, sum);
          blocks.set(blockKey, { position: op * 100, sum });
          touch();
          break;
        }
        case 'chunk': {
          const entry = { op: op as OpNumber, location: op as Location, sums: new Uint32Array(blocksPerChunk) };
          overlay.setChunk(v, chunk, entry);
          entries.set(chunkKey, entry);
          for (const key of ofChunk()) blocks.delete(key);
          touch();
          break;
        }
        case 'removeBlock': {
          const row = overlay.findBlock(v, block as BlockNumber);
          if (row >= 0) overlay.removeBlock(row);
          blocks.delete(blockKey);
          break;
        }
        case 'removeEntry':
          if (entries.delete(chunkKey)) overlay.removeEntry(chunkRow);
          break;
        case 'removeChunk':
          if (chunkRow >= 0) overlay.removeChunk(chunkRow);
          entries.delete(chunkKey);
          for (const key of ofChunk()) blocks.delete(key);
          break;
        default:
          overlay.enterSegment(++segment);
      }
      equal(overlay.blockCount, blocks.size, 'blocks');
    }
    for (const [key, { position, sum }] of blocks) {
      const [volume, , block] = key.split('/').map(Number);
      const row = overlay.findBlock(volume as VolumeNumber, block as BlockNumber);
      equal(overlay.positionOf(row), position, `position of ${key}`);
      equal(overlay.sumOf(row), sum, `sum of ${key}`);
      equal(overlay.blockOf(row), block, 'block of its row');
    }
    for (const volume of [1, 2]) {
      for (const [from, to] of [
        [0, 5],
        [0, Number.POSITIVE_INFINITY],
        [2 ** 30 - 2, 2 ** 30 + 2],
      ]) {
        const seen = new Set<number>();
        overlay.forChunks(volume as VolumeNumber, from, to, (chunk, row) => {
          seen.add(chunk);
          const key = `${volume}/${chunk}`;
          equal(overlay.entryOf(row), entries.get(key), `entry of ${key}`);
          let count = 0;
          for (let block = overlay.firstBlock(row); block >= 0; block = overlay.nextBlock(block)) count++;
          equal(count, [...blocks.keys()].filter(other => other.startsWith(`${key}/`)).length, `blocks of ${key}`);
        });
        const expected = new Set(
          [...entries.keys(), ...blocks.keys()]
            .map(key => key.split('/').map(Number))
            .filter(([owner, chunk]) => owner === volume && chunk >= from && chunk < to)
            .map(([, chunk]) => chunk),
        );
        equal([...seen].sort().join(), [...expected].sort().join(), `chunks of ${volume} in ${from} to ${to}`);
      }
    }
    for (let i = 0; i <= segment; i++) {
      const list = overlay.takeDirty(i, i + 1);
      const found = new Set(list.chunks.map((chunk, at) => `${list.volumes[at]}/${chunk}`));
      for (const key of dirty.get(i) ?? []) {
        // What was taken out meanwhile needs no place in the list.
        const there = entries.has(key) || [...blocks.keys()].some(other => other.startsWith(`${key}/`));
        if (there && !found.has(key)) throw new Error(`${key} is missing in the list of segment ${i}`);
      }
    }
  });
});

t.test('the block cache never finds anything but what was put in last', async t => {
  const command = fc.record({
    kind: fc.constantFrom('put', 'put', 'put', 'find', 'peek', 'invalidate'),
    volume: volumeNumber,
    block: fc.oneof(
      fc.nat(20),
      fc.nat(4).map(small => 2 ** 32 + small),
    ),
    count: fc.integer({ min: 1, max: 40 }),
  });
  holds(
    t,
    300,
    fc.tuple(fc.integer({ min: 1, max: 12 }), fc.array(command, { maxLength: 200, size: 'max' })),
    ([slots, commands]) => {
      const cache = new BlockCache({ allocate: plainRegion }, slots * BLOCK_BYTES);
      const newest = new Map<string, number>();
      const source = new Uint8Array(2 * BLOCK_BYTES);
      const target = new Uint8Array(BLOCK_BYTES);
      for (const [i, { kind, volume, block, count }] of commands.entries()) {
        const key = `${volume}/${block}`;
        if (kind === 'put') {
          source.fill((i % 255) + 1, 512, 512 + BLOCK_BYTES);
          cache.put(volume, block as BlockNumber, 1, source, 512);
          newest.set(key, (i % 255) + 1);
          equal(cache.peek(volume, block as BlockNumber) >= 0, true, 'what was put last is there');
        } else if (kind === 'invalidate') {
          cache.invalidate(volume, block, count);
          for (const other of [...newest.keys()]) {
            const [owner, number] = other.split('/').map(Number);
            if (owner === volume && number >= block && number < block + count) newest.delete(other);
          }
        } else {
          const slot = cache[kind](volume, block as BlockNumber);
          if (slot < 0) continue;
          cache.copyOut(slot, 0, BLOCK_BYTES, target, 0);
          equal(target[0], newest.get(key), `first byte of ${key}`);
          equal(target[BLOCK_BYTES - 1], newest.get(key), `last byte of ${key}`);
        }
        if (cache.count > slots) throw new Error('more blocks than slots');
      }
    },
  );
});

t.test('the slot allocator hands out no slot that anything refers to, and gives columns back', async t => {
  const random = new SimRandom(seed);
  const command = fc.record({
    kind: fc.constantFrom('allocate', 'allocate', 'allocate', 'release', 'index', 'retire', 'retire', 'cut', 'reload'),
    volume: fc.constantFrom(1, 2, 3),
    pick: fc.nat(1000),
  });
  holds(t, 300, fc.array(command, { maxLength: 150, size: 'max' }), commands => {
    const columns = new Map<string, ColumnEntry>();
    const device = newDevice(random);
    let slots = newAllocator(device, columns);
    /** Slots that something refers to. */
    const held = new Map<Location, { volume: number; indexed: boolean }>();
    const retired: { location: Location; until: number }[] = [];
    let position = 0;
    for (const { kind, volume, pick } of commands) {
      position += 16;
      const chosen = [...held.keys()][pick % Math.max(1, held.size)];
      const entry = held.get(chosen);
      switch (kind) {
        case 'allocate': {
          const location = slots.allocate(volume as VolumeNumber, chunkBytesOf(volume));
          if (location === undefined) break;
          if (held.has(location)) throw new Error('a slot that is in use was handed out');
          if (retired.some(other => other.location === location)) throw new Error('a retired slot was handed out');
          const end = location + chunkBytesOf(volume) / BLOCK_BYTES;
          for (const [other, { volume: owner }] of held) {
            if (location < other + chunkBytesOf(owner) / BLOCK_BYTES && other < end) throw new Error('slots overlap');
          }
          const column = Math.floor((locationPosition(location) - FIRST_COLUMN_POSITION) / columnBytes);
          for (const [other, { volume: owner }] of held) {
            const its = Math.floor((locationPosition(other) - FIRST_COLUMN_POSITION) / columnBytes);
            if (its === column && owner !== volume) throw new Error('a column has two volumes');
          }
          held.set(location, { volume, indexed: false });
          break;
        }
        case 'release':
          if (entry === undefined || entry.indexed) break;
          slots.release(chosen);
          held.delete(chosen);
          break;
        case 'index':
          if (entry === undefined || entry.indexed) break;
          slots.markIndexed(chosen);
          entry.indexed = true;
          slots.store(recorder(columns));
          break;
        case 'retire':
          if (entry === undefined) break;
          if (entry.indexed) slots.unmarkIndexed(chosen);
          slots.retire(chosen, position as LogPosition, pick % 2 === 0);
          retired.push({ location: chosen, until: position });
          held.delete(chosen);
          slots.store(recorder(columns));
          break;
        case 'cut': {
          const cut = position - (pick % 64);
          slots.cutPassed(cut as LogPosition);
          while (retired.length > 0 && retired[0].until <= cut) retired.shift();
          break;
        }
        default:
          // A new process knows what the index has, and nothing else is in use.
          slots = newAllocator(device, columns);
          slots.settle();
          for (const [location, { indexed }] of [...held]) if (!indexed) held.delete(location);
          retired.length = 0;
      }
      for (const owner of [1, 2, 3]) {
        const count = [...held.values()].filter(other => other.volume === owner).length;
        equal(slots.usedBytes(owner as VolumeNumber), count * chunkBytesOf(owner), `bytes of volume ${owner}`);
      }
    }
    for (const [location, { indexed }] of held) {
      if (indexed) slots.unmarkIndexed(location);
      slots.retire(location, position as LogPosition, false);
    }
    slots.cutPassed((position + 1) as LogPosition);
    slots.store(recorder(columns));
    equal(slots.freeColumns, device.columnCount, 'free columns when nothing is in use');
    equal(columns.size, 0, 'columns on record when nothing is in use');
  });
});

function chunkBytesOf(volume: number): number {
  return [64 * KIB, 1024 * KIB, 4096 * KIB][volume - 1];
}

function newDevice(random: SimRandom): Device {
  const columnCount = 4;
  const file = new SimFile(
    'device',
    FIRST_COLUMN_POSITION + columnCount * columnBytes,
    'direct',
    new SimLoop(random),
    random,
  );
  const identity = '0'.repeat(32);
  const firstColumn = FIRST_COLUMN_POSITION;
  return new Device('/sim', file, {
    node: identity,
    device: identity,
    number: 0,
    columnBytes,
    firstColumn,
    columnCount,
    serial: 1,
  });
}

function newAllocator(device: Device, columns: ReadonlyMap<string, ColumnEntry>): SlotAllocator {
  const slots = new SlotAllocator();
  slots.addDevice(device);
  for (const column of columns.values()) slots.loadColumn(device, column);
  slots.loaded();
  return slots;
}

/** Takes what the allocator puts into a transaction. */
function recorder(columns: Map<string, ColumnEntry>): IndexTransaction {
  return {
    putChunk: () => {},
    removeChunk: () => {},
    putColumn: entry => void columns.set(`${entry.device}/${entry.column}`, entry),
    removeColumn: (device, column) => void columns.delete(`${device}/${column}`),
    putVolume: () => {},
    removeVolume: () => {},
    putState: () => {},
    putNextVolume: () => {},
    commit: () => {},
  };
}
