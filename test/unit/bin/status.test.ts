import t from 'tap';
import { startControlServer } from '../../../src/admin/control-server.ts';
import { statusText } from '../../../src/bin/status-page.ts';
import { runCommand } from '../../support/command-run.ts';
import { MemoryNodeControl } from '../../support/memory-node-control.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

t.test('a healthy node: what is served, by what, and how fast', t => {
  const control = new MemoryNodeControl();
  control.put({ name: 'vol0', sizeBytes: 10 * 1024 ** 3 });
  const text = statusText(control.status());
  t.match(text, /^ +health: ok\n +problems: none known\n/m);
  t.match(text, /server: sledge 0\.1\.0, process 4711, up 2 h 5 min/);
  t.match(text, /io: io_uring \(the default\)/);
  t.match(text, /listen: 127\.0\.0\.1:10809; TLS off/);
  t.match(text, /vol0 +10 GiB/);
  t.match(text, /main +ok +20 GiB +5 GiB +1 +2 +3 +\/srv\/sledge\/devices\/main/);
  t.match(text, /log: 12 MiB of 2 GiB used, 3 segments, last synced 2026-01-01/);
  t.match(text, /93\.0 % of 1000 reads hit/);
  t.match(text, /loop: late by p50 200 µs, p99 1\.5 ms, p99\.9 20\.0 ms, max 25\.0 ms in the last minute\n/);
  t.match(text, /^ +p50 300 µs, p99 2\.5 ms, p99\.9 30\.0 ms, max 1\.3 s since the start$/m);
  t.match(text, /read +12\.3k +47\.7 MiB\/s +85 µs +240 µs +1\.2 ms +9\.1 ms +1\.5 s +5000\.0k +0/);
  t.end();
});

t.test('problems of the node and of its volumes come first, each with why and what to do', t => {
  const control = new MemoryNodeControl();
  control.problems.push({ severity: 'warning', what: 'the log is nearly full', why: 'a slow disk', todo: 'wait' });
  control.put({
    name: 'vol0',
    problems: [{ severity: 'error', what: 'vol0 cannot be written', why: 'no space', todo: 'add a --device' }],
  });
  const lines = statusText(control.status()).split('\n');
  t.same(
    lines.slice(0, 7).map(line => line.trim()),
    [
      'health: degraded',
      'warning: the log is nearly full',
      'why: a slow disk',
      'do: wait',
      'error: vol0 cannot be written',
      'why: no space',
      'do: add a --device',
    ],
  );
  t.end();
});

t.test('a problem of a volume that the node lists, too, is printed once; checksum errors of the log are counted', t => {
  const control = new MemoryNodeControl();
  const problem = { severity: 'error', what: 'a block is damaged', why: 'the disk', todo: 'restore it' } as const;
  control.problems.push(problem);
  control.put({ name: 'vol0', problems: [problem] });
  const status = control.status();
  const text = statusText({ ...status, log: { ...status.log, checksumErrors: 2 } });
  t.equal(text.split('a block is damaged').length, 2);
  t.match(text, /last synced 2026-01-01T02:00:00.000Z, 2 checksum errors\n/);
  t.end();
});

t.test('the command prints the page, or with --json the status as the node gave it', async t => {
  const data = temporaryDirectory(t);
  const control = new MemoryNodeControl();
  const server = await startControlServer(data, control, { error() {} });
  t.teardown(() => void server.stop());
  const text = await runCommand('status', '--data', data);
  t.same(text, { code: 0, out: statusText(control.status()), error: '' });
  const json = await runCommand('status', '--data', data, '--json');
  t.equal(json.code, 0);
  t.same(JSON.parse(json.out), control.status());
});
