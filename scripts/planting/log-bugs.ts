/** Bugs of the op log and of reading it back. */
import type { PlantedBug } from './planted-bug.ts';

const GROUP_COMMIT = 'src/oplog/group-commit.ts';
const LOG = 'src/oplog/log.ts';
const RECORD = 'src/oplog/record.ts';
const SCAN = 'src/oplog/scan.ts';

export const LOG_BUGS: readonly PlantedBug[] = [
  {
    name: 'durable-never-stated',
    breaks: 'A log at rest does not say how far it is durable: damage in what was flushed last passes for a torn tail.',
    file: LOG,
    find: 'if (this.#failure !== 0 || this.#operationsEnd <= this.#cut) return false;',
    replacement: 'if (this.#failure === 0 || this.#operationsEnd <= this.#cut) return false;',
  },
  {
    name: 'flush-stops-short-of-last-operation',
    breaks: 'A flush makes durable what was committed before the last operation.',
    file: LOG,
    find: 'this.#operationsEnd = op.end;',
    replacement: 'this.#operationsEnd = op.position;',
  },
  {
    name: 'log-sync-skipped',
    breaks: 'Who waits for stable storage is answered without a sync of the log.',
    file: GROUP_COMMIT,
    find: 'for (const file of files) file.sync(this);',
    replacement: 'for (const _ of files) queueMicrotask(() => this.ioCompleted(0));',
  },
  {
    name: 'bulk-data-not-synced',
    breaks: 'A sync of the log leaves out the devices, where the data of bulk records lies.',
    file: GROUP_COMMIT,
    find: 'this.#data.syncData(this);',
    replacement: 'queueMicrotask(() => this.ioCompleted(0));',
  },
  {
    name: 'log-sync-error-ignored',
    breaks: 'A sync of the log that fails counts as one that has worked.',
    file: GROUP_COMMIT,
    find: 'if (result < 0) {',
    replacement: 'if (result === undefined) {',
  },
  {
    name: 'flush-joins-round-under-way',
    breaks: 'A flush that comes during a round of syncs is answered at its end, though it covers less.',
    file: GROUP_COMMIT,
    find: 'this.#waiters.push({ position, owner });',
    replacement:
      'this.#waiters.push({ position: this.#pending > 0 && position > this.#target ? this.#target : position, owner });',
  },
  {
    name: 'sync-covers-write-under-way',
    breaks: 'A round of syncs counts for everything that was appended, also for writes that have not ended.',
    file: LOG,
    find: 'this.#commits.begin(this.#committedEnd, writing);',
    replacement: 'this.#commits.begin(this.#end, writing);',
  },
  {
    name: 'write-beside-sync-forgotten',
    breaks: 'A file that is written to while a sync begins counts as clean afterwards.',
    file: GROUP_COMMIT,
    find: 'for (const file of writing) this.#dirty.add(file);',
    replacement: 'void writing;',
  },
  {
    name: 'fua-answered-at-once',
    breaks: 'FUA and `ack: durable` are answered when the log has the write, before it is durable.',
    file: LOG,
    find: 'if (op.durableWanted) this.waitDurable(op.end, owner);\n      else owner.completed(0);',
    replacement: 'owner.completed(0);',
  },
  {
    name: 'fua-client-answered-at-once',
    breaks: 'Clients whose small writes want to be durable are answered with those that do not.',
    file: LOG,
    find: 'hurryReply !== undefined && (!op.durableWanted || op.end <= this.#commits.durable);',
    replacement: 'hurryReply !== undefined;',
  },
  {
    name: 'log-write-error-ignored',
    breaks: 'A write of the log that fails counts as one that has worked.',
    file: LOG,
    find: 'if (result < 0) {\n      this.#fail(-result);\n      return;\n    }\n    if (this.#failure !== 0) return;',
    replacement: 'void result;',
  },
  {
    name: 'commit-before-written',
    breaks: 'When one batch has been written, those whose writes are still under way are committed with it.',
    file: LOG,
    find: "while (this.#writing.peek()?.state === 'written') this.#commit(this.#writing.shift());",
    replacement: 'while (this.#writing.length > 0) this.#commit(this.#writing.shift());',
  },
  {
    name: 'durable-write-beside-unsynced-page',
    breaks: 'A durable write goes into a file whose pages wait for a sync.',
    file: LOG,
    find: ' && !this.#commits.isDirty(batch.segment!);',
    replacement: ';',
  },
  {
    name: 'durable-write-behind-undurable',
    breaks: 'A durable write counts for all before it, also for what lies unsynced in an earlier segment.',
    file: LOG,
    find: 'return this.#commits.durable === this.#committedEnd && ',
    replacement: 'return ',
  },
  {
    name: 'page-begun-anew',
    breaks: 'A batch does not begin with what its first page holds, and so overwrites it with zeroes or old bytes.',
    file: LOG,
    find: 'batch.bytes.set(this.#tail.subarray(0, batch.usedBytes));',
    replacement: '',
  },
  {
    name: 'segment-freed-early',
    breaks: 'A segment that the cut has entered is used again, though it has not passed it.',
    file: LOG,
    find: 'this.#segments.freeBefore(Math.floor(position / this.segmentBytes));',
    replacement: 'this.#segments.freeBefore(Math.ceil(position / this.segmentBytes));',
  },
  {
    name: 'record-claims-durable',
    breaks: 'Records say that all that was committed before them is durable, synced or not.',
    file: LOG,
    find: 'this.#statedDurable = this.#commits.durable;',
    replacement: 'this.#statedDurable = this.#committedEnd;',
  },
  {
    name: 'record-position-unchecked',
    breaks: 'A stale record of a recycled segment passes for one of the place that it stands at.',
    file: RECORD,
    find: "if (header.position !== position) return 'invalid';",
    replacement: '',
  },
  {
    name: 'record-checksum-unchecked',
    breaks: 'A record whose checksum does not match is valid.',
    file: RECORD,
    find: "return actual === stored ? 'valid' : 'invalid';",
    replacement: "return actual === stored ? 'valid' : 'valid';",
  },
  {
    name: 'scan-trusts-data',
    breaks: 'The data of writes is not checked when the log is read back, so that a torn tail passes for whole.',
    file: SCAN,
    find: 'if (this.#scratch[i] !== sums[sumsIndex + i]) return false;',
    replacement: 'void [sums, sumsIndex];',
  },
  {
    name: 'dropped-tail-comes-back',
    breaks: 'What one recovery has dropped from the log the next one takes in again.',
    file: SCAN,
    find: 'return floor !== undefined && position >= floor.position ? Math.max(epoch, floor.epoch) : epoch;',
    replacement: 'return floor !== undefined && position >= floor.position ? epoch : epoch;',
  },
  {
    name: 'hole-taken-for-the-end',
    breaks: 'Damage in front of records that were durable is taken for the end of the log.',
    file: SCAN,
    find: 'if (header.durable > end) return header.position;',
    replacement: '',
  },
];
