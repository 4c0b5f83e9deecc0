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
