/** How long a batch waits for company: a rule about counts and times, and what the log makes of it. */
import t from 'tap';
import { KIB } from '../../../src/base/units.ts';
import { Company } from '../../../src/oplog/company.ts';
import { LogRig } from './log-rig.ts';

t.test('a batch waits for as many as were answered or had gathered, and for a part of a write at the most', t => {
  const company = new Company();
  t.equal(company.waitFor(1), 0, 'nobody is known yet');
  company.writeBegan(0);
  company.writeEnded(0.3, 12, 4);
  t.equal(company.waitFor(16), 0, 'all are there');
  t.equal(Math.round(company.waitFor(3)), 100, 'a third of 300 µs');
  t.ok(company.isWaiting);
  t.notOk(company.isComplete(15));
  t.ok(company.isComplete(16));
  t.equal(company.waitFor(3), 0, 'not twice');
  company.waited(16);
  t.notOk(company.isWaiting);
  t.end();
});

t.test('one client alone is never waited for, nor is anybody on a disk that is quick enough', t => {
  const company = new Company();
  company.writeBegan(0);
  company.writeEnded(0.3, 1, 0);
  t.equal(company.waitFor(1), 0);
  const quick = new Company();
  quick.writeBegan(0);
  quick.writeEnded(0.02, 8, 8);
  t.equal(quick.waitFor(1), 0);
  t.end();
});

t.test('waits that do not pay come to an end', t => {
  const company = new Company();
  let waits = 0;
  for (let round = 0; round < 100; round++) {
    company.writeBegan(0);
    company.writeEnded(0.3, 12, 4);
    if (company.waitFor(8) === 0) continue;
    waits++;
    company.waited(8);
  }
  t.ok(waits < 20, `${waits} waits`);
  t.end();
});

t.test('the log writes a batch when its company has come, without waiting for the time to pass', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  const durableWrites = () => rig.files.reduce((sum, file) => sum + file.counts.writeDurable, 0);
  for (const file of rig.files) file.hold.add('writeDurable');
  rig.write(1, 1, 'a', true);
  rig.write(1, 2, 'b', true);
  rig.loop.turn();
  t.equal(durableWrites(), 1);
  // The disk takes its time: 0.3 ms of it.
  rig.loop.advance(0.3);
  for (const file of rig.files) file.letGo();
  await rig.settle();
  rig.take();
  rig.write(1, 3, 'c', true);
  rig.loop.turn();
  const waiting = durableWrites();
  rig.write(1, 4, 'd', true);
  await rig.settle();
  t.equal(waiting, 1, 'c waits for d');
  t.equal(durableWrites(), 2, 'and both go together');
  t.same(rig.take(), ['commit 3', 'c 0', 'commit 4', 'd 0', 'batch']);
  rig.write(1, 5, 'e', true);
  await rig.settle();
  t.same(rig.take(), ['commit 5', 'e 0', 'batch'], 'whoever comes alone waits a little, not for ever');
});

t.test('a batch that has to leave while it waits, since its segment is full, ends the wait', async t => {
  const rig = new LogRig({ segmentBytes: 64 * KIB });
  await rig.settle();
  for (const file of rig.files) file.hold.add('writeDurable');
  rig.write(1, 1, 'a', true);
  rig.write(1, 2, 'b', true);
  rig.loop.turn();
  rig.loop.advance(0.3);
  for (const file of rig.files) file.letGo();
  await rig.settle();
  rig.write(1, 3, 'c', true);
  rig.loop.turn();
  const durableWrites = () => rig.files.reduce((sum, file) => sum + file.counts.writeDurable, 0);
  t.equal(durableWrites(), 1, 'c waits');
  t.ok(rig.write(14, 4, 'd', true), 'too long for the rest of the segment');
  t.equal(durableWrites(), 2, 'c has left');
  t.doesNotThrow(() => rig.loop.afterMicros({ runAtEndOfTurn() {} }), 'and no late task is left behind');
  rig.loop.cancelAfterMicros();
  await rig.settle();
  t.same(
    rig.take().filter(event => /^[cd] /.test(event)),
    ['c 0', 'd 0'],
  );
});
