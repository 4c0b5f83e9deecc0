import t from 'tap';
import { inheritedSockets } from '../../../src/bin/socket-activation.ts';

t.test('sockets that are meant for this process are taken from descriptor 3 on', t => {
  t.same(inheritedSockets({ LISTEN_FDS: '2', LISTEN_PID: '77' }, 77), [
    { kind: 'fd', fd: 3 },
    { kind: 'fd', fd: 4 },
  ]);
  t.end();
});

t.test('sockets for another process, or none, are left alone', t => {
  t.same(inheritedSockets({}, 77), []);
  t.same(inheritedSockets({ LISTEN_FDS: '1' }, 77), []);
  t.same(inheritedSockets({ LISTEN_FDS: '1', LISTEN_PID: '76' }, 77), []);
  t.same(inheritedSockets({ LISTEN_FDS: '0', LISTEN_PID: '77' }, 77), []);
  t.end();
});

t.test('a count that is none is an error', t => {
  for (const count of ['', 'x', '-1', '1.5', '65', '1000']) {
    t.throws(() => inheritedSockets({ LISTEN_FDS: count, LISTEN_PID: '77' }, 77), { code: 'usage' }, count);
  }
  t.end();
});
