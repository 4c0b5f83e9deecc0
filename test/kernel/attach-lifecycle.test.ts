/**
 * `sledge attach` and `sledge detach` as a user meets them: what is refused and why, a supervisor that dies and another one
 * that takes over, TLS, and that nothing is left behind, however often.
 *
 * SLEDGE_TEST_LONG=1 attaches and detaches a hundred times instead of five.
 */
import { existsSync, mkdirSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCertificates } from '../support/nbd-certificates.ts';
import { skipUnlessInstalled, temporaryDirectory, waitUntil } from '../support/nbd-programs.ts';
import { guestValues, runGuestOk, skipWithoutRig } from '../support/rig.ts';
import { skipOnStandIn, sledgeJson, sledgeProgram, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const isLong = process.env['SLEDGE_TEST_LONG'] === '1';
const times = isLong ? 100 : 5;
const repeatsMs = times * 30_000 + 150_000;
const skip =
  skipWithoutRig() || skipUnlessInstalled('python3', 'certtool', 'setpriv', 'socat', 'nbdkit') || skipOnStandIn();

t.setTimeout(isLong ? 3_900_000 : 900_000);

t.test('refusals, adoption, TLS', { skip, timeout: 430_000 }, async t => {
  const directory = temporaryDirectory(t);
  const share = join(directory, 'share');
  mkdirSync(share);
  const { directory: certificates } = await makeCertificates(join(directory, 'certificates'));
  const volumes = [{ name: 'disk', sizeBytes: 128 * MIB }];
  const plain = { dataDirectory: join(directory, 'plain'), volumes };
  const secure = { dataDirectory: join(directory, 'secure'), volumes, tls: { certificates, required: true } };
  const plainServer = await startServer(t, { ...plain, tcp: true });
  const secureServer = await startServer(t, { ...secure, tcp: true });
  const [plainPort, securePort] = [plainServer.port!, secureServer.port!];
  const guest = runGuestOk({
    script: 'attach-lifecycle.py',
    args: [sledgeProgram, String(plainPort), String(securePort), certificates, 'disk', share],
    share,
    limitSeconds: 400,
  });
  let ended = false;
  guest.then(
    () => {
      ended = true;
    },
    () => {
      ended = true;
    },
  );
  const event = (name: string) => waitUntil(() => ended || existsSync(join(share, name)), 200_000, name);
  await event('orphaned');
  await plainServer.kill();
  await startServer(t, { ...plain, tcp: { port: plainPort } });
  writeFileSync(join(share, 'replaced-1'), '');
  await event('encrypted');
  await secureServer.kill();
  await startServer(t, { ...secure, tcp: { port: securePort } });
  writeFileSync(join(share, 'replaced-2'), '');
  await event('verified');
  if (!ended) await sledgeJson(secure.dataDirectory, 'volume', 'grow', 'disk', '--size', String(192 * MIB));
  const values = guestValues(await guest);

  const expected: [string, string][] = [
    ['no_driver', 'no-nbd-driver'],
    ['no_server', 'connection-failed'],
    ['no_volume', 'volume-unknown'],
    ['tls_required', 'not-supported'],
    ['not_root', 'not-permitted'],
    ['busy', 'device-in-use'],
    ['foreign', 'not-attached'],
    ['nothing', 'not-attached'],
    ['nothing_to_adopt', 'not-attached'],
    ['left_by_refusals', '0'],
    ['twice', 'already-attached'],
    ['mounted', 'device-in-use'],
    ['supervised', 'False'],
    ['works_alone', 'True'],
    ['waits_alone', 'True'],
    ['adopted', 'True'],
    ['goes_on', 'True'],
    ['adopt_again', 'nothing to adopt'],
    ['left_by_adoption', '0'],
    ['wrong_name', 'connection-failed'],
    ['unit', 'True'],
    ['verified', 'True'],
    ['verified_again', 'True'],
    ['encrypted_reconnects', '1'],
    ['grown', String(64 * MIB)],
    ['unit_left', 'False'],
    ['left_by_tls', '0'],
    ['kernel_errors', '0'],
    ['over_unix', 'True'],
    ['fails', 'True'],
    ['last_error', 'True'],
    ['both_reconnected', 'True'],
    ['works_again', 'True'],
    ['waits', 'True'],
    ['told', 'True'],
    ['left_by_abandoned', '0'],
  ];
  for (const [key, value] of expected) t.equal(values.get(key), value, key);
  const failedAfter = Number(values.get('failed_after'));
  t.ok(failedAfter >= 1.5 && failedAfter <= 6, `with --timeout 2, I/O failed after ${failedAfter} s`);
});

t.test(`attached and detached ${times} times, nothing is left`, { skip, timeout: repeatsMs }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
    tcp: true,
  });
  // Its files come and go with its log.
  const sockets = () =>
    readdirSync(`/proc/${server.pid}/fd`).filter(fd => isSocket(`/proc/${server.pid}/fd/${fd}`)).length;
  const before = sockets();
  const output = await runGuestOk({
    script: 'attach-repeat.py',
    args: [sledgeProgram, String(server.port), 'disk', String(times)],
    limitSeconds: times * 30 + 100,
  });
  const values = guestValues(output);
  t.equal(values.get('turns'), String(times));
  t.equal(values.get('devices'), '/dev/nbd0', 'the same device each time');
  t.equal(values.get('left'), '0', 'devices, supervisors, records, connections');
  t.equal(values.get('files_left'), '0', 'and no logs');
  t.equal(values.get('read_only'), '1', 'with --read-only the kernel refuses writes');
  await waitUntil(() => sockets() <= before, 5000, 'the server to close its connections');
});

function isSocket(path: string): boolean {
  try {
    return readlinkSync(path).startsWith('socket:');
  } catch {
    return false;
  }
}
