/** The encrypted stream held to the contract of all streams: the server's end after STARTTLS, and a client's. */

import { chmodSync, writeFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import type { Stream } from '../../../src/base/stream.ts';
import { createIoPlatform } from '../../../src/platform/platform.ts';
import { detachStream } from '../../../src/platform/ring-stream.ts';
import { loadTlsMaterial } from '../../../src/platform/tls.ts';
import { NodeStream, tlsUpgrade } from '../../../src/platform/tls-stream.ts';
import { type StreamsUnderTest, streamContract } from '../../contract/stream-contract.ts';

// A key is made faster than certificates, and the stream is the same above either.
const keyFile = join(t.testdir(), 'keys.psk');
const key = Buffer.alloc(32, 7);
writeFileSync(keyFile, `alice:${key.toString('hex')}\n`);
chmodSync(keyFile, 0o600);
const material = loadTlsMaterial({ psk: keyFile });

async function pair(): Promise<{ server: Stream; client: Stream; rest: Pick<StreamsUnderTest, 'memory' | 'cleanUp'> }> {
  const platform = createIoPlatform();
  let accepted: (stream: Stream) => void = () => {};
  const plain = new Promise<Stream>(resolve => {
    accepted = resolve;
  });
  const listener = await platform.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 }, stream => accepted(stream));
  const port = listener.address.kind === 'tcp' ? listener.address.port : 0;
  const socket = connectPlain(port, '127.0.0.1');
  const upgraded = tlsUpgrade(material, detachStream, 5000)(await plain);
  const secure = connectTls({
    socket,
    ciphers: 'PSK',
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ identity: 'alice', psk: key }),
  });
  await new Promise(resolve => secure.once('secureConnect', resolve));
  secure.allowHalfOpen = true;
  const cleanUp = async (): Promise<void> => {
    await listener.close();
    await platform.close();
  };
  return {
    server: await upgraded,
    client: new NodeStream(secure, true, 'client'),
    rest: { memory: platform, cleanUp },
  };
}

streamContract('the server end of TLS', async () => {
  const { server, client, rest } = await pair();
  return { near: server, far: client, knowsEndsAhead: false, ...rest };
});

streamContract('the client end of TLS', async () => {
  const { server, client, rest } = await pair();
  return { near: client, far: server, knowsEndsAhead: true, ...rest };
});
