/** Which addresses of a host the client's side of NBD tries, and when it gives up. */
import dns from 'node:dns/promises';
import { syncBuiltinESMExports } from 'node:module';
import { type AddressInfo, createServer } from 'node:net';
import t from 'tap';
import { NbdChannel } from '../../../src/platform/nbd-channel.ts';

const { lookup } = dns;

/** Of a tap test, what is needed here. */
interface Cleaner {
  teardown(end: () => void): void;
}

/** While the test runs, host names stand for these addresses; none: for nothing. */
function namesMean(test: Cleaner, ...addresses: string[]): void {
  const answer = async () => {
    if (addresses.length === 0) throw Object.assign(new Error('not found'), { code: 'ENOTFOUND' });
    return addresses.map(address => ({ address, family: 4 }));
  };
  Object.assign(dns, { lookup: answer });
  syncBuiltinESMExports();
  test.teardown(() => {
    Object.assign(dns, { lookup });
    syncBuiltinESMExports();
  });
}

/** A server on 127.0.0.2; gives its port. */
async function listening(test: Cleaner): Promise<number> {
  const server = createServer(socket => {
    socket.on('error', () => {});
    socket.end('hello');
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.2', resolve));
  test.teardown(() => server.close());
  return (server.address() as AddressInfo).port;
}

t.test('the addresses of a host are tried in their order', async t => {
  const port = await listening(t);
  namesMean(t, '127.0.0.1', '127.0.0.2', '127.0.0.3');
  const channel = await NbdChannel.connect({ kind: 'tcp', host: 'a-name', port }, 5000);
  t.equal(Buffer.from(await channel.receive()).toString(), 'hello');
  channel.close();
});

t.test('an address that does not answer leaves time for the next one', async t => {
  const port = await listening(t);
  // For documentation (RFC 5737): packets to it get lost, or there is no way to it.
  namesMean(t, '192.0.2.1', '127.0.0.2');
  const channel = await NbdChannel.connect({ kind: 'tcp', host: 'a-name', port }, 1000);
  t.equal(Buffer.from(await channel.receive()).toString(), 'hello');
  channel.close();
});

t.test('the last failure is told where all fail; a name without address is a failed connection', async t => {
  const port = await listening(t);
  const endpoint = { kind: 'tcp', host: 'a-name', port } as const;
  namesMean(t, '127.0.0.1', '127.0.0.3');
  await t.rejects(NbdChannel.connect(endpoint, 5000), { code: 'connection-failed', message: /a-name.*ECONNREFUSED/ });
  namesMean(t);
  await t.rejects(NbdChannel.connect(endpoint, 5000), { code: 'connection-failed', message: /no address/ });
});
