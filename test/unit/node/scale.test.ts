/** Many volumes, very large ones, and deletions that were interrupted: what a start makes of them, and what they cost. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { completion } from '../../../src/base/io-wait.ts';
import type { OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import { formatBytes, GIB, KIB, MIB, TIB } from '../../../src/base/units.ts';
import type { VolumeEntry } from '../../../src/index/index-store.ts';
import { SUMS_FILE } from '../../../src/node/index-sums.ts';
import { LmdbIndex } from '../../../src/platform/lmdb-index.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { isAll } from '../head/head-rig.ts';
import { startTestNode, volumeRequest } from './node-rig.ts';

const DEVICES = (directory: string) => [{ path: join(directory, 'disk'), sizeBytes: MIB + 128 * MIB }];

/** Changes the index of a node that does not run, whose checksums then mean nothing. */
async function changeIndex(directory: string, change: (index: LmdbIndex) => void | Promise<void>): Promise<void> {
  const path = join(directory, 'data', 'index');
  mkdirSync(path, { recursive: true });
  rmSync(join(path, SUMS_FILE), { force: true });
  const index = new LmdbIndex(path);
  await change(index);
  await index.close();
}

function putVolumes(index: LmdbIndex, entries: readonly VolumeEntry[]): Promise<number> {
  const transaction = index.begin();
  for (const entry of entries) transaction.putVolume(entry);
  return completion(request => transaction.commit(request));
}

t.test('a directory with 1000 volumes starts in less than two seconds', async t => {
  const directory = temporaryDirectory(t);
  const first = await startTestNode(directory, { devices: DEVICES(directory) });
  await first.stop();
  await changeIndex(directory, async index => {
    const entries = Array.from({ length: 1000 }, (_, i) => ({
      number: (i + 1) as VolumeNumber,
      name: `volume-${i + 1}`,
      sizeBytes: TIB,
      chunkBytes: 64 * KIB,
      ack: 'written' as const,
      readOnly: false,
      createdAt: '2026-01-01T00:00:00.000Z',
      state: 'present' as const,
      lastOp: 0 as OpNumber,
    }));
    await putVolumes(index, entries);
  });
  const before = performance.now();
  const running = await startTestNode(directory);
  const milliseconds = performance.now() - before;
  t.comment(`${milliseconds.toFixed(0)} ms for 1000 volumes`);
  t.ok(milliseconds < 2000);
  t.equal(running.node.volumes().length, 1000);
  for (const i of [1, 500, 1000]) {
    await running.request(`volume-${i}`, 'write', TIB - 4096, new Uint8Array(4096).fill(i % 256));
    t.ok(isAll((await running.request(`volume-${i}`, 'read', TIB - 4096, 4096)).bytes, i % 256));
  }
  await running.stop();
});

t.test(
  'a volume of 16 TiB costs what is written to it, also when it is trimmed and asked about as a whole',
  async t => {
    const directory = temporaryDirectory(t);
    const volumes = [{ name: 'huge', sizeBytes: 16 * TIB }];
    const running = await startTestNode(directory, { devices: DEVICES(directory), volumes });
    const memory = () => process.memoryUsage().rss;
    const before = memory();
    let most = before;
    const look = () => {
      most = Math.max(most, memory());
    };
    for (let i = 0; i < 256; i++) {
      await running.request('huge', 'write', i * 64 * GIB, new Uint8Array(4096).fill(i));
      look();
    }
    const status = await running.request('huge', 'blockStatus', 4096, 4 * GIB - 4096);
    t.same(
      status.extents.map(extent => extent.flags),
      [3],
    );
    look();
    const started = performance.now();
    await running.request('huge', 'trim', 0, 16 * TIB);
    await running.request('huge', 'writeZeroes', 5, 16 * TIB - 10);
    const milliseconds = performance.now() - started;
    look();
    for (let i = 0; i < 256; i++) {
      if (!isAll((await running.request('huge', 'read', i * 64 * GIB, 4096)).bytes, 0)) t.fail(`block ${i}`);
    }
    let extents = 0;
    for (let at = 0; at < 16 * TIB; extents++) {
      const answer = await running.request('huge', 'blockStatus', at, Math.min(16 * TIB - at, 2 * TIB));
      for (const extent of answer.extents) at += extent.lengthBytes;
      look();
      if (extents > 1000) throw new Error('the answers do not come to an end');
    }
    t.comment(`${formatBytes(most - before)} more memory, ${milliseconds.toFixed(1)} ms to trim and zero 16 TiB twice`);
    t.comment(`${extents} answers tell the status of all of it`);
    t.ok(most - before < 64 * MIB);
    t.ok(milliseconds < 1000);
    t.equal(running.node.volume('huge')!.allocatedBytes, 0);
    await running.stop();
    const again = await startTestNode(directory);
    t.ok(isAll((await again.request('huge', 'read', 64 * GIB, 4096)).bytes, 0));
    await again.stop();
  },
);

t.test('a deletion that was interrupted is finished at the next start', async t => {
  const directory = temporaryDirectory(t);
  const volumes = [
    { name: 'doomed', sizeBytes: 64 * MIB },
    { name: 'kept', sizeBytes: 64 * MIB },
  ];
  const running = await startTestNode(directory, { devices: DEVICES(directory), volumes });
  for (const name of ['doomed', 'kept']) {
    await running.request(name, 'write', 0, new Uint8Array(20 * MIB).fill(name.length));
    await running.request(name, 'write', 40 * MIB, new Uint8Array(4096).fill(9));
  }
  await running.stop();
  await changeIndex(directory, async index => {
    const doomed = [...index.volumes()].find(entry => entry.name === 'doomed')!;
    await putVolumes(index, [{ ...doomed, state: 'deleting' }]);
  });
  const again = await startTestNode(directory, { volumes: volumes.slice(1) });
  t.ok(again.log.lines.includes('finishing the deletion of a volume'));
  t.same(
    again.node.volumes().map(volume => volume.name),
    ['kept'],
  );
  t.ok(isAll((await again.request('kept', 'read', 0, 20 * MIB)).bytes, 4));
  const used = () => again.node.status().devices[0].usedBytes;
  for (const end = Date.now() + 5000; used() > 32 * MIB && Date.now() < end; ) await sleep(20);
  t.equal(used(), 32 * MIB, 'its space comes free while the node serves');
  await again.stop();
  await changeIndex(directory, index => {
    t.same(
      [...index.volumes()].map(entry => entry.name),
      ['kept'],
    );
    t.equal([...index.chunks(1 as VolumeNumber, 0, 2 ** 38, 10)].length, 0);
    const columns = [...index.columns()].filter(column => column.volume === 1);
    t.ok(
      columns.every(column => column.slots.every(word => word === 0)),
      'no slot is left to it',
    );
  });
  const third = await startTestNode(directory);
  t.equal(third.node.status().devices[0].usedBytes, 32 * MIB, 'its columns are free');
  t.ok(isAll((await third.request('kept', 'read', 40 * MIB, 4096)).bytes, 9));
  await third.stop();
});

t.test(
  'the name of a volume is free once its deletion is on record, and its space soon after, stops or not',
  async t => {
    const directory = temporaryDirectory(t);
    const large = { ...volumeRequest('large', 96 * MIB), chunkBytes: 16 * KIB };
    const running = await startTestNode(directory, { devices: DEVICES(directory) });
    await running.node.createVolume(large);
    for (let i = 0; i < 5; i++) await running.request('large', 'write', i * 16 * MIB, new Uint8Array(16 * MIB).fill(1));
    await running.stop();
    const again = await startTestNode(directory);
    const deleted = again.node.deleteVolume('large');
    await t.rejects(again.node.createVolume(large), { code: 'volume-exists' });
    await deleted;
    t.match(await again.node.createVolume(large), { number: 2 });
    await again.stop();
    const third = await startTestNode(directory);
    t.match(third.node.volumes(), [{ number: 2 }]);
    const used = () => third.node.status().devices[0].usedBytes;
    for (const end = Date.now() + 5000; used() > 0 && Date.now() < end; ) await sleep(20);
    t.equal(used(), 0);
    await third.stop();
  },
);

t.test('a volume is deleted though nothing can be destaged, and by a start as well', async t => {
  const directory = temporaryDirectory(t);
  const volumes = ['first', 'second', 'third', 'doomed'].map(name => ({ name, sizeBytes: MIB }));
  const running = await startTestNode(directory, {
    devices: [{ path: join(directory, 'disk'), sizeBytes: 17 * MIB }],
    volumes,
  });
  // The device has one column, which is of one volume: there is none for the other.
  for (const name of ['first', 'second'])
    await running.request(name, 'write', 0, new Uint8Array(4096).fill(name.length));
  await running.node.deleteVolume('third');
  await running.stop();
  await changeIndex(directory, async index => {
    const doomed = [...index.volumes()].find(entry => entry.name === 'doomed')!;
    await putVolumes(index, [{ ...doomed, state: 'deleting' }]);
  });
  const again = await startTestNode(directory);
  t.same(
    again.node.volumes().map(volume => volume.name),
    ['first', 'second'],
  );
  for (const name of ['first', 'second']) {
    t.ok(isAll((await again.request(name, 'read', 0, 4096)).bytes, name.length));
  }
  // It goes on in the background.
  await sleep(500);
  await again.stop();
  await changeIndex(directory, async index => {
    t.same(
      [...index.volumes()].map(({ name }) => name),
      ['first', 'second'],
    );
  });
});
