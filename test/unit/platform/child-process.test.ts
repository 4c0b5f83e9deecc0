/** Starting a process in the background. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { startInBackground } from '../../../src/platform/child-process.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

t.test('the line that a process says is given, and what it prints is in its log', async t => {
  const log = join(temporaryDirectory(t), 'log');
  const env = { WORD: 'ready', NOTIFY_SOCKET: '/run/notify' };
  const script = 'echo printed; test -z "$NOTIFY_SOCKET" && echo "$WORD" >&3';
  t.equal(await startInBackground('/bin/sh', ['-c', script], env, log), 'ready', 'nobody to notify');
  t.equal(readFileSync(log, 'utf8'), 'printed\n');
});

t.test('a process that ends without a word is an error that names its log', async t => {
  const log = join(temporaryDirectory(t), 'log');
  const failed = startInBackground('/bin/sh', ['-c', 'exit 7'], {}, log);
  await t.rejects(failed, { code: 'io', message: /ended with 7/, hint: new RegExp(log) });
});
