import t from 'tap';
import { createLog, type LogFormat, type LogLevel, type ServerLog } from '../../../src/admin/log.ts';

function capture(format: LogFormat, level: LogLevel): { log: ServerLog; lines: string[] } {
  const lines: string[] = [];
  const log = createLog(format, level, { write: text => void lines.push(text), flushSync() {} });
  return { log, lines };
}

t.test('an entry is one readable line with its time, level, message and fields', t => {
  const { log, lines } = capture('text', 'info');
  log.info({ volume: 'vol0', bytes: 4096, list: [1, 2] }, 'volume made');
  t.equal(lines.length, 1);
  t.match(
    lines[0],
    /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} info {2}volume made \(volume vol0, bytes 4096, list \[1,2\]\)\n$/,
  );
  t.end();
});

t.test('line ends and escape sequences from outside do not reach the terminal', t => {
  const { log, lines } = capture('text', 'info');
  log.warn({ name: 'a\nfake line\u001b[31m' }, 'odd\r\nmessage');
  t.equal(lines[0]?.split('\n').length, 2, 'one line and its end');
  t.notMatch(lines[0], '\u001b');
  t.match(lines[0], 'a\\x0afake line\\x1b[31m');
  t.match(lines[0], 'odd\\x0d\\x0amessage');
  t.end();
});

t.test('an error shows its message on the line and its stack below', t => {
  const { log, lines } = capture('text', 'info');
  log.error({ err: new Error('broken') }, 'it failed');
  const [first, second] = (lines[0] ?? '').split('\n');
  t.match(first, /error it failed: broken$/);
  t.match(second, /^ {4}Error: broken/);
  t.end();
});

t.test('levels below the one asked for are left out', t => {
  const { log, lines } = capture('text', 'warn');
  log.debug({}, 'a');
  log.info({}, 'b');
  log.warn({}, 'c');
  log.error({}, 'd');
  t.same(
    lines.map(line => line.trim().at(-1)),
    ['c', 'd'],
  );
  t.end();
});

t.test('for programs each line is an object', t => {
  const { log, lines } = capture('json', 'debug');
  log.debug({ volume: 'vol0' }, 'hello');
  const entry = JSON.parse(lines[0] ?? '') as Record<string, unknown>;
  t.match(entry, { level: 'debug', volume: 'vol0', msg: 'hello', time: /^\d{4}-.*Z$/ });
  t.end();
});
