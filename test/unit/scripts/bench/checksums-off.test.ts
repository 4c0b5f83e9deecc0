/** A process of its own, whose checksums are out of order from the import on. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import '../../../../scripts/bench/checksums-off.ts';
import { NO_SUM, takeSums } from '../../../../src/base/checksum.ts';
import { KIB, MIB } from '../../../../src/base/units.ts';
import { createIoPlatform } from '../../../../src/platform/platform.ts';
import { temporaryDirectory } from '../../../support/temporary-directory.ts';
import { isAll } from '../../head/head-rig.ts';
import { startTestNode } from '../../node/node-rig.ts';

t.test('all data has one sum, which is that of some data, and nothing beside the sums is touched', async t => {
  const platform = createIoPlatform({ kind: 'threads' });
  t.teardown(() => platform.close());
  const bytes = new Uint8Array(3 * 4096).map((_, i) => i * 7);
  const sums = new Uint32Array([9, 9, 9, 9, 9]);
  takeSums(platform, bytes, 0, 3, sums, 1);
  t.not(sums[1], NO_SUM);
  t.same([...sums], [9, sums[1], sums[1], sums[1], 9]);
  t.equal(platform.checksum(bytes, 0, 64, 0), platform.checksum(bytes, 64, 1000, 0));
});

t.test('a server reads what it has written, from log and device, and does not notice what has changed', async t => {
  const directory = temporaryDirectory(t);
  const path = join(directory, 'disk');
  const volumes = [{ name: 'vol0', sizeBytes: 4 * MIB }];
  let running = await startTestNode(directory, { devices: [{ path, sizeBytes: 65 * MIB }], volumes });
  await running.request('vol0', 'write', 0, new Uint8Array(64 * KIB).fill(0xa1));
  await running.request('vol0', 'write', MIB, new Uint8Array(4 * KIB).fill(0xb2));
  await running.stop();

  const at = readFileSync(path).indexOf(new Uint8Array(64 * KIB).fill(0xa1));
  t.ok(at > 0, 'the chunk lies on the device');
  const device = openSync(path, 'r+');
  writeSync(device, new Uint8Array(4 * KIB).fill(0xc3), 0, 4 * KIB, at);
  closeSync(device);

  running = await startTestNode(directory, {});
  t.ok(isAll((await running.request('vol0', 'read', 0, 4 * KIB)).bytes, 0xc3), 'the changed block');
  t.ok(isAll((await running.request('vol0', 'read', 4 * KIB, 60 * KIB)).bytes, 0xa1));
  t.ok(isAll((await running.request('vol0', 'read', MIB, 4 * KIB)).bytes, 0xb2));
  t.match(running.node.status(), { health: 'ok' });
  await running.stop();
});
