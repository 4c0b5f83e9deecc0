/** Watching descriptors, and the sockets of `sledge attach`: what the addon promises, and how it ends in mid-watch. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { addon } from '../../src/platform/addon.ts';

const MODULE = JSON.stringify(new URL('../../src/platform/addon.js', import.meta.url).href);
const EAGAIN = 11;
const EPIPE = 32;

function pair(): [number, number] {
  const result = addon.socketPair();
  if (typeof result === 'number') throw new Error(`no pair: ${result}`);
  return result;
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}

t.test('a watch tells once for each time it is asked', async t => {
  const [near, far] = pair();
  let calls = 0;
  const watch = new addon.DescriptorWatch(near, () => {
    calls++;
  });
  addon.sendBytes(far, new Uint8Array(8), 0, 8);
  await sleep(20);
  t.equal(calls, 0, 'not asked yet');
  watch.readable();
  await sleep(20);
  t.equal(calls, 1, 'once, though there still is something to read');
  watch.writable();
  await sleep(20);
  t.equal(calls, 2);
  const bytes = new Uint8Array(16);
  t.equal(addon.receiveBytes(near, bytes, 0, 16), 8);
  t.equal(addon.receiveBytes(near, bytes, 0, 16), -EAGAIN);
  watch.readable();
  await sleep(20);
  t.equal(calls, 2, 'nothing has come');
  addon.closeDescriptor(far);
  await sleep(20);
  t.equal(calls, 3, 'the end is something to read, too');
  t.equal(addon.receiveBytes(near, bytes, 0, 16), 0);
  t.equal(addon.sendBytes(near, bytes, 0, 1), -EPIPE, 'and no signal');
  watch.close();
  watch.close();
  t.throws(() => watch.readable(), TypeError);
  addon.closeDescriptor(near);
});

t.test('a watch may be closed from inside of its own call', async t => {
  const [near, far] = pair();
  let calls = 0;
  const watch = new addon.DescriptorWatch(near, () => {
    calls++;
    watch.close();
    addon.closeDescriptor(near);
  });
  watch.readable();
  addon.closeDescriptor(far);
  await sleep(20);
  t.equal(calls, 1);
});

t.test('what cannot be watched is refused', async t => {
  t.throws(() => new addon.DescriptorWatch(1_000_000, () => {}), /bad file descriptor/i);
  t.throws(() => new addon.DescriptorWatch(-1, () => {}), TypeError);
  t.throws(() => new addon.DescriptorWatch(0, undefined as unknown as () => void), TypeError);
  const bytes = new Uint8Array(4);
  t.throws(() => addon.sendBytes(0, bytes, 2, 3), TypeError);
  t.throws(() => addon.receiveBytes(0, bytes, 5, 0), TypeError);
  t.throws(() => addon.startConnect(0, bytes, 5), TypeError);
});

t.test('a process ends while it watches, by exit or by an exception, as it should', async t => {
  for (const [ending, status] of [
    ['process.exit(0);', 0],
    ["throw new Error('a bug');", 1],
  ] as const) {
    const script = `
      const { addon } = await import(${MODULE});
      const [near, far] = addon.socketPair();
      const watch = new addon.DescriptorWatch(near, () => { ${ending} });
      watch.readable();
      addon.sendBytes(far, new Uint8Array(1), 0, 1);
    `;
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000 });
    t.same({ status: child.status, signal: child.signal }, { status, signal: null }, ending);
  }
});

t.test('a worker that is terminated while it watches takes nothing with it', async t => {
  for (let round = 0; round < 3; round++) {
    const script = `
      import(${MODULE}).then(async ({ addon }) => {
        globalThis.kept = [];
        for (let i = 0; i < 20; i++) {
          const [near] = addon.socketPair();
          const watch = new addon.DescriptorWatch(near, () => {});
          watch.readable();
          globalThis.kept.push(watch);
        }
        (await import('node:worker_threads')).parentPort.postMessage('busy');
      });
    `;
    const worker = new Worker(script, { eval: true });
    await once(worker, 'message');
    t.equal(await worker.terminate(), 1);
  }
});

t.test('netlink answers, whether there is an NBD driver or not', async t => {
  const fd = addon.netlinkSocket();
  t.ok(fd >= 0);
  t.ok(addon.joinNetlinkGroup(fd, 0x7fff_ffff) < 0, 'a group that does not exist');
  t.equal(addon.receiveBytes(fd, new Uint8Array(16), 0, 16), -EAGAIN, 'it does not block');
  addon.closeDescriptor(fd);
});
