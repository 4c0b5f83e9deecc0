/** The kernel's own tool, as far as it goes without a kernel: asking for the list of exports. */
import { join } from 'node:path';
import t from 'tap';
import { run, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;

t.test('nbd-client -l lists the volumes', { skip: skipUnlessInstalled('nbd-client') }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [
      { name: 'alpha', sizeBytes: 16 * MIB },
      { name: 'beta', sizeBytes: 16 * MIB },
    ],
    tcp: true,
  });
  const listed = await run('nbd-client', ['-l', '127.0.0.1', String(server.port)]);
  t.equal(listed.code, 0, listed.stderr);
  const lines = listed.stdout.split('\n').map(line => line.trim());
  t.ok(lines.includes('alpha'), listed.stdout);
  t.ok(lines.includes('beta'), listed.stdout);
});
