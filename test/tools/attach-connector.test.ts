/**
 * The connections that `sledge attach` makes, against a real server but without a kernel's device: over TCP, Unix sockets
 * and TLS, found by a data directory or a URI; and what becomes of servers that do not answer.
 */
import { createServer, type Server, Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import type { AttachOptions } from '../../src/attach/device-record.ts';
import { parseUri } from '../../src/bin/attach-arguments.ts';
import { findServer, tlsMaterial } from '../../src/bin/attach-server.ts';
import { CMD_READ, CMD_WRITE, REQUEST_BYTES, SIMPLE_REPLY_BYTES } from '../../src/nbd-server-protocol/constants.ts';
import { encodeRequest } from '../../src/nbd-server-protocol/request.ts';
import { formatNbdUri } from '../../src/nbd-server-protocol/uri.ts';
import { AttachConnector } from '../../src/platform/attach-connector.ts';
import { TlsRelay } from '../../src/platform/tls-relay.ts';
import { sleep } from '../contract/io-support.ts';
import { makeCertificates, makePskFile } from '../support/nbd-certificates.ts';
import { skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { sledgeJson, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const VOLUMES = [{ name: 'disk', sizeBytes: 64 * MIB }];

function optionsFor(target: AttachOptions['target'], tls: Partial<AttachOptions> = {}): AttachOptions {
  return {
    target,
    name: 'disk',
    connections: 1,
    deadTimeoutSeconds: null,
    requestTimeoutSeconds: 4,
    readOnly: false,
    tlsCertificates: null,
    tlsPsk: null,
    ...tls,
  };
}

async function connectorOf(options: AttachOptions): Promise<AttachConnector> {
  return await AttachConnector.make(() => findServer(options), tlsMaterial(options));
}

/** A server that wants pre-shared keys, and a connector that has those of alice. */
async function startServerWithKeys(test: Parameters<typeof startServer>[0]) {
  const directory = temporaryDirectory(test);
  const dataDirectory = join(directory, 'data');
  const keys = makePskFile(join(directory, 'keys'), 'alice', '00112233445566778899aabbccddeeff');
  const server = await startServer(test, {
    dataDirectory,
    volumes: VOLUMES,
    tcp: true,
    tls: { psk: keys, required: true },
  });
  const uri = server.uriOf('disk', { tls: true, user: 'alice' });
  const connector = await connectorOf(optionsFor({ kind: 'uri', uri }, { tlsPsk: keys }));
  return { server, dataDirectory, keys, connector };
}

/** Reads the first block over a descriptor, as the kernel would, and closes it. */
async function firstBlock(fd: number): Promise<Buffer> {
  const socket = new Socket({ fd, readable: true, writable: true });
  const request = new Uint8Array(REQUEST_BYTES);
  encodeRequest(new DataView(request.buffer), 0, false, 0, CMD_READ, 1, 2, 0, 4096);
  socket.write(request);
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of socket) {
    pieces.push(piece as Buffer);
    bytes += (piece as Buffer).length;
    if (bytes >= SIMPLE_REPLY_BYTES + 4096) break;
  }
  socket.destroy();
  return Buffer.concat(pieces).subarray(SIMPLE_REPLY_BYTES);
}

t.test('a volume is found by the data directory of its server: the Unix socket first, then TCP', async t => {
  const directory = temporaryDirectory(t);
  const dataDirectory = join(directory, 'data');
  const unix = join(directory, 's.sock');
  const options = optionsFor({ kind: 'volume', dataDirectory, volume: 'disk' });
  await t.rejects(connectorOf(options), { code: 'not-running' });
  let server = await startServer(t, { dataDirectory, volumes: VOLUMES, unix, tcp: true });
  const connector = await connectorOf(options);
  t.equal(formatNbdUri(connector.uri), server.uriOf('disk', { transport: 'unix' }).replaceAll('%2F', '/'));
  const connection = await connector.connect();
  t.equal(connection.sizeBytes, 64 * MIB);
  t.equal((await firstBlock(connection.socket)).length, 4096);
  await t.rejects(connectorOf(optionsFor({ kind: 'volume', dataDirectory, volume: 'other' })), {
    code: 'volume-unknown',
  });

  t.equal(await connector.inquire(), 64 * MIB);
  await sledgeJson(dataDirectory, 'volume', 'grow', 'disk', '--size', String(96 * MIB));
  t.equal(await connector.inquire(), 96 * MIB, 'a volume that grew is seen by asking');

  await server.kill();
  await t.rejects(connector.connect(), { code: 'not-running' });
  server = await startServer(t, { dataDirectory, volumes: VOLUMES, tcp: true });
  const again = await connector.connect();
  t.equal(again.sizeBytes, 96 * MIB, 'a server that moved is found again');
  again.release();
  again.release();
  t.equal(formatNbdUri(connector.uri), server.uri);
  let connections = -1;
  for (let tries = 0; tries < 20 && connections !== 0; tries++) {
    connections = Number((await sledgeJson(dataDirectory, 'volume', 'show', 'disk'))['connections']);
  }
  t.equal(connections, 0, 'a released connection is closed');
});

t.test('another volume is not taken for the one that was attached, though name and address are the same', async t => {
  const directory = temporaryDirectory(t);
  const dataDirectory = join(directory, 'data');
  const unix = join(directory, 's.sock');
  const options = optionsFor({ kind: 'volume', dataDirectory, volume: 'disk' });
  const server = await startServer(t, { dataDirectory, volumes: VOLUMES, unix });
  const connector = await connectorOf(options);
  (await connector.connect()).release();
  const { volumeMade } = connector;
  await sledgeJson(dataDirectory, 'volume', 'delete', 'disk');
  await sledgeJson(dataDirectory, 'volume', 'create', 'disk', '--size', String(64 * MIB));
  await t.rejects(connector.connect(), { code: 'volume-unknown', message: /another one has its name/ });
  const adopted = await AttachConnector.again(volumeMade, () => findServer(options), undefined);
  await t.rejects(adopted.connect(), { code: 'volume-unknown' }, 'nor by who adopts the device');
  await server.kill();

  // Somebody else's server at the address of the one that is gone.
  const other = await startServer(t, { dataDirectory: join(directory, 'other'), volumes: VOLUMES, unix });
  await t.rejects(connector.connect(), { code: 'not-running' });
  await other.kill();
});

t.test('under TLS the kernel gets one end of a relay', { skip: skipUnlessInstalled('certtool') }, async t => {
  const directory = temporaryDirectory(t);
  const { directory: certificates } = await makeCertificates(join(directory, 'certificates'));
  const server = await startServer(t, {
    dataDirectory: join(directory, 'data'),
    volumes: VOLUMES,
    tcp: true,
    tls: { certificates, required: true },
  });
  const uri = server.uriOf('disk', { tls: true });
  const connector = await connectorOf(optionsFor({ kind: 'uri', uri }, { tlsCertificates: certificates }));
  t.equal(await connector.inquire(), 64 * MIB);
  const connection = await connector.connect();
  t.equal((await firstBlock(connection.socket)).length, 4096);

  const refused = (target: string, tls: Partial<AttachOptions> = {}) =>
    connectorOf(optionsFor({ kind: 'uri', uri: target }, tls)).then(found => found.connect());
  await t.rejects(refused(server.uri), { code: 'not-supported', message: /wants TLS/ });
  await t.rejects(refused(uri), { code: 'connection-failed' }, 'the authority is not known');
  const elsewhere = `${uri}?tls-hostname=elsewhere`;
  await t.rejects(refused(elsewhere, { tlsCertificates: certificates }), { code: 'connection-failed' });
  await t.rejects(refused(uri, { tlsCertificates: directory }), { code: 'tls-files' });

  // The server goes: the kernel's end tells.
  const last = await connector.connect();
  const end = new Socket({ fd: last.socket, readable: true, writable: true });
  const ended = new Promise<void>(resolve => end.once('close', () => resolve()));
  end.resume();
  end.on('error', () => {});
  await server.kill();
  await ended;
  await t.rejects(connector.connect(), { code: 'connection-failed' });
});

t.test('what a relay holds of a connection that was given up does not arrive later', async t => {
  const { server, dataDirectory, connector } = await startServerWithKeys(t);
  const connection = await connector.connect();
  const kernel = new Socket({ fd: connection.socket, readable: true, writable: true });
  kernel.on('error', () => {});
  process.kill(server.pid, 'SIGSTOP');
  // More than all buffers on the way hold, in writes of a MiB.
  const count = 48;
  const request = new Uint8Array(REQUEST_BYTES + MIB).fill(7);
  for (let i = 0; i < count; i++) {
    encodeRequest(new DataView(request.buffer), 0, false, 0, CMD_WRITE, 1, i, i * MIB, MIB);
    kernel.write(Buffer.from(request));
  }
  await sleep(500);
  t.ok(kernel.writableLength > 0, 'the relay takes no more');
  // As the kernel does it: what is in the socket stays there for who reads on.
  kernel.destroy();
  TlsRelay.endThoseShut();
  process.kill(server.pid, 'SIGCONT');
  await sleep(1000);
  const volume = await sledgeJson(dataDirectory, 'volume', 'show', 'disk');
  t.equal(volume['connections'], 0);
  t.ok(Number(volume['lastOp']) < 3, `${volume['lastOp']} writes arrived, of those that were on the wire`);
});

t.test('relays end with their supervisor', async t => {
  const { dataDirectory, connector } = await startServerWithKeys(t);
  const ends = [];
  for (let i = 0; i < 2; i++) {
    const kernel = new Socket({ fd: (await connector.connect()).socket, readable: true, writable: true });
    kernel.on('error', () => {});
    ends.push(new Promise<void>(resolve => kernel.once('close', () => resolve())));
    kernel.resume();
  }
  TlsRelay.endAll();
  await Promise.all(ends);
  let connections = -1;
  for (let tries = 0; tries < 20 && connections !== 0; tries++) {
    connections = Number((await sledgeJson(dataDirectory, 'volume', 'show', 'disk'))['connections']);
  }
  t.equal(connections, 0);
});

t.test('pre-shared keys', async t => {
  const { server, keys, connector } = await startServerWithKeys(t);
  const connection = await connector.connect();
  t.equal((await firstBlock(connection.socket)).length, 4096);
  const other = optionsFor({ kind: 'uri', uri: server.uriOf('disk', { tls: true, user: 'bob' }) }, { tlsPsk: keys });
  await t.rejects(connectorOf(other), { code: 'tls-files' });
});

t.test('servers that are none, or say nothing, end in an error in time', async t => {
  const directory = temporaryDirectory(t);
  const path = join(directory, 's.sock');
  const connector = await connectorOf(optionsFor({ kind: 'uri', uri: `nbd+unix:///disk?socket=${path}` }));
  await t.rejects(connector.connect(), { code: 'connection-failed' }, 'no server');
  await serving(
    path,
    socket => socket.end('SSH-2.0-OpenSSH_9.2p1 Debian\r\n'),
    async () => {
      await t.rejects(connector.connect(), { code: 'protocol-error' });
      await t.rejects(connector.inquire(), { code: 'protocol-error' });
    },
  );
  await serving(
    path,
    socket => socket.destroy(),
    async () => {
      await t.rejects(connector.connect(), { code: 'connection-failed' });
    },
  );
  await serving(
    path,
    () => {},
    async () => {
      const begun = performance.now();
      await t.rejects(connector.connect(), { code: 'connection-failed', message: /ETIMEDOUT/ });
      t.ok(performance.now() - begun < 7000);
    },
  );
  t.throws(() => parseUri('nbd:'), { code: 'bad-address' });
});

/** Serves with a few lines while `during` runs. */
async function serving(path: string, accepted: (socket: Socket) => void, during: () => Promise<void>): Promise<void> {
  const sockets: Socket[] = [];
  const server: Server = createServer(socket => {
    socket.on('error', () => {});
    sockets.push(socket);
    accepted(socket);
  });
  await new Promise<void>(resolve => server.listen(path, resolve));
  await during();
  for (const socket of sockets) socket.destroy();
  await new Promise(resolve => server.close(resolve));
}
