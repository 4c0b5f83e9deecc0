/** The scripts of the checkout, as far as they can be tried without building it anew. */
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { projectDirectory, run } from '../support/nbd-programs.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const script = (name: string) => join(projectDirectory, 'scripts', name);

t.test('sledge runs from any directory and through a symbolic link', async t => {
  const directory = temporaryDirectory(t);
  const elsewhere = join(directory, 'else where');
  mkdirSync(elsewhere);
  const link = join(directory, 'sledge-link');
  symlinkSync(script('sledge'), link);
  for (const program of [script('sledge'), link]) {
    const result = await run(program, ['--version'], { directory: elsewhere });
    t.equal(result.code, 0, result.stderr);
    t.match(result.stdout, /^sledge \d/);
  }
});

t.test('exit codes come through: 0, 1 and 2', async t => {
  t.equal((await run(script('sledge'), ['help'])).code, 0);
  t.equal((await run(script('sledge'), ['status', '--data', '/nonexistent/sledge'])).code, 1);
  t.equal((await run(script('sledge'), ['frobnicate'])).code, 2);
});

t.test('a reader that closes the pipe early is no error', async t => {
  const result = await run('bash', ['-c', `set -o pipefail; ${script('sledge')} serve --help | head -n 1`]);
  t.equal(result.code, 0, result.stderr);
  t.match(result.stdout, /^Usage: sledge serve/);
});

t.test('serve shows its help, with that of the command, and starts nothing', async t => {
  const result = await run(script('serve'), ['--help']);
  t.equal(result.code, 0, result.stderr);
  t.match(result.stdout, /^Usage: scripts\/serve/);
  t.match(result.stdout, /--volume NAME:SIZE/);
});

t.test('scripts refuse arguments that they do not know', async t => {
  for (const [name, ...args] of [
    ['setup', '--frob'],
    ['setup', '--packages'],
    ['test', '--frob'],
    ['test', '--only'],
    ['test', '--io=abacus'],
    ['sim', '--frob'],
    ['sim', '--minutes=soon'],
    ['sim', '--seed=1', '--minutes=1'],
  ] as const) {
    const result = await run(script(name), args);
    t.equal(result.code, 2, `${name} ${args.join(' ')}`);
    t.not(result.stderr, '');
  }
});

t.test('setup, test and sim show their help', async t => {
  for (const name of ['setup', 'test', 'sim']) {
    const result = await run(script(name), ['--help']);
    t.equal(result.code, 0);
    t.match(result.stdout, new RegExp(`^Usage: scripts/${name} `));
  }
});
