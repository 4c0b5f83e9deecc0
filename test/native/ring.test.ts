/** The rings below TypeScript: entries filled in by hand, as the kernel's layout has them, on either ring. */
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { addon, KERNEL_RING, type NativeRing, THREAD_RING } from '../../src/platform/addon.ts';
import * as submission from '../../src/platform/submission.ts';
import { sleep, temporaryFolder } from '../contract/io-support.ts';

const OP_NOP = 0;
const ENTRIES = 8;

interface Entry {
  opcode: number;
  fd?: number;
  position?: bigint;
  address?: bigint;
  length?: number;
  flags?: number;
  mark: number;
}

/** Byte by byte, on purpose not by the words that the product's code uses. */
function fill(ring: NativeRing, index: number, entry: Entry): void {
  const view = new DataView(ring.submissions, index * 64, 64);
  view.setUint8(0, entry.opcode);
  view.setInt32(4, entry.fd ?? -1, true);
  view.setBigUint64(8, entry.position ?? 0n, true);
  view.setBigUint64(16, entry.address ?? 0n, true);
  view.setUint32(24, entry.length ?? 0, true);
  view.setUint32(28, entry.flags ?? 0, true);
  view.setBigUint64(32, BigInt(entry.mark), true);
}

function completionAt(ring: NativeRing, index: number): { mark: number; result: number } {
  const view = new DataView(ring.completions, index * 16, 16);
  return { mark: Number(view.getBigUint64(0, true)), result: view.getInt32(8, true) };
}

function waitFor(ring: NativeRing, count: number): number {
  const ready = ring.enter(count, 0);
  return ready > 0 ? ready : ring.enter(0, 1_000_000);
}

for (const kind of [KERNEL_RING, THREAD_RING]) {
  t.test(`a ring of kind ${kind}`, async t => {
    t.test('completes with the mark of the entry, and goes round', async t => {
      const ring = new addon.Ring(kind, ENTRIES, 1, () => false);
      const places = ring.completions.byteLength / 16;
      for (let number = 0; number < 100; number++) {
        fill(ring, number % ENTRIES, { opcode: OP_NOP, mark: 1000 + number });
        t.equal(waitFor(ring, 1), 1);
        t.same(completionAt(ring, number % places), { mark: 1000 + number, result: 0 });
      }
      ring.close();
    });

    t.test('takes a full batch in one call', async t => {
      const ring = new addon.Ring(kind, ENTRIES, 1, () => false);
      for (let index = 0; index < ENTRIES; index++) fill(ring, index, { opcode: OP_NOP, mark: index + 1 });
      t.equal(ring.enter(ENTRIES, 0), ENTRIES);
      const marks = Array.from({ length: ENTRIES }, (_, index) => completionAt(ring, index).mark);
      t.same(marks, [1, 2, 3, 4, 5, 6, 7, 8]);
      ring.close();
    });

    t.test('pushes entries while announced completions are still to be read', async t => {
      const ring = new addon.Ring(kind, ENTRIES, 1, () => false);
      for (let index = 0; index < ENTRIES; index++) fill(ring, index, { opcode: OP_NOP, mark: index + 1 });
      t.equal(ring.enter(ENTRIES, 0), ENTRIES);
      for (let index = 0; index < ENTRIES; index++) fill(ring, index, { opcode: OP_NOP, mark: 100 + index });
      t.equal(ring.push(3), 0);
      t.equal(ring.push(ENTRIES - 3), 0);
      t.same(
        Array.from({ length: ENTRIES }, (_, index) => completionAt(ring, index).mark),
        [1, 2, 3, 4, 5, 6, 7, 8],
        'where they were',
      );
      t.equal(ring.enter(0, 1_000_000), ENTRIES);
      t.same(
        Array.from({ length: ENTRIES }, (_, index) => completionAt(ring, ENTRIES + index).mark),
        [100, 101, 102, 103, 104, 105, 106, 107],
      );
      ring.close();
    });

    t.test('reads and writes at the address and the position of the entry', async t => {
      const folder = temporaryFolder();
      writeFileSync(folder.join('file'), '0123456789');
      const fd = openSync(folder.join('file'), 'r+');
      const ring = new addon.Ring(kind, ENTRIES, 1, () => false);
      const buffer = addon.allocate(4096)!;
      const bytes = new Uint8Array(buffer);
      const address = BigInt(addon.addressOf(buffer));
      fill(ring, 0, { opcode: submission.OP_READ, fd, position: 3n, address: address + 100n, length: 4, mark: 1 });
      t.equal(waitFor(ring, 1), 1);
      t.same(completionAt(ring, 0), { mark: 1, result: 4 });
      t.equal(new TextDecoder().decode(bytes.slice(99, 105)), '\u00003456\u0000');
      fill(ring, 1, { opcode: submission.OP_WRITE, fd, position: 8n, address: address + 100n, length: 4, mark: 2 });
      t.equal(waitFor(ring, 1), 1);
      fill(ring, 2, { opcode: submission.OP_FSYNC, fd, flags: submission.FSYNC_DATASYNC, mark: 3 });
      t.equal(waitFor(ring, 1), 1);
      t.same(completionAt(ring, 2), { mark: 3, result: 0 });
      t.equal(readFileSync(folder.join('file'), 'utf8'), '012345673456');
      ring.close();
      closeSync(fd);
      folder.remove();
    });

    t.test('answers what it cannot do with an error', async t => {
      const ring = new addon.Ring(kind, ENTRIES, 1, () => false);
      fill(ring, 0, { opcode: submission.OP_READ, fd: 0x7fffff, address: 1n, length: 1, mark: 1 });
      fill(ring, 1, { opcode: 255, mark: 2 });
      const found = new Map<number, number>();
      let index = 0;
      let ready = waitFor(ring, 2);
      while (ready > 0) {
        for (; ready > 0; ready--, index++) {
          const { mark, result } = completionAt(ring, index);
          found.set(mark, result);
        }
        if (found.size < 2) ready = ring.enter(0, 1_000_000);
      }
      t.equal(found.get(1), -9);
      t.equal(found.get(2), -22);
      ring.close();
    });

    t.test('wakes its owner once when it was armed, and not otherwise', async t => {
      let wakes = 0;
      const folder = temporaryFolder();
      const fd = openSync(folder.join('file'), 'w+');
      const ring = new addon.Ring(kind, ENTRIES, 1, () => {
        wakes += 1;
        return false;
      });
      fill(ring, 0, { opcode: submission.OP_FSYNC, fd, mark: 1 });
      if (ring.enter(1, 0) === 0 && ring.arm(false) === 0) {
        for (let wait = 0; wait < 200 && wakes === 0; wait++) await sleep(5);
        t.equal(wakes, 1);
        // Where the kernel defers work to the next call, the completion is there only after it.
        t.equal(ring.enter(0, 0), 1);
      }
      t.same(completionAt(ring, 0), { mark: 1, result: 0 });
      while (ring.enter(0, 0) > 0);
      fill(ring, 1, { opcode: submission.OP_FSYNC, fd, mark: 2 });
      wakes = 0;
      waitFor(ring, 1);
      await sleep(20);
      t.equal(wakes, 0);
      ring.close();
      closeSync(fd);
      folder.remove();
    });
  });
}
