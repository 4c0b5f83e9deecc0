/** Write-back of the log beside the appends: by hand, and as the log does it. */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { WriteBack } from '../../../src/oplog/write-back.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from './controlled-file.ts';
import { LogRig } from './log-rig.ts';

function heldFile(loop = new MemoryLoop()): ControlledFile {
  const file = new ControlledFile(loop, 16 * MIB);
  file.hold.add('writeBack');
  return file;
}

function ranges(file: ControlledFile): [number, number][] {
  return file.held.map(io => [io.position / KIB, io.length / KIB]);
}

t.test('one range at a time, neither too short nor too long', t => {
  const loop = new MemoryLoop();
  const file = heldFile(loop);
  const writeBack = new WriteBack(() => t.fail('nothing fails'));
  writeBack.written(file, 0, 512 * KIB);
  t.same(ranges(file), [], 'not worth it yet');
  writeBack.written(file, 512 * KIB, MIB);
  t.same(ranges(file), [[0, 1024]]);
  writeBack.written(file, MIB, 4 * MIB);
  t.equal(file.held.length, 1);
  file.held.shift()!.finish();
  loop.turn();
  t.same(ranges(file), [[1024, 2048]]);
  file.held.shift()!.finish();
  loop.turn();
  t.same(ranges(file), [[3072, 1024]]);
  file.held.shift()!.finish();
  loop.turn();
  t.same(ranges(file), []);
  t.end();
});

t.test('a file that is left is written to its end, the next one when it is worth it', t => {
  const loop = new MemoryLoop();
  const [old, next] = [heldFile(loop), heldFile(loop)];
  const writeBack = new WriteBack(() => t.fail('nothing fails'));
  writeBack.written(old, 0, 4 * KIB);
  writeBack.written(next, 0, 4 * KIB);
  t.same(ranges(old), [[0, 4]]);
  old.held.shift()!.finish();
  loop.turn();
  t.same(ranges(next), []);
  t.end();
});

t.test('a sync that begins takes over what waits', t => {
  const file = heldFile();
  const writeBack = new WriteBack(() => t.fail('nothing fails'));
  writeBack.written(file, 0, 900 * KIB);
  writeBack.syncBegins();
  writeBack.written(file, 900 * KIB, 1200 * KIB);
  t.same(ranges(file), []);
  t.end();
});

t.test('a failure is told of, and nothing follows it by itself', t => {
  const loop = new MemoryLoop();
  const file = heldFile(loop);
  const errors: number[] = [];
  const writeBack = new WriteBack(errno => errors.push(errno));
  writeBack.written(file, 0, 4 * MIB);
  file.held.shift()!.finish(-EIO);
  loop.turn();
  t.same([errors, file.held.length], [[EIO], 0]);
  t.end();
});

t.test('stopping waits for the one under way', async t => {
  const loop = new MemoryLoop();
  const file = heldFile(loop);
  const writeBack = new WriteBack(() => t.fail('nothing fails'));
  writeBack.written(file, 0, 4 * MIB);
  let stopped = false;
  const end = writeBack.stop().then(() => {
    stopped = true;
  });
  await new Promise(resolve => setImmediate(resolve));
  t.notOk(stopped);
  file.letGo();
  loop.turn();
  await end;
  t.equal(file.counts.writeBack, 1);
  await writeBack.stop();
});

t.test(
  'the log writes back what goes through the page cache, whole pages of it, and what fails there ends it',
  async t => {
    const rig = new LogRig({ segmentBytes: 16 * MIB });
    await rig.settle();
    for (const file of rig.files) file.hold.add('writeBack');
    while (rig.log.appendedEnd < MIB + 64 * KIB) rig.write(16, 1);
    await rig.settle();
    const file = rig.files.find(candidate => candidate.held.length > 0)!;
    const whole = rig.log.appendedEnd - (rig.log.appendedEnd % 4096);
    t.same(ranges(file), [[0, whole / KIB]]);
    rig.take();
    file.held[0].finish(-EIO);
    await rig.settle();
    t.same(rig.take(), [`failed ${EIO}`], 'a sync would have found it later');
  },
);

t.test('durable writes leave nothing to write back', async t => {
  const rig = new LogRig({ segmentBytes: 16 * MIB });
  await rig.settle();
  while (rig.log.appendedEnd < 3 * MIB) {
    rig.write(16, 1, undefined, true);
    await rig.settle();
  }
  t.equal(
    rig.files.reduce((sum, file) => sum + file.counts.writeBack, 0),
    0,
  );
});
