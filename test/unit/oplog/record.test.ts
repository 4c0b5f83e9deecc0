/** The bytes of records: golden forms of every kind, and that nothing else passes for one. */
import t from 'tap';
import type { BlockNumber, Epoch, LogPosition, OpNumber, VolumeNumber } from '../../../src/base/units.ts';
import { MIB } from '../../../src/base/units.ts';
import {
  bulkRecordBytes,
  bulkStride,
  coveredBytes,
  emptyHeader,
  getBulkDescriptor,
  parseRecord,
  putBulkDescriptor,
  RecordKind,
  sealRecord,
  writeDataOffset,
  writeRecordBytes,
} from '../../../src/oplog/record.ts';
import { randomFrom, testSeed } from '../../contract/io-support.ts';
import { checksums } from './log-rig.ts';

interface Case {
  readonly kind: RecordKind;
  readonly recordBytes: number;
  readonly first?: number;
  readonly count?: number;
  readonly volume?: number;
  readonly op?: number;
  /** Lays down what follows the header. */
  readonly fill?: (view: DataView) => void;
}

const POSITION = 2 ** 32 + 4096;

function make({ kind, recordBytes, first = 0, count = 0, volume = 5, op = 2 ** 33 + 9, fill }: Case): Uint8Array {
  const bytes = new Uint8Array(recordBytes);
  const view = new DataView(bytes.buffer);
  fill?.(view);
  const header = emptyHeader();
  header.kind = kind;
  header.recordBytes = recordBytes;
  header.position = POSITION as LogPosition;
  header.epoch = 3 as Epoch;
  header.volume = volume as VolumeNumber;
  header.op = op as OpNumber;
  header.durable = (2 ** 32) as LogPosition;
  header.first = first as BlockNumber;
  header.count = count;
  sealRecord(view, bytes, 0, header, checksums);
  return bytes;
}

const write: Case = {
  kind: RecordKind.write,
  recordBytes: writeRecordBytes(3),
  first: 2 ** 34,
  count: 3,
  fill: view => {
    for (let i = 0; i < 3; i++) view.setUint32(64 + 4 * i, 0x11111111 * (i + 1), true);
    for (let at = writeDataOffset(3); at < view.byteLength; at++) view.setUint8(at, at % 251);
  },
};

const bulk: Case = {
  kind: RecordKind.bulk,
  recordBytes: bulkRecordBytes(2, 4),
  first: 7,
  count: 2,
  fill: view => {
    putBulkDescriptor(view, 0, 0, 2 ** 40 + 256, Uint32Array.of(1, 2, 3, 4));
    putBulkDescriptor(view, 0, 1, 272, Uint32Array.of(5, 6, 7, 0));
  },
};

const cases: Record<string, Case> = {
  end: { kind: RecordKind.end, recordBytes: 64, volume: 0, op: 0 },
  write,
  bulk,
  zero: { kind: RecordKind.zero, recordBytes: 64, first: 1, count: 2 ** 35 },
  trim: { kind: RecordKind.trim, recordBytes: 64, first: 16, count: 32 },
  resize: { kind: RecordKind.resize, recordBytes: 64, first: 262144 },
  mark: { kind: RecordKind.mark, recordBytes: 64, volume: 0, op: 0 },
};

/** The first 128 bytes; the sums were taken with another implementation of CRC32C. */
const golden: Record<string, readonly string[]> = {
  end: [
    '534c52430100000040000000de03c5f9',
    '00100000010000000300000000000000',
    '00000000000000000000000001000000',
    '00000000000000000000000000000000',
  ],
  write: [
    '534c524301010000503000004f8df6fd',
    '00100000010000000300000005000000',
    '09000000020000000000000001000000',
    '00000000040000000300000000000000',
    '11111111222222223333333300000000',
    '505152535455565758595a5b5c5d5e5f',
    '606162636465666768696a6b6c6d6e6f',
    '707172737475767778797a7b7c7d7e7f',
  ],
  bulk: [
    '534c524301020000700000005ccc3f63',
    '00100000010000000300000005000000',
    '09000000020000000000000001000000',
    '07000000000000000200000000000000',
    '00010000000100000100000002000000',
    '03000000040000001001000000000000',
    '05000000060000000700000000000000',
  ],
  zero: [
    '534c52430103000040000000adee0ac9',
    '00100000010000000300000005000000',
    '09000000020000000000000001000000',
    '01000000000000000000000008000000',
  ],
  trim: [
    '534c524301040000400000009f6da05b',
    '00100000010000000300000005000000',
    '09000000020000000000000001000000',
    '10000000000000002000000000000000',
  ],
  resize: [
    '534c52430105000040000000e48e3621',
    '00100000010000000300000005000000',
    '09000000020000000000000001000000',
    '00000400000000000000000000000000',
  ],
  mark: [
    '534c52430106000040000000662e4040',
    '00100000010000000300000000000000',
    '00000000000000000000000001000000',
    '00000000000000000000000000000000',
  ],
};

function parse(bytes: Uint8Array, available = bytes.length, position = POSITION, remaining = 16 * MIB) {
  const copy = bytes.slice();
  const header = emptyHeader();
  const verdict = parseRecord(new DataView(copy.buffer), copy, 0, available, position, remaining, header, checksums);
  if (!Buffer.from(copy).equals(bytes)) t.fail('parsing leaves the bytes as they are');
  return { verdict, header };
}

t.test('every kind of record has the bytes that the format says', t => {
  for (const [name, record] of Object.entries(cases)) {
    const bytes = make(record);
    const lines = Buffer.from(bytes.subarray(0, 128)).toString('hex').match(/.{32}/g);
    t.same(lines, golden[name], name);
  }
  t.end();
});

t.test('a record is parsed back into what it was made of', t => {
  for (const [name, record] of Object.entries(cases)) {
    const { verdict, header } = parse(make(record));
    t.equal(verdict, 'valid', name);
    t.match(header, { kind: record.kind, recordBytes: record.recordBytes, position: POSITION, epoch: 3 });
    t.match(header, {
      first: record.first ?? 0,
      count: record.count ?? 0,
      durable: 2 ** 32,
      op: record.op ?? 2 ** 33 + 9,
    });
  }
  const sums = new Uint32Array(4);
  const bytes = make(bulk);
  t.equal(getBulkDescriptor(new DataView(bytes.buffer), 0, 1, sums), 272);
  t.same([...sums], [5, 6, 7, 0]);
  t.equal(bulkStride(4), 24);
  t.end();
});

t.test('no record is valid after any one bit of its header or descriptors was turned over', t => {
  for (const [name, record] of Object.entries(cases)) {
    const bytes = make(record);
    const covered = coveredBytes(parse(bytes).header);
    const passed: number[] = [];
    for (let bit = 0; bit < covered * 8; bit++) {
      const damaged = bytes.slice();
      damaged[bit >> 3] ^= 1 << (bit & 7);
      const header = emptyHeader();
      const view = new DataView(damaged.buffer);
      const verdict = parseRecord(view, damaged, 0, damaged.length, POSITION, 16 * MIB, header, checksums);
      if (verdict === 'valid') passed.push(bit);
    }
    t.same(passed, [], `${name}: ${covered * 8} bits`);
  }
  t.end();
});

t.test('the data of a write is not looked at: its checksums are', t => {
  const bytes = make(write);
  bytes[writeDataOffset(3) + 5] ^= 1;
  t.equal(parse(bytes).verdict, 'valid');
  t.equal(parse(bytes, writeDataOffset(3)).verdict, 'valid', 'the header is judged before the data is there');
  t.end();
});

t.test('of a record that is not there as a whole it is said how far it reaches', t => {
  for (const [name, record] of Object.entries(cases)) {
    const bytes = make(record);
    const covered = coveredBytes(parse(bytes).header);
    for (let available = 0; available < covered; available++) {
      const { verdict, header } = parse(bytes, available);
      if (verdict !== 'incomplete') t.fail(`${name} with ${available} bytes is ${verdict}`);
      if (header.recordBytes <= available) t.fail(`${name}: ${header.recordBytes} bytes would do`);
    }
  }
  t.pass('none was taken for whole');
  t.end();
});

t.test('a record of another position is invalid, whatever else is right', t => {
  for (const [name, record] of Object.entries(cases)) {
    t.equal(parse(make(record), record.recordBytes, POSITION + 16 * MIB).verdict, 'invalid', name);
  }
  t.end();
});

t.test('a record that would reach beyond its segment is invalid', t => {
  for (const [name, record] of Object.entries(cases)) {
    const bytes = make(record);
    t.equal(parse(bytes, bytes.length, POSITION, record.recordBytes).verdict, 'valid', name);
    t.equal(parse(bytes, bytes.length, POSITION, record.recordBytes - 16).verdict, 'invalid', name);
  }
  t.end();
});

/** A record with other bytes in it, sealed again, so that only the fields themselves are wrong. */
function resealed(record: Case, change: (view: DataView) => void): Uint8Array {
  const bytes = make(record);
  const view = new DataView(bytes.buffer);
  change(view);
  view.setUint32(12, 0, true);
  const covered = record.kind === RecordKind.write ? writeDataOffset(record.count!) : record.recordBytes;
  view.setUint32(12, checksums.checksum(bytes, 0, covered, 0), true);
  return bytes;
}

t.test('malformed records with a right checksum are refused', t => {
  const zero = cases['zero'];
  const forms: Record<string, Uint8Array> = {
    'another magic': resealed(zero, view => view.setUint32(0, 0x12345678, true)),
    'another version': resealed(zero, view => view.setUint8(4, 2)),
    'an unknown kind': resealed(zero, view => view.setUint8(5, 7)),
    'flags that nobody knows': resealed(zero, view => view.setUint16(6, 1, true)),
    'the highest flag': resealed(zero, view => view.setUint16(6, 0x8000, true)),
    'a length below that of a header': resealed(zero, view => view.setUint32(8, 48, true)),
    'a length of nothing': resealed(zero, view => view.setUint32(8, 0, true)),
    'an odd length': resealed(zero, view => view.setUint32(8, 72, true)),
    'the longest length': resealed(zero, view => view.setUint32(8, 0xfffffff0, true)),
    'a write of no block': resealed(write, view => view.setUint32(56, 0, true)),
    'a write of more blocks than it holds': resealed(write, view => view.setUint32(56, 4, true)),
    'a write of 2^60 blocks': resealed(write, view => view.setUint32(60, 2 ** 28, true)),
    'a write of fewer blocks than it holds': resealed(write, view => view.setUint32(56, 2, true)),
  };
  for (const [name, bytes] of Object.entries(forms)) t.equal(parse(bytes).verdict, 'invalid', name);
  t.end();
});

t.test('rubbish never passes for a record, and never throws', t => {
  const seed = testSeed();
  t.comment(`seed ${seed}`);
  const random = randomFrom(seed);
  const verdicts = { valid: 0, incomplete: 0, invalid: 0 };
  const header = emptyHeader();
  for (let round = 0; round < 20_000; round++) {
    const bytes = new Uint8Array(64 + 16 * random(20));
    for (let i = 0; i < bytes.length; i++) bytes[i] = random(256);
    const view = new DataView(bytes.buffer);
    // The more of it is right, the further the parser goes.
    const right = random(6);
    if (right > 0) view.setUint32(0, 0x43524c53, true);
    if (right > 1) view.setUint32(4, 1 | (random(8) << 8), true);
    if (right > 2) view.setUint32(8, 16 * random(40), true);
    if (right > 3) {
      view.setUint32(16, POSITION % 2 ** 32, true);
      view.setUint32(20, 1, true);
    }
    if (right > 4) {
      view.setUint32(56, random(3), true);
      view.setUint32(60, 0, true);
    }
    const available = random(bytes.length + 1);
    verdicts[parseRecord(view, bytes, 0, available, POSITION, 16 * random(1000), header, checksums)]++;
  }
  t.equal(verdicts.valid, 0);
  t.ok(verdicts.incomplete > 100, `${verdicts.incomplete} looked incomplete`);
  t.ok(verdicts.invalid > 100);
  t.end();
});

t.test('lengths of records', t => {
  t.equal(writeDataOffset(1), 80);
  t.equal(writeDataOffset(4), 80);
  t.equal(writeDataOffset(5), 96);
  t.equal(writeRecordBytes(64), 64 + 256 + 64 * 4096);
  t.equal(bulkRecordBytes(1, 16), 64 + 80);
  for (let count = 1; count < 64; count++) {
    t.equal(writeRecordBytes(count) % 16, 0);
    t.equal(bulkRecordBytes(count, 16) % 16, 0);
  }
  t.end();
});
