/**
 * Every limit of the system in one place, with the relations between them asserted when the module loads. A limit
 * answers two questions: how much may an outsider make us hold, and at what point does a slow part slow the client down.
 */
import { assert } from './assert.ts';
import { BLOCK_BYTES, GIB, isPowerOfTwo, KIB, MIB } from './units.ts';

// --- volumes ---------------------------------------------------------------------------------------------------------
/** Offsets stay exact as doubles with room for additions: 4 PiB. */
export const volumeBytesMax = 2 ** 52;
export const volumeCountMax = 4096;
export const volumeNameBytesMax = 128;
export const chunkBytesMin = 16 * KIB;
export const chunkBytesMax = 4 * MIB;
export const chunkBytesDefault = 64 * KIB;

// --- NBD -------------------------------------------------------------------------------------------------------------
/** Of strings on the wire, set by the NBD document ("Values", strings). */
export const nbdStringBytesMax = 4096;
/** Largest READ or WRITE payload taken: the size every client may assume to work. */
export const nbdPayloadBytesMax = 32 * MIB;
/** A handshake option longer than this ends the connection: no option in use comes near it. */
export const nbdOptionBytesMax = 64 * KIB;
export const nbdOptionsPerHandshakeMax = 1024;
export const nbdMetaContextsMax = 64;
/** Time from accept to the transmission phase. */
export const nbdHandshakeTimeoutMs = 15_000;
/** A server that is told to stop answers what it has; after this it gives up on clients that do not take their answers. */
export const nbdDrainTimeoutMs = 75_000;
export const nbdConnectionsMax = 512;
/** Requests of one connection between their arrival and their reply. */
export const nbdRequestsInFlightMax = 256;
/** What one connection can have received but not yet parsed. */
export const nbdReceiveBytes = 256 * KIB;
/** A payload up to this travels through the connection's own buffers; above it, through a pool buffer of its own. */
export const nbdInlineBytesMax = 32 * KIB;
/** Replies of one connection that wait for the socket; requests are admitted only while theirs would fit. */
export const nbdReplyBytes = 1 * MIB;
/** Payloads above `nbdInlineBytesMax`, of all connections together. */
export const nbdPayloadPoolBytes = 128 * MIB;
/**
 * Payloads up to `nbdInlineBytesMax` of writes in flight, of all connections together: a write that has to wait keeps a copy
 * of its own. Beyond it a connection has one request at a time.
 */
export const nbdSmallWriteBytes = 256 * MIB;
/** Extents of one BLOCK_STATUS reply. */
export const nbdExtentsMax = 64 * KIB;

// --- I/O -------------------------------------------------------------------------------------------------------------
/** I/Os the kernel has at one time, files and sockets together. */
export const ringEntries = 4096;

// --- log, cache, devices ---------------------------------------------------------------------------------------------
export const cacheBytesMin = 16 * MIB;
export const cacheBytesDefaultMax = 4 * GIB;
/** A quarter of the memory: servers that leave it to the page cache take all that is free. It is taken as it fills. */
export function cacheBytesDefault(memoryBytes: number): number {
  const quarter = Math.floor(memoryBytes / 4 / MIB) * MIB;
  return Math.max(cacheBytesMin, Math.min(quarter, cacheBytesDefaultMax));
}
export const logBytesMin = 64 * MIB;
export const logBytesDefaultMax = 8 * GIB;
/**
 * A sixteenth of the file system that holds it, but so long only that a quarter of the files that the process may have open
 * is enough. It is taken as bursts need it.
 */
export function logBytesDefault(fileSystemBytes: number, openFilesMax: number): number {
  const sixteenth = Math.floor(fileSystemBytes / 16 / MIB) * MIB;
  const ofFiles = Math.floor(openFilesMax / 4 / logSegmentDescriptors) * logSegmentBytes;
  return Math.max(logBytesMin, Math.min(sixteenth, ofFiles, logBytesDefaultMax));
}
/** A device that takes longer to sync is waited for by those who write to it, and not by everybody who flushes. */
export const laggingSyncMs = 500;
/** A log is cut and used again in segments of this length. */
export const logSegmentBytes = 16 * MIB;
/** Descriptors of a segment that is open: one for durable writes, and one for all else. */
export const logSegmentDescriptors = 2;
/** With fewer a node does not start: one fills while another is made or destaged. */
export const logSegmentsMin = 2;
/** Records of one turn gather in a batch; one batch fills while others are written. */
export const logBatchBytes = 4 * MIB;
export const logBatchCount = 3;
/** What recovery reads of a segment at a time; the longest record fits. */
export const logScanBytes = 8 * MIB;
/** A write is logged with its data in operations of at most this; atomic is the block, not the request. */
export const inlineOpBytesMax = 256 * KIB;
/** Chunks of one bulk operation. */
export const bulkChunksMax = 64;
/** Memory for reads that do not go straight to their destination, and for blocks that are changed in part. */
export const bounceBufferBytes = 64 * KIB;
export const bounceBufferCount = 1024;
/** Index entries in memory, of all volumes together; one counts for 96 bytes with 64 KiB chunks, for 4 KiB with the largest. */
export const indexEntryBytes = 16 * MIB;
/** A read whose data does not match its checksum is looked up again this often, in case it was moved meanwhile. */
export const readRetriesMax = 3;
/**
 * Shares of log or overlay at which destaging begins, at which it rests again, and at which it is urgent: writers are slowed
 * down then. They are those of a log of `logShortBytes` or less; for a longer one see `fillWithRoom`.
 */
export const destageFillStart = 0.6;
export const destageFillLow = 0.5;
export const pressingFill = 0.75;
const logShortBytes = 2 * GIB;
const logLongBytes = 4 * GIB;
/**
 * One of these shares for a log of this length. What is left above it is for what comes in while the destage follows, and
 * does not have to grow with the log: from the one length to the other it stays the same, and bursts have all the rest.
 */
export function fillWithRoom(share: number, logBytes: number): number {
  return Math.max(share, 1 - ((1 - share) * logShortBytes) / Math.min(logBytes, logLongBytes));
}
/**
 * While the devices are full, writes are refused from this share of log or overlay on, and zeroes from that one. The rest
 * is for trims, which make room.
 */
export const fullRefusalFill = 0.9;
export const fullRefusalZeroesFill = 0.95;
/** An operation is destaged after this time at the latest, however little there is to do. */
export const destageAgeMs = 30_000;
/** Trimmed chunks leave the index after this time: what a volume takes is seen to fall soon. */
export const dropAgeMs = 1000;
/** Space that is given back to a device in one call. */
export const discardBytesMax = 64 * MIB;
/** A step of the destage cuts so many segments of the log at once, but not more than this part of the log. */
export const destageStepSegments = 4;
export const destageStepsPerLog = 32;
/** What is written to mass storage between two syncs of it: chunks, and blocks of theirs. */
export const destageGroupChunks = 8192;
export const destageGroupBlocks = 64 * 1024;
/** Chunks of one index transaction: the loop does nothing else while one is put together. */
export const destageTransactionChunks = 128;
/** Chunks and blocks that the destage goes through before the loop serves others: 0.1 to 0.3 ms. */
export const destageSliceLength = 32;
/** Data that is brought together at a time; one chunk may take more. */
export const destagePieceUsualBytes = 256 * KIB;
export const destagePieceBytes = 4 * MIB;
/** Buffers for it: one is filled while others are written. */
export const destagePieces = 3;
/** Writes to devices under way: usually, and while clients wait for room in the log. */
export const destageWritesInFlight = 16;
export const destageWritesHurried = 64;
/** Replaced slots that wait for the log's cut; beyond that the log is cut before it is full. */
export const retiredChunksMax = 32 * 1024;
/** Less than this in replaced slots is no reason to cut the log, however little is free. */
export const retiredBytesMin = 8 * MIB;
/**
 * No transaction of so many chunks makes the index longer by more than this, be it one page for each and those above, or two
 * for each entry of the largest chunks; nor a removal by more than that.
 */
export const indexGrowthBytes = 16 * MIB;
export const indexRemovalGrowthBytes = 4 * MIB;
/** Taken of the index's file system ahead of need. */
export const indexRoomBytes = 32 * MIB;
/** After this time the destage tries again what it could not do. */
export const destageRetryMs = 1000;
/** So often a step that waits for devices looks whether one of them is ill. */
export const destagePatienceMs = 500;
/** After so many looks the devices that it waits for are too slow, if it is urgent. */
export const destageLooksMax = 4;
/** Volumes with something on a device that is aside have this part of log and overlay together. */
export const asideShare = 1 / 8;
/** Chunks that bulk records behind the cut name: 50 bytes each, up to 250 where they are scattered over the columns. */
export const namedChunksMax = 256 * 1024;

// --- scrub ------------------------------------------------------------------------------------------------------------
/** Bytes a second that a scrub reads, unless it is told otherwise, and the least that it may be told. */
export const scrubRateDefault = 64 * MIB;
export const scrubRateMin = 64 * KIB;
/** Reads of one scrub under way, each of a bounce buffer at most. */
export const scrubReadsInFlight = 4;
/** Chunks that a scrub asks the index for at a time. */
export const scrubChunksAtOnce = 64;
/** Scrubs of a node at one time. */
export const scrubCountMax = 16;
/** Damaged blocks that one report names, and that a node remembers of a volume; the rest is counted. */
export const damagedBlocksMax = 1024;
/** Damaged blocks of one volume that the status names: the latest. */
export const damagedBlocksShown = 16;

// --- links between nodes ----------------------------------------------------------------------------------------------
/** The longest message; any record of the log fits, with its data. */
export const linkMessageBytesMax = MIB;
/** One of a connection's three buffers: one receives, one fills with what is to be sent while another is being sent. */
export const linkBufferBytes = 2 * MIB;
/** Something is sent, or waits to be, at least this often. */
export const linkHeartbeatMs = 1000;
/** A connection is given up when nothing has come for so long, or up to a heartbeat longer. */
export const linkSilenceMs = 5000;
/** From a connection to the end of its hello. */
export const linkHelloTimeoutMs = 5000;
/** Connections whose hello has not come yet: who is there is not known. */
export const linkGreetingsMax = 64;

export const columnBytes = 16 * MIB;

assert(logBytesMin >= 4 * logSegmentBytes, 'the smallest log has four segments');
assert(inlineOpBytesMax * 2 < logBatchBytes && logBatchBytes <= logSegmentBytes, 'a batch takes several records');
assert(bulkChunksMax * (8 + (chunkBytesMax / BLOCK_BYTES) * 4) < logBatchBytes, 'the largest bulk record fits a batch');
assert(
  destagePieces * destagePieceUsualBytes >= destageWritesHurried * BLOCK_BYTES,
  'the writes of the pieces are enough to hurry',
);
assert(chunkBytesMax <= destagePieceBytes, 'a piece of a destage holds at least one chunk');
assert(destageFillLow < destageFillStart && destageFillStart < pressingFill, 'destaging begins before it is urgent');
assert(
  fillWithRoom(pressingFill, logLongBytes) < fullRefusalFill &&
    fullRefusalFill < fullRefusalZeroesFill &&
    fullRefusalZeroesFill < 1,
  'devices are known to be full before it matters',
);
assert(isPowerOfTwo(chunkBytesMin) && isPowerOfTwo(chunkBytesMax), 'chunk limits are powers of two');
assert(chunkBytesMin % BLOCK_BYTES === 0, 'a chunk is whole blocks');
assert(nbdInlineBytesMax + 2 * BLOCK_BYTES <= bounceBufferBytes, 'an unaligned inline read fits a bounce buffer');
assert(scrubCountMax * scrubReadsInFlight * 4 < bounceBufferCount, 'scrubs leave most bounce buffers to clients');
assert(bounceBufferBytes <= scrubRateMin, 'a scrub reads at least once a second');
assert(indexRemovalGrowthBytes < indexGrowthBytes && indexGrowthBytes < indexRoomBytes, 'room is taken in advance');
assert(columnBytes % chunkBytesMax === 0, 'a column is whole chunks of any size');
assert(nbdInlineBytesMax * 2 < nbdReceiveBytes, 'an inline payload fits the receive buffer behind its header');
assert(nbdInlineBytesMax * 4 < nbdReplyBytes, 'several inline replies fit the reply buffer');
assert(nbdPayloadBytesMax * 2 <= nbdPayloadPoolBytes, 'the payload pool holds more than one of the largest');
assert(inlineOpBytesMax * 2 <= linkMessageBytesMax, 'a message holds the record of the largest write');
assert(
  bulkChunksMax * (8 + (chunkBytesMax / BLOCK_BYTES) * 4) * 2 <= linkMessageBytesMax,
  'and the largest bulk record',
);
assert(linkMessageBytesMax + 64 * KIB <= linkBufferBytes, 'each buffer of a link takes a message of any length');
assert(linkSilenceMs >= 3 * linkHeartbeatMs, 'a heartbeat may be late');
