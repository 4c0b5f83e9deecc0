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

t.test('who waits for one volume goes on in the order of asking, whatever is set aside meanwhile', t => {
  const [ill, well] = [{ name: 'ill' } as Volume, { name: 'well' } as Volume];
  let isAside = false;
  let wellHasRoom = false;
  const ports: Pick<WritePorts, 'liesAside'> = { liesAside: volume => isAside && volume === ill };
  const writer = new Writer(ports as WritePorts);
  const order: string[] = [];
  const waiter = (volume: Volume, name: string): RoomWaiter => ({
    volume,
    tryAppend: () => {
      if (volume === well && !wellHasRoom) return false;
      order.push(name);
      return true;
    },
  });
  writer.waitForRoom(waiter(well, 'first of well'));
  writer.waitForRoom(waiter(ill, 'first of ill'));
  writer.waitForRoom(waiter(ill, 'second of ill'));
  isAside = true;
  // What is sent again must not come before what it repeats, nor what comes after it before either.
  t.equal(writer.admit(ill, 64, 0, undefined), 'waits');
  writer.waitForRoom(waiter(ill, 'third of ill'));
  t.same([writer.waitingCount, writer.waitingAsideCount], [4, 0]);
  writer.resume();
  t.same(order, [], 'those in front have no room yet');
  wellHasRoom = true;
  writer.resume();
  t.same(order, ['first of well', 'first of ill', 'second of ill', 'third of ill']);
  t.same([writer.waitingCount, writer.waitingAsideCount], [0, 0]);
  t.end();
});
