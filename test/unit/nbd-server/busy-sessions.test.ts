/** How many connections are at work, as the time goes on. */
import t from 'tap';
import { BusySessions } from '../../../src/nbd-server/busy-sessions.ts';

t.test('one is one, however often it works', async t => {
  const busy = new BusySessions();
  let window = 0;
  for (let nowMs = 0; nowMs < 100; nowMs += 3) {
    window = busy.note(nowMs, window);
    t.ok(busy.isOne);
  }
});

t.test('another one counts until a whole window has passed without it', async t => {
  const busy = new BusySessions();
  let one = busy.note(1000, 0);
  busy.note(1001, 0);
  t.notOk(busy.isOne);
  one = busy.note(1010, one);
  t.notOk(busy.isOne, 'in the window after');
  one = busy.note(1019.9, one);
  t.notOk(busy.isOne);
  one = busy.note(1020, one);
  t.ok(busy.isOne);
});

t.test('what was long ago does not count', async t => {
  const busy = new BusySessions();
  const one = busy.note(1000, 0);
  busy.note(1000, 0);
  busy.note(5000, one);
  t.ok(busy.isOne);
});
