/**
 * A file system's life under the kernel's own client: made, filled, verified, detached, attached again, compared, trimmed,
 * checked. The space of the volume rises with the files and falls with the trim, measured on the server.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { temporaryDirectory, waitUntil } from '../support/nbd-programs.ts';
import { guestValues, runGuestOk, skipWithoutRig } from '../support/rig.ts';
import { allocatedBytes, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
/** Files of 48 and 64 MiB are removed before the trim. */
const removedBytes = 112 * MIB;

/**
 * What the volume takes once it no longer changes: data moves to mass storage, and trims take effect there, behind the
 * client's back. `plausible` keeps it from being taken before that has begun.
 */
async function settledAllocation(
  dataDirectory: string,
  plausible: (bytes: number) => boolean,
  timeoutMs: number,
): Promise<number> {
  const end = performance.now() + timeoutMs;
  let last = -1;
  let same = 0;
  for (;;) {
    const bytes = await allocatedBytes(dataDirectory, 'disk');
    same = bytes === last ? same + 1 : 0;
    last = bytes;
    if ((same >= 3 && plausible(bytes)) || performance.now() > end) return bytes;
    await new Promise(resolve => setTimeout(resolve, 500));
  }
}

t.setTimeout(850_000);

for (const type of ['ext4', 'xfs'] as const) {
  t.test(
    `${type} on one TCP connection: fill, verify, compare, trim, check`,
    {
      skip: skipWithoutRig(),
      timeout: 400_000,
    },
    async t => {
      const directory = temporaryDirectory(t);
      const share = join(directory, 'share');
      mkdirSync(share);
      const sizeBytes = 400 * MIB;
      const dataDirectory = join(directory, 'data');
      const server = await startServer(t, {
        dataDirectory,
        volumes: [{ name: 'disk', sizeBytes }],
        tcp: true,
        // A small log, so that most of the data has to move on to mass storage.
        sledgeArguments: ['--log', '64MiB'],
      });
      const guest = runGuestOk({
        script: 'file-system.sh',
        args: [String(server.port), 'disk', type, share],
        share,
        // Half a minute alone; beside other tests on a slow machine several times that.
        limitSeconds: 240,
      });
      // Awaited below: until then its failure is looked at here.
      let ended = false;
      guest.then(
        () => {
          ended = true;
        },
        () => {
          ended = true;
        },
      );
      await waitUntil(() => ended || existsSync(join(share, 'filled')), 300_000, 'the guest to fill the file system');
      const filled = ended ? 0 : await settledAllocation(dataDirectory, bytes => bytes >= removedBytes, 20_000);
      writeFileSync(join(share, 'measured'), '');
      const values = guestValues(await guest);

      t.equal(values.get('size'), String(sizeBytes));
      t.ok(Number(values.get('discard')) > 0, 'the kernel knows that it may discard');
      t.equal(values.get('cache'), 'write back', 'the kernel sends flushes');
      t.equal(values.get('compared'), 'yes');
      t.equal(values.get('clean'), 'yes');
      t.equal(values.get('complaints'), '0');
      const trimmed = await settledAllocation(dataDirectory, bytes => bytes <= filled - removedBytes / 2, 20_000);
      t.comment(`allocated: ${Math.round(filled / MIB)} MiB filled, ${Math.round(trimmed / MIB)} MiB after fstrim`);
      t.comment(
        `files took ${Math.round(Number(values.get('used')) / MIB)} MiB; ${values.get('trimmed')} bytes were trimmed`,
      );
      t.ok(filled >= removedBytes, 'the volume takes the space of what was written');
      t.ok(trimmed <= filled - removedBytes / 2, 'trimmed space is given back');
    },
  );
}
