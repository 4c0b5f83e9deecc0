/** The command lines of attach and detach, as far as no kernel is needed: see test/kernel/attach-*.test.ts for the rest. */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import t from 'tap';
import type { DeviceRecord } from '../../../src/attach/device-record.ts';
import { SledgeError } from '../../../src/base/errors.ts';
import { adoptEach, attachCommand } from '../../../src/bin/attach.ts';
import { attachArguments, attachWords } from '../../../src/bin/attach-arguments.ts';
import { forgetUnit, persistUnit, requireSystemd } from '../../../src/bin/attach-unit.ts';
import { CommandInput } from '../../../src/bin/command.ts';
import { CommandRun } from '../../support/command-run.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

function parsed(...argv: string[]) {
  return attachArguments(attachCommand, new CommandInput(attachCommand, argv));
}

t.test('a volume is looked for where the server keeps its data, for ever and with one connection', async t => {
  t.same(parsed('vol0'), {
    index: undefined,
    options: {
      target: { kind: 'volume', dataDirectory: resolve('./data'), volume: 'vol0' },
      name: 'vol0',
      connections: 1,
      deadTimeoutSeconds: null,
      requestTimeoutSeconds: 4,
      readOnly: false,
      tlsCertificates: null,
      tlsPsk: null,
    },
  });
});

t.test('what the background process and the unit are started with means the same', async t => {
  const lines = [
    ['vol0'],
    ['vol0', '/dev/nbd7', '--data', '/srv/data'],
    ['vol0', 'nbd0', '--from', 'nbd://host:10810/other', '--timeout', '60', '--connections', '4', '--read-only'],
    ['vol0', '--from', 'nbd+unix:///a%20b?socket=relative/s.sock', '--request-timeout', '30'],
    ['vol0', '--from', 'nbds://alice@host/v?tls-hostname=h', '--tls-psk', 'keys'],
    ['vol0', '--data', 'x', '--tls-certificates', 'certificates'],
  ];
  for (const line of lines) {
    const first = parsed(...line);
    const [command, ...words] = attachWords(first.options, first.index, '--foreground');
    t.equal(command, 'attach');
    t.equal(words.at(-1), '--foreground');
    t.same(parsed(...words), first, line.join(' '));
    if (line.length > 1) t.notOk(words.some(word => word.includes('relative') && !word.includes(process.cwd())));
  }
});

t.test('wrong command lines are refused before anything is done', async t => {
  const wrong: [string[], string][] = [
    [[], 'usage'],
    [['/dev/nbd0'], 'usage'],
    [['vol0', 'vol1'], 'usage'],
    [['vol0', '/dev/sda'], 'usage'],
    [['vol0', '/dev/nbd0', 'more'], 'usage'],
    [['../x'], 'bad-name'],
    [['vol0', '--from', 'http://x/'], 'bad-address'],
    [['vol0', '--from', 'nbd://h/v', '--data', 'd'], 'usage'],
    [['vol0', '--timeout', '0'], 'usage'],
    [['vol0', '--timeout', 'never'], 'usage'],
    [['vol0', '--request-timeout', '0'], 'usage'],
    [['vol0', '--connections', '17'], 'usage'],
    [['vol0', '--tls-psk', 'a', '--tls-certificates', 'b'], 'usage'],
    [['vol0', '--from', 'nbd://h/v', '--tls-certificates', 'b'], 'usage'],
    [['vol0', '--from', 'nbd+unix:///v?socket=s', '--tls-psk', 'a'], 'usage'],
    [['vol0', '--persist', '--foreground'], 'usage'],
    [['vol0', '--persist', '--adopt'], 'usage'],
    [['--adopt', '--read-only'], 'usage'],
    [['vol0', '--adopt', '--from', 'nbd://h/v'], 'usage'],
    [['vol0', '/dev/nbd0', '--adopt'], 'usage'],
    [['/dev/nbd0', '--adopt', '--foreground', '--timeout', '5'], 'usage'],
  ];
  for (const [argv, code] of wrong) {
    const run = new CommandRun();
    const result = await run.run('attach', ...argv, '--json');
    t.equal(result.code, 2, argv.join(' '));
    t.match(JSON.parse(result.out), { error: { code } }, argv.join(' '));
  }
});

t.test('nothing attached: the list is empty, nothing is adopted, nothing can be detached', async t => {
  const directory = temporaryDirectory(t);
  const run = async (...argv: string[]) => {
    const command = new CommandRun();
    command.env['SLEDGE_RUN_DIRECTORY'] = join(directory, 'run');
    return await command.run(...argv);
  };
  t.match(await run('attach', '--list'), { code: 0, out: 'no devices\n' });
  t.match(await run('attach', '--list', '--json'), { code: 0, out: '{"devices":[]}\n' });
  t.match(await run('attach', '--adopt'), { code: 0, out: 'nothing to adopt\n' });
  t.match(await run('attach', 'vol0', '--adopt', '--json'), { code: 1, out: /not-attached/ });
  t.match(await run('detach', 'vol0', '--json'), { code: 1, out: /not-attached/ });
  t.match(await run('detach', '/dev/nbd4000', '--json'), { code: 1, out: /not-attached/ });
  // Records of devices that are gone, and what is no record, count for nothing.
  mkdirSync(join(directory, 'run'));
  writeFileSync(join(directory, 'run', 'nbd0.json'), '{"format":1');
  t.match(await run('attach', '--list'), { code: 0, out: 'no devices\n' });
});

t.test('the unit of a device is written where systemd runs, and removed by whoever may', async t => {
  const directory = temporaryDirectory(t);
  requireSystemd(directory);
  t.throws(() => requireSystemd(join(directory, 'none')), { code: 'not-supported' });
  const { options } = parsed('vol0', '/dev/nbd4000', '--data', directory);
  const record = { index: 4000, options } as DeviceRecord;
  const units = join(directory, 'units');
  const path = persistUnit(record, units);
  t.match(readFileSync(path, 'utf8'), /ExecStart=.* attach vol0 \/dev\/nbd4000 .* --adopt --foreground/);
  t.throws(() => persistUnit(record, path), { code: 'io', message: /is attached/, hint: /writable/ });
  const nobody = 65534;
  if (process.getuid?.() === 0) {
    // This process as another user, as far as files are concerned.
    chmodSync(directory, 0o755);
    process.seteuid?.(nobody);
    try {
      t.throws(() => forgetUnit('vol0', units), { code: 'not-permitted' });
    } finally {
      process.seteuid?.(0);
    }
  }
  t.ok(forgetUnit('vol0', units));
  t.notOk(existsSync(path));
  t.notOk(forgetUnit('vol0', units));
});

t.test('a device that cannot be adopted keeps none of the others from it', async t => {
  const records = [0, 1, 2].map(index => ({ index }) as DeviceRecord);
  const error = new SledgeError('already-attached', 'a test');
  const { adopted, failed } = await adoptEach(records, async record => {
    if (record.index === 1) throw error;
    return record;
  });
  t.same(adopted, [records[0], records[2]]);
  t.same(failed, [{ record: records[1], error }]);
});
