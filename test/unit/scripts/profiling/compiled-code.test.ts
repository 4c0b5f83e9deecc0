/** Compiled code: what lay at an address at a time, by a map that does not say when. */
import t from 'tap';
import { CompiledCode, type Mark } from '../../../../scripts/profiling/compiled-code.ts';

const placeOf = (url: string, line: number) => ({ file: url.replace('file:///p/dist/', ''), line: line - 100 });

/** A map whose lines came in these groups, a second apart; times are from the first. */
function codeOf(...groups: readonly (readonly string[])[]): CompiledCode {
  const marks: Mark[] = [];
  let text = '';
  for (const [atSeconds, group] of groups.entries()) {
    text += group.map(line => `${line}\n`).join('');
    marks.push({ atSeconds, bytes: Buffer.byteLength(text) });
  }
  return new CompiledCode(Buffer.from(text), marks, placeOf);
}

t.test('functions have their places, tiers are not told apart, and other code has its name', t => {
  const code = codeOf([
    '7f00 20 JS:~#run file:///p/dist/src/a.js:150:9',
    '7f20 20 JS:^processImmediate node:internal/timers:438:28',
    '7f40 20 JS:* file:///p/dist/src/a.js:177:85',
    '7f60 20 JS:*get größe file:///p/dist/src/a.js:178:8',
    '7f80 20 JS:*commit /p/node_modules/lmdb/write.js:200:3',
    '7fa0 20 RegExp:^a b$',
  ]);
  code.advanceTo(1);
  t.match(
    [0x7f00, 0x7f20, 0x7f40, 0x7f60, 0x7f80, 0x7fa0].map(address => code.find(address)),
    [
      { kind: 'javascript', name: '#run', file: 'src/a.js', line: 50 },
      { kind: 'javascript', name: 'processImmediate', file: 'node:internal/timers' },
      { kind: 'javascript', name: '(anonymous)' },
      { kind: 'javascript', name: 'get größe' },
      { kind: 'javascript', name: 'commit', file: '/p/node_modules/lmdb/write.js' },
      { kind: 'builtin', name: 'RegExp:^a b$' },
    ],
  );
  t.end();
});

t.test('an address belongs to the code from its first byte to its last', t => {
  const code = codeOf(['1020 10 b', '1000 10 a']);
  code.advanceTo(1);
  const names = [0xfff, 0x1000, 0x100f, 0x1010, 0x101f, 0x1020, 0x102f, 0x1030].map(at => code.find(at)?.name);
  t.same(names, [undefined, 'a', 'a', undefined, undefined, 'b', 'b', undefined]);
  t.end();
});

t.test('newer code drives out what it overlaps, whichever way, and its neighbours stay', t => {
  for (const older of ['1100 100', '1080 81', '11ff 80', '1000 400', '1180 1']) {
    const code = codeOf([`${older} older`, '1100 100 newer']);
    code.advanceTo(1);
    const start = Number.parseInt(older, 16);
    t.not(code.find(start)?.name, 'older', older);
    t.equal(code.find(0x1100)?.name, 'newer');
    t.equal(code.find(0x11ff)?.name, 'newer');
  }
  const code = codeOf(['1000 10 a', '1010 10 b', '1020 10 c', '1030 10 d', '1018 10 e']);
  code.advanceTo(1);
  t.same(
    [0x1000, 0x1010, 0x1018, 0x1027, 0x1028, 0x1030].map(at => code.find(at)?.name),
    ['a', undefined, 'e', 'e', undefined, 'd'],
  );
  t.end();
});

t.test('what was at an address is asked for a time, and the next code is there from the mark before it', t => {
  const code = codeOf(['1000 10 first'], ['2000 10 other'], [], ['1000 8 second']);
  t.equal(code.find(0x1000), undefined, 'before anything is known');
  code.advanceTo(0.5);
  t.equal(code.find(0x1000)?.name, 'first');
  t.equal(code.find(0x2000)?.name, 'other', 'code in new places may come early');
  code.advanceTo(2);
  t.equal(code.find(0x1000)?.name, 'first');
  code.advanceTo(2.5);
  t.equal(code.find(0x1000)?.name, 'second');
  t.equal(code.find(0x1009), undefined);
  code.advanceTo(100);
  t.equal(code.find(0x1000)?.name, 'second', 'after the last mark nothing comes');
  t.end();
});

t.test('a line that was half written at a mark is read when it is whole', t => {
  const text = '1000 10 first\n1000 10 second\n';
  const marks = [
    { atSeconds: 0, bytes: 20 },
    { atSeconds: 1, bytes: text.length - 1 },
    { atSeconds: 2, bytes: text.length + 50 },
  ];
  const code = new CompiledCode(Buffer.from(text), marks, placeOf);
  code.advanceTo(0);
  t.equal(code.find(0x1000)?.name, 'first');
  code.advanceTo(0.5);
  t.equal(code.find(0x1000)?.name, 'first');
  code.advanceTo(1.5);
  t.equal(code.find(0x1000)?.name, 'second');
  t.end();
});

t.test('without a map nothing has a name', t => {
  const code = new CompiledCode(new Uint8Array(0), [{ atSeconds: 0, bytes: 0 }], placeOf);
  code.advanceTo(1);
  t.equal(code.find(0), undefined);
  t.end();
});
