/** What of a device's supervisor needs no kernel: the wait for a server. */
import t from 'tap';
import { createLog } from '../../../src/admin/log.ts';
import { type ErrorCode, SledgeError } from '../../../src/base/errors.ts';
import { whenServed } from '../../../src/bin/attach-supervisor.ts';

const log = createLog('text', 'error');

/** Fails in these ways, and then succeeds. */
function failing(...codes: ErrorCode[]): () => Promise<string> {
  return async () => {
    const code = codes.shift();
    if (code !== undefined) throw new SledgeError(code, 'a test');
    return 'attached';
  };
}

t.test('a service waits for a server that is not there; nobody else does', async t => {
  const { signal } = new AbortController();
  const absent = ['not-running', 'connection-failed', 'shutting-down'] as const;
  t.equal(await whenServed({ isService: true, log, signal }, failing(...absent)), 'attached');
  for (const code of absent) {
    await t.rejects(whenServed({ isService: false, log, signal }, failing(code)), { code });
  }
  await t.rejects(whenServed({ isService: true, log, signal }, failing('volume-unknown')), { code: 'volume-unknown' });
});

t.test('a signal ends the wait', async t => {
  const controller = new AbortController();
  let tries = 0;
  const waiting = whenServed({ isService: true, log, signal: controller.signal }, async () => {
    // Before the pause, and for ever if nobody looked.
    if (++tries === 3) controller.abort(new SledgeError('cancelled', 'stopped'));
    throw new SledgeError('connection-failed', 'refused');
  });
  await t.rejects(waiting, { code: 'cancelled' });
  t.equal(tries, 3);
});
