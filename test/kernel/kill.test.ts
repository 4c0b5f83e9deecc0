/**
 * kill -9 of the server under the kernel's client, twice: while four writers stamp the raw device, and while a file
 * system is written. After a restart and a new attach every acknowledged write and every synced file is there.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { skipUnlessInstalled, temporaryDirectory, waitUntil } from '../support/nbd-programs.ts';
import { guestValues, runGuestOk, skipWithoutRig } from '../support/rig.ts';
import { startServer } from '../support/server-process.ts';

t.setTimeout(190_000);

t.test(
  'kill -9 and restart lose no acknowledged write and no synced file',
  {
    skip: skipWithoutRig() || skipUnlessInstalled('python3'),
    timeout: 180_000,
  },
  async t => {
    const directory = temporaryDirectory(t);
    const share = join(directory, 'share');
    mkdirSync(share);
    const options = {
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes: 128 * 2 ** 20 }],
    };
    let server = await startServer(t, { ...options, tcp: true });
    const port = server.port!;
    const guest = runGuestOk({ script: 'kill.py', args: [String(port), 'disk', share], share, limitSeconds: 150 });
    let ended = false;
    guest.then(
      () => {
        ended = true;
      },
      () => {
        ended = true;
      },
    );
    for (const [event, again] of [
      ['writing', 'again-1'],
      ['filing', 'again-2'],
    ]) {
      await waitUntil(() => ended || existsSync(join(share, event)), 115_000, `the guest's ${event}`);
      if (ended) break;
      await server.kill();
      // Long enough for the guest's requests to fail: it has given the device 3 s.
      await new Promise(resolve => setTimeout(resolve, 1000));
      server = await startServer(t, { ...options, tcp: { port } });
      writeFileSync(join(share, again), '');
    }
    const values = guestValues(await guest);
    t.equal(values.get('writers_stopped'), '4', 'the kill came while all were writing');
    t.ok(Number(values.get('writes')) > 200, `${values.get('writes')} writes before the kill`);
    t.equal(values.get('wrong_blocks'), '0');
    t.ok(Number(values.get('files')) > 10, `${values.get('files')} files before the kill`);
    t.equal(values.get('wrong_files'), '0');
    t.equal(values.get('fsck'), '0');
  },
);
