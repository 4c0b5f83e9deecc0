/** Scrubs of a running node: one at a time, how they end, and what stays known of damage. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { damagedBlocksMax, damagedBlocksShown } from '../../../src/base/limits.ts';
import type { Location } from '../../../src/base/location.ts';
import type { BlockNumber } from '../../../src/base/units.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { DamageList } from '../../../src/node/damage-list.ts';
import { ProblemList } from '../../../src/node/problem-list.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { startTestNode, volumeRequest } from './node-rig.ts';

const CHUNK = 64 * KIB;
const FAST = 2 ** 40;
const SLOW = 64 * KIB;

async function rig(test: Test) {
  const directory = temporaryDirectory(test);
  const path = join(directory, 'disk');
  const devices = [{ path, sizeBytes: MIB + 64 * MIB }];
  const running = await startTestNode(directory, { devices, volumes: [{ name: 'vol0', sizeBytes: 64 * MIB }] });
  test.teardown(() => running.stop());
  await running.request('vol0', 'write', 0, new Uint8Array(16 * CHUNK).fill(0xa5), { fua: true });
  return { ...running, path, never: new AbortController().signal };
}

t.test('one scrub of a volume at a time; another volume has its own', async t => {
  const { node, never } = await rig(t);
  await node.createVolume(volumeRequest('other', MIB));
  const stop = new AbortController();
  t.equal(node.scrubProgress('vol0'), undefined);
  const first = node.scrubVolume('vol0', SLOW, stop.signal);
  t.match(node.scrubProgress('vol0'), { bytesTotal: 16 * CHUNK, damagedBlocks: 0 });
  await t.rejects(node.scrubVolume('vol0', FAST, never), { code: 'volume-busy', message: /scrubbed already/ });
  t.match(await node.scrubVolume('other', FAST, never), { volume: 'other', bytesRead: 0, damagedBlocks: 0 });
  await t.rejects(node.scrubVolume('none', FAST, never), { code: 'volume-unknown' });
  stop.abort(new Error('enough'));
  await t.rejects(first, /enough/);
  t.equal(node.scrubProgress('vol0'), undefined);
  t.match(await node.scrubVolume('vol0', FAST, never), { bytesRead: 16 * CHUNK });
});

t.test('a scrub ends when its volume is deleted, and when the node stops', async t => {
  const { node, never, log } = await rig(t);
  const deleted = node.scrubVolume('vol0', SLOW, never);
  const refused = t.rejects(deleted, { code: 'volume-unknown', message: /deleted/ });
  await node.deleteVolume('vol0');
  await refused;
  await node.createVolume(volumeRequest('vol0', MIB));
  t.match(await node.scrubVolume('vol0', FAST, never), { bytesRead: 0 });

  const other = await rig(t);
  const stopped = t.rejects(other.node.scrubVolume('vol0', SLOW, never), { code: 'shutting-down' });
  await other.node.stop();
  await stopped;
  await t.rejects(other.node.scrubVolume('vol0', SLOW, never), { code: 'shutting-down' });
  t.ok(log.lines.includes('a scrub was cancelled'));
});

t.test('a volume is scrubbed while it grows and is written', async t => {
  const { node, never, request } = await rig(t);
  const running = node.scrubVolume('vol0', 4 * MIB, never);
  await node.growVolume('vol0', 128 * MIB);
  for (let i = 0; i < 64; i++) {
    await request('vol0', 'write', (i % 16) * CHUNK, new Uint8Array(i % 2 === 0 ? CHUNK : 4096).fill(i));
  }
  await request('vol0', 'write', 127 * MIB, new Uint8Array(4096).fill(9), { fua: true });
  t.match(await running, { damagedBlocks: 0 });
  t.equal(node.status().health, 'ok');
});

t.test('damage is known until a whole scrub does not find it, or the volume is gone', async t => {
  const { node, never, path, request } = await rig(t);
  const position = readFileSync(path).indexOf(Buffer.alloc(CHUNK, 0xa5)) + 5 * 4096;
  const flip = () => {
    const file = openSync(path, 'r+');
    writeSync(file, Uint8Array.of(0), 0, 1, position + 77);
    closeSync(file);
  };
  flip();
  const { damage } = await node.scrubVolume('vol0', FAST, never);
  t.same(damage, [{ block: 5, offsetBytes: 5 * 4096, fault: 'mismatch', path, pathOffsetBytes: position }]);
  t.match(node.status().devices, [{ state: 'degraded', errors: { read: 0, checksum: 1 } }]);
  t.match(node.volume('vol0')?.problems, [
    { severity: 'error', why: new RegExp(`in ${path} from byte ${position} on`) },
  ]);
  await request('vol0', 'write', 5 * 4096, new Uint8Array(4096).fill(1));
  t.equal(node.status().problems.length, 1, 'nobody has looked since');
  t.match(await node.scrubVolume('vol0', FAST, never), { damagedBlocks: 0 });
  t.same(node.status().problems, []);
});

t.test('the latest damaged blocks of a volume are listed and the others counted', t => {
  const problems = new ProblemList();
  const list = new DamageList(problems);
  const device = (location: number) => ({ kind: 'device', location: location as Location }) as const;
  const found = (volume: string, block: number) =>
    list.found(volume, block as BlockNumber, device(block), { file: '/disk', offsetBytes: block * 4096 }, 'mismatch');
  const listed = (volume: string) => problems.ofVolume(volume).map(({ what }) => what);
  found('other', 1);
  for (let i = 0; i < damagedBlocksShown; i++) found('vol0', i);
  t.equal(listed('vol0').length, damagedBlocksShown);
  found('vol0', 3);
  t.equal(listed('vol0').length, damagedBlocksShown, 'found again, it stands there once');
  found('vol0', 100);
  t.equal(listed('vol0').length, damagedBlocksShown + 1);
  t.notOk(listed('vol0').includes('Bytes 0 to 4095 of vol0 are damaged.'));
  t.ok(listed('vol0').includes('Bytes 409600 to 413695 of vol0 are damaged.'));
  t.ok(listed('vol0').includes('1 further damaged blocks of vol0 are not listed.'));
  for (let i = 0; i < damagedBlocksMax; i++) found('vol0', 1000 + i);
  t.equal(listed('vol0').length, damagedBlocksShown + 1);
  t.ok(
    listed('vol0').includes(
      `More than ${damagedBlocksMax - damagedBlocksShown} further damaged blocks of vol0 are not listed.`,
    ),
  );

  const since = list.serial;
  found('vol0', 2000);
  list.found('vol0', 7 as BlockNumber, { kind: 'log', position: 900 }, { file: '/log', offsetBytes: 900 }, 'mismatch');
  list.scrubbed('vol0', since, 0);
  t.same(listed('vol0').length, 2);
  list.scrubbed('vol0', list.serial, 900);
  t.same(listed('vol0'), ['Bytes 28672 to 32767 of vol0 are damaged.'], 'what the log holds no scrub can find');
  list.scrubbed('vol0', list.serial, 901);
  t.same(listed('vol0'), []);
  t.equal(list.logFindings, 1);
  t.equal(listed('other').length, 1);
  list.forget('other');
  t.same(problems.list(), []);
  t.end();
});

t.test('a block that the device does not give has its own words', t => {
  const problems = new ProblemList();
  const place = { kind: 'device', location: 2 as Location } as const;
  const file = { file: '/disk', offsetBytes: 8192 };
  new DamageList(problems).found('vol0', 2 as BlockNumber, place, file, 'unreadable');
  t.match(problems.ofVolume('vol0'), [
    {
      what: 'Bytes 8192 to 12287 of vol0 cannot be read.',
      why: 'What is stored in /disk from byte 8192 on is not given by the device.',
    },
  ]);
  t.end();
});
