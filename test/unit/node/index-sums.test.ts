/** The checksums that a stop leaves of the index: their bytes, what is told apart by them, and what a crash leaves. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { putUint64 } from '../../../src/base/little-endian.ts';
import { MIB } from '../../../src/base/units.ts';
import { checkDirectory } from '../../../src/node/check-directory.ts';
import {
  decodeSums,
  encodeSums,
  leaveIndexSums,
  SUMS_FILE,
  SUMS_HEADER_BYTES,
  takeIndexSums,
  verifyIndex,
} from '../../../src/node/index-sums.ts';
import { addon } from '../../../src/platform/addon.ts';
import { INDEX_FILE } from '../../../src/platform/lmdb-index.ts';
import { flip } from '../../support/flip.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { isAll } from '../head/head-rig.ts';
import { MemoryLog, startTestNode } from './node-rig.ts';

const PAGE = 4096;

/** A directory with a file in the place of an index, and the sums of it. */
async function rig(test: Test, bytes: number) {
  const directory = temporaryDirectory(test);
  const index = join(directory, INDEX_FILE);
  const sums = join(directory, SUMS_FILE);
  writeFileSync(
    index,
    Uint8Array.from({ length: bytes }, (_, i) => i % 251),
  );
  const log = new MemoryLog();
  await leaveIndexSums(directory, addon, log);
  t.same(log.lines, []);
  return { directory, index, sums, log, verify: () => verifyIndex(directory, addon) };
}

t.test('the bytes of the file are these', t => {
  const pages = { fileBytes: 2 ** 32 + 5000, sums: Uint32Array.of(0x11223344, 0xffffffff) };
  const encoded = encodeSums(pages, addon);
  t.equal(
    Buffer.from(encoded).toString('hex'),
    '534c53554d530d0a01000000112b990600100000000000008813000001000000' + '44332211ffffffff',
  );
  t.end();
});

t.test('what was encoded is decoded, and nothing else is', t => {
  const pages = { fileBytes: 2 * PAGE + 1, sums: Uint32Array.of(1, 2, 3) };
  const encoded = encodeSums(pages, addon);
  // As a part of other memory, as Node's buffers are.
  t.same(decodeSums(Buffer.concat([Buffer.alloc(3), encoded]).subarray(3), addon), pages);
  for (let bit = 0; bit < encoded.length * 8; bit++) {
    const damaged = encoded.slice();
    damaged[bit >>> 3]! ^= 1 << (bit & 7);
    if (typeof decodeSums(damaged, addon) !== 'string') t.fail(`bit ${bit} makes no difference`);
  }
  for (let length = 0; length < encoded.length; length++) {
    if (typeof decodeSums(encoded.subarray(0, length), addon) !== 'string') t.fail(`${length} bytes pass for all`);
  }
  const sealed = (change: (view: DataView) => void) => {
    const bytes = encoded.slice();
    const view = new DataView(bytes.buffer);
    change(view);
    view.setUint32(12, 0, true);
    view.setUint32(12, addon.checksum(bytes, 0, bytes.length, 0), true);
    return decodeSums(bytes, addon);
  };
  t.equal(
    sealed(view => view.setUint32(8, 2, true)),
    'it has version 2; this is version 1',
  );
  t.match(
    sealed(view => view.setUint32(16, 8192, true)),
    /length/,
  );
  t.match(
    sealed(view => putUint64(view, 24, 3 * PAGE + 1)),
    /length/,
  );
  t.same(
    sealed(() => {}),
    pages,
  );
  t.end();
});

t.test('each changed page is found, and a length that is not what it was', async t => {
  const bytes = 3 * MIB + 5 * PAGE + 100;
  const { index, directory, verify } = await rig(t, bytes);
  t.equal(statSync(join(directory, SUMS_FILE)).size, SUMS_HEADER_BYTES + 4 * (3 * 256 + 6));
  t.same(readdirSync(directory).sort(), [INDEX_FILE, SUMS_FILE]);
  t.match(await verify(), { kind: 'whole' });
  for (const position of [0, PAGE - 1, PAGE, MIB - 1, MIB, 3 * MIB + 17, bytes - 1]) {
    flip(index, position);
    const page = position - (position % PAGE);
    const what = `page at byte ${page} does not match its checksum`;
    t.match(await verify(), { kind: 'damaged', file: index, offsetBytes: page, what }, `byte ${position}`);
    flip(index, position);
  }
  for (let page = 2; page < 9; page++) flip(index, page * PAGE + page);
  t.match(await verify(), { what: 'page at byte 8192, 12288, 16384, 20480 and 3 more does not match its checksum' });
  for (let page = 2; page < 9; page++) flip(index, page * PAGE + page);

  truncateSync(index, 2 * MIB);
  t.match(await verify(), { kind: 'damaged', offsetBytes: 2 * MIB, what: `it has ${2 * MIB} bytes of ${bytes}` });
  truncateSync(index, 0);
  t.match(await verify(), { kind: 'damaged', offsetBytes: 0, what: `it has 0 bytes of ${bytes}` });
  renameSync(index, `${index}.away`);
  t.match(await verify(), { kind: 'damaged', file: index, what: 'it is missing' });
  mkdirSync(index);
  await t.rejects(verify(), { code: 'io', message: /cannot be read at byte 0/ });
});

t.test('a hole at the end of the index is zeroes, and one bit in it is found', async t => {
  const { index, directory, log, verify } = await rig(t, 4 * PAGE);
  truncateSync(index, 32 * MIB);
  t.match(await verify(), { kind: 'damaged', offsetBytes: 4 * PAGE });
  await leaveIndexSums(directory, addon, log);
  t.match(await verify(), { kind: 'whole' });
  flip(index, 30 * MIB + 1);
  t.match(await verify(), { kind: 'damaged', offsetBytes: 30 * MIB });
});

t.test('a start takes the sums of a whole index away, and leaves those of a damaged one', async t => {
  const { index, directory, sums, log } = await rig(t, 4 * PAGE);
  flip(index, PAGE + 1);
  await t.rejects(takeIndexSums(directory, addon, log), {
    code: 'corrupt',
    message: `${index} is not what the last stop has left: page at byte 4096 does not match its checksum`,
    hint: /backup.*without index\.sums/,
  });
  t.ok(existsSync(sums));
  flip(index, PAGE + 1);
  await takeIndexSums(directory, addon, log);
  t.same(readdirSync(directory), [INDEX_FILE]);
  await takeIndexSums(directory, addon, log);
  t.same(log.lines, []);
});

t.test('damaged sums say nothing of the index: they are taken away with a warning', async t => {
  const { directory, sums, log, verify } = await rig(t, 4 * PAGE);
  flip(sums, 40);
  t.match(await verify(), { kind: 'unusable', file: sums, why: 'it does not match its own checksum' });
  await takeIndexSums(directory, addon, log);
  t.same(log.lines, [`warning: ${sums} is not used: it does not match its own checksum`]);
  t.notOk(existsSync(sums));
  t.match(await verify(), { kind: 'none' });
});

t.test('sums that cannot be stored are a warning, and what was begun is taken away', async t => {
  const { directory, sums, log } = await rig(t, 4 * PAGE);
  await takeIndexSums(directory, addon, log);
  mkdirSync(join(sums, 'in the way'), { recursive: true });
  await leaveIndexSums(directory, addon, log);
  t.match(log.lines, [/^warning: the checksums of the index were not stored/]);
  t.same(readdirSync(directory).sort(), [INDEX_FILE, SUMS_FILE]);
});

t.test('a stop that ended before its sums had their name is no error', async t => {
  const { directory, sums, log, verify } = await rig(t, 4 * PAGE);
  renameSync(sums, `${sums}.new`);
  t.match(await verify(), { kind: 'none' });
  await takeIndexSums(directory, addon, log);
  await leaveIndexSums(directory, addon, log);
  t.same(readdirSync(directory).sort(), [INDEX_FILE, SUMS_FILE]);
  t.match(await verify(), { kind: 'whole' });
});

t.test('a node: they are there while it is stopped, also after a start that was refused', async t => {
  const directory = temporaryDirectory(t);
  const data = join(directory, 'data');
  const [index, sums] = [INDEX_FILE, SUMS_FILE].map(name => join(data, 'index', name));
  const devices = [{ path: join(directory, 'disk'), sizeBytes: 33 * MIB }];
  const running = await startTestNode(directory, { devices, volumes: [{ name: 'vol0', sizeBytes: MIB }] });
  t.notOk(existsSync(sums), 'not while it runs');
  await running.request('vol0', 'write', 0, new Uint8Array(128 * 1024).fill(7));
  await running.stop();
  t.ok(existsSync(sums));
  t.match(await checkDirectory(data), { errors: 0, warnings: 0, notes: 0 });

  flip(index, statSync(index).size - 77);
  const before = readFileSync(index);
  await t.rejects(startTestNode(directory), { code: 'corrupt', message: /index\.lmdb is not what the last stop/ });
  t.ok(before.equals(readFileSync(index)), 'and is left as it is');
  const damaged = await checkDirectory(data);
  t.match(damaged, { errors: 1, warnings: 0, summary: null });
  t.match(damaged.findings, [{ kind: 'index-damaged', file: index, offsetBytes: statSync(index).size - PAGE }]);
  flip(index, statSync(index).size - 77);

  renameSync(devices[0].path, `${devices[0].path}.away`);
  await t.rejects(startTestNode(directory), { code: 'device-missing' });
  t.match(await verifyIndex(join(data, 'index'), addon), { kind: 'whole' });
  renameSync(`${devices[0].path}.away`, devices[0].path);

  flip(sums, 33);
  const unused = await checkDirectory(data);
  t.match(unused, { errors: 0, warnings: 1 });
  t.match(unused.findings, [{ kind: 'index-sums', file: sums }]);
  const again = await startTestNode(directory);
  t.ok(again.log.lines.some(line => line.startsWith('warning: ') && line.includes('does not match its own checksum')));
  t.ok(isAll((await again.request('vol0', 'read', 0, 128 * 1024)).bytes, 7));
  await again.stop();
  t.match(await checkDirectory(data), { errors: 0, warnings: 0, notes: 0 });
});
