/** `sledge bench` against `sledge serve`, over each transport. */
import { join } from 'node:path';
import t from 'tap';
import { makeCertificates } from '../support/nbd-certificates.ts';
import { run, skipUnlessInstalled } from '../support/nbd-programs.ts';
import { type RunningServer, sledgeProgram, startServer } from '../support/server-process.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const volumes = [{ name: 'vol0', sizeBytes: 64 * 1024 ** 2 }];
const sledgeArguments = ['--log', '64MiB', '--cache', '16MiB'];

async function bench(uri: string, ...more: string[]) {
  const result = await run(sledgeProgram, ['bench', uri, '--seconds', '1', '--json', ...more]);
  return { code: result.code, json: JSON.parse(result.stdout) as Record<string, unknown>, stderr: result.stderr };
}

t.test('each mode runs over TCP and over a Unix socket, and the status counts what was done', async t => {
  const directory = temporaryDirectory(t);
  const dataDirectory = join(directory, 'data');
  const unix = join(directory, 'nbd.sock');
  const server: RunningServer = await startServer(t, {
    engine: 'sledge',
    dataDirectory,
    volumes,
    tcp: true,
    unix,
    sledgeArguments,
  });
  for (const transport of ['tcp', 'unix'] as const) {
    const uri = server.uriOf('vol0', { transport });
    for (const mode of ['randwrite', 'write', 'randread', 'read']) {
      const { code, json, stderr } = await bench(uri, '--mode', mode, '--depth', '8', '--yes');
      t.equal(code, 0, `${mode} over ${transport} ${stderr}`);
      t.match(json, { mode, errors: 0 });
      t.ok((json['requests'] as number) > 100, `${json['requests']} requests`);
    }
  }
  const status = await run(sledgeProgram, ['status', '--data', dataDirectory, '--json']);
  const commands = (JSON.parse(status.stdout) as { commands: { command: string; count: number; errors: number }[] })
    .commands;
  for (const command of ['read', 'write']) {
    const counted = commands.find(candidate => candidate.command === command);
    t.ok((counted?.count ?? 0) > 400, `${command}s are counted: ${counted?.count}`);
    t.equal(counted?.errors, 0);
  }
});

t.test('a volume that is not there is an error', async t => {
  const dataDirectory = temporaryDirectory(t);
  const server = await startServer(t, { engine: 'sledge', dataDirectory, volumes, tcp: true, sledgeArguments });
  const { code, json } = await bench(server.uriOf('nope'));
  t.equal(code, 1);
  t.match(json, { error: { code: 'protocol-error', message: /refused the export/ } });
});

t.test('nbds runs under TLS and verifies the server', { skip: skipUnlessInstalled('certtool') }, async t => {
  const directory = temporaryDirectory(t);
  const certificates = await makeCertificates(join(directory, 'certificates'));
  const server = await startServer(t, {
    engine: 'sledge',
    dataDirectory: join(directory, 'data'),
    volumes,
    tcp: true,
    tls: { certificates: certificates.directory, required: true },
    sledgeArguments,
  });
  const uri = server.uriOf('vol0', { tls: true, parameters: { 'tls-hostname': 'localhost' } });
  const good = await bench(uri, '--tls-certificates', certificates.directory);
  t.equal(good.code, 0, JSON.stringify(good.json));
  t.match(good.json, { errors: 0 });

  const stranger = await bench(uri);
  t.equal(stranger.code, 1, 'without the authority the server is not believed');
  t.match(stranger.json, { error: { code: 'connection-failed' } });

  const plain = await bench(server.uriOf('vol0'));
  t.equal(plain.code, 1, 'without TLS the server refuses');
});
