/** The lane of devices that are aside: it takes over what a step gives up waiting for, whatever it is doing. */
import t from 'tap';
import type { Epoch } from '../../../src/base/units.ts';
import type { ChunkCarrier } from '../../../src/head/chunk-carrier.ts';
import { DestageStore } from '../../../src/head/destage-store.ts';
import { LateLane } from '../../../src/head/late-lane.ts';
import type { SeparateGroup } from '../../../src/head/separate-group.ts';
import { HeadRig, regions } from './head-rig.ts';

/** A lane whose turns the test gives: `begin` lets the next one who waits go on. */
async function laneOf() {
  const rig = await HeadRig.start();
  const waiting: (() => void)[] = [];
  const events: string[] = [];
  const lane = new LateLane({
    head: rig.head,
    clock: rig.loop,
    store: new DestageStore(rig.head, 1 as Epoch),
    regions,
    async exclusively(work) {
      await new Promise<void>(resolve => waiting.push(resolve));
      return work();
    },
    roundEnded: () => void events.push('round ended'),
    nothingFound: () => void events.push('nothing found'),
  });
  const carrier: Pick<ChunkCarrier, 'finish' | 'abandon'> = {
    finish: () => Promise.resolve(void events.push('finished')),
    abandon: () => void events.push('abandoned'),
  };
  const group = { isBesideOthers: false, landing: { isStopped: false } } as SeparateGroup;
  const letOn = async () => {
    await rig.settle();
    waiting.shift()?.();
    await rig.settle();
  };
  return { rig, lane, events, letOn, carrier: carrier as ChunkCarrier, group };
}

t.test('a group is taken over while nothing goes on, and no second one beside it', async t => {
  const { lane, events, letOn, carrier, group } = await laneOf();
  t.ok(lane.adopt(carrier, group, Promise.resolve()) !== undefined);
  t.ok(lane.isUnderWay);
  t.equal(lane.adopt(carrier, group, Promise.resolve()), undefined);
  await letOn();
  await letOn();
  t.same(events, ['finished', 'round ended', 'nothing found']);
  t.notOk(lane.isUnderWay);
});

t.test('a group is taken over while a round waits for its turn: the round goes on with it', async t => {
  const { lane, events, letOn, carrier, group } = await laneOf();
  lane.wanted();
  t.ok(lane.adopt(carrier, group, Promise.resolve()) !== undefined, 'a step has to wait for no device on that account');
  t.ok(lane.isUnderWay);
  for (let turn = 0; turn < 2; turn++) await letOn();
  t.same(events, ['finished', 'round ended']);
  t.notOk(lane.isUnderWay);
  await letOn();
  t.same(events, ['finished', 'round ended', 'nothing found'], 'and then there was nothing left');
});
