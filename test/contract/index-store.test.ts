/**
 * LMDB and the map in memory, held to the contract; and LMDB under SIGKILL and on a full disk, which only a real process can
 * show.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { LmdbIndex } from '../../src/platform/lmdb-index.ts';
import { IndexContents, MemoryIndex } from '../support/memory-index.ts';
import { CHUNKS_PER_COMMIT, chunkEntry, indexStoreContract, volume } from './index-store-contract.ts';
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

t.test('a commit that the disk has no room for fails and leaves what was committed, and the process lives', async t => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const program = fileURLToPath(new URL('./index-store-filler.js', import.meta.url));
  // In KiB: a file at its limit is to LMDB what a full disk is.
  const command = 'ulimit -f 512; exec "$0" "$@"';
  const { stdout } = await promisify(execFile)('bash', ['-c', command, process.execPath, program, folder.path]);
  const { committed, failedWith, thenWith, found } = JSON.parse(stdout) as FillReport;
  t.ok(committed > 0);
  t.ok(failedWith < 0);
  t.ok(thenWith < 0, 'the index takes no further commit');
  t.equal(found, committed * CHUNKS_PER_COMMIT);
  const index = new LmdbIndex(folder.path);
  t.equal([...index.chunks(volume(1), 0, 2 ** 40, 2 ** 30)].length, found);
  await index.close();
});
