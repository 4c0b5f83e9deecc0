/** `scripts/profile`: a short one from beginning to end, and what is left when it is interrupted. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Profile } from '../../scripts/profiling/report.ts';
import {
  findProgram,
  projectDirectory,
  type RunResult,
  run,
  runOk,
  skipUnlessInstalled,
  startProgram,
  waitUntil,
} from '../support/nbd-programs.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** Not through the script, which waits for other measurements. */
const program = join(projectDirectory, 'dist', 'scripts', 'profile.js');
const SHORT = ['--seconds', '0.5', '--size', '64MiB'];

function profile(...args: readonly string[]): Promise<RunResult> {
  return run(process.execPath, [program, ...args], { timeoutMs: 60_000 });
}

t.test('help names the rows', async t => {
  const result = await profile('--help');
  t.equal(result.code, 0);
  t.match(result.stdout, /^Usage: scripts\/profile ROW/);
  t.match(result.stdout, /^Rows: .*\bwrite-16\b/m);
});

t.test('wrong use is refused, with why', async t => {
  for (const [args, why] of [
    [[], /one row/],
    [['no-such-row'], /no row no-such-row/],
    [['write-1', '--frob'], /frob/],
    [['write-1', '--seconds', 'many'], /--seconds/],
    [['write-1', '--size', '1'], /--size/],
    [['write-1', '--sampler', 'gdb'], /--sampler/],
  ] as const) {
    const result = await profile(...args);
    t.equal(result.code, 2, args.join(' '));
    t.match(result.stderr, why);
  }
});

t.test('a profile, taken and drawn', { skip: skipUnlessInstalled('cc') }, async t => {
  await runOk(join(projectDirectory, 'scripts', 'bench', 'build-load'), []);

  t.test('by Node’s own profiler, as JSON', async t => {
    const directory = temporaryDirectory(t);
    const flame = join(temporaryDirectory(t), 'flame.svg');
    const options = ['--sampler', 'cpu-prof', '--json', '--flame', flame, '--directory', directory];
    const result = await profile('write-1', ...SHORT, ...options);
    t.equal(result.code, 0, result.stderr);
    const { row, unwatched, summary } = JSON.parse(result.stdout) as Profile;
    t.equal(row.name, 'write-1');
    t.ok(unwatched.rate > 0 && unwatched.serverCpuUsPerOp! >= 0);
    t.ok(summary.sampleCount > 10, `${summary.sampleCount} samples`);
    t.ok(summary.busySeconds > 0 && summary.busySeconds < 1, `${summary.busySeconds} s`);
    const enter = summary.functions.find(
      ({ frame }) => frame.kind === 'javascript' && /ring-loop\.ts$/.test(frame.file),
    );
    t.ok(enter, 'functions are in the sources, not in what was compiled of them');
    t.match(readFileSync(flame, 'utf8'), /^<svg.*ring-loop\.ts.*<\/svg>\n$/ms);
    t.same(readdirSync(directory), []);
  });

  t.test('by perf where it may be used, and else by what there is', async t => {
    const directory = temporaryDirectory(t);
    // Longer: beside another test perf gets few samples in half a second.
    const result = await profile('write-1', '--seconds', '2', '--size', '64MiB', '--directory', directory);
    t.equal(result.code, 0, result.stderr);
    t.match(result.stdout, /^profile of write-1: 4 KiB random write, depth 1\n/);
    t.match(result.stdout, /^JavaScript +\d+\.\d %/m);
    const byPerf = /samples by perf/.test(result.stdout);
    if (byPerf) t.match(result.stdout, /^kernel +\d+\.\d %/m);
    else t.match(result.stderr, /perf is not installed, or not allowed/);
    if (findProgram('perf') === undefined) t.notOk(byPerf);
    t.same(readdirSync(directory), []);
  });

  t.test('interrupted while the server runs, it leaves nothing behind', async t => {
    const directory = temporaryDirectory(t);
    const child = startProgram(process.execPath, [program, 'write-1', '--size', '64MiB', '--directory', directory]);
    t.teardown(() => void child.kill('SIGKILL'));
    const ended = new Promise<number | null>(resolve => child.once('exit', resolve));
    const socket = () => readdirSync(directory).find(name => existsSync(join(directory, name, 'socket')));
    await waitUntil(() => socket() !== undefined, 20_000, 'the server');
    child.kill('SIGINT');
    t.equal(await ended, 130);
    t.same(readdirSync(directory), []);
  });
});
