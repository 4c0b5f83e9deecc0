/**
 * Every command with every flag at every boundary of the range, against a table written from the protocol document; and
 * what the volume is told. Ids of the checklist: X6 X8–X12 X14 X15 X16 R1, and of its unnumbered lines: READ-n, WRITE-n,
 * FLUSH-n, TRIM-n, CACHE-n, ZERO-n, STATUS-n.
 */
import t from 'tap';
import { EOPNOTSUPP, EOVERFLOW } from '../../../src/base/errno.ts';
import { nbdExtentsMax } from '../../../src/base/limits.ts';
import { GIB, KIB, MIB } from '../../../src/base/units.ts';
import type { VolumeRequest } from '../../../src/nbd-server/exported-volume.ts';
import * as nbd from '../../../src/nbd-server-protocol/index.ts';
import { MemoryVolume } from '../../support/memory-volume.ts';
import { Harness, pattern, sameBytes } from './harness.ts';

const FUA = nbd.CMD_FLAG_FUA;
const SIZE = 1 * MIB + 300;

interface Row {
  readonly name: string;
  readonly command: number;
  /** Flags besides FUA that belong to it. */
  readonly flags: number;
  readonly beyondEnd: number;
  readonly writes: boolean;
  readonly structuredFlags?: number;
}

const { NBD_EINVAL: EINVAL, NBD_ENOSPC: ENOSPC, NBD_EPERM: EPERM } = nbd;
const ROWS: readonly Row[] = [
  { name: 'READ', command: 0, flags: 0, structuredFlags: nbd.CMD_FLAG_DF, beyondEnd: EINVAL, writes: false },
  { name: 'WRITE', command: 1, flags: 0, beyondEnd: ENOSPC, writes: true },
  { name: 'TRIM', command: 4, flags: 0, beyondEnd: EINVAL, writes: true },
  { name: 'CACHE', command: 5, flags: 0, beyondEnd: EINVAL, writes: false },
  { name: 'WRITE_ZEROES', command: 6, flags: 2 | 16, beyondEnd: ENOSPC, writes: true },
  { name: 'BLOCK_STATUS', command: 7, flags: nbd.CMD_FLAG_REQ_ONE, beyondEnd: EINVAL, writes: false },
];

const MODES = [
  { mode: 'simple', wishes: {} },
  { mode: 'structured', wishes: { structuredReplies: true, blockStatus: true } },
  { mode: 'extended', wishes: { extendedHeaders: true, blockStatus: true } },
] as const;

for (const { mode, wishes } of MODES) {
  for (const row of ROWS) {
    t.test(`X6 X10: ${row.name} with ${mode} replies takes its own flags and refuses every other`, async t => {
      const harness = new Harness({ volumes: [new MemoryVolume({ sizeBytes: SIZE })] });
      const client = harness.enter(wishes);
      const own = row.flags | (mode === 'simple' ? 0 : (row.structuredFlags ?? 0));
      const unselected = row.command === nbd.CMD_BLOCK_STATUS && mode === 'simple';
      for (let bit = 0; bit < 16; bit += 1) {
        const flag = 1 << bit;
        // Under extended headers PAYLOAD_LEN announces a payload: its tests stand elsewhere.
        if (mode === 'extended' && flag === nbd.CMD_FLAG_PAYLOAD_LEN) continue;
        for (const flags of [flag, flag | FUA]) {
          const payload = row.command === nbd.CMD_WRITE ? { payload: new Uint8Array(512) } : {};
          client.request(row.command, 0, 512, { flags, ...payload });
          const allowed = (flag & (own | FUA)) !== 0 && !unselected;
          t.equal(client.reply().error, allowed ? 0 : EINVAL, `flags ${flags}`);
        }
      }
      client.leave();
      t.same(harness.leaks(), []);
    });

    t.test(`X10 X15: ${row.name} with ${mode} replies at the boundaries of the range`, async t => {
      const harness = new Harness({ volumes: [new MemoryVolume({ sizeBytes: SIZE })] });
      const client = harness.enter(wishes);
      const unselected = row.command === nbd.CMD_BLOCK_STATUS && mode === 'simple';
      const ranges: [number, number, boolean][] = [
        [0, 1, true],
        [0, SIZE, true],
        [SIZE - 1, 1, true],
        [SIZE - 300, 300, true],
        [SIZE - 1, 2, false],
        [SIZE, 1, false],
        [SIZE + 1, 1, false],
        [1, SIZE, false],
        [2 ** 32 - 1, 4096, false],
        [2 ** 52, 4096, false],
        [Number.MAX_SAFE_INTEGER, 1, false],
      ];
      for (const [offset, length, good] of ranges) {
        const payload = row.command === nbd.CMD_WRITE ? { payload: new Uint8Array(length) } : {};
        client.request(row.command, offset, length, payload);
        const expected = good ? (unselected ? EINVAL : 0) : row.beyondEnd;
        t.equal(client.reply().error, expected, `${offset}+${length}`);
      }
      // Offsets above 2^53, as no client of ours could send them.
      const raw = client.encode(row.command, 0, 512, row.command === 1 ? { payload: new Uint8Array(512) } : {});
      for (const offset of [2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 512n]) {
        new DataView(raw.buffer).setBigUint64(16, offset);
        client.stream.write(raw.slice());
        t.equal(client.reply().error, row.beyondEnd, `${offset}`);
      }
      client.leave();
      t.same(harness.leaks(), []);
    });
  }

  t.test(`X8: with ${mode} replies a read-only export refuses what writes with EPERM and serves the rest`, async t => {
    const harness = new Harness({ volumes: [new MemoryVolume({ readOnly: true })] });
    const client = harness.enter(wishes);
    for (const row of ROWS) {
      if (row.command === nbd.CMD_BLOCK_STATUS && mode === 'simple') continue;
      const payload = row.command === nbd.CMD_WRITE ? { payload: new Uint8Array(100 * KIB) } : {};
      client.request(row.command, 0, 100 * KIB, payload);
      t.equal(client.reply().error, row.writes ? EPERM : 0, row.name);
    }
    t.equal(client.command(nbd.CMD_FLUSH, 0, 0).error, 0);
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X10 R1: with ${mode} replies commands that do not exist are EINVAL, RESIZE among them`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const command of [8, 9, 100, 255, 256, 0xffff]) t.equal(client.command(command, 0, 0).error, EINVAL);
    t.equal(client.read(0, 1).error, 0);
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`FLUSH-1 X6: with ${mode} replies FLUSH takes FUA, and no range`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    t.equal(client.command(nbd.CMD_FLUSH, 0, 0, FUA).error, 0);
    for (const [offset, length] of [
      [0, 1],
      [1, 0],
      [4096, 4096],
      [2 ** 53 - 1, 1],
    ]) {
      t.equal(client.command(nbd.CMD_FLUSH, offset, length).error, EINVAL);
    }
    t.same(harness.volume.log, ['flush 0+0 fua']);
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`X12 X16: with ${mode} replies a minimum block size is held to`, async t => {
    const harness = new Harness({ volumes: [new MemoryVolume({ minimumBlockBytes: 512 })] });
    const client = harness.enter(wishes);
    for (const row of ROWS) {
      if (row.command === nbd.CMD_BLOCK_STATUS && mode === 'simple') continue;
      for (const [offset, length, error] of [
        [512, 1024, 0],
        [1, 512, EINVAL],
        [512, 511, EINVAL],
      ]) {
        const payload = row.command === nbd.CMD_WRITE ? { payload: new Uint8Array(length) } : {};
        client.request(row.command, offset, length, payload);
        t.equal(client.reply().error, error, `${row.name} ${offset}+${length}`);
      }
    }
    client.leave();
    t.same(harness.leaks(), []);
  });
}

t.test('WRITE-1: the volume is told of FUA, NO_HOLE, FAST_ZERO and REQ_ONE', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true, blockStatus: true });
  client.write(0, pattern(5), { flags: FUA });
  client.command(nbd.CMD_TRIM, 0, 10, FUA);
  client.command(nbd.CMD_WRITE_ZEROES, 0, 10, nbd.CMD_FLAG_NO_HOLE);
  client.command(nbd.CMD_WRITE_ZEROES, 0, 10, nbd.CMD_FLAG_FAST_ZERO | FUA);
  client.command(nbd.CMD_BLOCK_STATUS, 0, 10, nbd.CMD_FLAG_REQ_ONE);
  client.command(nbd.CMD_CACHE, 0, 10);
  t.same(harness.volume.log, [
    'write 0+5 fua',
    'trim 0+10 fua',
    'writeZeroes 0+10 noHole',
    'writeZeroes 0+10 fua fast',
    'blockStatus 0+10 one',
    'cache 0+10',
  ]);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('READ-2: DF reads of the maximum come in one chunk', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true });
  const data = pattern(32 * MIB);
  harness.volume.poke(0, data);
  const reply = client.read(0, 32 * MIB, { flags: nbd.CMD_FLAG_DF });
  t.same(reply.chunkTypes, [nbd.REPLY_OFFSET_DATA]);
  t.ok(sameBytes(reply.data, data));
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('ZERO-1: a fast zero that is not fast is ENOTSUP; without the flag nothing ever is', async t => {
  const harness = new Harness();
  const client = harness.enter({ structuredReplies: true });
  harness.volume.fastZeroes = false;
  t.equal(client.command(nbd.CMD_WRITE_ZEROES, 0, 4096, nbd.CMD_FLAG_FAST_ZERO).error, nbd.NBD_ENOTSUP);
  harness.volume.failWith.set('writeZeroes', EOPNOTSUPP);
  t.equal(client.command(nbd.CMD_WRITE_ZEROES, 0, 4096).error, nbd.NBD_EIO);
  harness.volume.failWith.set('trim', EOVERFLOW);
  t.equal(client.command(nbd.CMD_TRIM, 0, 4096).error, nbd.NBD_EIO, 'EOVERFLOW has its own meaning');
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('ZERO-2 TRIM-1: lengths far above the maximum payload pass', async t => {
  const harness = new Harness({ volumes: [new MemoryVolume({ sizeBytes: 8 * GIB })] });
  const client = harness.enter();
  t.equal(client.command(nbd.CMD_WRITE_ZEROES, 0, 0xffffffff).error, 0);
  t.equal(client.command(nbd.CMD_TRIM, 4 * GIB, 0xffffffff).error, 0);
  t.equal(client.command(nbd.CMD_CACHE, 0, 0xffffffff).error, 0);
  client.leave();
  t.same(harness.leaks(), []);
});

/** Answers BLOCK_STATUS with the extents it is told to. */
class ExtentVolume extends MemoryVolume {
  extents: [number, number][] = [];
  override submit(request: VolumeRequest): void {
    if (request.command !== 'blockStatus') {
      super.submit(request);
      return;
    }
    for (const [length, flags] of this.extents) request.addExtent(length, flags);
    request.completed(0);
  }
}

const extent = (lengthBytes: number, flags: number): nbd.BlockStatusExtent => ({ lengthBytes, flags });

for (const extended of [false, true]) {
  const wishes = { structuredReplies: !extended, extendedHeaders: extended, blockStatus: true };
  const format = extended ? 'BLOCK_STATUS_EXT' : 'BLOCK_STATUS';

  t.test(`STATUS-1 E4: ${format} merges equal neighbours and follows the volume`, async t => {
    const harness = new Harness();
    const client = harness.enter(wishes);
    for (const block of [2, 3, 10]) harness.volume.poke(block * 4096, pattern(4096));
    const reply = client.command(nbd.CMD_BLOCK_STATUS, 0, 12 * 4096);
    t.same(reply.extents, [
      extent(8192, 3),
      extent(8192, 0),
      extent(6 * 4096, 3),
      extent(4096, 0),
      extent(harness.volume.sizeBytes - 11 * 4096, 3),
    ]);
    t.same(reply.chunkTypes, [extended ? nbd.REPLY_BLOCK_STATUS_EXT : nbd.REPLY_BLOCK_STATUS]);
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`STATUS-2: ${format} with REQ_ONE is one extent within the range`, async t => {
    const volume = new ExtentVolume();
    const harness = new Harness({ volumes: [volume] });
    const client = harness.enter(wishes);
    for (const [extents, expected] of [
      [[[1 * MIB, 3]], extent(8192, 3)],
      [
        [
          [4096, 3],
          [4096, 3],
          [1 * MIB, 0],
        ],
        extent(8192, 3),
      ],
      [
        [
          [4096, 0],
          [4096, 3],
        ],
        extent(4096, 0),
      ],
    ] as [[number, number][], nbd.BlockStatusExtent][]) {
      volume.extents = extents;
      t.same(client.command(nbd.CMD_BLOCK_STATUS, 0, 8192, nbd.CMD_FLAG_REQ_ONE).extents, [expected]);
    }
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`STATUS-3: ${format} of a range of 4 GiB − 1`, async t => {
    const harness = new Harness({ volumes: [new MemoryVolume({ sizeBytes: 16 * GIB })] });
    const client = harness.enter(wishes);
    const { extents } = client.command(nbd.CMD_BLOCK_STATUS, 0, 0xffffffff);
    t.same(extents, [extent(extended ? 16 * GIB : 0xfffff000, 3)]);
    client.leave();
    t.same(harness.leaks(), []);
  });

  t.test(`STATUS-4: ${format} has no more extents than the limit, and none once the range is covered`, async t => {
    const volume = new ExtentVolume({ sizeBytes: 16 * GIB });
    const harness = new Harness({ volumes: [volume] });
    const client = harness.enter(wishes);
    volume.extents = Array.from({ length: nbdExtentsMax + 10 }, (_, index) => [4096, index % 2 === 0 ? 0 : 3]);
    const many = client.command(nbd.CMD_BLOCK_STATUS, 0, 0xffffffff).extents;
    t.equal(many.length, nbdExtentsMax);
    t.ok(many.every(each => each.lengthBytes === 4096));
    const some = client.command(nbd.CMD_BLOCK_STATUS, 0, 10_000).extents;
    t.same(some, [extent(4096, 0), extent(4096, 3), extent(4096, 0)]);
    volume.extents = Array.from({ length: 100 }, (_, index) => [1, index % 2 === 0 ? 0 : 3]);
    const short = client.command(nbd.CMD_BLOCK_STATUS, 0, 1024).extents;
    t.same(short.length, 3, 'a short range has room for few');
    client.leave();
    t.same(harness.leaks(), []);
  });
}

t.test('STATUS-5: an extent too long for 32 bits ends the answer', async t => {
  const volume = new ExtentVolume({ sizeBytes: 64 * GIB });
  const harness = new Harness({ volumes: [volume] });
  const client = harness.enter({ structuredReplies: true, blockStatus: true });
  volume.extents = [
    [4096, 0],
    [5 * GIB, 3],
    [4096, 0],
  ];
  t.same(client.command(nbd.CMD_BLOCK_STATUS, 0, 0xffffffff).extents, [extent(4096, 0), extent(0xfffff000, 3)]);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('X10: a volume that grows serves its new end at once', async t => {
  const harness = new Harness();
  const client = harness.enter();
  const { sizeBytes } = harness.volume;
  t.equal(client.read(sizeBytes, 1).error, EINVAL);
  harness.volume.sizeBytes += 4096;
  t.equal(client.read(sizeBytes, 1).error, 0);
  client.leave();
  t.same(harness.leaks(), []);
});

t.test('X11: whatever the volume fails with, one of the eight values goes out', async t => {
  const harness = new Harness();
  const client = harness.enter();
  for (let errno = 1; errno < 140; errno += 1) {
    harness.volume.failWith.set('cache', errno);
    t.ok(nbd.isNbdError(client.command(nbd.CMD_CACHE, 0, 1).error), `${errno}`);
  }
  client.leave();
  t.same(harness.leaks(), []);
});
