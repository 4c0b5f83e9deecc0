/** What a deleted volume had is given back beside everything else, and a stop cuts that short. */
import t from 'tap';
import { KIB, MIB } from '../../../src/base/units.ts';
import { purge } from '../../../src/head/purge.ts';
import { HeadRig, pump } from './head-rig.ts';

const CHUNK = 16 * KIB;
/** A few batches. */
const CHUNKS = 3000;

async function withLargeVolume(): Promise<HeadRig> {
  const rig = await HeadRig.start({ columns: 8, volumes: 2, volumeBytes: 64 * MIB, chunkBytes: CHUNK });
  for (let i = 0; i < CHUNKS; i += 64) await rig.write(i * CHUNK, 64 * CHUNK, 1);
  await pump(rig.loop, rig.destage.all());
  rig.volume().state = 'deleting';
  return rig;
}

function chunkCount(rig: HeadRig): number {
  return [...rig.index.chunks(rig.volume().number, 0, 2 ** 40, 2 ** 30)].length;
}

t.test('between the batches of a large volume others have their turn', async t => {
  const rig = await withLargeVolume();
  const { number } = rig.volume();
  t.ok(chunkCount(rig) >= CHUNKS);
  const purged = purge(rig.head, rig.destage, rig.volume());
  const left: number[] = [];
  for (let i = 0; i < 3; i++) {
    const others = rig.destage.exclusively(async () => left.push(chunkCount(rig)));
    await pump(rig.loop, others);
  }
  await pump(rig.loop, purged);
  t.ok(
    left.some(count => count > 0 && count < CHUNKS),
    `${left} were left at others' turns`,
  );
  t.equal(rig.head.volume(number), undefined);
  t.same([...rig.index.chunks(number, 0, 2 ** 40, 10)], []);
  t.same(
    [...rig.index.volumes()].map(volume => volume.number),
    [2],
  );
  await pump(rig.loop, rig.destage.all());
  t.equal(rig.head.slots.usedBytes(number), 0);
});

t.test('a destage that stops waits for the batch that is under way, and the next start goes on', async t => {
  const rig = await withLargeVolume();
  rig.gate.held = [];
  const purged = purge(rig.head, rig.destage, rig.volume());
  const refused = t.rejects(purged, { code: 'shutting-down' });
  await rig.settle();
  const stopped = rig.destage.stop();
  const { held } = rig.gate;
  rig.gate.held = undefined;
  t.equal(held.length, 1);
  for (const commit of held) commit();
  await pump(rig.loop, stopped);
  await refused;
  const left = chunkCount(rig);
  t.ok(left > 0 && left < CHUNKS, `${left} chunks are left`);

  const again = await HeadRig.start({}, rig.store);
  t.equal(chunkCount(again), left);
  await pump(again.loop, purge(again.head, again.destage, again.volume()));
  t.same(
    [...again.index.volumes()].map(volume => volume.number),
    [2],
  );
});
