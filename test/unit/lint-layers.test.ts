/**
 * The layering of DESIGN §9 is kept by the linter's configuration; this shows that the configuration says what it is
 * meant to: for each pair of folders, whether an import from the one of the other is found fault with.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import t from 'tap';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** What each folder may import besides itself. */
const ALLOWED: Record<string, readonly string[]> = {
  base: [],
  'nbd-server-protocol': [],
  'nbd-server': ['base', 'nbd-server-protocol'],
  oplog: ['base'],
  index: ['base'],
  sled: ['base'],
  volume: ['base', 'nbd-server', 'oplog', 'index', 'sled'],
  head: ['base', 'nbd-server', 'oplog', 'index', 'sled', 'volume'],
  check: ['base', 'oplog', 'index', 'sled', 'volume', 'head'],
  link: ['base'],
  attach: ['base', 'nbd-server-protocol'],
  platform: [
    ...['base', 'nbd-server-protocol', 'nbd-server', 'oplog', 'index', 'sled', 'link', 'attach'],
    ...['node:fs', 'bindings'],
  ],
  admin: ['base', 'nbd-server-protocol', 'platform', 'node:fs', 'bindings'],
  node: [
    ...['base', 'nbd-server-protocol', 'nbd-server', 'oplog', 'index', 'sled', 'volume', 'head', 'check', 'link'],
    ...['platform', 'node:fs', 'bindings'],
  ],
  bin: ['base', 'nbd-server-protocol', 'attach', 'platform', 'admin', 'node', 'node:fs', 'bindings'],
};

const root = process.cwd();

/** Specifiers that were found fault with, by file, in a tree of files under the configuration of this checkout. */
function restricted(directory: string, files: Map<string, string>): Map<string, string[]> {
  const configuration = JSON.parse(readFileSync(join(root, '.biome.json'), 'utf8')) as Record<string, unknown>;
  // The tree is no repository, and how its files look is not the question.
  configuration['vcs'] = { enabled: false };
  configuration['formatter'] = { enabled: false };
  configuration['assist'] = { enabled: false };
  writeFileSync(join(directory, '.biome.json'), JSON.stringify(configuration));
  for (const [path, text] of files) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), text);
  }
  const biome = join(root, 'node_modules/@biomejs/biome/bin/biome');
  const result = spawnSync(process.execPath, [biome, 'lint', '--reporter=github', '--max-diagnostics=none', '.'], {
    cwd: directory,
    encoding: 'utf8',
  });
  const found = new Map<string, string[]>();
  for (const match of result.stdout.matchAll(/^::error title=([^,]*),file=([^,]*),/gm)) {
    const [, rule = '', absolute = ''] = match;
    const file = relative(realpathSync(directory), absolute);
    found.set(file, [...(found.get(file) ?? []), rule]);
  }
  return found;
}

t.test('each folder imports only what lies below it', t => {
  const directory = temporaryDirectory(t);
  const files = new Map<string, string>();
  const targets = [...Object.keys(ALLOWED), 'node:fs', 'bindings'];
  for (const from of Object.keys(ALLOWED)) {
    for (const to of targets) {
      const specifier = to in ALLOWED ? (to === from ? './other.ts' : `../${to}/other.ts`) : to;
      files.set(`src/${from}/${nameOf(to)}.ts`, `export { thing } from '${specifier}';\n`);
    }
  }
  const found = restricted(directory, files);
  for (const [from, allowed] of Object.entries(ALLOWED)) {
    for (const to of targets) {
      const isAllowed = to === from || allowed.includes(to);
      const rules = found.get(`src/${from}/${nameOf(to)}.ts`) ?? [];
      const expected = isAllowed ? [] : ['lint/style/noRestrictedImports'];
      t.same(rules, expected, `${from} ${isAllowed ? 'may' : 'may not'} import ${to}`);
    }
  }
  t.end();
});

t.test('a node imports the port of admin and not its server', t => {
  const found = restricted(
    temporaryDirectory(t),
    new Map([
      ['src/node/good.ts', "export type { NodeControl } from '../admin/node-control.ts';\n"],
      ['src/node/bad.ts', "export { startControlServer } from '../admin/control-server.ts';\n"],
    ]),
  );
  t.same([...found.keys()], ['src/node/bad.ts']);
  t.end();
});

t.test('type imports, dynamic imports and folders within folders are no way around', t => {
  const found = restricted(
    temporaryDirectory(t),
    new Map([
      ['src/sled/type.ts', "import type { Head } from '../head/head.ts';\nexport type X = Head;\n"],
      ['src/sled/dynamic.ts', "export const load = () => import('../head/head.ts');\n"],
      ['src/sled/erasure/deep.ts', "export { head } from '../../head/head.ts';\n"],
      [
        'src/sled/erasure/fine.ts',
        "export { sled } from '../sled.ts';\nexport { assert } from '../../base/assert.ts';\n",
      ],
      ['src/snapshot/new-folder.ts', "export { readFileSync } from 'node:fs';\n"],
    ]),
  );
  t.same(
    [...found.keys()].sort(),
    ['src/sled/dynamic.ts', 'src/sled/erasure/deep.ts', 'src/sled/type.ts', 'src/snapshot/new-folder.ts'].sort(),
  );
  t.end();
});

t.test('a violation in a copy of the sources is found', t => {
  const directory = temporaryDirectory(t);
  cpSync(join(root, 'src/base'), join(directory, 'src/base'), { recursive: true });
  const path = 'src/base/units.ts';
  const text = readFileSync(join(directory, path), 'utf8');
  t.same([...restricted(directory, new Map()).keys()], [], 'as it is: clean');
  const found = restricted(directory, new Map([[path, `import '../volume/volume.ts';\n${text}`]]));
  t.same(found.get(path), ['lint/style/noRestrictedImports']);
  t.end();
});

function nameOf(target: string): string {
  return `imports-${target.replace(':', '-')}`;
}
