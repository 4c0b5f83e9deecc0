import { resolve } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { formatAddress } from '../../../src/admin/nbd-uri.ts';
import { SledgeError } from '../../../src/base/errors.ts';
import {
  parseAddress,
  parseBlockSize,
  parseChoice,
  parseCount,
  parseDevice,
  parseSize,
  parseVolume,
  parseVolumeSize,
} from '../../../src/bin/arguments.ts';

/** The code of the SledgeError that a call throws. */
function codeOf(call: () => unknown): string | undefined {
  try {
    call();
  } catch (error) {
    if (error instanceof SledgeError) return error.code;
    throw error;
  }
  return undefined;
}

t.test('sizes are taken with binary units and in bytes', t => {
  const table: [string, number][] = [
    ['4096', 4096],
    ['64KiB', 65_536],
    ['512MiB', 536_870_912],
    ['10GiB', 10_737_418_240],
    ['1TiB', 1_099_511_627_776],
    ['1.5GiB', 1_610_612_736],
    ['2G', 2_147_483_648],
  ];
  for (const [text, bytes] of table) t.equal(parseBlockSize(text, 'size'), bytes, text);
  t.equal(parseSize('512', 'size'), 512, 'where blocks do not matter');
  t.end();
});

t.test('what is no size is refused as bad-size', t => {
  for (const text of [
    '',
    ' ',
    'x',
    '10GB',
    '-4096',
    '0x1000',
    '1e9',
    '10 GiB more',
    'NaN',
    '9007199254740993',
    '0.3',
  ]) {
    t.equal(
      codeOf(() => parseSize(text, 'size')),
      'bad-size',
      JSON.stringify(text),
    );
  }
  t.equal(
    codeOf(() => parseBlockSize('4097', 'size')),
    'bad-size',
    'not whole blocks',
  );
  t.equal(
    codeOf(() => parseBlockSize('512', 'size')),
    'bad-size',
    'less than a block',
  );
  t.equal(
    codeOf(() => parseBlockSize('0', 'size')),
    'bad-size',
    'nothing',
  );
  t.equal(
    codeOf(() => parseBlockSize('32MiB', '--log', 64 * 1024 * 1024)),
    'bad-size',
    'below its minimum',
  );
  t.equal(
    codeOf(() => parseVolumeSize('5000TiB')),
    'bad-size',
    'more than a volume can have',
  );
  t.equal(
    codeOf(() => parseVolumeSize('4096TiB')),
    undefined,
    'the most that a volume can have',
  );
  t.end();
});

t.test('addresses are TCP with a port, IPv6 in brackets, or the path of a socket', t => {
  t.same(parseAddress('127.0.0.1:10809'), { kind: 'tcp', host: '127.0.0.1', port: 10809 });
  t.same(parseAddress('localhost:0'), { kind: 'tcp', host: 'localhost', port: 0 });
  t.same(parseAddress('[::1]:65535'), { kind: 'tcp', host: '::1', port: 65535 });
  t.same(parseAddress('[fe80::1%eth0]:1'), { kind: 'tcp', host: 'fe80::1%eth0', port: 1 });
  t.same(parseAddress('unix:/run/sledge.sock'), { kind: 'unix', path: '/run/sledge.sock' });
  t.same(parseAddress('unix:s:1'), { kind: 'unix', path: resolve('s:1') }, 'a relative path becomes absolute');
  t.same(parseAddress(`unix:/${'x'.repeat(106)}`), { kind: 'unix', path: `/${'x'.repeat(106)}` }, 'the longest path');
  t.end();
});

t.test('what is no address is refused as bad-address', t => {
  const table = [
    ...['', ':', 'localhost', '10809', ':10809', 'host:', 'host:port', 'host:-1', 'host:65536', 'host:100000', 'a b:1'],
    ...['::1:10809', '[::1]', '[::1', '[]:1', '[nope]:1', '[127.0.0.1]:1', 'host:1:2', 'unix:', 'http://host:1'],
    `unix:/${'x'.repeat(107)}`,
  ];
  for (const text of table)
    t.equal(
      codeOf(() => parseAddress(text)),
      'bad-address',
      JSON.stringify(text),
    );
  t.end();
});

t.test('a device is a path, with a size if it is a file to be made', t => {
  t.same(parseDevice('/dev/sdb'), { path: '/dev/sdb' });
  t.same(parseDevice('disk.img'), { path: resolve('disk.img') });
  t.same(parseDevice('/srv/disk:20GiB'), { path: '/srv/disk', sizeBytes: 21_474_836_480 });
  t.same(parseDevice('/srv/a:b:64MiB'), { path: '/srv/a:b', sizeBytes: 67_108_864 });
  t.same(parseDevice('/srv/disk:67108864'), { path: '/srv/disk', sizeBytes: 67_108_864 });
  const byPath = '/dev/disk/by-path/pci-0000:00:1f.2-ata-1';
  t.same(parseDevice(byPath), { path: byPath }, 'colons of a device name');
  t.same(parseDevice('/dev/disk/by-path/pci-0000:00'), { path: '/dev/disk/by-path/pci-0000:00' });
  t.end();
});

t.test('a device without a path or with a size that cannot be is refused', t => {
  t.equal(
    codeOf(() => parseDevice('')),
    'usage',
  );
  t.equal(
    codeOf(() => parseDevice(':10GiB')),
    'usage',
  );
  t.equal(
    codeOf(() => parseDevice('/srv/disk:10GB')),
    'bad-size',
  );
  t.equal(
    codeOf(() => parseDevice('/srv/disk:1MiB')),
    'bad-size',
    'too small to hold anything',
  );
  t.equal(
    codeOf(() => parseDevice('/srv/disk:100000001')),
    'bad-size',
    'not whole blocks',
  );
  t.end();
});

t.test('a volume is a name and a size', t => {
  t.same(parseVolume('vol0:10GiB'), { name: 'vol0', sizeBytes: 10_737_418_240 });
  t.same(parseVolume('A.b_c-9:4096'), { name: 'A.b_c-9', sizeBytes: 4096 });
  t.equal(parseVolume(`${'n'.repeat(128)}:1GiB`).name.length, 128);
  const table: [string, string][] = [
    ['vol0', 'usage'],
    [':1GiB', 'bad-name'],
    ['.hidden:1GiB', 'bad-name'],
    ['-x:1GiB', 'bad-name'],
    ['a/b:1GiB', 'bad-name'],
    ['ä:1GiB', 'bad-name'],
    [`${'n'.repeat(129)}:1GiB`, 'bad-name'],
    ['vol0:', 'bad-size'],
    ['vol0:10', 'bad-size'],
    ['vol0:1GiB:x', 'bad-size'],
  ];
  for (const [text, code] of table)
    t.equal(
      codeOf(() => parseVolume(text)),
      code,
      text,
    );
  t.end();
});

t.test('counts and choices name what they take', t => {
  t.equal(parseCount('16', '--depth', 1, 256), 16);
  for (const text of ['0', '257', '', '1.5', '-1', 'x', '1e2', '99999999999']) {
    t.equal(
      codeOf(() => parseCount(text, '--depth', 1, 256)),
      'usage',
      JSON.stringify(text),
    );
  }
  t.equal(parseChoice('b', '--x', ['a', 'b']), 'b');
  t.throws(() => parseChoice('c', '--x', ['a', 'b']), { code: 'usage', message: '--x is one of a, b, not "c"' });
  t.end();
});

t.test('whatever the text, it is a value or a SledgeError with a hint', t => {
  const seed = Date.now() % 2 ** 31;
  t.comment(`seed ${seed}`);
  const pieces = fc.constantFrom(
    ':',
    'unix:',
    '[',
    ']',
    '/dev/',
    '1',
    '10GiB',
    '65535',
    '.',
    '%',
    'vol0',
    '\0',
    ' ',
    'é',
  );
  const text = fc.oneof(
    fc.string(),
    fc.array(pieces, { maxLength: 8 }).map(parts => parts.join('')),
  );
  const parsers = [parseAddress, parseDevice, parseVolume, parseVolumeSize];
  const property = fc.property(text, fc.constantFrom(...parsers), (input, parser) => {
    try {
      return typeof parser(input) !== 'undefined';
    } catch (error) {
      return error instanceof SledgeError && error.hint.length > 0 && error.message.length > 0;
    }
  });
  const result = fc.check(property, { seed, numRuns: 2000 });
  t.notOk(result.failed, JSON.stringify(result.counterexample));
  t.end();
});

t.test('an address that was taken is shown in a form that is taken again', t => {
  const seed = Date.now() % 2 ** 31;
  t.comment(`seed ${seed}`);
  const host = fc.oneof(fc.ipV4(), fc.domain());
  const port = fc.integer({ min: 0, max: 65_535 });
  const tcp = fc.tuple(host, port).map(([name, number]) => `${name}:${number}`);
  const ipv6 = fc.tuple(fc.ipV6(), port).map(([name, number]) => `[${name}]:${number}`);
  const unix = fc.stringMatching(/^[a-z: ]{1,50}$/).map(path => `unix:/${path}`);
  const property = fc.property(fc.oneof(tcp, ipv6, unix), text => formatAddress(parseAddress(text)) === text);
  const result = fc.check(property, { seed, numRuns: 500 });
  t.notOk(result.failed, JSON.stringify(result.counterexample));
  t.end();
});
