/** The list of problems and the rates of the status page. */
import t from 'tap';
import type { Problem } from '../../../src/admin/node-control.ts';
import { columnBytes, laggingSyncMs } from '../../../src/base/limits.ts';
import { GIB, MIB } from '../../../src/base/units.ts';
import type { CommandSnapshot } from '../../../src/nbd-server/statistics.ts';
import { asideProblems, ProblemList } from '../../../src/node/problem-list.ts';
import { RateSampler } from '../../../src/node/rate-sampler.ts';
import { refuseTooManyFiles } from '../../../src/node/segment-files.ts';
import { Device } from '../../../src/sled/device.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { ControlledFile } from '../oplog/controlled-file.ts';

const problem = (what: string, severity: Problem['severity'] = 'error'): Problem => ({
  severity,
  what,
  why: 'because',
  todo: 'this',
});

t.test('a problem is listed once, errors first, until it is cleared', t => {
  const list = new ProblemList();
  list.add('a', problem('slow', 'warning'));
  list.add('b', problem('broken'), 'vol0');
  list.add('b', problem('still broken'), 'vol0');
  t.same(
    list.list().map(item => item.what),
    ['still broken', 'slow'],
  );
  t.same(
    list.ofVolume('vol0').map(item => item.what),
    ['still broken'],
  );
  t.same(list.ofVolume('other'), []);
  list.clear('b');
  list.clear('never there');
  t.same(
    list.list().map(item => item.what),
    ['slow'],
  );
  t.same(list.ofVolume('vol0'), []);
  t.end();
});

t.test('a device that goes bad block by block does not make the list endless', t => {
  const list = new ProblemList();
  for (let i = 0; i < 10_000; i++) list.add(`block ${i}`, problem(`block ${i}`), 'vol0');
  t.equal(list.list().length, 51);
  t.match(list.list()[50].what, /9950 further/);
  for (let i = 0; i < 9960; i++) list.clear(`block ${i}`);
  t.equal(list.list().length, 40, 'nothing is left out any more');
  t.equal(list.ofVolume('vol0').length, 40);
  t.end();
});

t.test('a log that would leave no files for connections is refused', t => {
  refuseTooManyFiles(8 * GIB, 4096);
  refuseTooManyFiles(GIB, 128 + 256);
  t.throws(() => refuseTooManyFiles(GIB, 128 + 255), {
    code: 'usage',
    message: 'a log of 1 GiB has up to 128 files open, and this process may have 383',
  });
  t.end();
});

t.test('devices that are aside are problems while they are', t => {
  const loop = new MemoryLoop();
  const deviceOf = (number: number) => {
    const superblock = { node: '0'.repeat(32), device: '1'.repeat(32), number, columnBytes, firstColumn: MIB };
    return new Device(`/d${number}`, new ControlledFile(loop, MIB + columnBytes), {
      ...superblock,
      columnCount: 1,
      serial: 1,
    });
  };
  const [well, slow, failing, alone] = [0, 1, 2, 3].map(deviceOf);
  slow.slownessMs = 2 * laggingSyncMs;
  failing.isFailing = true;
  alone.isFailing = true;
  for (const device of [slow, failing]) device.isAside = true;
  const problems = asideProblems([well, slow, failing, alone]);
  t.same(
    problems.map(({ severity, what, why }) => [severity, what.split(' ')[0], why.split(',')[0]]),
    [
      ['error', '/d2', 'it cannot be written'],
      ['warning', '/d1', 'it has taken long to write or sync lately'],
    ],
  );
  for (const { todo } of problems) t.ok(todo.length > 0);
  t.end();
});

t.test('rates are over the last seconds, not since the start', t => {
  const loop = new MemoryLoop();
  let answered = 0;
  const snapshot = (): CommandSnapshot[] => [
    {
      command: 'read',
      started: answered,
      answered,
      failed: 0,
      bytes: answered * 4096,
      latencyUs: { p50: 0, p95: 0, p99: 0, p999: 0, max: 0 },
    } as CommandSnapshot,
  ];
  const sampler = new RateSampler(loop, snapshot);
  t.match(sampler.commands(), [{ perSecond: 0 }], 'before anything was sampled');
  sampler.start();
  const run = (seconds: number, perSecond: number) => {
    for (let i = 0; i < seconds * 10; i++) {
      answered += perSecond / 10;
      loop.advance(100);
    }
  };
  run(30, 100);
  const steady = sampler.commands()[0];
  t.ok(Math.abs(steady.perSecond - 100) < 5, `${steady.perSecond}`);
  t.ok(Math.abs(steady.bytesPerSecond - 409_600) < 20_000);
  t.equal(steady.count, answered);
  run(15, 0);
  t.equal(sampler.commands()[0].perSecond, 0, 'what is long ago does not count');
  sampler.stop();
  t.equal(loop.timerCount, 0);
  t.end();
});
