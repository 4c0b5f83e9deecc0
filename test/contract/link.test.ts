/** Every link held to the contract: real ones over sockets, TLS and pipes in memory, and the simulated one without faults. */
import { once } from 'node:events';
import { chmodSync, writeFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import type { IoRequest } from '../../src/base/io.ts';
import type { MemoryPiece, Region } from '../../src/base/memory.ts';
import type { Stream } from '../../src/base/stream.ts';
import type { ListenAddress } from '../../src/platform/io-platform.ts';
import { createIoPlatform } from '../../src/platform/platform.ts';
import { detachStream } from '../../src/platform/ring-stream.ts';
import { loadTlsMaterial } from '../../src/platform/tls.ts';
import { NodeStream, tlsUpgrade } from '../../src/platform/tls-stream.ts';
import { linkPair, SILENT_LOG } from '../support/link-rig.ts';
import { MemoryPipe } from '../support/memory-pipe.ts';
import { SimNetwork } from '../support/sim-link.ts';
import { SimLoop } from '../support/sim-loop.ts';
import { SimRegions, simChecksums } from '../support/sim-memory.ts';
import { SimRandom, seedOfRun } from '../support/sim-random.ts';
import { IO_KINDS, sleep, temporaryFolder } from './io-support.ts';
import { type LinksFactory, type LinksUnderTest, linkContract } from './link-contract.ts';

const WAIT_MS = 10_000;

const keyFile = join(t.testdir(), 'keys.psk');
const key = Buffer.alloc(32, 7);
writeFileSync(keyFile, `alice:${key.toString('hex')}\n`);
chmodSync(keyFile, 0o600);
const material = loadTlsMaterial({ psk: keyFile });

for (const kind of IO_KINDS) {
  for (const family of ['unix', 'tcp'] as const) linkContract(`a link over ${family} on ${kind}`, real(kind, family));
}
linkContract('a link over TLS', real('io_uring', 'tls'));
linkContract('a link over pipes in memory', piped);
linkContract('a simulated link without faults', simulated);

function real(kind: (typeof IO_KINDS)[number], family: 'unix' | 'tcp' | 'tls'): LinksFactory {
  return async () => {
    const folder = temporaryFolder();
    const platform = createIoPlatform({ kind, spinMicros: 0 });
    const ports = {
      turns: platform,
      clock: platform,
      regions: platform,
      checksums: platform,
      log: SILENT_LOG,
    };
    const wanted: ListenAddress =
      family === 'unix' ? { kind: 'unix', path: folder.join('socket') } : { kind: 'tcp', host: '127.0.0.1', port: 0 };
    let accept: (stream: Stream) => void = stream => stream.close();
    const upgrade = tlsUpgrade(material, detachStream, 5000);
    const listener = await platform.listen(wanted, stream => {
      if (family === 'tls') void upgrade(stream).then(accept, () => {});
      else accept(stream);
    });
    const connect = () => (family === 'tls' ? secure(listener.address) : platform.connect(listener.address));
    const dials: Promise<BreakableStream>[] = [];
    let latest: BreakableStream | undefined;
    const { near, far, acceptor } = linkPair(ports, ports, async accepted => {
      accept = accepted;
      const dial = connect().then(stream => new BreakableStream(stream));
      dials.push(dial);
      latest = await dial;
      return latest;
    });
    return {
      near,
      far,
      until: async condition => {
        const endMs = platform.nowMs() + WAIT_MS;
        while (!condition() && platform.nowMs() < endMs) await sleep(1);
        return condition();
      },
      settle: () => sleep(40),
      breakConnection: () => latest!.break(),
      async cleanUp() {
        await Promise.allSettled(dials);
        acceptor.close();
        await listener.close();
        // Upgrades to TLS that were under way end with their sockets.
        await sleep(5);
        await platform.close();
        folder.remove();
      },
    };
  };
}

/** A client's connection under TLS, by a key: faster made than certificates. */
async function secure(address: ListenAddress): Promise<Stream> {
  const socket = connectTls({
    socket: connectPlain(address.kind === 'tcp' ? address.port : 0, '127.0.0.1'),
    ciphers: 'PSK',
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ identity: 'alice', psk: key }),
  });
  await once(socket, 'secureConnect');
  return new NodeStream(socket, true, 'tls');
}

/** A stream that can be closed beneath its user. */
class BreakableStream implements Stream {
  readonly #stream: Stream;
  #isBroken = false;

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  get peer(): string {
    return this.#stream.peer;
  }

  get encrypted(): boolean {
    return this.#stream.encrypted;
  }

  get peerHasEnded(): boolean {
    return this.#stream.peerHasEnded;
  }

  receive(region: Region, offset: number, length: number, request: IoRequest): void {
    this.#stream.receive(region, offset, length, request);
  }

  send(region: Region, offset: number, length: number, request: IoRequest): void {
    this.#stream.send(region, offset, length, request);
  }

  sendPieces(pieces: readonly MemoryPiece[], count: number, request: IoRequest): void {
    this.#stream.sendPieces(pieces, count, request);
  }

  shutdown(): void {
    this.#stream.shutdown();
  }

  close(): void {
    if (!this.#isBroken) this.#stream.close();
  }

  break(): void {
    this.#isBroken = true;
    this.#stream.close();
  }
}

async function piped(): Promise<LinksUnderTest> {
  const random = new SimRandom(seedOfRun());
  const loop = new SimLoop(random);
  const ports = {
    turns: loop,
    clock: loop,
    regions: new SimRegions(),
    checksums: simChecksums,
    log: SILENT_LOG,
  };
  let latest: MemoryPipe | undefined;
  const { near, far } = linkPair(ports, ports, async accept => {
    latest = new MemoryPipe({ post: completion => loop.post(completion) });
    accept(latest.ends[1]);
    return latest.ends[0];
  });
  return { near, far, ...inVirtualTime(loop), breakConnection: () => latest!.break() };
}

async function simulated(): Promise<LinksUnderTest> {
  const random = new SimRandom(seedOfRun());
  const loop = new SimLoop(random);
  const network = new SimNetwork(loop, random);
  return {
    near: network.link('a', 'b'),
    far: network.link('b', 'a'),
    ...inVirtualTime(loop),
    breakConnection: () => network.break('a', 'b'),
  };
}

function inVirtualTime(loop: SimLoop): Pick<LinksUnderTest, 'until' | 'settle' | 'cleanUp'> {
  const until = async (condition: () => boolean): Promise<boolean> => {
    const endMs = loop.nowMs() + WAIT_MS;
    while (!condition() && loop.nowMs() < endMs) if (!(await loop.turn()) && !loop.passTime()) break;
    return condition();
  };
  return {
    until,
    settle: async () => {
      const endMs = loop.nowMs() + 3000;
      await until(() => loop.nowMs() >= endMs);
    },
    cleanUp: async () => {},
  };
}
