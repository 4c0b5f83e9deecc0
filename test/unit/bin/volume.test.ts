import t from 'tap';
import { startControlServer } from '../../../src/admin/control-server.ts';
import { runCommand } from '../../support/command-run.ts';
import { MemoryNodeControl } from '../../support/memory-node-control.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

async function rig(test: Parameters<typeof temporaryDirectory>[0]) {
  const data = temporaryDirectory(test);
  const control = new MemoryNodeControl();
  const server = await startControlServer(data, control, { error() {} });
  test.teardown(() => void server.stop());
  const sledge = (...words: string[]) => runCommand(...words, '--data', data);
  return { control, sledge };
}

t.test('a volume is made with what the options say', async t => {
  const { control, sledge } = await rig(t);
  const words = ['volume', 'create', 'vol0', '--size', '10GiB', '--chunk', '1MiB', '--ack', 'durable', '--read-only'];
  const { code, out, error } = await sledge(...words);
  t.equal(code, 0);
  t.equal(error, '');
  t.match(out, /^size +10 GiB \(10737418240 bytes\)$/m);
  t.match(control.volume('vol0'), {
    sizeBytes: 10_737_418_240,
    chunkBytes: 1_048_576,
    ack: 'durable',
    readOnly: true,
  });
});

t.test('without options a volume has 64 KiB chunks and is answered when written', async t => {
  const { control, sledge } = await rig(t);
  t.equal((await sledge('volume', 'create', 'vol0', '--size=1GiB')).code, 0);
  t.match(control.volume('vol0'), { chunkBytes: 65_536, ack: 'written', readOnly: false });
});

t.test('JSON output of each volume command has the shape of the control plane', async t => {
  const { control, sledge } = await rig(t);
  const made = await sledge('volume', 'create', 'vol0', '--size', '1GiB', '--json');
  t.same(JSON.parse(made.out), control.volume('vol0'));
  const list = await sledge('volume', 'list', '--json');
  t.same(JSON.parse(list.out), { volumes: control.volumes() });
  const shown = await sledge('volume', 'show', 'vol0', '--json');
  t.same(JSON.parse(shown.out), control.volume('vol0'));
  const grown = await sledge('volume', 'grow', 'vol0', '--size', '2GiB', '--json');
  t.equal(JSON.parse(grown.out).sizeBytes, 2 * 1024 ** 3);
  const deleted = await sledge('volume', 'delete', 'vol0', '--json');
  t.same(JSON.parse(deleted.out), { deleted: 'vol0' });
  t.same(control.volumes(), []);
});

t.test('the list is a table with a row for each volume', async t => {
  const { control, sledge } = await rig(t);
  t.equal((await sledge('volume', 'list')).out, 'no volumes\n');
  const problem = { severity: 'error', what: 'w', why: 'y', todo: 't' } as const;
  control.put({ name: 'b', sizeBytes: 1024 ** 3, lastOp: 12_345, readOnly: true });
  control.put({ name: 'a', problems: [problem] });
  const lines = (await sledge('volume', 'list')).out.trimEnd().split('\n');
  t.equal(lines.length, 3);
  t.match(lines[0], /^NAME +SIZE +ALLOCATED/);
  t.match(lines[1], /^a .* 1 problem$/);
  t.match(lines[2], /^b +1 GiB .* 12\.3k .* read-only$/);
});

t.test('what the node refuses is printed with its hint and ends with 1', async t => {
  const { control, sledge } = await rig(t);
  control.put({ name: 'vol0', connections: 1, sizeBytes: 8192 });
  const table: [string[], string][] = [
    [['volume', 'create', 'vol0', '--size', '1GiB'], 'volume-exists'],
    [['volume', 'show', 'nope'], 'volume-unknown'],
    [['volume', 'grow', 'vol0', '--size', '4096'], 'shrink-refused'],
    [['volume', 'delete', 'vol0'], 'volume-busy'],
  ];
  for (const [words, code] of table) {
    const text = await sledge(...words);
    t.equal(text.code, 1, words.join(' '));
    t.match(text.error, /^sledge: .+\n {2}.+\n$/);
    const json = await sledge(...words, '--json');
    t.equal(json.code, 1);
    t.equal(JSON.parse(json.out).error.code, code);
  }
});
