/**
 * The client's side of the transmission phase: headers of replies, and the extents of a block status chunk. Requests are
 * built with `encodeRequest`. Whoever receives keeps the cookies, and knows from them what a simple reply is followed by.
 */
import {
  EXTENDED_REPLY_BYTES,
  EXTENDED_REPLY_MAGIC,
  REPLY_FLAG_DONE,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
  STRUCTURED_REPLY_MAGIC,
} from './constants.ts';

const TWO_TO_32 = 2 ** 32;

/** A reply's header; one object, filled anew by each parse. */
export class ReplyHeader {
  kind: 'simple' | 'structured' | 'extended' = 'simple';
  cookieHigh = 0;
  cookieLow = 0;
  /** Of simple replies; chunks carry it in their payload. */
  error = 0;
  /** Chunk type; 0 for a simple reply. */
  type = 0;
  /** The last chunk of its reply; a simple reply always is. */
  done = false;
  /** What follows the header; 0 for a simple reply, where a READ's data follows unasked. */
  payloadBytes = 0;
  /** Extended replies echo the request's offset. */
  offsetHigh = 0;
  offsetLow = 0;
}

export const REPLY_INCOMPLETE = 0;
export const REPLY_MALFORMED = -1;

/** Parses any of the three headers: its length, `REPLY_INCOMPLETE`, or `REPLY_MALFORMED` for an unknown magic. */
export function parseReplyHeader(view: DataView, offset: number, available: number, out: ReplyHeader): number {
  if (available < 4) return REPLY_INCOMPLETE;
  const magic = view.getUint32(offset);
  if (magic === SIMPLE_REPLY_MAGIC) {
    if (available < SIMPLE_REPLY_BYTES) return REPLY_INCOMPLETE;
    out.kind = 'simple';
    out.error = view.getUint32(offset + 4);
    out.cookieHigh = view.getUint32(offset + 8);
    out.cookieLow = view.getUint32(offset + 12);
    out.type = 0;
    out.done = true;
    out.payloadBytes = 0;
    return SIMPLE_REPLY_BYTES;
  }
  const extended = magic === EXTENDED_REPLY_MAGIC;
  if (!extended && magic !== STRUCTURED_REPLY_MAGIC) return REPLY_MALFORMED;
  const headerBytes = extended ? EXTENDED_REPLY_BYTES : STRUCTURED_REPLY_BYTES;
  if (available < headerBytes) return REPLY_INCOMPLETE;
  out.kind = extended ? 'extended' : 'structured';
  out.error = 0;
  out.done = (view.getUint16(offset + 4) & REPLY_FLAG_DONE) !== 0;
  out.type = view.getUint16(offset + 6);
  out.cookieHigh = view.getUint32(offset + 8);
  out.cookieLow = view.getUint32(offset + 12);
  if (!extended) {
    out.payloadBytes = view.getUint32(offset + 16);
    return headerBytes;
  }
  out.offsetHigh = view.getUint32(offset + 16);
  out.offsetLow = view.getUint32(offset + 20);
  out.payloadBytes = view.getUint32(offset + 24) * TWO_TO_32 + view.getUint32(offset + 28);
  return headerBytes;
}

export interface BlockStatusExtent {
  readonly lengthBytes: number;
  readonly flags: number;
}

export interface BlockStatus {
  readonly contextId: number;
  readonly extents: readonly BlockStatusExtent[];
}

/** Reads the payload of BLOCK_STATUS or BLOCK_STATUS_EXT; undefined where its length or count is wrong. */
export function parseBlockStatus(
  view: DataView,
  offset: number,
  payloadBytes: number,
  extended: boolean,
): BlockStatus | undefined {
  const fixed = extended ? 8 : 4;
  const each = extended ? 16 : 8;
  const count = (payloadBytes - fixed) / each;
  if (!Number.isInteger(count) || count < 1) return undefined;
  if (extended && view.getUint32(offset + 4) !== count) return undefined;
  const extents: BlockStatusExtent[] = [];
  for (let index = 0; index < count; index += 1) {
    const at = offset + fixed + index * each;
    extents.push(
      extended
        ? { lengthBytes: view.getUint32(at) * TWO_TO_32 + view.getUint32(at + 4), flags: view.getUint32(at + 12) }
        : { lengthBytes: view.getUint32(at), flags: view.getUint32(at + 4) },
    );
  }
  return { contextId: view.getUint32(offset), extents };
}

export interface ChunkError {
  readonly error: number;
  readonly text: string;
}

/** Reads the payload of ERROR or ERROR_OFFSET; undefined where its lengths are wrong. */
export function parseChunkError(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  payloadBytes: number,
): ChunkError | undefined {
  if (payloadBytes < 6) return undefined;
  const textBytes = view.getUint16(offset + 4);
  if (textBytes > payloadBytes - 6) return undefined;
  const text = new TextDecoder().decode(bytes.subarray(offset + 6, offset + 6 + textBytes));
  return { error: view.getUint32(offset), text };
}
