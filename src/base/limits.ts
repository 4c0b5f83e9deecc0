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
/** Extents of one BLOCK_STATUS reply. */
export const nbdExtentsMax = 64 * KIB;

// --- I/O -------------------------------------------------------------------------------------------------------------
/** I/Os the kernel has at one time, files and sockets together. */
export const ringEntries = 4096;

// --- log, cache, devices ---------------------------------------------------------------------------------------------
export const logBytesDefault = 2 * GIB;
export const logBytesMin = 64 * MIB;
/** A log is cut and used again in segments of this length. */
export const logSegmentBytes = 16 * MIB;
/** Records of one turn gather in a batch; one batch fills while others are written. */
export const logBatchBytes = 4 * MIB;
export const logBatchCount = 3;
/** A write is logged with its data in operations of at most this; atomic is the block, not the request. */
export const inlineOpBytesMax = 256 * KIB;
/** Chunks of one bulk operation. */
export const bulkChunksMax = 64;
/** Memory for reads and destage that do not go straight to their destination. */
export const ioPoolBytes = 64 * MIB;
export const cacheBytesDefault = 256 * MIB;
export const cacheBytesMin = 16 * MIB;
export const columnBytes = 16 * MIB;

assert(logBytesMin >= 4 * logSegmentBytes, 'the smallest log has four segments');
assert(inlineOpBytesMax * 2 < logBatchBytes && logBatchBytes <= logSegmentBytes, 'a batch takes several records');
assert(bulkChunksMax * (8 + (chunkBytesMax / BLOCK_BYTES) * 4) < logBatchBytes, 'the largest bulk record fits a batch');
assert(isPowerOfTwo(chunkBytesMin) && isPowerOfTwo(chunkBytesMax), 'chunk limits are powers of two');
assert(chunkBytesMin % BLOCK_BYTES === 0, 'a chunk is whole blocks');
assert(columnBytes % chunkBytesMax === 0, 'a column is whole chunks of any size');
assert(nbdInlineBytesMax * 2 < nbdReceiveBytes, 'an inline payload fits the receive buffer behind its header');
assert(nbdInlineBytesMax * 4 < nbdReplyBytes, 'several inline replies fit the reply buffer');
assert(nbdPayloadBytesMax * 2 <= nbdPayloadPoolBytes, 'the payload pool holds more than one of the largest');
