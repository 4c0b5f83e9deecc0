/** The two queues of those who wait for room: who has something on a device that is aside waits in one of its own. */
import t from 'tap';
import type { Volume } from '../../../src/volume/volume.ts';
import type { RoomWaiter, WritePorts } from '../../../src/volume/write-ports.ts';
import { Writer } from '../../../src/volume/writer.ts';

const volume = {} as Volume;

/** A writer that asks for nothing but where a volume lies. */
function writerOf(place: { isAside: boolean }): Writer {
  const ports: Pick<WritePorts, 'liesAside'> = { liesAside: () => place.isAside };
  return new Writer(ports as WritePorts);
}

for (const wasAside of [true, false]) {
  t.test(
    `who waits is tried where it belongs by now, when its device ${wasAside ? 'is well again' : 'is set aside'}`,
    t => {
      const place = { isAside: wasAside };
      const writer = writerOf(place);
      let tries = 0;
      const waiter: RoomWaiter = {
        volume,
        tryAppend: () => {
          tries++;
          return true;
        },
      };
      writer.waitForRoom(waiter);
      t.same([writer.waitingCount, writer.waitingAsideCount], wasAside ? [0, 1] : [1, 0]);
      place.isAside = !wasAside;
      writer.resume();
      t.same([tries, writer.waitingCount, writer.waitingAsideCount], [1, 0, 0]);
      t.end();
    },
  );
}
