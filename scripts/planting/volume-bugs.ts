/** Bugs of reads, writes, overlay and sessions. */
import type { PlantedBug } from './planted-bug.ts';

const BULK = 'src/volume/bulk-write.ts';
const SPAN = 'src/volume/span.ts';
const WRITER = 'src/volume/writer.ts';

export const VOLUME_BUGS: readonly PlantedBug[] = [
  {
    name: 'read-checksum-unchecked',
    breaks: 'Reads deliver data that does not match its checksum.',
    file: SPAN,
    find: 'if (scratch[i] === this.sums[piece.first + i]) continue;',
    replacement: 'if (scratch[i] === this.sums[piece.first + i] || piece.count > 0) continue;',
  },
  {
    name: 'stale-data-into-cache',
    breaks: 'What a read brings comes into the cache though the block was written meanwhile.',
    file: SPAN,
    find: 'if (!this.#caches || versions.of(volume.number, this.first + piece.first, piece.count) !== piece.version) return;',
    replacement: 'if (!this.#caches || versions === undefined) return;',
  },
  {
    name: 'partial-write-without-lock',
    breaks: 'Locks of a single block hold nobody off, so that writes meet between the steps of a partial write.',
    file: 'src/volume/range-locks.ts',
    find: 'for (const held of this.#held) if (first < held.end && held.first < end) return true;',
    replacement:
      'for (const held of this.#held) if (held.end > held.first + 1 && first < held.end && held.first < end) return true;',
  },
  {
    name: 'write-passes-lock',
    breaks: 'A small write of whole blocks is appended though another write holds them.',
    file: WRITER,
    find: '(volume.locks.isEmpty || !volume.locks.overlaps(first, first + count)) &&\n      ',
    replacement: '',
  },
  {
    name: 'partial-write-reads-too-early',
    breaks: 'A partial write reads its block before the writes in front of it have been committed.',
    file: 'src/volume/partial-write.ts',
    find: 'this.#writer.waitForCommit(this);',
    replacement: 'this.committedSoFar();',
  },
  {
    name: 'bulk-record-before-data',
    breaks: 'A bulk record is appended, and answered, while its data is still being written.',
    file: BULK,
    find: 'if (this.#region !== undefined) this.#writeData(this.#region);\n    this.#writeDone();',
    replacement:
      'if (this.#region !== undefined) this.#writeData(this.#region);\n    this.#pending = 1;\n    this.#writeDone();\n    this.#pending = Number.POSITIVE_INFINITY;',
  },
  {
    name: 'bulk-write-not-reported',
    breaks: 'Nobody tells the sled that bulk data was written, so that no sync covers it.',
    file: BULK,
    find: 'for (const chunk of this.#chunks) storage.wrote(chunk.location);',
    replacement: '',
  },
  {
    name: 'bulk-write-error-ignored',
    breaks: 'A device that could not write bulk data is taken at its word that it has.',
    file: BULK,
    find: 'if (result < 0 && this.#errno !== EIO) this.#errno = isNoSpace(result) ? ENOSPC : EIO;',
    replacement: 'if (result < 0 && result > 0) this.#errno = EIO;',
  },
  {
    name: 'grow-not-durable',
    breaks: 'A new size is answered before it is durable.',
    file: WRITER,
    find: 'this.ports.log.appendRange(RecordKind.resize, volume.number, op, blocks, 0, owner, true);',
    replacement: 'this.ports.log.appendRange(RecordKind.resize, volume.number, op, blocks, 0, owner, false);',
  },
  {
    name: 'older-blocks-shine-through',
    breaks: 'A chunk that is written as a whole leaves the older entries of its blocks in the overlay, in front of it.',
    file: 'src/volume/overlay.ts',
    find: 'while (this.firstBlock(chunkRow) !== NONE) this.removeBlock(this.firstBlock(chunkRow));',
    replacement: '',
  },
  {
    name: 'dropping-chunks-visible',
    breaks: 'While trimmed chunks are being taken out of the index, reads see them again.',
    file: 'src/volume/volume.ts',
    find: ' || (!this.#dropping.isEmpty && this.#dropping.has(chunk))',
    replacement: '',
  },
  {
    name: 'flush-of-its-own-writes-only',
    breaks: 'A connection with nothing in flight answers a flush itself, without what others have written.',
    file: 'src/nbd-server/transmission.ts',
    find: 'if (lengthBytes === 0 && command !== nbd.CMD_FLUSH) return this.#answerEmpty(input, header);',
    replacement:
      'if (lengthBytes === 0 && (command !== nbd.CMD_FLUSH || this.#inFlight === 0)) return this.#answerEmpty(input, header);',
  },
  {
    name: 'waiters-overtake-each-other',
    breaks: 'When a device is set aside, later writes of its volumes come before those that wait already.',
    file: WRITER,
    find: 'const queue = this.#standing.get(volume)?.queue ?? this.#queueDue(volume);',
    replacement: 'const queue = this.#queueDue(volume);',
  },
  {
    name: 'given-up-requests-carried-out',
    breaks:
      'Requests that waited for long are carried out although their client has gone, and may have sent them again.',
    file: 'src/nbd-server/session.ts',
    find: 'if (!this.#stream.peerHasEnded) return false;',
    replacement: 'if (this.#backlogSinceMs >= 0) return false;',
  },
  {
    name: 'lent-block-overwritten',
    breaks: 'A commit changes bytes in the cache that a reply is being sent from.',
    file: 'src/volume/block-cache.ts',
    find: 'if (this.#lent[slot] > 0) {\n      this.#valid[slot] = 0;\n      return;\n    }',
    replacement: '',
  },
  {
    name: 'lent-block-filled',
    breaks: 'A block in the cache that a reply is being sent from gives its memory to another.',
    file: 'src/volume/block-cache.ts',
    find: 'if (this.#lent[slot] > 0) return NONE;',
    replacement: '',
  },
  {
    name: 'chunk-taken-for-newer',
    breaks: 'A step leaves out chunks that have something in the part of the log that it cuts.',
    file: 'src/volume/overlay.ts',
    find: 'if (position < numbers[at + CHUNK_OLDEST]) numbers[at + CHUNK_OLDEST] = position;',
    replacement: '',
  },
];
