/** Records, geometry and units: what is derived and read back. */
import t from 'tap';
import { deviceGeometry } from '../../../src/attach/device-geometry.ts';
import { type DeviceRecord, deviceIndex, parseDeviceRecord } from '../../../src/attach/device-record.ts';
import { unitName, unitText } from '../../../src/attach/systemd-unit.ts';

const RECORD: DeviceRecord = {
  format: 1,
  index: 3,
  backend: 'sledge:x',
  options: {
    target: { kind: 'volume', dataDirectory: '/data', volume: 'vol0' },
    name: 'vol0',
    connections: 1,
    deadTimeoutSeconds: null,
    requestTimeoutSeconds: 4,
    readOnly: false,
    tlsCertificates: null,
    tlsPsk: null,
  },
  sizeBytes: 2 ** 40,
  transmissionFlags: 0x6d,
  pid: 17,
  pidStart: 4711,
  state: 'connected',
  stateSince: '2026-01-01T00:00:00.000Z',
  reconnects: 2,
  lastError: '',
  attachedAt: '2026-01-01T00:00:00.000Z',
};

t.test('a record is read as it was written', t => {
  t.same(parseDeviceRecord(JSON.stringify(RECORD)), RECORD);
  t.end();
});

t.test('a record that lacks anything, or is cut, is none', t => {
  const text = JSON.stringify(RECORD);
  for (let length = 0; length < text.length; length++) {
    if (parseDeviceRecord(text.slice(0, length)) !== undefined) t.fail(`cut at ${length}`);
  }
  for (const key of Object.keys(RECORD)) {
    const { [key as keyof DeviceRecord]: _, ...rest } = RECORD;
    t.equal(parseDeviceRecord(JSON.stringify(rest)), undefined, `without ${key}`);
  }
  for (const key of Object.keys(RECORD.options)) {
    const { [key as keyof DeviceRecord['options']]: _, ...rest } = RECORD.options;
    t.equal(parseDeviceRecord(JSON.stringify({ ...RECORD, options: rest })), undefined, `without options.${key}`);
  }
  for (const wrong of ['null', '[]', '7', '"x"', JSON.stringify({ ...RECORD, format: 2 })]) {
    t.equal(parseDeviceRecord(wrong), undefined, wrong.slice(0, 20));
  }
  t.end();
});

t.test('devices are known by their paths and names', t => {
  t.same(['/dev/nbd0', 'nbd15', '/dev/nbd007', 'vol0', 'nbd', '/dev/nbd1p1', '/dev/sda'].map(deviceIndex), [
    0,
    15,
    7,
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
  t.end();
});

const FLAGS = 0x0d;

t.test('blocks are 4 KiB where the volume is whole blocks, and smaller where its end would be lost', t => {
  const blocks = (sizeBytes: number, minimumBlockBytes = 1) =>
    deviceGeometry({ sizeBytes, transmissionFlags: FLAGS, minimumBlockBytes }, 1, false).blockBytes;
  t.equal(blocks(2 ** 30), 4096);
  t.equal(blocks(2 ** 30 + 2048), 2048);
  t.equal(blocks(2 ** 30 + 512), 512);
  t.equal(blocks(2 ** 30 + 1), 512);
  t.equal(blocks(2 ** 30 + 512, 1024), 1024, "never below the server's minimum");
  t.end();
});

t.test('what the kernel cannot do is refused', t => {
  const offer = { sizeBytes: 2 ** 20, transmissionFlags: FLAGS, minimumBlockBytes: 1 };
  const refused = { code: 'not-supported' };
  t.throws(() => deviceGeometry({ ...offer, sizeBytes: 511 }, 1, false), refused);
  t.throws(() => deviceGeometry({ ...offer, minimumBlockBytes: 8192 }, 1, false), refused);
  t.throws(() => deviceGeometry({ ...offer, minimumBlockBytes: 3 }, 1, false), refused);
  t.throws(() => deviceGeometry(offer, 2, false), refused, 'several connections have to be allowed');
  t.equal(deviceGeometry({ ...offer, transmissionFlags: FLAGS | 0x100 }, 2, false).transmissionFlags, FLAGS | 0x100);
  t.equal(deviceGeometry(offer, 1, true).transmissionFlags, FLAGS | 2, 'read-only is the kernel’s to keep');
  t.end();
});

t.test('names of units are escaped as systemd does it', t => {
  t.equal(unitName('vol0'), 'sledge-attach-vol0.service');
  t.equal(unitName('.a-b_c.d'), 'sledge-attach-\\x2ea\\x2db_c.d.service');
  t.end();
});

t.test('a unit quotes what systemd would take apart', t => {
  const text = unitText({
    name: 'vol0',
    device: '/dev/nbd0',
    attach: ['/usr/bin/node', '/opt/a b/sledge.js', 'attach', '--from', 'nbd://h/100%25$x"y\\z'],
    detach: ['/usr/bin/node', 'detach', '/dev/nbd0'],
  });
  t.match(
    text,
    /^ExecStart=\/usr\/bin\/node "\/opt\/a b\/sledge\.js" attach --from "nbd:\/\/h\/100%%25\$\$x\\"y\\\\z"$/m,
  );
  t.match(text, /^ExecStop=-\/usr\/bin\/node detach \/dev\/nbd0$/m);
  t.match(text, /^Type=notify$/m);
  t.end();
});
