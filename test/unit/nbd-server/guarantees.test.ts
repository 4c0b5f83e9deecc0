/**
 * What a client may rely on when a reply is out: durability, ordering, visibility, and the shape of replies. Ids of the
 * checklist: B2 O3 O7 S1 X5 X6 X7 X9 X16 E5 E7, and READ-n, WRITE-n, CACHE-n for its unnumbered lines.
 */
import t from 'tap';
import { EIO } from '../../../src/base/errno.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';
import { Harness, pattern, sameBytes } from './harness.ts';

const MODES = [
  { mode: 'simple', wishes: {} },
  { mode: 'structured', wishes: { structuredReplies: true, blockStatus: true } },
  { mode: 'extended', wishes: { extendedHeaders: true, blockStatus: true } },
] as const;

for (const { mode, wishes } of MODES) {
  t.test(`X5 X6: with ${mode} replies, no FLUSH and no FUA is answered before the volume has completed it`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    harness.volume.deferred = true;
    const payload = pattern(4096);
    client.request(nbd.CMD_WRITE, 0, 4096, { payload, flags: nbd.CMD_FLAG_FUA });
    client.request(nbd.CMD_FLUSH, 0, 0);
    client.request(nbd.CMD_WRITE_ZEROES, 0, 4096, { flags: nbd.CMD_FLAG_FUA });
    t.equal(client.replies().length, 0);
    t.same(
      harness.volume.waiting.map(request => [request.command, request.fua]),
      [
        ['write', true],
        ['flush', false],
        ['writeZeroes', true],
      ],
    );
    harness.volume.completeNext(1);
    t.equal(client.reply().cookieLow, 2, 'only the flush is answered');
    harness.volume.completeAll();
    t.equal(client.replies().length, 2);
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X7: with ${mode} replies, what one connection was told is written, another reads`, async t => {
    const harness = new Harness();
    const [one, other] = [harness.enter(wishes), harness.enter(wishes)];
    for (const length of [100, 4096, 500 * KIB]) {
      const data = pattern(length, length);
      t.equal(one.write(77, data).error, 0);
      t.ok(sameBytes(other.read(77, length).data, data), `${length} bytes`);
    }
    t.ok(one.agreement.transmissionFlags & nbd.TRANSMISSION_CAN_MULTI_CONN);
    for (const client of [one, other]) client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X6: with ${mode} replies, a flush of a connection that has written nothing asks the volume, too`, async t => {
    const harness = new Harness();
    const [one, other] = [harness.enter(wishes), harness.enter(wishes)];
    t.equal(one.write(0, pattern(4096)).error, 0);
    harness.volume.deferred = true;
    other.request(nbd.CMD_FLUSH, 0, 0);
    t.equal(other.replies().length, 0, 'it covers what others were told is written');
    t.same(
      harness.volume.waiting.map(request => request.command),
      ['flush'],
    );
    harness.volume.completeAll();
    t.equal(other.replies().length, 1);
    for (const client of [one, other]) client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X9 X16: with ${mode} replies, NO_HOLE is taken with any range, aligned or not`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const flags of [0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA]) {
      harness.volume.poke(0, pattern(20_000));
      t.equal(client.command(nbd.CMD_WRITE_ZEROES, 13, 9001, flags).error, 0);
      t.ok(client.read(13, 9001).data.every(byte => byte === 0));
      t.ok(
        client.read(0, 13).data.every(byte => byte !== 0),
        'nothing before it',
      );
      t.ok(
        client.read(9014, 100).data.every(byte => byte !== 0),
        'nothing behind it',
      );
    }
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`READ-3: with ${mode} replies, a failed read carries no data, and the next reply follows at once`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const length of [4096, 1 * MIB]) {
      harness.volume.failWith.set('read', EIO);
      const bad = client.read(0, length);
      t.same([bad.error, bad.data.length, bad.dataChunks], [nbd.NBD_EIO, 0, 0]);
      harness.volume.failWith.clear();
      t.equal(client.read(0, 100).data.length, 100);
    }
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`WRITE-2: with ${mode} replies, a failed write changes nothing and says so`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    harness.volume.failWith.set('write', EIO);
    t.equal(client.write(0, pattern(5000)).error, nbd.NBD_EIO);
    t.ok(client.read(0, 5000).data.every(byte => byte === 0));
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`CACHE-1: with ${mode} replies, CACHE changes nothing, and its unknown flags are refused`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    const data = pattern(9000);
    harness.volume.poke(0, data);
    t.equal(client.command(nbd.CMD_CACHE, 0, 9000).error, 0);
    t.equal(client.command(nbd.CMD_CACHE, 0, 9000, nbd.CMD_FLAG_NO_HOLE).error, nbd.NBD_EINVAL);
    t.ok(sameBytes(client.read(0, 9000).data, data));
    client.leave();
    t.same(harness.leaks(), []);
  });
}

t.test('B2: a client that sends only what fixed newstyle requires is served', async t => {
  const harness = new Harness();
  const client = harness.connect();
  client.hello(nbd.FLAG_FIXED_NEWSTYLE);
  client.stream.write(nbd.encodeOption(nbd.OPT_EXPORT_NAME));
  t.equal(client.bytes().length, 134);
  t.equal(client.read(0, 512).error, 0);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('O3 O7: texts of errors are strings, ACK carries nothing, a repeated option is told so', async t => {
  const harness = new Harness();
  const client = harness.connect();
  client.hello();
  const all = [
    client.option(99),
    client.option(nbd.OPT_STRUCTURED_REPLY),
    client.option(nbd.OPT_STRUCTURED_REPLY),
    client.option(nbd.OPT_GO, nbd.encodeInfoRequest('none', [])),
  ].flat();
  t.same(
    all.map(reply => reply.type),
    [nbd.REP_ERR_UNSUP, nbd.REP_ACK, nbd.REP_ERR_INVALID, nbd.REP_ERR_UNKNOWN],
  );
  for (const reply of all) {
    if (reply.type === nbd.REP_ACK) t.equal(reply.data.length, 0);
    else t.match(nbd.decodeText(reply.data, 0, reply.data.length), { ok: true, text: /^[a-z ]{5,256}$/ });
  }
  client.stream.end();
  t.same(harness.leaks(), []);
});

t.test('S1: the TLS mode does not change with what a client does', async t => {
  const upgrade = async (): Promise<never> => Promise.reject(new Error('not in this test'));
  const harness = new Harness({ tls: { mode: 'forced', upgrade } });
  const client = harness.connect();
  client.hello();
  for (let round = 0; round < 3; round += 1) {
    t.same(
      client.option(nbd.OPT_LIST).map(reply => reply.type),
      [nbd.REP_ERR_TLS_REQD],
    );
    t.same(
      client.option(nbd.OPT_STARTTLS, new Uint8Array(1)).map(reply => reply.type),
      [nbd.REP_ERR_INVALID],
    );
  }
  client.stream.end();
  t.same(harness.leaks(), []);
});

t.test('E5: BLOCK_STATUS with a payload is not offered: consumed, EINVAL, in step', async t => {
  const harness = new Harness();
  const client = harness.enter({ extendedHeaders: true, blockStatus: true });
  t.notOk(client.agreement.transmissionFlags & nbd.TRANSMISSION_BLOCK_STATUS_PAYLOAD);
  const payload = new Uint8Array(12);
  client.request(nbd.CMD_BLOCK_STATUS, 0, 12, { payload, flags: nbd.CMD_FLAG_PAYLOAD_LEN });
  t.equal(client.reply().error, nbd.NBD_EINVAL);
  t.equal(client.command(nbd.CMD_BLOCK_STATUS, 0, 4096).error, 0);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('E7: base:allocation is offered with and without extended headers', async t => {
  for (const wishes of [{ structuredReplies: true }, { extendedHeaders: true }]) {
    const harness = new Harness();
    const client = harness.enter({ ...wishes, blockStatus: true });
    t.equal(client.agreement.allocationContextId, 1);
    client.leave();
    t.same(harness.leaks(), []);
  }
});
