/** A node in this process: what it refuses to start on, the life of its volumes, its addresses, how it stops. */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import { LatencyHistogram } from '../../../src/base/latency-histogram.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { BenchConnection } from '../../../src/bin/bench-connection.ts';
import { Head } from '../../../src/head/head.ts';
import { type NbdUri, parseNbdUri } from '../../../src/nbd-server-protocol/uri.ts';
import type { ListenAddress } from '../../../src/platform/io-platform.ts';
import { INDEX_FILE } from '../../../src/platform/lmdb-index.ts';
import { IO_KINDS } from '../../contract/io-support.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { isAll } from '../head/head-rig.ts';
import { startTestNode, volumeRequest } from './node-rig.ts';

const CHUNK = 64 * KIB;
const DEVICE_BYTES = MIB + 64 * MIB;
const vol0 = { name: 'vol0', sizeBytes: 256 * MIB };

function hash(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

function uriOf(text: string): NbdUri {
  const result = parseNbdUri(text);
  if (!result.ok) throw new Error(`${text} is no URI`);
  return result.uri;
}

/** Everything below a directory, by name. */
function everything(directory: string): string[] {
  return readdirSync(directory, { recursive: true }).map(String).sort();
}

for (const kind of IO_KINDS) {
  t.test(`a node on ${kind}`, async t => {
    t.test('volumes are made, written, grown and deleted, and a restart changes nothing of it', async t => {
      const directory = temporaryDirectory(t);
      let running = await startTestNode(directory, { kind, volumes: [vol0] });
      t.equal(running.node.status().io.kind, kind);
      t.match(running.node.volumes(), [{ name: 'vol0', number: 1, sizeBytes: 256 * MIB, lastOp: 0 }]);
      t.match(await running.node.createVolume(volumeRequest('other', MIB)), { number: 2, name: 'other' });
      await t.rejects(running.node.createVolume(volumeRequest('other', MIB)), { code: 'volume-exists' });
      await running.request('vol0', 'write', 0, new Uint8Array(4 * CHUNK).fill(1));
      await running.request('vol0', 'write', 4096 + 5, new Uint8Array(10).fill(2));
      await running.request('other', 'write', 0, new Uint8Array(4096).fill(3), { fua: true });
      t.match(await running.node.growVolume('vol0', 512 * MIB), { sizeBytes: 512 * MIB });
      t.match(await running.node.growVolume('vol0', 512 * MIB), { sizeBytes: 512 * MIB });
      await t.rejects(running.node.growVolume('vol0', 256 * MIB), { code: 'shrink-refused' });
      await t.rejects(running.node.growVolume('none', 256 * MIB), { code: 'volume-unknown' });
      await running.request('vol0', 'write', 512 * MIB - 4096, new Uint8Array(4096).fill(4));
      const { lastOp } = running.node.volume('vol0')!;
      for (let restart = 0; restart < 2; restart++) {
        await running.stop();
        running = await startTestNode(directory, { kind });
        t.match(running.node.volume('vol0'), { sizeBytes: 512 * MIB, lastOp, number: 1 });
        t.equal(running.node.volume('vol0')?.epoch, 2 + restart, 'each start has an epoch of its own');
        t.ok(running.log.lines.some(line => line.includes('the op log is whole')));
        const head = (await running.request('vol0', 'read', 0, 4 * CHUNK)).bytes;
        t.ok(isAll(head.subarray(4096 + 5, 4096 + 15), 2));
        head.fill(1, 4096 + 5, 4096 + 15);
        t.ok(isAll(head, 1));
        t.ok(isAll((await running.request('vol0', 'read', 512 * MIB - 4096, 4096)).bytes, 4));
        t.ok(isAll((await running.request('other', 'read', 0, 4096)).bytes, 3));
      }
      const used = running.node.status().devices[0].usedBytes;
      t.ok(used > 0);
      await running.node.deleteVolume('vol0');
      await t.rejects(running.node.deleteVolume('vol0'), { code: 'volume-unknown' });
      t.equal(running.node.find('vol0'), undefined);
      t.match(await running.node.createVolume(volumeRequest('vol0', MIB)), { number: 3 }, 'numbers are not used again');
      t.ok(isAll((await running.request('vol0', 'read', 0, MIB)).bytes, 0), 'nothing of the old one shines through');
      await running.stop();
      running = await startTestNode(directory, { kind });
      t.match(running.node.volumes(), [{ name: 'other' }, { name: 'vol0', number: 3, lastOp: 0, allocatedBytes: 0 }]);
      t.match(running.node.status(), { health: 'ok', problems: [] });
      await running.stop();
    });

    t.test('a second server on the directory is refused with the pid of the first, which goes on', async t => {
      const directory = temporaryDirectory(t);
      const running = await startTestNode(directory, { kind, volumes: [vol0] });
      await t.rejects(startTestNode(directory, { kind }), {
        code: 'data-in-use',
        message: new RegExp(`pid ${process.pid}`),
      });
      await running.request('vol0', 'write', 0, new Uint8Array(4096).fill(1), { fua: true });
      await running.stop();
      const again = await startTestNode(directory, { kind });
      t.ok(isAll((await again.request('vol0', 'read', 0, 4096)).bytes, 1));
      await again.stop();
    });

    t.test('devices in use, of another node, with other data, gone or shrunk are refused and not touched', async t => {
      const [first, second] = [temporaryDirectory(t), temporaryDirectory(t)];
      const path = join(first, 'disk');
      const devices = [{ path, sizeBytes: DEVICE_BYTES }];
      const running = await startTestNode(first, { kind, devices, volumes: [vol0] });
      await t.rejects(startTestNode(second, { kind, devices }), { code: 'device-in-use' });
      await running.request('vol0', 'write', 0, new Uint8Array(MIB).fill(7));
      await running.stop();
      const before = hash(path);
      await t.rejects(startTestNode(second, { kind, devices }), { code: 'device-foreign' });
      t.equal(hash(path), before);
      const other = join(second, 'other');
      const content = new Uint8Array(32 * MIB);
      content.set([0x53, 0xef], 1080);
      writeFileSync(other, content);
      await t.rejects(startTestNode(second, { kind, devices: [{ path: other }] }), { code: 'device-foreign' });
      t.ok(Buffer.from(content).equals(readFileSync(other)));
      await t.rejects(startTestNode(second, { kind, devices: [{ path: join(second, 'none') }] }), {
        code: 'device-missing',
      });
      t.notOk(existsSync(join(second, 'data')), 'a start that was refused leaves nothing behind');
      truncateSync(path, DEVICE_BYTES - 16 * MIB);
      await t.rejects(startTestNode(first, { kind }), { code: 'device-unusable', message: /shrunk/ });
      truncateSync(path, DEVICE_BYTES + 32 * MIB);
      const grown = await startTestNode(first, { kind });
      t.equal(grown.node.status().devices[0].sizeBytes, DEVICE_BYTES + 32 * MIB);
      await grown.stop();
      rmSync(path);
      await t.rejects(startTestNode(first, { kind }), { code: 'device-missing' });
    });

    t.test('a first start goes on where one before was killed while it made its device', async t => {
      const directory = temporaryDirectory(t);
      const data = join(directory, 'data');
      mkdirSync(join(data, 'devices'), { recursive: true });
      const node = { format: 1, node: '0'.repeat(32), createdAt: new Date().toISOString(), devices: [] };
      writeFileSync(join(data, 'node.json'), JSON.stringify(node));
      writeFileSync(join(data, 'devices', 'main'), '');
      const running = await startTestNode(directory, { kind, volumes: [vol0] });
      t.ok(running.node.status().devices[0].sizeBytes > MIB);
      await running.request('vol0', 'write', 0, new Uint8Array(4096).fill(7));
      await running.stop();
      const again = await startTestNode(directory, { kind });
      t.equal(again.node.status().formatVersion, 1, 'and a directory without a seed of its log stays so');
      t.ok(isAll((await again.request('vol0', 'read', 0, 4096)).bytes, 7));
      await again.stop();
    });

    t.test('directories of another format, damaged or of somebody else are refused', async t => {
      const directory = temporaryDirectory(t);
      const running = await startTestNode(directory, { kind });
      await running.stop();
      const file = join(directory, 'data', 'node.json');
      const good = readFileSync(file, 'utf8');
      writeFileSync(file, good.replace('"format": 2', '"format": 3'));
      await t.rejects(startTestNode(directory, { kind }), {
        code: 'bad-format',
        message: /format 3; this is format 2/,
      });
      const spoiled = [
        good.replace('"node": "', '"node": "x'),
        good.replace('logSeed', 'logseed'),
        good.replace(/"logSeed": "(.)/, (_, digit) => `"logSeed": "${digit === '0' ? 1 : 0}`),
      ];
      for (const bad of ['', '{', '[]', '{"format":1}', ...spoiled]) {
        writeFileSync(file, bad);
        await t.rejects(startTestNode(directory, { kind }), { code: 'corrupt' }, JSON.stringify(bad.slice(0, 20)));
        t.equal(readFileSync(file, 'utf8'), bad, 'and left as it is');
      }
      const twice = JSON.parse(good) as { devices: { number: number; identity: string }[] };
      twice.devices.push({ ...twice.devices[0], number: 7, identity: '7'.repeat(32) });
      writeFileSync(file, JSON.stringify(twice));
      await t.rejects(startTestNode(directory, { kind }), { code: 'corrupt', message: /as two devices/ });
      writeFileSync(file, good);
      await (await startTestNode(directory, { kind })).stop();
      const foreign = join(directory, 'foreign');
      mkdirSync(foreign);
      writeFileSync(join(foreign, 'letter.txt'), 'dear');
      await t.rejects(startTestNode(directory, { kind, dataDirectory: foreign }), { code: 'not-a-data-directory' });
      t.same(everything(foreign), ['letter.txt']);
      await t.rejects(startTestNode(directory, { kind, dataDirectory: join(foreign, 'letter.txt') }), {
        code: 'not-a-data-directory',
      });
    });

    t.test('a log segment of a wrong length is refused and left as it is; an empty one was never finished', async t => {
      const directory = temporaryDirectory(t);
      const running = await startTestNode(directory, { kind, volumes: [vol0] });
      await running.request('vol0', 'write', 0, new Uint8Array(4096).fill(7));
      await running.stop();
      const log = join(directory, 'data', 'log');
      const files = readdirSync(log).map(name => join(log, name));
      for (const file of files) {
        const whole = readFileSync(file);
        truncateSync(file, 8 * MIB);
        await t.rejects(startTestNode(directory, { kind }), { code: 'corrupt', message: /8388608 bytes of 16777216/ });
        t.equal(statSync(file).size, 8 * MIB);
        writeFileSync(file, whole);
      }
      writeFileSync(join(log, '000077.log'), '');
      const again = await startTestNode(directory, { kind, volumes: [vol0] });
      t.ok(isAll((await again.request('vol0', 'read', 0, 4096)).bytes, 7));
      t.equal(statSync(join(log, '000077.log')).size, 16 * MIB);
      await again.stop();
    });

    t.test('it listens on several addresses, each of them served, and gives them up', async t => {
      const directory = temporaryDirectory(t);
      const path = join(directory, 'nbd.sock');
      const listen: ListenAddress[] = [
        { kind: 'tcp', host: '127.0.0.1', port: 0 },
        { kind: 'unix', path },
        { kind: 'tcp', host: '::1', port: 0 },
      ];
      const running = await startTestNode(directory, { kind, volumes: [vol0], listen });
      const uris = running.node.addresses.map(address => {
        if (address.kind === 'unix') return `nbd+unix:///vol0?socket=${address.path}`;
        if (address.kind === 'fd') throw new Error('no such address was asked for');
        t.ok(address.port > 0);
        return `nbd://${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}/vol0`;
      });
      t.equal(uris.length, 3);
      const open = await Promise.all(uris.map(uri => BenchConnection.open(uriOf(uri), {})));
      for (const connection of open) t.equal(connection.agreement.sizeBytes, 256 * MIB);
      t.equal(running.node.status().connections, 3);
      t.equal(running.node.volume('vol0')!.connections, 3);
      await t.rejects(running.node.deleteVolume('vol0'), { code: 'volume-busy' });
      await t.rejects(startTestNode(temporaryDirectory(t), { kind, listen: [running.node.addresses[0]] }), {
        code: 'address-in-use',
      });
      for (const connection of open) connection.close();
      while (running.node.volume('vol0')!.connections > 0) await new Promise(resolve => setTimeout(resolve, 5));
      await running.stop();
      t.notOk(existsSync(path));
      await t.rejects(BenchConnection.open(uriOf(uris[0]), {}), { code: 'connection-failed' });
    });

    t.test('a stop under load answers what is in flight, and nothing that was answered is lost', async t => {
      const directory = temporaryDirectory(t);
      const listen: ListenAddress[] = [{ kind: 'tcp', host: '127.0.0.1', port: 0 }];
      const running = await startTestNode(directory, { kind, volumes: [vol0], listen });
      const [address] = running.node.addresses;
      if (address.kind !== 'tcp') throw new Error('tcp was asked for');
      const latencies = new LatencyHistogram();
      const errors = new Map<number, number>();
      let offset = 0;
      const nextOffset = () => {
        offset = (offset + 4096) % (64 * MIB);
        return offset;
      };
      const load = { isWrite: true, requestBytes: 4096, depth: 16, latencies, errors, nextOffset };
      const uri = uriOf(`nbd://127.0.0.1:${address.port}/vol0`);
      const connections = await Promise.all([0, 1, 2].map(() => BenchConnection.open(uri, {})));
      const runs = connections.map(connection =>
        connection.run(load).then(
          () => 'done',
          error => error.code,
        ),
      );
      while (latencies.count < 2000) await new Promise(resolve => setTimeout(resolve, 5));
      await running.stop();
      t.same(await Promise.all(runs), ['connection-failed', 'connection-failed', 'connection-failed']);
      const ESHUTDOWN = 108;
      t.same(
        [...errors.keys()].filter(error => error !== ESHUTDOWN),
        [],
        'no other error than that of a server that stops',
      );
      const again = await startTestNode(directory, { kind });
      t.ok(again.node.volume('vol0')!.lastOp >= latencies.count, `${latencies.count} writes were answered`);
      t.ok(again.log.lines.some(line => line.includes('the op log is whole')));
      await again.stop();
      await again.stop();
    });

    t.test('an index that was emptied is missing, and nobody else reads the one that is there', async t => {
      const directory = temporaryDirectory(t);
      await (await startTestNode(directory, { kind, volumes: [vol0] })).stop();
      const path = join(directory, 'data', 'index', INDEX_FILE);
      t.equal(statSync(path).mode & 0o777, 0o600);
      truncateSync(path, 0);
      await t.rejects(startTestNode(directory, { kind }), { code: 'corrupt', message: /index .* is missing/ });
    });

    t.test('a stop that cannot make everything durable says so when all is closed', async t => {
      const directory = temporaryDirectory(t);
      const { node } = await startTestNode(directory, { kind, volumes: [vol0] });
      const { flush } = Head.prototype;
      Head.prototype.flush = async () => EIO;
      try {
        await t.rejects(node.stop(), { code: 'io', message: /not durable: EIO/ });
      } finally {
        Head.prototype.flush = flush;
      }
      await (await startTestNode(directory, { kind })).stop();
    });

    t.test('once it is stopping, changes are refused', async t => {
      const running = await startTestNode(temporaryDirectory(t), { kind, volumes: [vol0] });
      const stopping = running.stop();
      await t.rejects(running.node.createVolume(volumeRequest('x', MIB)), { code: 'shutting-down' });
      await t.rejects(running.node.growVolume('vol0', 512 * MIB), { code: 'shutting-down' });
      await t.rejects(running.node.deleteVolume('vol0'), { code: 'shutting-down' });
      await stopping;
    });

    t.test('a start that is no longer wanted gives everything back', async t => {
      const directory = temporaryDirectory(t);
      const aborted = AbortSignal.abort();
      await t.rejects(startTestNode(directory, { kind, signal: aborted }), { code: 'shutting-down' });
      await (await startTestNode(directory, { kind })).stop();
    });

    t.test('the space of deleted and trimmed data goes back to the file system', async t => {
      const directory = temporaryDirectory(t);
      const path = join(directory, 'disk');
      const devices = [{ path, sizeBytes: DEVICE_BYTES }];
      const running = await startTestNode(directory, { kind, devices, volumes: [vol0] });
      await running.node.createVolume(volumeRequest('other', 64 * MIB));
      const allocated = () => statSync(path).blocks * 512;
      await running.request('vol0', 'write', 0, new Uint8Array(16 * MIB).fill(1));
      await running.request('other', 'write', 0, new Uint8Array(16 * MIB).fill(2), { fua: true });
      t.ok(allocated() >= 32 * MIB);
      await running.node.deleteVolume('other');
      const deadline = Date.now() + 5000;
      while (allocated() > 20 * MIB && Date.now() < deadline) await new Promise(resolve => setTimeout(resolve, 20));
      t.ok(allocated() <= 20 * MIB, `${allocated()} bytes are left`);
      t.ok(isAll((await running.request('vol0', 'read', 0, MIB)).bytes, 1));
      await running.stop();
    });
  });
}
