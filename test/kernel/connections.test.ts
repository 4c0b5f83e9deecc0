/** Four connections at once, each with a processor of its own: the rig under QEMU, slow, so little is done here. */
import { join } from 'node:path';
import t from 'tap';
import { temporaryDirectory } from '../support/nbd-programs.ts';
import { guestValues, prepareMultiprocessorRig, runGuestOk, skipWithoutMultiprocessorRig } from '../support/rig.ts';
import { startServer } from '../support/server-process.ts';

t.setTimeout(300_000);

t.test(
  'four connections share the load, verify, and see what each other wrote',
  {
    skip: skipWithoutMultiprocessorRig() || (await prepareMultiprocessorRig()),
    timeout: 230_000,
  },
  async t => {
    const directory = temporaryDirectory(t);
    const server = await startServer(t, {
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes: 64 * 2 ** 20 }],
      tcp: true,
    });
    const output = await runGuestOk({
      script: 'connections.sh',
      args: [String(server.port), 'disk', '4'],
      processors: 4,
      limitSeconds: 200,
    });
    const values = guestValues(output);
    t.equal(values.get('queues'), '4');
    t.equal(values.get('connections'), '4');
    t.equal(values.get('verified'), 'yes');
    t.equal(values.get('stale'), '0');
    t.equal(values.get('complaints'), '0', output);
  },
);
