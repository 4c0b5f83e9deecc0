/** Carrying forward in the log: what is appended again, and that it ends whatever becomes of the log. */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import type { ChunkNumber } from '../../../src/base/units.ts';
import { BLOCK_BYTES } from '../../../src/base/units.ts';
import { DestageStuck } from '../../../src/head/destage-store.ts';
import { Relog } from '../../../src/head/relog.ts';
import { HeadRig, isAll, pump, regions } from './head-rig.ts';

const FIRST_CHUNK = 0 as ChunkNumber;

t.test('blocks from before the cut are appended again, with what they hold', async t => {
  const rig = await HeadRig.start();
  for (const block of [0, 1, 5]) await rig.write(block * BLOCK_BYTES, BLOCK_BYTES, block + 1);
  const cut = rig.log.committedEnd;
  const moved: number[] = [];
  const relog = new Relog(rig.head, regions, (_volume, block) => moved.push(block));
  t.ok(await pump(rig.loop, relog.forward([{ volume: rig.volume(), chunk: FIRST_CHUNK }], cut)));
  t.same(moved, [0, 1, 5]);
  const { overlay } = rig.head;
  for (const block of [0, 1, 5]) {
    const row = overlay.findBlock(rig.volume().number, block as never);
    t.ok(overlay.positionOf(row) >= cut, `block ${block} lies behind the cut`);
    t.ok(isAll(await rig.read(block * BLOCK_BYTES, BLOCK_BYTES), block + 1));
  }
});

t.test('it ends when the log has failed, though newer operations on its blocks were never written', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, BLOCK_BYTES, 1);
  await rig.do('flush');
  const cut = rig.log.committedEnd;
  for (const file of rig.store.segments) file.hold.add('writeDurable');
  const first = rig.submit('write', 8 * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES), { fua: true });
  await rig.settle();
  const newer = rig.submit('write', 0, new Uint8Array(BLOCK_BYTES), { fua: true });
  await rig.settle();
  for (const file of rig.store.segments) for (const io of file.held) io.finish(-EIO);
  await rig.settle();
  t.same([first.errno, newer.errno], [EIO, EIO]);
  const relog = new Relog(rig.head, regions, () => {});
  const forward = pump(rig.loop, relog.forward([{ volume: rig.volume(), chunk: FIRST_CHUNK }], cut));
  await t.rejects(forward, DestageStuck);
});

t.test('a block with a newer operation under way is left until that is committed', async t => {
  const rig = await HeadRig.start();
  await rig.write(0, BLOCK_BYTES, 1);
  const cut = rig.log.committedEnd;
  for (const file of rig.store.segments) file.hold.add('write');
  const newer = rig.submit('write', 0, new Uint8Array(BLOCK_BYTES).fill(2));
  await rig.settle();
  t.equal(newer.errno, undefined);
  const moved: number[] = [];
  const relog = new Relog(rig.head, regions, (_volume, block) => moved.push(block));
  const forward = relog.forward([{ volume: rig.volume(), chunk: FIRST_CHUNK }], cut);
  await rig.settle();
  for (const file of rig.store.segments) file.letGo();
  t.ok(await pump(rig.loop, forward));
  t.same(moved, []);
  t.ok(isAll(await rig.read(0, BLOCK_BYTES), 2));
});

t.test('a block that is written while its data is fetched is not appended again', async t => {
  // One block: what is written behind pushes it out.
  const rig = await HeadRig.start({ cacheBytes: BLOCK_BYTES });
  await rig.write(0, BLOCK_BYTES, 1);
  await rig.write(64 * BLOCK_BYTES, BLOCK_BYTES, 9);
  const cut = rig.log.committedEnd;
  for (const file of rig.store.segments) file.hold.add('read');
  const moved: number[] = [];
  const relog = new Relog(rig.head, regions, (_volume, block) => moved.push(block));
  const forward = relog.forward([{ volume: rig.volume(), chunk: FIRST_CHUNK }], cut);
  await rig.settle();
  t.equal(await rig.write(0, BLOCK_BYTES, 2), 0);
  for (const file of rig.store.segments) file.letGo();
  t.ok(await pump(rig.loop, forward));
  t.same(moved, []);
  t.ok(isAll(await rig.read(0, BLOCK_BYTES), 2));
});
