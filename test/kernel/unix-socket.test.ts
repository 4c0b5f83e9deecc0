/**
 * The kernel's client and a server whose only address is a Unix socket: a relay on this host leads from TCP, the only
 * wire to the guest, to the socket.
 */
import { join } from 'node:path';
import t from 'tap';
import { skipUnlessInstalled, startProgram, temporaryDirectory } from '../support/nbd-programs.ts';
import { guestValues, runGuestOk, skipWithoutRig } from '../support/rig.ts';
import { freePort, startServer } from '../support/server-process.ts';

t.setTimeout(180_000);

t.test(
  'attach to a Unix socket by way of a relay: verify, discard',
  {
    skip: skipWithoutRig() || skipUnlessInstalled('socat'),
    timeout: 175_000,
  },
  async t => {
    const directory = temporaryDirectory(t);
    const sizeBytes = 64 * 2 ** 20;
    const unix = join(directory, 'socket');
    await startServer(t, { dataDirectory: join(directory, 'data'), volumes: [{ name: 'disk', sizeBytes }], unix });
    const port = await freePort();
    const relay = startProgram('socat', [
      `TCP-LISTEN:${port},bind=127.0.0.1,fork,reuseaddr,nodelay`,
      `UNIX-CONNECT:${unix}`,
    ]);
    t.teardown(() => {
      relay.kill('SIGTERM');
    });
    const values = guestValues(await runGuestOk({ script: 'unix-socket.sh', args: [String(port), 'disk'] }));
    t.equal(values.get('size'), String(sizeBytes));
    t.equal(values.get('verified'), 'yes');
    t.equal(values.get('discarded'), '0', 'nothing but zeroes after a discard');
    t.equal(values.get('complaints'), '0');
  },
);
