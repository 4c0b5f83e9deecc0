import t from 'tap';
import { ReconnectPolicy } from '../../../src/base/reconnect-policy.ts';

t.test('the first try comes at once, later ones after growing pauses of at most a second', t => {
  const policy = new ReconnectPolicy(() => 0.999);
  t.equal(policy.lost(0), 0);
  const pauses = Array.from({ length: 20 }, () => policy.failed());
  t.ok(pauses[0] > 0 && pauses[0] <= 50, `first ${pauses[0]}`);
  for (let i = 1; i < pauses.length; i++) t.ok(pauses[i] >= pauses[i - 1], 'they do not fall');
  t.ok(pauses[19] > 900 && pauses[19] <= 1000, `last ${pauses[19]}`);
  t.end();
});

t.test('half of a pause is chance', t => {
  const [low, high] = [0, 0.999].map(value => {
    const policy = new ReconnectPolicy(() => value);
    policy.lost(0);
    for (let i = 0; i < 30; i++) policy.failed();
    return policy.failed();
  });
  t.equal(low, 500);
  t.ok(high! > 990 && high! < 1000);
  t.end();
});

t.test('a connection that lived ends the run of failures', t => {
  const policy = new ReconnectPolicy(() => 0.5);
  policy.lost(0);
  for (let i = 0; i < 10; i++) policy.failed();
  policy.connected(10_000);
  t.equal(policy.lost(20_000), 0, 'at once again');
  t.ok(policy.failed() <= 50, 'and the pauses begin anew');
  t.end();
});

t.test('a server that accepts and hangs up is not tried without a pause', t => {
  const policy = new ReconnectPolicy(() => 0.5);
  let nowMs = 0;
  const pauses: number[] = [];
  for (let i = 0; i < 12; i++) {
    pauses.push(policy.lost(nowMs));
    nowMs += 10;
    policy.connected(nowMs);
    nowMs += 10;
  }
  t.equal(pauses[0], 0);
  t.ok(pauses[1] > 0 && pauses[11] >= 500, pauses.map(Math.round).join(' '));
  t.end();
});
