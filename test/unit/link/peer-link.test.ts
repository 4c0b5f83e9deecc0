/** The link that dials: when it tries again, whom it takes for its peer, and what becomes of what comes too late. */
import t from 'tap';
import { linkSilenceMs } from '../../../src/base/limits.ts';
import { plainRegion } from '../../../src/base/memory.ts';
import { ReconnectPolicy } from '../../../src/base/reconnect-policy.ts';
import type { Stream } from '../../../src/base/stream.ts';
import type { LinkIdentity } from '../../../src/link/frame.ts';
import { LinkAcceptor } from '../../../src/link/link-acceptor.ts';
import { PeerLink } from '../../../src/link/peer-link.ts';
import { ACCEPTOR, DIALER, plainChecksums, SILENT_LOG } from '../../support/link-rig.ts';
import { LinkSide } from '../../support/link-side.ts';
import { MemoryLoop } from '../../support/memory-loop.ts';
import { MemoryPipe } from '../../support/memory-pipe.ts';
import { settled } from '../../support/sim-loop.ts';

class Rig {
  readonly loop = new MemoryLoop();
  readonly warnings: string[] = [];
  readonly pipes: MemoryPipe[] = [];
  readonly acceptor: LinkAcceptor;
  readonly near: LinkSide;
  readonly far: LinkSide;
  /** When each dial began. */
  readonly dialsMs: number[] = [];
  isUp = true;
  /** While set, a dial waits for `answer`. */
  isSlow = false;
  answer: () => void = () => {};

  constructor(acceptor: LinkIdentity = ACCEPTOR, peer = ACCEPTOR.node) {
    const log = { ...SILENT_LOG, warn: (fields: object) => void this.warnings.push(JSON.stringify(fields)) };
    const regions = { allocate: plainRegion };
    const ports = { turns: this.loop, clock: this.loop, regions, checksums: plainChecksums, log };
    this.acceptor = new LinkAcceptor(ports, acceptor);
    this.far = new LinkSide(this.acceptor.linkTo(DIALER.node));
    const dialing = { dial: () => this.#dial(), policy: new ReconnectPolicy(() => 0.5) };
    this.near = new LinkSide(new PeerLink(ports, DIALER, peer, dialing));
    this.far.start();
    this.near.start();
  }

  get latest(): MemoryPipe {
    return this.pipes.at(-1)!;
  }

  /** Time passes, and what is promised comes true. */
  async pass(milliseconds: number): Promise<void> {
    for (let passed = 0; passed < milliseconds; passed += 10) {
      this.loop.advance(10);
      await settled();
    }
  }

  async #dial(): Promise<Stream> {
    this.dialsMs.push(this.loop.nowMs());
    if (this.isSlow) {
      await new Promise<void>(resolve => {
        this.answer = resolve;
      });
    }
    if (!this.isUp) throw new Error('connection refused');
    const pipe = new MemoryPipe({ post: completion => this.loop.post(completion) });
    this.pipes.push(pipe);
    this.acceptor.accept(pipe.ends[1]);
    return pipe.ends[0];
  }
}

t.test('it dials until the other is there, with pauses, and says once why it cannot', async t => {
  const rig = new Rig();
  rig.isUp = false;
  await rig.pass(10_000);
  const pauses = rig.dialsMs.slice(1).map((ms, i) => ms - rig.dialsMs[i]);
  t.ok(pauses.length >= 10 && pauses.length < 40, `${pauses.length + 1} tries in ten seconds`);
  t.ok(Math.max(...pauses) <= 1010);
  t.equal(rig.warnings.length, 1);
  t.match(rig.warnings[0], 'connection refused');
  rig.isUp = true;
  await rig.pass(1100);
  t.ok(rig.near.isConnected && rig.far.isConnected);
});

t.test('a lost connection is made again at once', async t => {
  const rig = new Rig();
  await rig.pass(2000);
  rig.latest.break();
  await rig.pass(30);
  t.same([rig.near.connects, rig.far.connects], [2, 2]);
  t.same([rig.near.reasons, rig.far.reasons], [['failed'], ['failed']]);
  t.same([...rig.near.violations, ...rig.far.violations], []);
});

for (const [name, acceptor, reason] of [
  ['of another cluster', { ...ACCEPTOR, cluster: 'd'.repeat(32) }, 'foreign-cluster'],
  ['that knows others only', ACCEPTOR, 'foreign-node'],
] as const) {
  t.test(`a node ${name} refuses it, and it hears why`, async t => {
    const rig = new Rig(acceptor);
    if (reason === 'foreign-node') rig.far.close();
    await rig.pass(5000);
    t.equal(rig.near.connects, 0);
    const [why] = rig.warnings.filter(warning => warning.includes('"why"'));
    t.match(why, reason);
    t.equal(rig.warnings.filter(warning => warning.includes('"why"')).length, 1);
    t.ok(rig.dialsMs.length < 30, `${rig.dialsMs.length} tries`);
    rig.near.close();
    await rig.pass(6000);
    t.ok(rig.pipes.every(pipe => pipe.ends.every(end => end.closed)));
  });
}

t.test('another node at the address of the peer is not taken for it', async t => {
  const rig = new Rig(ACCEPTOR, '7'.repeat(32));
  await rig.pass(3000);
  t.equal(rig.near.connects, 0);
  t.match(rig.warnings.join(), 'foreign-node');
  t.ok(rig.far.reasons.every(reason => reason === 'ended'));
});

t.test('a way that carries nothing any more: who hears nothing gives up, the other is told', async t => {
  const rig = new Rig();
  await rig.pass(3000);
  rig.latest.hold(0, true);
  await rig.pass(linkSilenceMs - 1100);
  t.same([rig.near.reasons, rig.far.reasons], [[], []]);
  await rig.pass(2200);
  t.same([rig.near.reasons, rig.far.reasons], [['ended'], ['silent']]);
  t.ok(rig.near.isConnected && rig.far.isConnected, 'and the next connection is there');
});

t.test('a dial that ends after the link was closed leaves nothing open', async t => {
  const rig = new Rig();
  rig.isSlow = true;
  await rig.pass(20);
  rig.near.close();
  rig.answer();
  await rig.pass(6000);
  t.ok(rig.latest.ends.every(end => end.closed));
  t.equal(rig.dialsMs.length, 1, 'and it does not dial again');
  t.equal(rig.loop.timerCount, 0);
});

t.test('a link closed while it waits to dial, or says hello, is over', async t => {
  const waiting = new Rig();
  waiting.isUp = false;
  await waiting.pass(100);
  waiting.near.close();
  const { length } = waiting.dialsMs;
  await waiting.pass(3000);
  t.equal(waiting.dialsMs.length, length);

  const greeting = new Rig();
  greeting.loop.advance(1);
  await settled();
  greeting.near.close();
  await greeting.pass(6000);
  t.equal(greeting.near.connects, 0);
  t.ok(greeting.latest.ends.every(end => end.closed));
});

t.test('after a restart of either side the two meet again', async t => {
  const rig = new Rig();
  await rig.pass(2000);
  rig.far.close();
  await rig.pass(100);
  t.notOk(rig.near.isConnected);
  const again = new LinkSide(rig.acceptor.linkTo(DIALER.node));
  again.start();
  await rig.pass(1100);
  t.ok(rig.near.isConnected && again.isConnected);
  rig.near.send(Uint8Array.of(5));
  await rig.pass(10);
  t.same(again.messages, [Uint8Array.of(5)]);
});
