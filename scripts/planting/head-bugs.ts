/** Bugs of commits, destage, slots, recovery and devices. */
import type { PlantedBug } from './planted-bug.ts';

const CARRIER = 'src/head/chunk-carrier.ts';
const CARRY_STORE = 'src/head/carry-store.ts';
const STEP = 'src/head/destage-step.ts';
const HEAD = 'src/head/head.ts';
const RECOVERY = 'src/head/recovery.ts';
const SLOTS = 'src/head/slot-allocator.ts';
const SLED = 'src/sled/sled.ts';

export const HEAD_BUGS: readonly PlantedBug[] = [
  {
    name: 'durable-falls-between-rounds',
    breaks: 'Recovery that drops a torn tail takes back what the dropped records said was durable.',
    file: RECOVERY,
    find: 'known = { ...known, durable: scan.durable };',
    replacement: 'void scan.durable;',
  },
  {
    name: 'index-forgets-what-was-durable',
    breaks: 'Recovery does not ask the index how far the log was durable, and may drop what the index knows of.',
    file: RECOVERY,
    find: 'position: since, epoch }, durable };',
    replacement: 'position: since, epoch } };',
  },
  {
    name: 'torn-tail-kept',
    breaks: 'Recovery keeps a write of the unsynced tail whose data is not whole.',
    file: RECOVERY,
    find: "const bad = row === 'torn' ? scan.damagedData! : await",
    replacement: "const bad = row === 'torn' ? undefined : await",
  },
  {
    name: 'bulk-tail-unverified',
    breaks: 'Recovery keeps a bulk operation whose data never reached its slot.',
    file: RECOVERY,
    find: 'if (!covered && entry.sums[i] !== NO_SUM && actual[i] !== entry.sums[i]) return bulk.position;',
    replacement: 'void [covered, NO_SUM];',
  },
  {
    name: 'failed-sync-forgotten',
    breaks: 'A start after a failed sync takes what the page cache holds for what the next sync will write.',
    file: RECOVERY,
    find: 'const rewrites = ports.syncHasFailed === true;',
    replacement: 'const rewrites = false;',
  },
  {
    name: 'op-number-reused',
    breaks: 'After a restart operations get numbers that the log holds already.',
    file: RECOVERY,
    find: "volume.lastOp = Math.max(volume.lastOp, header.op) as LoggedOp['op'];",
    replacement: '',
  },
  {
    name: 'op-number-lost-with-the-cut',
    breaks: 'The log is cut without the index being told how far the numbers of operations have got.',
    file: STEP,
    find: 'transaction.putVolume(volume.toEntry(lastOp));',
    replacement: 'transaction.putVolume(volume.toEntry(volume.storedOp));',
  },
  {
    name: 'logged-slot-forgotten',
    breaks: 'After a restart slots that only the log names are handed out to others.',
    file: RECOVERY,
    find: 'this.head.slots.adopt(location, header.volume, blocksPerChunk * BLOCK_BYTES, this.head.sled.device(device));',
    replacement: '',
  },
  {
    name: 'epoch-not-raised',
    breaks: 'A process that opens the node writes with the epoch of the one before.',
    file: 'src/head/start-head.ts',
    find: 'const epoch = (before.epoch + 1) as Epoch;',
    replacement: 'const epoch = before.epoch;',
  },
  {
    name: 'trim-lost-on-recovery',
    breaks: 'A trim of whole chunks that recovery plays again does not hide what the index has of them.',
    file: HEAD,
    find: 'volume.drop(firstWhole, endWhole);',
    replacement: 'if (!this.#replaying) volume.drop(firstWhole, endWhole);',
  },
  {
    name: 'trimmed-blocks-stay-in-cache',
    breaks: 'Blocks that were zeroed or trimmed are still found in the cache.',
    file: HEAD,
    find: 'cache.invalidate(volume.number, op.first, op.count);',
    replacement: 'void cache;',
  },
  {
    name: 'written-blocks-stale-in-cache',
    breaks: 'A block that is written keeps its old content in the cache.',
    file: HEAD,
    find: 'if (!this.#replaying) cache.replace(volume.number, block, memory.bytes, op.dataOffset + i * BLOCK_BYTES);',
    replacement: 'void cache;',
  },
  {
    name: 'devices-not-synced-before-index',
    breaks: 'The index refers to data that the devices have not synced.',
    file: CARRIER,
    find: 'const result = await completion(request => this.#head.sled.syncDevices([device], request));',
    replacement: 'const result: number = await Promise.resolve(0);',
  },
  {
    name: 'log-not-synced-before-index',
    breaks: 'The log is cut over operations whose replacements are not durable.',
    file: CARRIER,
    find: 'await Promise.allSettled([...devicesSynced, this.#logSynced()]);',
    replacement: 'await Promise.allSettled(devicesSynced);',
  },
  {
    name: 'slots-rewritten-before-log-sync',
    breaks: 'Slots are rewritten in place with data that the log does not hold durably.',
    file: STEP,
    find: 'await this.#store.logSynced();\n      await this.carryDrops();',
    replacement: 'await this.carryDrops();',
  },
  {
    name: 'trim-carried-before-durable',
    breaks: 'Trimmed chunks leave the index before the trim is durable in the log.',
    file: STEP,
    find: '// Operations that were committed meanwhile are in the log, but perhaps not synced.\n      await this.#store.logSynced();',
    replacement: '',
  },
  {
    name: 'cut-before-index',
    breaks: 'The log is cut, and what was retired comes free, before the index transaction is durable.',
    file: STEP,
    find: 'await this.#carrier.carryAll(dirty, fence, conclude, putBack);',
    replacement:
      'this.#head.log.trim(fence.cut);\n    this.#head.slots.cutPassed(fence.cut);\n    await this.#carrier.carryAll(dirty, fence, conclude, putBack);',
  },
  {
    name: 'index-commit-not-awaited',
    breaks: 'An index transaction counts as durable as soon as it was asked for.',
    file: 'src/head/destage-store.ts',
    find: 'const result = await completion(request => transaction.commit(request));',
    replacement:
      'void completion(request => transaction.commit(request));\n    const result: number = await Promise.resolve(0);',
  },
  {
    name: 'newer-block-removed',
    breaks: 'A block that was written again during a destage leaves the overlay with its older version.',
    file: CARRY_STORE,
    find: 'if (row >= 0 && overlay.positionOf(row) === group.positions[i]) overlay.removeBlock(row);',
    replacement: 'if (row >= 0) overlay.removeBlock(row);',
  },
  {
    name: 'newer-chunk-removed',
    breaks: 'A chunk that was written as a whole again during a destage leaves the overlay with its older version.',
    file: CARRY_STORE,
    find: 'if (row >= 0 && base !== undefined && overlay.entryOf(row) === base) overlay.removeEntry(row);',
    replacement: 'if (row >= 0 && base !== undefined && overlay.entryOf(row) !== undefined) overlay.removeEntry(row);',
  },
  {
    name: 'destage-checks-nothing',
    breaks: 'The destage carries what it reads without a look at the checksum, and tells nobody of a damaged block.',
    file: 'src/head/block-source.ts',
    find: 'return this.#sum[0] === sum;',
    replacement: 'return this.#sum[0] === sum || true;',
  },
  {
    name: 'retired-slot-reused',
    breaks: 'A retired slot is handed out again before the cut has passed the records that name it.',
    file: SLOTS,
    find: 'if (until <= this.#cut) {',
    replacement: 'if (until >= 0) {',
  },
  {
    name: 'slot-free-before-discard',
    breaks: 'A dropped slot is free before its discard has ended, which takes new data along.',
    file: 'src/head/discarded-space.ts',
    find: 'this.#sled.discard(this.#current.location, this.#current.lengthBytes, this);',
    replacement:
      'this.#sled.discard(this.#current.location, this.#current.lengthBytes, { ioCompleted: () => {} });\n    this.ioCompleted();',
  },
  {
    name: 'device-sync-error-ignored',
    breaks: 'A device whose sync has failed goes on as if nothing had been lost.',
    file: SLED,
    find: "device.failure = 'a sync of it failed: what was written before may be lost';",
    replacement: '',
  },
  {
    name: 'device-sync-covers-later-writes',
    breaks: 'A sync of a device counts for writes that ended while it was under way.',
    file: SLED,
    find: 'ioCompleted: result => this.#synced(device, writeCount, begunMs, result) });',
    replacement:
      'ioCompleted: result => this.#synced(device, writeCount - writeCount + device.writeCount, begunMs, result) });',
  },
  {
    name: 'secured-data-not-synced',
    breaks: 'Data on a slow device is named by the log before it is durable, and no flush waits for it.',
    file: SLED,
    find: 'this.#begin([...lagging], request);',
    replacement: 'queueMicrotask(() => request.ioCompleted(0));',
  },
  {
    name: 'cut-over-what-is-aside',
    trouble: 'lame',
    breaks: 'The log is cut over blocks whose device is aside, though they are nowhere else.',
    file: 'src/head/carry-forward.ts',
    find: 'if (await this.#relogger().forward(chunks, cut)) {',
    replacement: 'if (cut > 0) {',
  },
  {
    name: 'carried-forward-over-newer',
    trouble: 'lame',
    breaks: 'A block is appended to the log again behind a newer operation on it that is not committed yet.',
    file: 'src/head/relog.ts',
    find: 'if (this.#blocks.get(number)?.has(block)) return true;',
    replacement: '',
  },
  {
    name: 'carried-forward-unchecked',
    trouble: 'lame',
    breaks: 'What was carried forward in the log is an older version, because the block was written meanwhile.',
    file: 'src/head/relog.ts',
    find: 'const isDue = (old: OldBlock) => this.#isNewest(old) && !underWay',
    replacement: 'const isDue = (old: OldBlock) => !underWay',
  },
  {
    name: 'overtaken-chunk-stored',
    trouble: 'lame',
    breaks: 'A chunk that was dropped or written as a whole while a slow device took its data is put into the index.',
    file: CARRIER,
    find: 'if (group.isBesideOthers && this.#isOvertaken(task, group)) this.#drop(task, group);',
    replacement: 'if (task.volume.number < 0) this.#drop(task, group);',
  },
  {
    name: 'pinned-slot-free',
    trouble: 'lame',
    breaks: 'A slot to which a slow device is still writing comes free, and is handed out again.',
    file: SLOTS,
    find: 'if (pinned !== undefined) pinned.comesFree = () => this.#letGo(location, dropped);\n    else if',
    replacement: 'void pinned;\n    if',
  },
  {
    name: 'full-device-never-heals',
    breaks: 'What finds no slot keeps the log from being cut, and so slots from coming free that wait for the cut.',
    file: STEP,
    find: 'if (devicesFull) await this.#carryForward.leaveUnplaced(dirty, cut, left);',
    replacement: 'void devicesFull;',
  },
  {
    name: 'rot-carried-over-good',
    breaks: 'A damaged copy in the log is written over the good block that mass storage has.',
    file: CARRIER,
    find: 'if (hasInPlace(task, group.blocks[index], sum)) offsets[index - firstBlock] = -1;',
    replacement: 'if (position < 0) offsets[index - firstBlock] = hasInPlace(task, group.blocks[index], sum) ? -1 : 0;',
  },
];
