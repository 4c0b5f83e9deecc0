/** How a process or a worker ends while the addon has work: cleanly, whatever is under way. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { IO_KINDS, temporaryFolder } from '../contract/io-support.ts';

const MODULE = JSON.stringify(new URL('../../src/platform/platform.js', import.meta.url).href);

/** Leaves reads, a write, a receive, an accept and a connection under way. */
function busyScript(kind: string, folder: string, ending: string): string {
  return `
    const { createIoPlatform } = await import(${MODULE});
    const platform = createIoPlatform({ kind: ${JSON.stringify(kind)} });
    const file = await platform.openFile({ path: ${JSON.stringify(`${folder}/file`)}, mode: 'direct', create: true });
    await file.resize(64 << 20);
    const ignore = { ioCompleted() {} };
    const path = ${JSON.stringify(folder)} + '/socket-' + Math.random();
    const listener = await platform.listen({ kind: 'unix', path }, stream => {
      stream.receive(platform.allocate(65536), 0, 65536, ignore);
    });
    const client = await platform.connect({ kind: 'unix', path });
    client.receive(platform.allocate(65536), 0, 65536, ignore);
    client.send(platform.allocate(64 << 20), 0, 64 << 20, ignore);
    const again = {
      ioCompleted() {
        file.read(0, platform.allocate(1 << 20), 0, 1 << 20, again);
      },
    };
    for (let index = 0; index < 32; index++) again.ioCompleted();
    file.write(0, platform.allocate(1 << 20), 0, 1 << 20, ignore);
    file.sync(ignore);
    await new Promise(resolve => setTimeout(resolve, 20));
    ${ending}
  `;
}

function run(script: string) {
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  return { status: child.status, signal: child.signal, stderr: child.stderr };
}

for (const kind of IO_KINDS) {
  t.test(`process.exit with I/O under way is clean, on ${kind}`, async t => {
    const folder = temporaryFolder();
    const { status, signal, stderr } = run(busyScript(kind, folder.path, 'process.exit(0);'));
    folder.remove();
    t.same({ status, signal, stderr }, { status: 0, signal: null, stderr: '' });
  });

  t.test(`an exception that nobody catches ends the process as it should, on ${kind}`, async t => {
    const folder = temporaryFolder();
    const ending = "file.read(0, platform.allocate(4096), 0, 4096, { ioCompleted() { throw new Error('a bug'); } });";
    const { status, signal, stderr } = run(busyScript(kind, folder.path, ending));
    folder.remove();
    t.same({ status, signal }, { status: 1, signal: null });
    t.match(stderr, /Error: a bug/);
  });

  t.test(`a process whose platform is closed ends by itself, on ${kind}`, async t => {
    const script = `
      const { createIoPlatform } = await import(${MODULE});
      const platform = createIoPlatform({ kind: ${JSON.stringify(kind)} });
      await new Promise(resolve => platform.atEndOfTurn({ runAtEndOfTurn: resolve }));
      await platform.close();
    `;
    const { status, signal, stderr } = run(script);
    t.same({ status, signal, stderr }, { status: 0, signal: null, stderr: '' });
  });

  t.test(`an open platform keeps its process alive, on ${kind}`, async t => {
    const script = `
      const { createIoPlatform } = await import(${MODULE});
      createIoPlatform({ kind: ${JSON.stringify(kind)} });
      setTimeout(() => process.exit(7), 100).unref();
    `;
    t.equal(run(script).status, 7);
  });

  t.test(`a worker that is terminated with I/O under way takes nothing with it, on ${kind}`, async t => {
    const folder = temporaryFolder();
    for (let round = 0; round < 3; round++) {
      const ending = "(await import('node:worker_threads')).parentPort.postMessage('busy');";
      const worker = new Worker(asyncModule(busyScript(kind, folder.path, ending)), { eval: true });
      await once(worker, 'message');
      t.equal(await worker.terminate(), 1);
    }
    folder.remove();
  });

  t.test(`two workers have platforms of their own, on ${kind}`, async t => {
    const folder = temporaryFolder();
    const work = (name: string) => `
      const { createIoPlatform } = await import(${MODULE});
      const platform = createIoPlatform({ kind: ${JSON.stringify(kind)} });
      const file = await platform.openFile({ path: ${JSON.stringify(folder.path)} + '/${name}', mode: 'direct', create: true });
      await file.resize(1 << 20);
      const region = platform.allocate(4096);
      const io = start => new Promise(resolve => start({ ioCompleted: resolve }));
      let sum = 0;
      for (let round = 0; round < 200; round++) {
        region.bytes.fill(round);
        await io(request => file.write(round * 4096, region, 0, 4096, request));
        await io(request => file.read(round * 4096, region, 0, 4096, request));
        sum += region.bytes[4095];
      }
      await file.close();
      await platform.close();
      (await import('node:worker_threads')).parentPort.postMessage(sum);
    `;
    const workers = ['one', 'two'].map(name => new Worker(asyncModule(work(name)), { eval: true }));
    const exits = workers.map(worker => once(worker, 'exit'));
    const sums = await Promise.all(workers.map(worker => once(worker, 'message')));
    t.same(sums, [[19_900], [19_900]]);
    t.same(await Promise.all(exits), [[0], [0]]);
    folder.remove();
  });
}

/** A worker's `eval` is a script of the old kind, without \`await\` at its top. */
function asyncModule(script: string): string {
  return `(async () => {${script}})();`;
}
