/** Wrong arguments to the addon are a TypeError, and never a crash. */
import t from 'tap';
import { addon, KERNEL_RING, THREAD_RING } from '../../src/platform/addon.ts';

type Call = (...values: unknown[]) => unknown;

const WRONG: readonly unknown[] = [
  undefined,
  null,
  -1,
  1.5,
  Number.NaN,
  Infinity,
  2 ** 60,
  'text',
  {},
  [],
  () => {},
  1n,
];
const FUNCTIONS = {
  allocate: addon.allocate,
  addressOf: addon.addressOf,
  writeAt: addon.writeAt,
  directAlignment: addon.directAlignment,
  blockDevice: addon.blockDevice,
  encodeTcpAddress: addon.encodeTcpAddress,
  encodeUnixAddress: addon.encodeUnixAddress,
  listenOn: addon.listenOn,
  socketFor: addon.socketFor,
  probeSocket: addon.probeSocket,
  nameOf: addon.nameOf,
  tune: addon.tune,
  shutdownSocket: addon.shutdownSocket,
  setNonBlocking: addon.setNonBlocking,
  discardReceived: addon.discardReceived,
  closeDescriptor: addon.closeDescriptor,
  joinNetlinkGroup: addon.joinNetlinkGroup,
  startConnect: addon.startConnect,
  socketError: addon.socketError,
  setLinkOptions: addon.setLinkOptions,
  sendBytes: addon.sendBytes,
  receiveBytes: addon.receiveBytes,
  checksum: addon.checksum,
  checksumByTables: addon.checksumWays.tables,
  checksumBlocks: addon.checksumBlocks,
} as const;

t.test('every function refuses a wrong first argument', async t => {
  for (const [name, plain] of Object.entries(FUNCTIONS)) {
    const call = plain as Call;
    for (const value of WRONG) {
      if (typeof value === 'string' && name.startsWith('encode')) continue;
      t.throws(() => call(value), TypeError, `${name}(${typeof value})`);
    }
    t.throws(() => call(), TypeError, `${name}()`);
  }
});

t.test('ranges outside of their array are refused', async t => {
  const bytes = new Uint8Array(8192);
  const sums = new Uint32Array(2);
  t.throws(() => addon.checksum(bytes, 8192, 1, 0), TypeError);
  t.throws(() => addon.checksum(bytes, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 0), TypeError);
  t.throws(() => addon.checksumBlocks(bytes, 1, 2, sums, 0), TypeError);
  t.throws(() => addon.checksumBlocks(bytes, 0, 2, sums, 1), TypeError);
  t.throws(() => addon.checksumBlocks(bytes, 0, 0xffffffff, sums, 0xffffffff), TypeError);
  t.throws(() => addon.writeAt(1, bytes, 8000, 193, 0), TypeError);
  t.throws(() => addon.encodeTcpAddress('127.0.0.1', 1, new Uint8Array(4)), TypeError);
  t.throws(() => addon.encodeUnixAddress('/path', new Uint8Array(4)), TypeError);
  t.throws(() => addon.listenOn(bytes, 4000, 1, false), TypeError);
  t.throws(() => addon.socketFor(bytes, 1), TypeError);
  t.throws(() => addon.allocate(0), TypeError);
  t.throws(() => addon.allocate(4095), TypeError);
  t.throws(() => (addon.allocate as Call)(4096, 1), TypeError);
});

t.test('other arrays than those asked for are refused', async t => {
  const bytes = new Uint8Array(4096);
  t.throws(() => (addon.checksumBlocks as Call)(bytes, 0, 1, new Int32Array(1), 0), TypeError);
  t.throws(() => (addon.checksum as Call)(new Uint16Array(8), 0, 1, 0), TypeError);
  t.throws(() => (addon.addressOf as Call)(bytes), TypeError);
});

t.test('errors of the system are negative numbers', async t => {
  t.equal(addon.closeDescriptor(0x7ffffff), -9);
  t.equal(addon.shutdownSocket(0x7ffffff, 2), -9);
  t.equal(addon.blockDevice(0), -25);
  t.equal(addon.encodeTcpAddress('not a number', 1, new Uint8Array(128)), -22);
  t.equal(addon.encodeUnixAddress('x'.repeat(108), new Uint8Array(128)), -36);
  t.equal(addon.writeAt(0x7ffffff, new Uint8Array(8), 0, 8, 0), -9);
});

for (const kind of [KERNEL_RING, THREAD_RING]) {
  t.test(`a ring of kind ${kind} checks its arguments and its state`, async t => {
    const Ring = addon.Ring as unknown as new (...values: unknown[]) => InstanceType<typeof addon.Ring>;
    const wake = () => false;
    t.throws(() => new Ring(), TypeError);
    t.throws(() => new Ring(2, 8, 1, wake), TypeError);
    t.throws(() => new Ring(kind, 7, 1, wake), TypeError);
    t.throws(() => new Ring(kind, 0, 1, wake), TypeError);
    t.throws(() => new Ring(kind, 2 ** 20, 1, wake), TypeError);
    t.throws(() => new Ring(kind, 8, 1), TypeError);
    const ring = new addon.Ring(kind, 8, 2, wake);
    t.equal(ring.submissions.byteLength, 8 * 64);
    t.ok(ring.completions.byteLength >= 8 * 16);
    t.throws(() => ring.enter(9, 0), TypeError);
    t.throws(() => ring.enter(0, 10_000_000), TypeError);
    t.throws(() => (ring.enter as Call)(), TypeError);
    t.throws(() => ring.push(9), TypeError);
    t.throws(() => (ring.push as Call)(), TypeError);
    t.equal(ring.push(0), 0);
    t.equal(ring.enter(0, 0), 0);
    t.equal(ring.arm(false), 0);
    ring.close();
    t.throws(() => ring.enter(0, 0), TypeError);
    t.throws(() => ring.arm(false), TypeError);
    t.throws(() => ring.close(), TypeError);
    t.throws(() => (addon.Ring.prototype.enter as Call).call({}, 0, 0), TypeError);
  });
}
