/**
 * One measurement of one server: started anew, warmed where the row wants it, loaded by the row's client, brought to rest
 * if it wrote, stopped. Called by nbd.ts in the order that keeps the comparison fair.
 */
import { type EngineSpec, startEngine, type Workplace } from './nbd-engines.ts';
import { fioOverNbd } from './nbd-fio.ts';
import { fillCache, loadRun, warm, warmUp } from './nbd-load.ts';
import { residentBytes } from './nbd-process.ts';
import type { Sample } from './nbd-results.ts';
import { type Row, rampSecondsOf } from './nbd-rows.ts';
import { cacheFile, syncDisk } from './nbd-volumes.ts';

export async function measureServer(engine: EngineSpec, row: Row, place: Workplace): Promise<Sample> {
  const tls = row.tls ?? false;
  const server = await startEngine(engine, place, { tls, sledgeArguments: row.sledgeArguments ?? [] });
  try {
    if (row.warmBytes !== undefined) await warm(row, row.warmBytes, server.uri);
    // A virtual machine's disk has a cache below it, which holds the file that one peer after the other reads.
    if (row.fromDisk && engine.class === 'sledge') await warm(row, place.sizeBytes, server.uri);
    // Each with its cache full, as after a while of use.
    if (row.pageCached && engine.class === 'page cache') await cacheFile(place.file);
    else if (row.pageCached && engine.class === 'sledge') await fillCache(server.uri, place.sizeBytes);
    if (row.warmLoad !== undefined) await warmUp(row.warmLoad, server.uri);
    const rampSeconds = rampSecondsOf(row);
    let serverRssBytes = 0;
    // Towards the end, but while the clients are still connected.
    const timer = setTimeout(
      () => {
        serverRssBytes = residentBytes(server.pid);
      },
      (rampSeconds + row.seconds * 0.8) * 1000,
    );
    try {
      const sample =
        row.client === 'fio'
          ? await fioOverNbd(row, rampSeconds, server.uri)
          : await loadRun(row, rampSeconds, server.uri, server.pid);
      if (row.writes) await server.settle();
      return { ...sample, serverRssBytes };
    } finally {
      clearTimeout(timer);
    }
  } finally {
    await server.stop();
    if (row.writes) await syncDisk(place);
  }
}
