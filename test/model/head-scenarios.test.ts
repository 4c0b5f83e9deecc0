/** Bugs that the random runs of `head.test.ts` have found, each as the short story that it comes down to. */
import t from 'tap';
import { completion } from '../../src/base/io-wait.ts';
import { columnBytes } from '../../src/base/limits.ts';
import { locationOf } from '../../src/base/location.ts';
import { KIB } from '../../src/base/units.ts';
import { Device } from '../../src/sled/device.ts';
import { Sled } from '../../src/sled/sled.ts';
import { FIRST_COLUMN_POSITION } from '../../src/sled/superblock.ts';
import { Oracle } from '../support/oracle.ts';
import { SimClient } from '../support/sim-client.ts';
import { SimFile } from '../support/sim-file.ts';
import { SimLoop, settled } from '../support/sim-loop.ts';
import { NO_TROUBLE, SimNode } from '../support/sim-node.ts';
import { SimRandom } from '../support/sim-random.ts';

t.test('a sync of the devices waits for the one that somebody else has begun', async t => {
  const random = new SimRandom(1);
  const loop = new SimLoop(random);
  const file = new SimFile('device', FIRST_COLUMN_POSITION + columnBytes, 'direct', loop, random);
  const identity = '0'.repeat(32);
  const firstColumn = FIRST_COLUMN_POSITION;
  const superblock = {
    node: identity,
    device: identity,
    number: 0,
    columnBytes,
    firstColumn,
    columnCount: 1,
    serial: 1,
  };
  const sled = new Sled(loop);
  sled.add(new Device('/sim', file, superblock));
  await loop.until(completion(request => sled.syncData(request)));

  sled.wrote(locationOf(0, FIRST_COLUMN_POSITION));
  let ended = 0;
  const request = { ioCompleted: (result: number) => (ended += result === 0 ? 1 : 100) };
  sled.syncData(request);
  sled.syncData(request);
  await settled();
  t.equal(ended, 0, 'neither is done while nothing is on stable storage');
  while (await loop.turn()) {
    // Until both have ended.
  }
  t.equal(ended, 2);

  sled.wrote(locationOf(0, FIRST_COLUMN_POSITION));
  sled.syncData(request);
  sled.wrote(locationOf(0, FIRST_COLUMN_POSITION));
  while (await loop.turn()) {
    // The sync does not cover the second write.
  }
  t.equal(ended, 3);
  sled.syncData(request);
  await settled();
  t.equal(ended, 3, 'what was written while a sync was under way is synced by the next one');
});

t.test('who waits for rows of the overlay goes on when a commit gives back what it did not need', async t => {
  const random = new SimRandom(2);
  const node = await startNode(random);
  const volume = await node.createVolume('v', 1024 * KIB, 256 * KIB, 'written');
  // Nothing but commits may come to their help.
  await node.loop.until(node.destage.stop());
  const client = new SimClient(volume, new Oracle(4096, 1, 'process'), random);
  // Each reserves 128 rows for the edges that a range may have, and none of these has any.
  for (let i = 0; i < 8; i++) client.send('trim', 0, volume.sizeBytes);
  for (let i = 0; i < 200 && client.inFlight > 0; i++) await node.loop.turn();
  t.equal(client.inFlight, 0, 'all are answered');
  t.same(client.problems, []);
});

t.test('after the index has failed the destage refuses to go on, and breaks nothing in trying', async t => {
  const random = new SimRandom(3);
  const node = await startNode(random);
  const volume = await node.createVolume('v', 1024 * KIB, 64 * KIB, 'written');
  const client = new SimClient(volume, new Oracle(4096, 1, 'process'), random);
  const answered = async () => {
    while (client.inFlight > 0) await node.loop.turn();
  };
  client.send('write', 0, 64 * KIB);
  await answered();
  await node.loop.until(node.destage.all());

  // The chunk gets a new slot, and the transaction that would make the index refer to it fails.
  client.send('write', 0, 64 * KIB);
  await answered();
  node.trouble({ ...NO_TROUBLE, indexPerMyriad: 10_000 });
  await t.rejects(node.loop.until(node.destage.all()), { name: 'DestageStuck' });
  await t.rejects(node.loop.until(node.destage.all()), { name: 'DestageStuck' });
  client.send('read', 0, 128 * KIB);
  await answered();

  node.crash('process');
  node.trouble(NO_TROUBLE);
  await node.boot();
  await node.loop.until(node.destage.all());
  t.same(await node.audit(), [], 'the next start finds everything in its place');
  t.same(client.problems, []);
});

t.test('a volume that is overwritten in whole chunks does not use up the device with what it replaced', async t => {
  const random = new SimRandom(4);
  const node = await startNode(random);
  const size = 4096 * KIB;
  const volume = await node.createVolume('v', size, 64 * KIB, 'written');
  const client = new SimClient(volume, new Oracle(4096, 1, 'process'), random);
  // Three times the device, whose 64 MiB the volume fills to a sixteenth.
  for (let i = 0; i < 192; i++) {
    client.send('write', (i % 4) * 1024 * KIB, 1024 * KIB);
    while (client.inFlight > 0) await node.loop.turn();
  }
  t.same(client.problems, [], 'no write was refused');
  t.same(await node.audit(), []);
});

async function startNode(random: SimRandom): Promise<SimNode> {
  const node = new SimNode(random, {
    segmentBytes: 1024 * KIB,
    logSegments: 4,
    cacheBytes: 64 * KIB,
    overlayRows: 300,
    bounceBuffers: 4,
    devices: 1,
    columnsPerDevice: 4,
    canDiscard: true,
  });
  await node.boot();
  return node;
}
