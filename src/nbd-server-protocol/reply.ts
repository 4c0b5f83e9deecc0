/**
 * Replies of the transmission phase, as a server writes them. Each function writes at `offset` of `view` and returns the
 * count of bytes written; nothing is allocated. Payload bytes (data, error text) are the caller's to lay behind.
 *
 * ```
 *  simple, 16 bytes          structured chunk, 20 bytes       extended chunk (EXT), 32 bytes
 *  0  4  0x67446698           0  4  0x668e33ef                 0  4  0x6e8a278c
 *  4  4  error or 0           4  2  flags (1: DONE)            4  2  flags (1: DONE)
 *  8  8  cookie               6  2  type                       6  2  type
 *  (READ: data follows)       8  8  cookie                     8  8  cookie
 *                            16  4  length of what follows    16  8  offset of the request
 *                                                             24  8  length of what follows
 *
 *  what follows, by type
 *  NONE               nothing
 *  OFFSET_DATA        8 offset, data
 *  OFFSET_HOLE        8 offset, 4 length
 *  ERROR              4 error, 2 length of text, text
 *  ERROR_OFFSET       4 error, 2 length of text, text, 8 offset
 *  BLOCK_STATUS       4 context id, n × (4 length, 4 flags)
 *  BLOCK_STATUS_EXT   4 context id, 4 n, n × (8 length, 8 flags)
 * ```
 * The structured and the extended format carry the same chunks, so one `ReplyTarget` names the format and the request.
 */
import {
  EXTENDED_REPLY_BYTES,
  EXTENDED_REPLY_MAGIC,
  REPLY_BLOCK_STATUS,
  REPLY_BLOCK_STATUS_EXT,
  REPLY_ERROR,
  REPLY_ERROR_OFFSET,
  REPLY_FLAG_DONE,
  REPLY_NONE,
  REPLY_OFFSET_DATA,
  REPLY_OFFSET_HOLE,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
  STRUCTURED_REPLY_MAGIC,
} from './constants.ts';

const TWO_TO_32 = 2 ** 32;

/** The request that a chunk answers: a parsed `Request`, or whatever else remembers these four numbers. */
export interface ReplyTarget {
  cookieHigh: number;
  cookieLow: number;
  offsetHigh: number;
  offsetLow: number;
}

/** Bytes of a chunk's header in the format. */
export function chunkHeaderBytes(extended: boolean): number {
  return extended ? EXTENDED_REPLY_BYTES : STRUCTURED_REPLY_BYTES;
}

function putUint64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, Math.floor(value / TWO_TO_32));
  view.setUint32(offset + 4, value % TWO_TO_32);
}

export function encodeSimpleReply(view: DataView, offset: number, target: ReplyTarget, error: number): number {
  view.setUint32(offset, SIMPLE_REPLY_MAGIC);
  view.setUint32(offset + 4, error);
  view.setUint32(offset + 8, target.cookieHigh);
  view.setUint32(offset + 12, target.cookieLow);
  return SIMPLE_REPLY_BYTES;
}

/** A chunk's header alone; `lengthBytes` is what follows it, below 2^32 in the structured format. */
export function encodeChunkHeader(
  view: DataView,
  offset: number,
  extended: boolean,
  target: ReplyTarget,
  type: number,
  done: boolean,
  lengthBytes: number,
): number {
  view.setUint32(offset, extended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
  view.setUint16(offset + 4, done ? REPLY_FLAG_DONE : 0);
  view.setUint16(offset + 6, type);
  view.setUint32(offset + 8, target.cookieHigh);
  view.setUint32(offset + 12, target.cookieLow);
  if (!extended) {
    view.setUint32(offset + 16, lengthBytes);
    return STRUCTURED_REPLY_BYTES;
  }
  view.setUint32(offset + 16, target.offsetHigh);
  view.setUint32(offset + 20, target.offsetLow);
  putUint64(view, offset + 24, lengthBytes);
  return EXTENDED_REPLY_BYTES;
}

/** Success without a payload. */
export function encodeNone(view: DataView, offset: number, extended: boolean, target: ReplyTarget): number {
  return encodeChunkHeader(view, offset, extended, target, REPLY_NONE, true, 0);
}

/** What stands before the data of a content chunk; `dataOffset` is a position in the export. */
export function encodeOffsetData(
  view: DataView,
  offset: number,
  extended: boolean,
  target: ReplyTarget,
  done: boolean,
  dataOffset: number,
  dataBytes: number,
): number {
  const header = encodeChunkHeader(view, offset, extended, target, REPLY_OFFSET_DATA, done, 8 + dataBytes);
  putUint64(view, offset + header, dataOffset);
  return header + 8;
}

/** A whole hole chunk; `holeBytes` is 1 to 2^32 − 1. */
export function encodeOffsetHole(
  view: DataView,
  offset: number,
  extended: boolean,
  target: ReplyTarget,
  done: boolean,
  holeOffset: number,
  holeBytes: number,
): number {
  const header = encodeChunkHeader(view, offset, extended, target, REPLY_OFFSET_HOLE, done, 12);
  putUint64(view, offset + header, holeOffset);
  view.setUint32(offset + header + 8, holeBytes);
  return header + 12;
}

/** A whole error chunk, the last of its reply; `bytes` is the memory beneath `view`. */
export function encodeError(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  extended: boolean,
  target: ReplyTarget,
  error: number,
  text: Uint8Array,
): number {
  const header = encodeChunkHeader(view, offset, extended, target, REPLY_ERROR, true, 6 + text.length);
  view.setUint32(offset + header, error);
  view.setUint16(offset + header + 4, text.length);
  bytes.set(text, offset + header + 6);
  return header + 6 + text.length;
}

/** An error chunk that says where; others of the same reply may follow unless `done`. */
export function encodeErrorOffset(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  extended: boolean,
  target: ReplyTarget,
  done: boolean,
  error: number,
  text: Uint8Array,
  errorOffset: number,
): number {
  const header = encodeChunkHeader(view, offset, extended, target, REPLY_ERROR_OFFSET, done, 14 + text.length);
  view.setUint32(offset + header, error);
  view.setUint16(offset + header + 4, text.length);
  bytes.set(text, offset + header + 6);
  putUint64(view, offset + header + 6 + text.length, errorOffset);
  return header + 14 + text.length;
}

/** Bytes of one extent in BLOCK_STATUS (compact) or BLOCK_STATUS_EXT. */
export function extentBytes(extended: boolean): number {
  return extended ? 16 : 8;
}

/** What stands before the first extent of a block status chunk. */
export function encodeBlockStatus(
  view: DataView,
  offset: number,
  extended: boolean,
  target: ReplyTarget,
  done: boolean,
  contextId: number,
  extentCount: number,
): number {
  const type = extended ? REPLY_BLOCK_STATUS_EXT : REPLY_BLOCK_STATUS;
  const fixed = extended ? 8 : 4;
  const length = fixed + extentCount * extentBytes(extended);
  const header = encodeChunkHeader(view, offset, extended, target, type, done, length);
  view.setUint32(offset + header, contextId);
  if (extended) view.setUint32(offset + header + 4, extentCount);
  return header + fixed;
}

/** One extent; `lengthBytes` is at least 1, and below 2^32 in the compact format. */
export function encodeExtent(
  view: DataView,
  offset: number,
  extended: boolean,
  lengthBytes: number,
  flags: number,
): number {
  if (!extended) {
    view.setUint32(offset, lengthBytes);
    view.setUint32(offset + 4, flags);
    return 8;
  }
  putUint64(view, offset, lengthBytes);
  // Upper half of the 64-bit flags: zero for every context of today.
  view.setUint32(offset + 8, 0);
  view.setUint32(offset + 12, flags);
  return 16;
}
