/** Samples added up, and the page that shows the sums. */
import t from 'tap';
import type { Row } from '../../../../scripts/bench/nbd-rows.ts';
import { reportText } from '../../../../scripts/profiling/report.ts';
import type { Frame, Sample } from '../../../../scripts/profiling/sample.ts';
import { summarize } from '../../../../scripts/profiling/summary.ts';

const run: Frame = { kind: 'javascript', name: '#run', file: 'src/loop.ts', line: 10 };
const put: Frame = { kind: 'javascript', name: 'put', file: 'src/cache.ts', line: 20 };
const clear: Frame = { kind: 'kernel', name: 'clear_page_erms' };
const fault: Frame = { kind: 'kernel', name: 'exc_page_fault' };
const sync: Frame = { kind: 'kernel', name: 'ext4_sync_file' };

const sample = (seconds: number, frames: readonly Frame[], thread = 'main'): Sample => ({ thread, seconds, frames });

const samples = [
  sample(0.4, [clear, fault, put, run]),
  sample(0.1, [clear, fault, run]),
  sample(0.2, [put, put, run]),
  sample(0.1, [run]),
  sample(0.2, [sync], 'io_uring workers'),
];

t.test('each sample counts once among the categories and the threads', t => {
  const summary = summarize(samples, 2);
  t.equal(summary.sampleCount, 5);
  t.equal(summary.seconds, 2);
  t.equal(round(summary.busySeconds), 1);
  t.equal(round(summary.mainSeconds), 0.8);
  t.same(
    summary.groups.map(group => [
      group.name,
      round(group.seconds),
      group.parts.map(part => [part.name, round(part.seconds)]),
    ]),
    [
      [
        'kernel',
        0.7,
        [
          ['page faults', 0.5],
          ['syncs', 0.2],
        ],
      ],
      [
        'JavaScript',
        0.3,
        [
          ['src/cache.ts', 0.2],
          ['src/loop.ts', 0.1],
        ],
      ],
    ],
  );
  t.same(
    summary.threads.map(thread => [thread.name, round(thread.seconds)]),
    [
      ['main', 0.8],
      ['io_uring workers', 0.2],
    ],
  );
  t.end();
});

t.test('functions have their own time and that of what they called, once where they call themselves', t => {
  const { functions } = summarize(samples, 2);
  t.same(
    functions.map(({ frame, selfSeconds, totalSeconds }) => [frame.name, round(selfSeconds), round(totalSeconds)]),
    [
      ['clear_page_erms', 0.5, 0.5],
      ['put', 0.2, 0.6],
      ['ext4_sync_file', 0.2, 0.2],
      ['#run', 0.1, 0.8],
      ['exc_page_fault', 0, 0.5],
    ],
  );
  t.match(functions[0].caller, { frame: put, seconds: 0.4 }, 'for whom most of it was');
  t.equal(functions[1].caller, undefined, 'which is no question for JavaScript');
  t.equal(functions[2].caller, undefined);
  t.end();
});

t.test('nothing sampled, nothing shown', t => {
  t.match(summarize([], 2), { sampleCount: 0, busySeconds: 0, mainSeconds: 0, groups: [], functions: [], threads: [] });
  t.end();
});

const row: Row = {
  name: 'write-16',
  title: '4 KiB random write, depth 16',
  load: [],
  client: 'nbdload',
  unit: 'IOPS',
  writes: true,
  seconds: 5,
  classes: [],
  quick: false,
  gates: [],
};
const load = { rate: 75_000, p50Us: 136, p99Us: 840, p999Us: 6100, serverCpuUsPerOp: 12.5, errors: 0 };

function page(profileSamples: readonly Sample[]): string {
  return reportText({
    row,
    setting: 'a machine',
    sampler: '5 samples by perf in 2 s',
    blindSpots: ['Something is not seen.'],
    unwatched: load,
    watched: { ...load, rate: 60_000, serverCpuUsPerOp: 15 },
    summary: summarize(profileSamples, 2),
  });
}

t.test('the page: rates, then categories with their share of an operation, threads and functions', t => {
  const text = page(samples);
  t.match(text, /^profile of write-16: 4 KiB random write, depth 16\na machine\n/);
  t.match(text, /^not sampled +75000 IOPS +12\.50 µs +136 µs +840 µs +6\.1 ms$/m);
  t.match(text, /^sampled +60000 IOPS +15\.00 µs/m);
  t.match(text, /^5 samples by perf in 2 s\nSomething is not seen\.$/m);
  t.match(text, /^kernel +70\.0 % +8\.75\n {2}page faults +50\.0 % +6\.25\n {2}syncs +20\.0 % +2\.50$/m);
  t.match(text, /^idle: the main thread slept 60\.0 % of the time; all threads together used 0\.50 processors$/m);
  t.match(text, /^io_uring workers +20\.0 % +0\.10$/m);
  t.match(text, /^50\.0 % +50\.0 % +clear_page_erms +kernel, for put src\/cache\.ts:20 \(80\.0 %\)$/m);
  t.match(text, /^20\.0 % +60\.0 % +put +src\/cache\.ts:20$/m);
  t.match(text, /^20\.0 % +20\.0 % +ext4_sync_file +kernel$/m);
  t.end();
});

t.test('a native function that nobody calls much more than others names none of them', t => {
  const callers = Array.from({ length: 5 }, (_, i): Frame => ({ ...put, name: `put${i}` }));
  t.match(page(callers.map(caller => sample(0.1, [clear, caller]))), /clear_page_erms +kernel, for many$/m);
  t.match(page([sample(0.1, [clear, put])]), /clear_page_erms +kernel, for put src\/cache\.ts:20$/m);
  t.end();
});

t.test('files that take next to nothing are added up, and thirty functions are shown', t => {
  const many = Array.from({ length: 1000 }, (_, i) =>
    sample(0.001, [{ kind: 'javascript', name: `f${i}`, file: `src/${i}.ts`, line: 1 }]),
  );
  const text = page([...many, sample(1, [run])]);
  t.match(text, /^ {2}1000 more +50\.0 %/m);
  t.equal(text.match(/ src\/\d+\.ts:1$/gm)?.length, 29);
  t.end();
});

t.test('a page without a single sample is a page', t => {
  t.match(page([]), /^idle: the main thread slept 100\.0 % of the time/m);
  t.end();
});

function round(seconds: number): number {
  return Math.round(seconds * 1e6) / 1e6;
}
