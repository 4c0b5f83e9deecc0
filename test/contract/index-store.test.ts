/**
 * LMDB and the map in memory, held to the contract; and LMDB under SIGKILL and on a full disk, which only a real process can
 * show.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { indexGrowthBytes, indexRemovalGrowthBytes } from '../../src/base/limits.ts';
import { MIB } from '../../src/base/units.ts';
import { LmdbIndex } from '../../src/platform/lmdb-index.ts';
import { IndexContents, MemoryIndex } from '../support/memory-index.ts';
import { programPath } from '../support/nbd-programs.ts';
import { CHUNKS_PER_COMMIT, chunkEntry, commit, indexStoreContract, volume } from './index-store-contract.ts';
import type { FillReport } from './index-store-filler.ts';
import { temporaryFolder } from './io-support.ts';

indexStoreContract('LmdbIndex', () => {
  const folder = temporaryFolder();
  return { open: () => new LmdbIndex(folder.path), remove: () => folder.remove() };
});

indexStoreContract('MemoryIndex', () => {
  const contents = new IndexContents();
  return { open: () => new MemoryIndex(contents), remove: () => {} };
});

t.test('of a process that is killed while it commits, each transaction is there wholly or not at all', async t => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  let reached = 0;
  for (let round = 0; round < 4; round++) {
    const program = fileURLToPath(new URL('./index-store-writer.js', import.meta.url));
    const child = spawn(process.execPath, [program, folder.path, String(reached + 1)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.teardown(() => child.kill('SIGKILL'));
    const ended = once(child, 'exit');
    let told = reached;
    const least = reached + 3 + round * 7;
    for await (const line of createInterface({ input: child.stdout })) {
      told = Number(line);
      if (told >= least) break;
    }
    child.kill('SIGKILL');
    await ended;

    const index = new LmdbIndex(folder.path);
    const last = index.nextVolume();
    t.ok(last >= told, `what was told to be committed is there (${told} of ${last})`);
    const ops = new Set<number>();
    let chunks = 0;
    for (const [chunk, entry] of index.chunks(volume(1), 0, 2 ** 40, 100_000)) {
      ops.add(entry.op);
      chunks++;
      t.same(entry, chunkEntry(last, entry.sums.length), `chunk ${chunk} is of the newest transaction`);
    }
    t.same([...ops], [last], 'no chunk is of another transaction');
    t.equal(chunks, CHUNKS_PER_COMMIT);
    t.match(index.state(), { cut: last * 16, epoch: last });
    await index.close();
    reached = last;
  }
});

t.test('that there is no room is known before a commit fails, and forgotten when there is some', async t => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const small = folder.join('small');
  mkdirSync(small);
  const env = { ...process.env, PATH: programPath };
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', small], { env }).status !== 0) {
    t.pass('no file system of its own can be mounted here', { skip: 'needs root' });
    return;
  }
  t.teardown(() => void spawnSync('umount', [small], { env }));
  let index = new LmdbIndex(small);
  t.ok(index.hasRoom(indexGrowthBytes));
  const filler = join(small, 'filler');
  // All that is left: what the index has taken ahead is its own.
  t.throws(() => writeFileSync(filler, new Uint8Array(64 * MIB)), { code: 'ENOSPC' });
  const add = (round: number) => {
    const transaction = index.begin();
    for (let i = 0; i < 1024; i++) transaction.putChunk(volume(1), round * 1024 + i, chunkEntry(1, 16));
    return commit(transaction);
  };
  let rounds = 0;
  for (; index.hasRoom(indexGrowthBytes) && rounds < 1000; rounds++) await add(rounds);
  t.ok(rounds > 10 && rounds < 1000, `${rounds} commits`);
  t.ok(index.hasRoom(indexRemovalGrowthBytes), 'trims still go through');
  await index.close();
  index = new LmdbIndex(small);
  t.ok(index.hasRoom(indexRemovalGrowthBytes), 'and after a restart');
  rmSync(filler);
  t.ok(index.hasRoom(indexGrowthBytes));
  await add(rounds);
  t.equal([...index.chunks(volume(1), 0, 2 ** 40, 2 ** 30)].length, (rounds + 1) * 1024);
  await index.close();
});

t.test('a commit that the disk has no room for fails and leaves what was committed, and the process lives', async t => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const program = fileURLToPath(new URL('./index-store-filler.js', import.meta.url));
  // In KiB: a file at its limit is to LMDB what a full disk is.
  const command = 'ulimit -f 512; exec "$0" "$@"';
  const { stdout } = spawnSync('bash', ['-c', command, process.execPath, program, folder.path], { encoding: 'utf8' });
  const { committed, failedWith, thenWith, found } = JSON.parse(stdout) as FillReport;
  t.ok(committed > 0);
  t.ok(failedWith < 0);
  t.ok(thenWith < 0, 'the index takes no further commit');
  t.equal(found, committed * CHUNKS_PER_COMMIT);
  const index = new LmdbIndex(folder.path);
  t.equal([...index.chunks(volume(1), 0, 2 ** 40, 2 ** 30)].length, found);
  await index.close();
});
