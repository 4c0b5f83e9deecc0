import t from 'tap';
import { attachCommand } from '../../../src/bin/attach.ts';
import { benchCommand } from '../../../src/bin/bench.ts';
import { checkCommand } from '../../../src/bin/check.ts';
import type { Command } from '../../../src/bin/command.ts';
import { detachCommand } from '../../../src/bin/detach.ts';
import { serveCommand } from '../../../src/bin/serve.ts';
import { statusCommand } from '../../../src/bin/status.ts';
import {
  volumeCreateCommand,
  volumeDeleteCommand,
  volumeGrowCommand,
  volumeListCommand,
  volumeShowCommand,
} from '../../../src/bin/volume.ts';
import { runCommand } from '../../support/command-run.ts';

const COMMANDS: readonly Command[] = [
  serveCommand,
  statusCommand,
  volumeCreateCommand,
  volumeListCommand,
  volumeShowCommand,
  volumeGrowCommand,
  volumeDeleteCommand,
  attachCommand,
  detachCommand,
  checkCommand,
  benchCommand,
];

t.test('the overview names every command', async t => {
  for (const argv of [['--help'], ['-h'], ['help']]) {
    const { code, out, error } = await runCommand(...argv);
    t.equal(code, 0, argv.join(' '));
    t.equal(error, '');
    for (const command of COMMANDS) t.ok(out.includes(`  ${command.name} `), command.name);
  }
});

t.test('the help of each command names its arguments and options, however it is asked for', async t => {
  for (const command of COMMANDS) {
    const words = command.name.split(' ');
    const { code, out } = await runCommand(...words, '--help');
    t.equal(code, 0);
    for (const option of [...command.options.map(({ name }) => name), 'json', 'help']) {
      t.match(out, new RegExp(`^  --${option}( |$)`, 'm'), `${command.name} --${option}`);
    }
    for (const positional of command.positionals) t.ok(out.split('\n')[0]?.includes(positional), positional);
    for (const line of out.split('\n')) t.ok(line.length <= 110, `no line is too long: ${line}`);
    t.equal((await runCommand('help', ...words)).out, out, 'help COMMAND');
    t.equal((await runCommand(...words, '-h')).out, out, '-h');
  }
});

t.test('each of the options that are promised is there', t => {
  const promised: [Command, string[]][] = [
    [serveCommand, ['data', 'listen', 'device', 'volume', 'cache', 'log', 'tls-certificates', 'tls-psk', 'tls']],
    [volumeCreateCommand, ['data', 'size', 'chunk', 'ack', 'read-only']],
    [volumeListCommand, ['data']],
    [volumeShowCommand, ['data']],
    [volumeGrowCommand, ['data', 'size']],
    [volumeDeleteCommand, ['data']],
    [statusCommand, ['data']],
    [checkCommand, ['read']],
    [benchCommand, ['seconds', 'depth', 'connections', 'mode', 'size', 'yes']],
  ];
  for (const [command, names] of promised) {
    t.strictSame(
      names.filter(name => !command.options.some(option => option.name === name)),
      [],
      command.name,
    );
  }
  t.end();
});

t.test('a group of commands without a command shows what it has', async t => {
  const asked = await runCommand('volume', '--help');
  t.equal(asked.code, 0);
  t.match(asked.out, /volume create/);
  t.notMatch(asked.out, /serve /);
  const wrong = await runCommand('volume');
  t.equal(wrong.code, 2);
  t.equal(wrong.out, '');
  t.match(wrong.error, /volume create/);
  t.equal((await runCommand('help', 'volume')).out, asked.out);
});

t.test('no command at all is wrong use and shows the overview', async t => {
  const { code, out, error } = await runCommand();
  t.equal(code, 2);
  t.equal(out, '');
  t.match(error, /Usage: sledge COMMAND/);
});

t.test('the version is that of the package', async t => {
  const { code, out } = await runCommand('--version');
  t.equal(code, 0);
  t.match(out, /^sledge \d+\.\d+\.\d+\n$/);
  t.match(JSON.parse((await runCommand('--version', '--json')).out), { version: /^\d+\.\d+\.\d+$/ });
});

t.test('an unknown command suggests the nearest', async t => {
  const { code, out, error } = await runCommand('stauts');
  t.equal(code, 2);
  t.equal(out, '');
  t.equal(error, 'sledge: there is no command "stauts"\n  Did you mean: sledge status?\n');
  t.match((await runCommand('volume', 'lst')).error, /Did you mean: sledge volume list\?/);
  t.match((await runCommand('help', 'bensh')).error, /Did you mean: sledge bench\?/);
  t.match((await runCommand('frobnicate')).error, /See: sledge help/);
});

t.test('wrong use ends with 2, says what is wrong, and points to the help', async t => {
  const table: [string[], RegExp][] = [
    [['status', '--jsn'], /no option --jsn \(did you mean --json\?\)/],
    [['status', 'surplus'], /"surplus" is one argument too many/],
    [['status', '-x'], /-x/],
    [['volume', 'create', '--size', '1GiB'], /NAME is missing/],
    [['volume', 'create', 'vol0'], /--size is missing/],
    [['volume', 'create', 'vol0', '--size'], /--size/],
    [['volume', 'create', 'vol0', '--size', '1GiB', '--read-only=yes'], /read-only/],
    [['volume', 'create', 'vol0', '--size', '1000'], /less than 4 KiB/],
    [['volume', 'create', 'vol0', '--size', '1GiB', '--chunk', '48KiB'], /49152/],
    [['volume', 'create', 'vol0', '--size', '1GiB', '--ack', 'maybe'], /written, durable/],
    [['volume', 'create', '../x', '--size', '1GiB'], /cannot be the name/],
    [['volume', 'grow', 'vol0'], /--size is missing/],
    [['bench'], /URI is missing/],
    [['bench', 'http://host/'], /not an NBD URI/],
    [['bench', 'nbd://host/x', '--mode', 'write'], /--yes/],
    [['bench', 'nbd://host/x', '--mode', 'trim'], /randread, randwrite, read, write/],
    [['bench', 'nbd://host/x', '--depth', '0'], /--depth is a number from 1 to/],
    [['bench', 'nbd://host/x', '--size', '1000'], /multiple of 512/],
    [['bench', 'nbd://host/x', '--size', '64MiB'], /32 MiB/],
  ];
  for (const [argv, message] of table) {
    const { code, out, error } = await runCommand(...argv);
    t.equal(code, 2, argv.join(' '));
    t.equal(out, '');
    t.match(error, message);
    t.match(error, /^sledge: .+\n {2}.+\n$/, 'one line of error, one of hint');
  }
});

t.test('with --json an error is an object with code, message, hint and retryable', async t => {
  const wrong = await runCommand('volume', 'create', 'vol0', '--size', 'big', '--json');
  t.equal(wrong.code, 2);
  t.equal(wrong.error, '');
  t.match(JSON.parse(wrong.out), { error: { code: 'bad-size', message: /big/, hint: /GiB/, retryable: false } });

  const failed = await runCommand('status', '--json', '--data', '/nonexistent/sledge');
  t.equal(failed.code, 1);
  t.match(JSON.parse(failed.out), { error: { code: 'not-running', retryable: true } });
});
