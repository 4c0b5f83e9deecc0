import t, { type Test } from 'tap';
import { startControlServer } from '../../../src/admin/control-server.ts';
import type { ScrubDamage } from '../../../src/admin/node-control.ts';
import { progressLine } from '../../../src/bin/scrub.ts';
import { CommandRun } from '../../support/command-run.ts';
import { MemoryNodeControl } from '../../support/memory-node-control.ts';
import { waitUntil } from '../../support/nbd-programs.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

const MIB = 1024 ** 2;

async function rig(test: Test) {
  const data = temporaryDirectory(test);
  const control = new MemoryNodeControl();
  control.put({ name: 'vol0' });
  const server = await startControlServer(data, control, { error() {} });
  let stopped: Promise<void> | undefined;
  const stop = () => (stopped ??= server.stop());
  test.teardown(stop);
  const start = (...words: string[]) => {
    const command = new CommandRun();
    return { command, ended: command.run('scrub', ...words, '--data', data) };
  };
  return { control, start, stop };
}

const damage: ScrubDamage = {
  block: 77,
  offsetBytes: 315_392,
  fault: 'mismatch',
  path: '/dev/sdb',
  pathOffsetBytes: 1_363_968,
};

t.test('a clean volume ends with 0, damage with 1 and a table of where it is', async t => {
  const { control, start } = await rig(t);
  t.same(await start('vol0').ended, {
    code: 0,
    out: 'vol0: 1 MiB read in 3.0 s (341.3 KiB/s), 0 damaged blocks\n',
    error: '',
  });
  t.same(control.scrubsAsked, [['vol0', 64 * MIB]]);
  control.scrubResult = { ...control.scrubResult, damagedBlocks: 3, damage: [damage] };
  const bad = await start('vol0', '--rate', '1MiB').ended;
  t.same(control.scrubsAsked[1], ['vol0', MIB]);
  t.equal(bad.code, 1);
  t.match(
    bad.out,
    /^vol0: .*, 3 damaged blocks\n +BLOCK .*\n +77 +315392 +mismatch +1363968 +\/dev\/sdb\n +and 2 more\n/,
  );
  const json = await start('vol0', '--json').ended;
  t.equal(json.code, 1);
  t.same(JSON.parse(json.out), { volume: 'vol0', ...control.scrubResult });
});

t.test('progress comes after two seconds, on standard error, and not with --json', async t => {
  const { control, start } = await rig(t);
  control.scrubHeld = { seconds: 2, bytesRead: 4 * MIB, bytesDone: 5 * MIB, bytesTotal: 20 * MIB, damagedBlocks: 1 };
  const startedAt = performance.now();
  const { command, ended } = start('vol0');
  await waitUntil(() => command.complained !== '', 10_000, 'progress');
  t.ok(performance.now() - startedAt > 1900);
  t.equal(command.complained, 'vol0: 5 MiB of 20 MiB (25 %), 1 damaged block, 6 s left\n');
  control.endScrubs();
  t.equal((await ended).code, 0);
  t.equal(progressLine('v', { ...control.scrubHeld, bytesDone: 0 }), 'v: 0 bytes of 20 MiB (0 %), 1 damaged block');
});

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  t.test(`${signal} cancels it in the server`, async t => {
    const { control, start } = await rig(t);
    control.scrubHeld = { seconds: 0, bytesRead: 0, bytesDone: 0, bytesTotal: MIB, damagedBlocks: 0 };
    const { command, ended } = start('vol0', '--json');
    await waitUntil(() => control.scrubsRunning === 1, 10_000, 'the scrub');
    command.signals.emit(signal);
    const { code, out } = await ended;
    t.equal(code, 1);
    t.match(JSON.parse(out), { error: { code: 'cancelled' } });
    await waitUntil(() => control.scrubsRunning === 0, 10_000, 'its end');
    t.equal(command.signals.listenerCount(signal), 0);
  });
}

t.test('what the node refuses is printed; a server that stops does not wait for the scrub', async t => {
  const { control, start, stop } = await rig(t);
  t.match(await start('nope').ended, { code: 1, error: /there is no volume nope/ });
  control.scrubHeld = { seconds: 0, bytesRead: 0, bytesDone: 0, bytesTotal: MIB, damagedBlocks: 0 };
  const first = start('vol0');
  await waitUntil(() => control.scrubsRunning === 1, 10_000, 'the scrub');
  t.match(await start('vol0').ended, { code: 1, error: /being scrubbed already/ });
  const startedAt = performance.now();
  await stop();
  t.ok(performance.now() - startedAt < 3000);
  t.match(await first.ended, { code: 1, error: /the server is stopping/ });
  t.match(await start('vol0').ended, { code: 1, error: /no server/ });
});

t.test('a rate that is none, or too low to end, is wrong use', async t => {
  const { control, start } = await rig(t);
  for (const rate of ['fast', '0', '4KiB']) t.equal((await start('vol0', '--rate', rate).ended).code, 2, rate);
  t.same(control.scrubsAsked, []);
});
