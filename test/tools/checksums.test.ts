/** `scripts/bench/checksums`: a very short run from beginning to end. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Cost } from '../../scripts/bench/checksums-report.ts';
import { projectDirectory, type RunResult, run, runOk, skipUnlessInstalled } from '../support/nbd-programs.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** Not through the script, which waits for other measurements. */
const program = join(projectDirectory, 'dist', 'scripts', 'bench', 'checksums.js');

function checksums(...args: readonly string[]): Promise<RunResult> {
  return run(process.execPath, [program, ...args], { timeoutMs: 60_000 });
}

t.setTimeout(120_000);

t.test('help and wrong use', async t => {
  const help = await checksums('--help');
  t.equal(help.code, 0);
  t.match(help.stdout, /^Usage: scripts\/bench\/checksums/);
  const wrong = await checksums('--rows', 'frob');
  t.equal(wrong.code, 2);
  t.match(wrong.stderr, /no row frob/);
});

t.test('what was written without checksums is read without them', { skip: skipUnlessInstalled('cc') }, async t => {
  await runOk(join(projectDirectory, 'scripts', 'bench', 'build-load'), []);
  const directory = temporaryDirectory(t);
  const short = ['--rows', 'miss-16', '--seconds', '0.1', '--repeat', '1', '--size', '128MiB'];
  const result = await checksums(...short, '--json', '--directory', directory);
  t.equal(result.code, 0, result.stderr);
  const { costs } = JSON.parse(result.stdout) as { readonly costs: readonly Cost[] };
  t.same(
    costs.map(cost => cost.row),
    ['miss-16'],
  );
  for (const { row, on, off, rateRatio } of costs) {
    t.ok(on.median.rate > 0 && off.median.rate > 0, row);
    t.equal(on.median.errors + off.median.errors, 0, row);
    t.equal(rateRatio, on.median.rate / off.median.rate, row);
  }
  t.same(readdirSync(directory), []);
});
