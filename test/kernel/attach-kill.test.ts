/**
 * An attached device under a file system, while its server is killed, stays away for a while, and is upgraded in place: no
 * I/O error, nothing lost, and no request waits longer than the server was away and a request's time is. Then the volume
 * grows under the mounted file system.
 *
 * SLEDGE_TEST_LONG=1 ends the server twenty times instead of three, and keeps it away for 30 s as well.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { skipUnlessInstalled, temporaryDirectory, waitUntil } from '../support/nbd-programs.ts';
import { guestValues, runGuestOk, skipWithoutRig } from '../support/rig.ts';
import {
  type RunningServer,
  skipOnStandIn,
  sledgeJson,
  sledgeProgram,
  startServer,
} from '../support/server-process.ts';

const MIB = 2 ** 20;
const isLong = process.env['SLEDGE_TEST_LONG'] === '1';
/** `sledge attach` sends a request again after this time. */
const REQUEST_TIMEOUT_MS = 4000;
const SHORT_MS = [500, 5000, 500];
const LONG_MS = [500, 5000, 30_000, 500, 5000, 500, 500];
const outagesMs = isLong ? [...LONG_MS, ...LONG_MS, ...LONG_MS].slice(0, 20) : SHORT_MS;
const volumeBytes = isLong ? 1024 * MIB : 256 * MIB;
const grownBytes = volumeBytes + 64 * MIB;
const limitMs = isLong ? 1_200_000 : 290_000;
/** Long enough for all of them, with the time that the load needs to go on in between. */
const loadSeconds = Math.round(outagesMs.reduce((sum, outage) => sum + outage + 6000, 10_000) / 1000);
const skip = skipWithoutRig() || skipUnlessInstalled('python3', 'resize2fs') || skipOnStandIn();

t.setTimeout(limitMs + 190_000);

t.test('a file system lives through kills, an upgrade and a growing volume', { skip, timeout: limitMs }, async t => {
  const directory = temporaryDirectory(t);
  const share = join(directory, 'share');
  mkdirSync(share);
  const dataDirectory = join(directory, 'data');
  const options = {
    dataDirectory,
    volumes: [{ name: 'disk', sizeBytes: volumeBytes }],
    sledgeArguments: ['--log', '64MiB'],
  };
  let server: RunningServer = await startServer(t, { ...options, tcp: true });
  const port = server.port!;
  const guest = runGuestOk({
    script: 'attach-kill.py',
    args: [sledgeProgram, String(port), 'disk', share, String(loadSeconds)],
    share,
    limitSeconds: loadSeconds * 2 + 110,
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
  const event = (name: string, ms: number) => waitUntil(() => ended || existsSync(join(share, name)), ms, name);

  await event('writing', 120_000);
  let longestOutageMs = 0;
  /** Ends the server, and gives for how long nobody could connect. */
  const replace = async (end: () => Promise<unknown>, pauseMs: number) => {
    const from = performance.now();
    await end();
    await sleep(pauseMs);
    server = await startServer(t, { ...options, tcp: { port } });
    const outageMs = performance.now() - from;
    longestOutageMs = Math.max(longestOutageMs, outageMs);
    t.comment(`away for ${Math.round(outageMs)} ms`);
    await sleep(REQUEST_TIMEOUT_MS + 1500);
  };
  await sleep(1500);
  for (const outageMs of outagesMs) if (!ended) await replace(() => server.kill(), outageMs);
  if (!ended) await replace(() => server.stop(), 0);
  t.notOk(existsSync(join(share, 'written')), 'the load was there all the time');
  await event('written', loadSeconds * 2000);
  if (!ended) await sledgeJson(dataDirectory, 'volume', 'grow', 'disk', '--size', String(grownBytes));
  writeFileSync(join(share, 'grow'), '');
  const output = await guest;
  const values = guestValues(output);
  for (const line of output.split('\n')) if (line.startsWith('supervisor: ')) t.comment(line);

  t.equal(values.get('size'), String(volumeBytes));
  t.equal(values.get('fio'), '0', 'all that was written is read back');
  t.equal(values.get('errors'), '0');
  t.equal(values.get('reads'), values.get('writes'), 'all of it was verified');
  t.equal(values.get('kernel_errors'), '0');
  t.equal(values.get('fsck'), '0');
  // More than that, when the machine is so busy that a request takes longer than its time.
  t.ok(Number(values.get('reconnects')) >= outagesMs.length + 1, `${values.get('reconnects')} reconnects`);
  const stallMs = Number(values.get('longest_stall_ms'));
  const allowedMs = Math.round(longestOutageMs) + REQUEST_TIMEOUT_MS + 500;
  t.comment(`longest stall ${stallMs} ms, longest outage ${Math.round(longestOutageMs)} ms, allowed ${allowedMs} ms`);
  t.comment(`attached in ${values.get('attach_seconds')} s; grown after ${values.get('grown_after_seconds')} s`);
  t.comment(`supervisor: ${values.get('supervisor_kib')} KiB, ${values.get('supervisor_descriptors')} descriptors`);
  t.ok(Number(values.get('supervisor_descriptors')) < 40, 'old connections do not pile up');
  t.ok(stallMs > 400 && stallMs <= allowedMs, `${stallMs} ms`);
  t.equal(values.get('grown_to'), String(grownBytes));
  t.ok(Number(values.get('grown_after_seconds')) <= 5, 'the device grows within seconds');
  t.ok(Number(values.get('file_system_bytes')) > volumeBytes, 'and so does the file system');
  t.match(values.get('listed'), '1');
  t.equal(values.get('state'), 'connected');
  t.equal(values.get('left'), '0', 'nothing is left after detach');
});

t.test(
  'as much load as the device takes, while its server is upgraded in place',
  { skip, timeout: 180_000 },
  async t => {
    const directory = temporaryDirectory(t);
    const share = join(directory, 'share');
    mkdirSync(share);
    const options = { dataDirectory: join(directory, 'data'), volumes: [{ name: 'disk', sizeBytes: 64 * MIB }] };
    let server = await startServer(t, { ...options, tcp: true });
    const port = server.port!;
    const guest = runGuestOk({
      script: 'attach-upgrade.sh',
      args: [sledgeProgram, String(port), 'disk', share, '20'],
      share,
      limitSeconds: 150,
    });
    guest.catch(() => {});
    await waitUntil(() => existsSync(join(share, 'writing')), 100_000, 'the guest to write');
    for (let times = 0; times < 3; times++) {
      await sleep(1500);
      await server.stop();
      server = await startServer(t, { ...options, tcp: { port } });
      await sleep(2500);
    }
    const values = guestValues(await guest);
    t.comment(`${values.get('requests')} requests`);
    t.equal(values.get('errors'), '0');
    t.equal(values.get('kernel_errors'), '0');
    t.equal(values.get('reconnects'), '3');
    t.ok(Number(values.get('requests')) > 5000);
  },
);

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}
