/** `sledge scrub` against a real server, and what `sledge status` says of damage, whoever found it. */
import { once } from 'node:events';
import { closeSync, fsyncSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { ControlClient } from '../../src/admin/control-client.ts';
import type { NodeStatus, ScrubReport } from '../../src/admin/node-control.ts';
import { nbdsh, run, skipUnlessInstalled, startProgram, waitUntil } from '../support/nbd-programs.ts';
import { type RunningServer, sledgeProgram, startServer } from '../support/server-process.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const MIB = 1024 ** 2;
const BLOCK = 4096;

type Cleaner = Parameters<typeof temporaryDirectory>[0];

interface Rig {
  readonly server: RunningServer;
  readonly data: string;
  readonly device: string;
}

async function rig(test: Cleaner): Promise<Rig> {
  const directory = temporaryDirectory(test);
  const data = join(directory, 'data');
  const device = join(directory, 'disk');
  const server = await startServer(test, {
    engine: 'sledge',
    dataDirectory: data,
    volumes: [{ name: 'vol0', sizeBytes: 64 * MIB }],
    unix: join(directory, 'nbd.sock'),
    sledgeArguments: ['--log', '64MiB', '--cache', '16MiB', '--device', `${device}:65MiB`],
  });
  return { server, data, device };
}

/** Runs Python on the volume; each block that `block(n)` makes is like no other. */
function client({ server }: Rig, script: string): Promise<unknown[]> {
  const block = `def block(n): return (b"block %06d " % n) * 315 + b"-"`;
  return nbdsh(`${block}\nh.connect_uri(${JSON.stringify(server.uri)})\n${script}\nh.shutdown()\n`);
}

/** Where a block that `block(n)` made lies in a file; -1: nowhere. */
function find(path: string, number: number): number {
  return readFileSync(path).indexOf(`block ${String(number).padStart(6, '0')} `.repeat(20));
}

function flip(path: string, position: number): void {
  const before = readFileSync(path)[position];
  const file = openSync(path, 'r+');
  writeSync(file, Uint8Array.of(before ^ 1), 0, 1, position);
  fsyncSync(file);
  closeSync(file);
}

async function scrub({ data }: Rig, ...more: string[]) {
  const result = await run(sledgeProgram, ['scrub', 'vol0', '--data', data, ...more]);
  return { ...result, report: () => JSON.parse(result.stdout) as ScrubReport };
}

/** The server is asked in this process where the command is not what is tested: programs take their time to start. */
function status({ data }: Rig): Promise<NodeStatus> {
  return new ControlClient(data).status();
}

/** Behind a deletion the log is emptied. */
async function settle({ data }: Rig): Promise<void> {
  const control = new ControlClient(data);
  await control.createVolume({ name: 'settle', sizeBytes: MIB, chunkBytes: 65_536, ack: 'written', readOnly: false });
  await control.deleteVolume('settle');
  while ((await control.status()).log.usedBytes > 0) await sleep(20);
}

const skip = skipUnlessInstalled('nbdsh');

t.test(
  'a flipped byte of a device is found, named and counted, until the block is written again',
  { skip },
  async t => {
    const it = await rig(t);
    await client(
      it,
      `h.pwrite(b"".join(block(n) for n in range(256)), 0)\nh.pwrite(block(300), 300 * ${BLOCK})\nh.flush()`,
    );
    await settle(it);
    const clean = await scrub(it, '--json');
    t.equal(clean.code, 0, clean.stderr);
    t.match(clean.report(), { volume: 'vol0', bytesRead: 257 * BLOCK, damagedBlocks: 0, damage: [] });
    t.match(await status(it), { health: 'ok', problems: [], devices: [{ errors: { checksum: 0 } }] });

    const position = find(it.device, 77);
    t.ok(position > 0);
    flip(it.device, position + 1000);
    const bad = await scrub(it);
    t.equal(bad.code, 1);
    t.match(bad.stdout, /^vol0: 1\.0 MiB read in .*, 1 damaged block\n/);
    t.ok(new RegExp(`^ +77 +${77 * BLOCK} +mismatch +${position} +${it.device}$`, 'm').test(bad.stdout), bad.stdout);
    const found = await status(it);
    t.match(found, { health: 'failed', devices: [{ state: 'degraded', errors: { checksum: 1 } }] });
    t.equal(found.problems.length, 1);
    t.match(found.problems[0].what, `Bytes ${77 * BLOCK} to ${78 * BLOCK - 1} of vol0 are damaged.`);
    t.match(found.problems[0].why, `in ${it.device} from byte ${position} on does not match its checksum`);
    const page = (await run(sledgeProgram, ['status', '--data', it.data])).stdout;
    t.equal(page.split('are damaged').length, 2, 'the page says it once');

    const reads = await client(
      it,
      `for n in (76, 77, 78):
    emit(attempt(h.pread, ${BLOCK}, n * ${BLOCK}) if n == 77 else bytes(h.pread(${BLOCK}, n * ${BLOCK})) == block(n))`,
    );
    t.same(reads, [true, 'EIO', true]);
    t.match(await status(it), { devices: [{ errors: { checksum: 2 } }] }, 'that read counts as well');
    t.equal((await status(it)).problems.length, 1, 'and is of the same block');

    await client(it, `h.pwrite(block(500), 77 * ${BLOCK})\nh.flush()`);
    const again = await scrub(it, '--json');
    t.equal(again.code, 0);
    t.equal(again.report().damagedBlocks, 0);
    await settle(it);
    t.match((await scrub(it, '--json')).report(), { bytesRead: 257 * BLOCK, damagedBlocks: 0 });
    t.match(await status(it), { health: 'ok', problems: [], devices: [{ errors: { checksum: 2 } }] });
  },
);

t.test(
  'damage in the op log is named with its file, too, and goes on to the device with its checksum',
  { skip },
  async t => {
    const it = await rig(t);
    await client(it, `h.pwrite(block(9), 9 * ${BLOCK})\nh.pwrite(block(10), 10 * ${BLOCK})\nh.flush()`);
    const [file, position] = readdirSync(join(it.data, 'log'))
      .map((name): [string, number] => [join(it.data, 'log', name), find(join(it.data, 'log', name), 9)])
      .find(([, position]) => position >= 0)!;
    flip(file, position + 5);
    t.same(await client(it, `emit(attempt(h.pread, ${BLOCK}, 9 * ${BLOCK}))`), ['EIO']);
    const before = await status(it);
    t.match(before, { log: { checksumErrors: 1 }, devices: [{ errors: { checksum: 0 } }] });
    t.match(before.problems[0].why, `in ${file} from byte ${position} on does not match its checksum`);

    await settle(it);
    t.match(await status(it), { log: { checksumErrors: 2 } }, 'the destage has met it, and went on');
    const report = (await scrub(it, '--json')).report();
    t.match(report, { bytesRead: 2 * BLOCK, damagedBlocks: 1, damage: [{ block: 9, path: it.device }] });
    const after = await status(it);
    t.match(after.devices, [{ errors: { checksum: 1 } }]);
    t.equal(after.problems.length, 1);
    t.match(after.problems[0].why, `in ${it.device} from byte ${report.damage[0].pathOffsetBytes} on`);
  },
);

t.test(
  'a long scrub says how far it is, refuses another one, and ends with ^C or with the server',
  { skip },
  async t => {
    const it = await rig(t);
    await client(it, `h.pwrite(b"x" * ${8 * MIB}, 0)\nh.flush()`);
    const slow = () => {
      const child = startProgram(sledgeProgram, ['scrub', 'vol0', '--data', it.data, '--rate', '256KiB']);
      t.teardown(() => void child.kill('SIGKILL'));
      let text = '';
      child.stderr!.on('data', (data: Buffer) => {
        text += data.toString();
      });
      return { child, ended: once(child, 'close') as Promise<[number | null]>, text: () => text };
    };
    const first = slow();
    await waitUntil(() => first.text().includes('\n'), 10_000, 'progress');
    t.match(first.text(), /^vol0: [\d.]+ [KM]iB of 8 MiB \(\d+ %\), 0 damaged blocks, \d+ s left\n/);
    const second = await scrub(it, '--json');
    t.equal(second.code, 1);
    t.match(JSON.parse(second.stdout), { error: { code: 'volume-busy' } });
    first.child.kill('SIGINT');
    t.same((await first.ended)[0], 1);
    t.match(first.text(), /sledge: cancelled before it had ended\n/);
    await waitUntil(() => it.server.output().includes('a scrub was cancelled'), 5_000, 'the server to cancel it');
    t.equal((await scrub(it, '--rate', '1GiB')).code, 0, 'the next one is let in');

    const third = slow();
    await waitUntil(() => it.server.output().split('a scrub has begun').length === 4, 10_000, 'the third one');
    const startedAt = performance.now();
    t.equal(await it.server.stop(), 0);
    t.ok(performance.now() - startedAt < 4_000, 'the server does not wait for it');
    t.same((await third.ended)[0], 1);
    t.match(third.text(), /sledge: the server is stopping/);
  },
);

t.test('wrong use is refused before anything is asked', async t => {
  for (const words of [['scrub'], ['scrub', 'vol0', '--rate', '1KiB'], ['scrub', 'vol0', '--rate', 'fast']]) {
    t.equal((await run(sledgeProgram, [...words, '--data', '/nowhere'])).code, 2, words.join(' '));
  }
});
