/** The supervisor over a simulated kernel, server and clock: nothing here takes real time. */
import t from 'tap';
import {
  type Connection,
  type SupervisedDevice,
  Supervisor,
  type SupervisorEnd,
  type SupervisorReport,
} from '../../../src/attach/supervisor.ts';
import type { CancelTimer, Clock } from '../../../src/base/io.ts';
import { ReconnectPolicy } from '../../../src/base/reconnect-policy.ts';
import { SimRandom, seedOfRun } from '../../support/sim-random.ts';

const MIB = 2 ** 20;
const EINVAL = 22;

class SimulatedClock implements Clock {
  #nowMs = 0;
  #timers: { atMs: number; callback: () => void }[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  get pending(): number {
    return this.#timers.length;
  }

  after(delayMs: number, callback: () => void): CancelTimer {
    const timer = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter(other => other !== timer);
    };
  }

  /** Lets time pass, with all that falls due, and all that follows from it. */
  async pass(ms: number): Promise<void> {
    const end = this.#nowMs + ms;
    await settled();
    for (;;) {
      this.#timers.sort((a, b) => a.atMs - b.atMs);
      const next = this.#timers[0];
      if (next === undefined || next.atMs > end) break;
      this.#timers.shift();
      this.#nowMs = next.atMs;
      next.callback();
      await settled();
    }
    this.#nowMs = end;
  }
}

async function settled(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

/** A device of the kernel's, a server, and the supervisor between them. */
class World {
  readonly clock = new SimulatedClock();
  readonly reports: SupervisorReport[] = [];
  readonly messages: string[] = [];
  readonly ends: SupervisorEnd[] = [];
  readonly supervisor: Supervisor;
  // the server
  isUp = true;
  volumeBytes = 64 * MIB;
  flags = 0x16d;
  connects = 0;
  inquiries = 0;
  /** While set, connecting takes until `answer` is called. */
  isSlow = false;
  answer: () => void = () => {};
  // the kernel
  deviceBytes = 64 * MIB;
  dead = 0;
  isAttached = true;
  reconfigureError = 0;
  isInCharge = true;
  /** Sockets that this process holds. */
  readonly held = new Set<number>();
  #nextSocket = 10;

  constructor(device: Partial<SupervisedDevice> = {}) {
    this.supervisor = new Supervisor(
      {
        kernel: {
          reconfigure: change => this.#reconfigure(change),
          isAttached: () => this.isAttached,
        },
        connector: { connect: () => this.#connect(), inquire: () => this.#inquire() },
        clock: this.clock,
        policy: new ReconnectPolicy(() => 0.5),
        isInCharge: () => this.isInCharge,
        changed: report => this.reports.push(report),
        ended: end => this.ends.push(end),
        log: (_level, message) => this.messages.push(message),
      },
      {
        connections: 1,
        sizeBytes: 64 * MIB,
        transmissionFlags: 0x16d,
        isAdopted: false,
        inquiryMs: 2000,
        ...device,
      },
    );
  }

  linkDies(): void {
    this.dead++;
    this.supervisor.linkDied();
  }

  async #connect(): Promise<Connection> {
    this.connects++;
    if (this.isSlow) {
      await new Promise<void>(resolve => {
        this.answer = resolve;
      });
    }
    if (!this.isUp) throw new Error('refused');
    const socket = this.#nextSocket++;
    this.held.add(socket);
    const release = () => {
      if (!this.held.delete(socket)) throw new Error('released twice');
    };
    return { sizeBytes: this.volumeBytes, transmissionFlags: this.flags, socket, release };
  }

  async #inquire(): Promise<number> {
    this.inquiries++;
    if (!this.isUp) throw new Error('refused');
    return this.volumeBytes;
  }

  #reconfigure(change: { sizeBytes?: number; sockets?: readonly number[] }): number {
    if (!this.isAttached) return -EINVAL;
    if (this.reconfigureError !== 0) return this.reconfigureError;
    for (const socket of change.sockets ?? []) {
      if (!this.held.has(socket)) throw new Error('a socket that is closed was handed over');
      if (this.dead > 0) this.dead--;
    }
    if (change.sizeBytes !== undefined) this.deviceBytes = change.sizeBytes;
    return 0;
  }
}

t.test('a dead link gets a successor at once while the server is there', async t => {
  const world = new World();
  world.supervisor.start();
  world.linkDies();
  await world.clock.pass(0);
  t.equal(world.dead, 0);
  t.match(world.supervisor.report, { state: 'connected', reconnects: 1, lastError: '' });
  t.equal(world.held.size, 0, 'our hold on the socket is over');
});

t.test('a server that is away is tried until it is back, and the reason is told once', async t => {
  const world = new World();
  world.supervisor.start();
  world.isUp = false;
  world.linkDies();
  await world.clock.pass(30_000);
  t.match(world.supervisor.report, { state: 'reconnecting', lastError: 'refused' });
  t.ok(world.connects > 25 && world.connects < 60, `${world.connects} tries in 30 s`);
  t.equal(world.messages.filter(message => message.includes('refused')).length, 1);
  world.isUp = true;
  await world.clock.pass(1000);
  t.equal(world.dead, 0, 'within a second of its return');
  t.match(world.supervisor.report, { state: 'connected', reconnects: 1, lastError: '' });
});

t.test('each of several links gets its successor', async t => {
  const world = new World({ connections: 3 });
  world.supervisor.start();
  for (let i = 0; i < 3; i++) world.linkDies();
  await world.clock.pass(0);
  t.equal(world.dead, 0);
  t.match(world.supervisor.report, { state: 'connected', reconnects: 3 });
  world.linkDies();
  await world.clock.pass(10);
  t.equal(world.connects, 3, 'a loss soon after is followed by a pause');
  await world.clock.pass(2000);
  t.equal(world.dead, 0);
  t.equal(world.connects, 4);
});

t.test('more deaths than connections are not believed', async t => {
  const world = new World();
  world.supervisor.start();
  world.isSlow = true;
  for (let i = 0; i < 5; i++) world.linkDies();
  world.isSlow = false;
  world.answer();
  await world.clock.pass(0);
  t.equal(world.connects, 1);
  t.equal(world.supervisor.report.state, 'connected');
});

t.test('a link that dies while its successor is made is not forgotten', async t => {
  const world = new World({ connections: 2 });
  world.supervisor.start();
  world.isSlow = true;
  world.linkDies();
  await world.clock.pass(0);
  world.linkDies();
  world.isSlow = false;
  world.answer();
  await world.clock.pass(0);
  t.equal(world.dead, 0);
  t.equal(world.connects, 2);
  t.equal(world.supervisor.report.state, 'connected');
});

t.test('when events were lost, each link is offered a successor', async t => {
  const world = new World({ connections: 3 });
  world.supervisor.start();
  world.dead = 2;
  world.supervisor.eventsLost();
  await world.clock.pass(0);
  t.equal(world.dead, 0);
  t.equal(world.connects, 3);
  t.match(world.supervisor.report, { state: 'connected' });
});

t.test('an adopted device is offered a successor for each connection', async t => {
  const world = new World({ connections: 2, isAdopted: true });
  world.dead = 1;
  world.supervisor.start();
  t.equal(world.supervisor.report.state, 'reconnecting');
  await world.clock.pass(0);
  t.equal(world.dead, 0);
  t.equal(world.connects, 2);
  t.equal(world.supervisor.report.state, 'connected');
});

t.test('a volume that grows is seen within the time between inquiries, and the device grows', async t => {
  const world = new World();
  world.supervisor.start();
  await world.clock.pass(10_000);
  t.equal(world.inquiries, 5);
  world.volumeBytes = 96 * MIB;
  await world.clock.pass(2000);
  t.equal(world.deviceBytes, 96 * MIB);
  t.match(world.reports.at(-1), { state: 'connected', sizeBytes: 96 * MIB });
});

t.test('a volume that grew while the server was away is seen with the new connection', async t => {
  const world = new World();
  world.supervisor.start();
  world.volumeBytes = 96 * MIB;
  world.linkDies();
  await world.clock.pass(0);
  t.equal(world.deviceBytes, 96 * MIB);
});

t.test('a size that the kernel refuses is tried again, and complained about once', async t => {
  const world = new World();
  world.supervisor.start();
  world.volumeBytes = 96 * MIB;
  world.reconfigureError = -12;
  await world.clock.pass(10_000);
  t.equal(world.deviceBytes, 64 * MIB);
  t.equal(world.messages.length, 1);
  world.reconfigureError = 0;
  await world.clock.pass(2000);
  t.equal(world.deviceBytes, 96 * MIB);
});

t.test('a volume that is smaller is not connected: it is another one, or broken', async t => {
  const world = new World();
  world.supervisor.start();
  world.volumeBytes = 32 * MIB;
  await world.clock.pass(10_000);
  t.equal(world.deviceBytes, 64 * MIB);
  t.equal(world.messages.length, 1, 'the log says it once');
  world.linkDies();
  await world.clock.pass(5000);
  t.equal(world.dead, 1);
  t.match(world.supervisor.report, { state: 'reconnecting', lastError: /less than/ });
  t.equal(world.held.size, 0);
  world.volumeBytes = 64 * MIB;
  await world.clock.pass(1500);
  t.equal(world.dead, 0, 'the right volume is taken');
});

t.test('a server that cannot be asked for the size is not a lost connection', async t => {
  const world = new World();
  world.supervisor.start();
  world.isUp = false;
  await world.clock.pass(10_000);
  t.equal(world.connects, 0);
  t.match(world.supervisor.report, { state: 'connected', lastError: '' });
});

t.test('a server that hangs up again and again is tried with pauses', async t => {
  const world = new World();
  world.supervisor.start();
  for (let i = 0; i < 1000 && world.clock.nowMs() < 10_000; i++) {
    world.linkDies();
    await world.clock.pass(10);
    while (world.supervisor.report.state !== 'connected') await world.clock.pass(10);
  }
  t.ok(world.connects < 40, `${world.connects} connections in 10 s`);
});

t.test('a device that is detached by somebody else ends the supervisor', async t => {
  for (const isReconnecting of [false, true]) {
    const world = new World();
    world.supervisor.start();
    if (isReconnecting) {
      world.isUp = false;
      world.linkDies();
    }
    await world.clock.pass(500);
    world.isAttached = false;
    await world.clock.pass(2500);
    t.same(world.ends, ['detached']);
    t.equal(world.clock.pending, 0, 'no timer is left');
    const { connects, inquiries } = world;
    world.supervisor.linkDied();
    await world.clock.pass(60_000);
    t.same([world.connects, world.inquiries], [connects, inquiries], 'nothing happens after the end');
  }
});

t.test('a supervisor that was replaced leaves the device alone', async t => {
  const world = new World();
  world.supervisor.start();
  world.isInCharge = false;
  await world.clock.pass(2000);
  t.same(world.ends, ['replaced']);
  t.equal(world.inquiries, 0);
});

t.test('a kernel that refuses is asked again, as long as the device is there', async t => {
  const world = new World();
  world.supervisor.start();
  world.reconfigureError = -12;
  world.linkDies();
  await world.clock.pass(3000);
  t.match(world.supervisor.report, { state: 'reconnecting', lastError: /refused the connection: ENOMEM/ });
  t.equal(world.held.size, 0);
  world.reconfigureError = 0;
  await world.clock.pass(1500);
  t.equal(world.dead, 0);
});

t.test('a connection that comes after the end is closed', async t => {
  const world = new World();
  world.supervisor.start();
  world.isSlow = true;
  world.linkDies();
  await world.clock.pass(0);
  world.supervisor.stop();
  t.same(world.ends, ['stopped']);
  world.answer();
  await world.clock.pass(0);
  t.equal(world.held.size, 0);
  t.equal(world.dead, 1, 'and not handed over');
  world.supervisor.stop();
  t.same(world.ends, ['stopped'], 'the end comes once');
});

t.test('a server that offers less than before is warned of', async t => {
  const world = new World();
  world.supervisor.start();
  world.flags = 0x101;
  world.linkDies();
  await world.clock.pass(0);
  t.ok(world.messages.some(message => message.includes('no longer offers')));
  t.equal(world.supervisor.report.state, 'connected');
});

t.test('whatever happens, in the end each link has its successor and nothing is held', async t => {
  const seed = seedOfRun();
  t.comment(`seed ${seed}`);
  const random = new SimRandom(seed);
  for (let run = 0; run < 60; run++) {
    const connections = 1 + random.below(4);
    const world = new World({ connections, isAdopted: random.below(4) === 0 });
    world.supervisor.start();
    for (let step = 0; step < 60; step++) {
      switch (random.below(6)) {
        case 0:
          if (world.dead < connections) world.linkDies();
          break;
        case 1:
          world.isUp = !world.isUp;
          break;
        case 2:
          world.isSlow = !world.isSlow;
          world.answer();
          break;
        case 3:
          world.volumeBytes += random.below(2) * MIB;
          break;
        case 4:
          world.reconfigureError = random.below(3) === 0 ? -12 : 0;
          break;
        default:
          await world.clock.pass(random.below(3000));
      }
    }
    world.isUp = true;
    world.isSlow = false;
    world.reconfigureError = 0;
    world.answer();
    await world.clock.pass(10_000);
    const found = {
      dead: world.dead,
      held: world.held.size,
      state: world.supervisor.report.state,
      deviceBytes: world.deviceBytes,
    };
    t.same(found, { dead: 0, held: 0, state: 'connected', deviceBytes: world.volumeBytes }, `run ${run}`);
  }
});
