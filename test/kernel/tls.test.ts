/** The kernel's client over TLS (nbd-client encrypts in front of the kernel), and turned away without it. */
import { join } from 'node:path';
import t from 'tap';
import { makeCertificates } from '../support/nbd-certificates.ts';
import { skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { guestValues, runGuestOk, skipWithoutRig } from '../support/rig.ts';
import { startServer } from '../support/server-process.ts';

t.setTimeout(180_000);

t.test(
  'ext4 over TLS with certificates; plaintext is refused',
  {
    skip: skipWithoutRig() || skipUnlessInstalled('certtool'),
    timeout: 175_000,
  },
  async t => {
    const directory = temporaryDirectory(t);
    const { directory: certificates } = await makeCertificates(join(directory, 'pki'));
    const sizeBytes = 128 * 2 ** 20;
    const server = await startServer(t, {
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes }],
      tcp: true,
      tls: { certificates, required: true },
    });
    const output = await runGuestOk({ script: 'tls.sh', args: [String(server.port), 'disk', certificates] });
    const values = guestValues(output);
    t.equal(values.get('size'), String(sizeBytes));
    t.equal(values.get('compared'), 'yes');
    t.equal(values.get('plaintext'), 'refused');
    t.equal(values.get('complaints'), '0');
  },
);
