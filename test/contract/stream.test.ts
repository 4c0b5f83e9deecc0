/** The sockets of the platform, on either ring, TCP and Unix, and the pipe in memory, held to the contract. */
import { plainRegion } from '../../src/base/memory.ts';
import type { Stream } from '../../src/base/stream.ts';
import type { ListenAddress } from '../../src/platform/io-platform.ts';
import { createIoPlatform } from '../../src/platform/platform.ts';
import { MemoryPipe } from '../support/memory-pipe.ts';
import { IO_KINDS, temporaryFolder } from './io-support.ts';
import { type StreamsFactory, streamContract } from './stream-contract.ts';

for (const kind of IO_KINDS) {
  for (const family of ['unix', 'tcp'] as const) streamContract(`a ${family} socket on ${kind}`, sockets(kind, family));
}
streamContract('a pipe in memory', async () => {
  const [near, far] = new MemoryPipe({ post: setImmediate }).ends;
  return { near, far, memory: { allocate: plainRegion }, knowsEndsAhead: true, cleanUp: async () => {} };
});

function sockets(kind: (typeof IO_KINDS)[number], family: 'unix' | 'tcp'): StreamsFactory {
  return async () => {
    const folder = temporaryFolder();
    const platform = createIoPlatform({ kind });
    const wanted: ListenAddress =
      family === 'unix' ? { kind: 'unix', path: folder.join('socket') } : { kind: 'tcp', host: '127.0.0.1', port: 0 };
    let accepted: (stream: Stream) => void = () => {};
    const far = new Promise<Stream>(resolve => {
      accepted = resolve;
    });
    const listener = await platform.listen(wanted, accepted);
    const near = await platform.connect(listener.address);
    return {
      near,
      far: await far,
      memory: platform,
      knowsEndsAhead: true,
      async cleanUp() {
        await listener.close();
        await platform.close();
        folder.remove();
      },
    };
  };
}
