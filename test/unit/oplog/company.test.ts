/** How long a batch waits for company: a rule about counts and times, and what the log makes of it. */
import t from 'tap';
import type { TurnTask } from '../../../src/base/io.ts';
import { KIB } from '../../../src/base/units.ts';
import { Company } from '../../../src/oplog/company.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { LogRig } from './log-rig.ts';

/** Somebody who is told, and how long a wait was asked for. */
function lonely() {
  const loop = new MemoryLoop();
  let micros: number | undefined;
  const turns = {
    afterMicros(_task: TurnTask, asked: number) {
      t.equal(micros, undefined, 'one wait at a time');
      micros = asked;
    },
    cancelAfterMicros() {
      micros = undefined;
    },
  };
  const company = new Company({ turns, clock: loop }, () => {});
  const write = (tookMs: number, answered: number, gathered: number) => {
    company.writeBegan();
    loop.advance(tookMs);
    company.writeEnded(answered, gathered);
  };
  return { company, write, micros: () => micros };
}

t.test('a batch waits for as many as were answered or had gathered, and for a part of a write at the most', t => {
  const { company, write, micros } = lonely();
  t.notOk(company.holdsBack(1), 'nobody is known yet');
  write(0.3, 12, 4);
  t.notOk(company.holdsBack(16), 'all are there');
  t.ok(company.holdsBack(3));
  t.equal(Math.round(micros()!), 100, 'a third of 300 µs');
  t.ok(company.holdsBack(15), 'still, and without another timer');
  t.notOk(company.holdsBack(16));
  company.batchLeaves(16);
  t.equal(micros(), undefined, 'the timer is gone');
  t.end();
});

t.test('one client alone is never waited for, nor is anybody on a disk that is quick enough', t => {
  const alone = lonely();
  alone.write(0.3, 1, 0);
  t.notOk(alone.company.holdsBack(1));
  const quick = lonely();
  quick.write(0.02, 8, 8);
  t.notOk(quick.company.holdsBack(1));
  t.end();
});

t.test('waits that do not pay come to an end', t => {
  const { company, write } = lonely();
  let waits = 0;
  for (let round = 0; round < 100; round++) {
    write(0.3, 12, 4);
    if (company.holdsBack(8)) waits++;
    company.batchLeaves(8);
  }
  t.ok(waits > 0 && waits < 20, `${waits} waits`);
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
