/**
 * Requests of the transmission phase, both header formats, both directions. The hot path of a server: `parseRequest`
 * fills an object that the caller reuses and allocates nothing.
 *
 * ```
 *  compact, 28 bytes                     extended (EXT), 32 bytes
 *   0  4  magic 0x25609513                0  4  magic 0x21e41c71
 *   4  2  command flags                   4  2  command flags
 *   6  2  command                         6  2  command
 *   8  8  cookie, opaque                  8  8  cookie, opaque
 *  16  8  offset                         16  8  offset
 *  24  4  length                         24  8  length of the effect, or of the payload with PAYLOAD_LEN
 * ```
 * A payload follows the header of WRITE, and in the extended format of everything that carries PAYLOAD_LEN.
 */
import {
  CMD_FLAG_PAYLOAD_LEN,
  CMD_WRITE,
  EXTENDED_REQUEST_BYTES,
  EXTENDED_REQUEST_MAGIC,
  REQUEST_BYTES,
  REQUEST_MAGIC,
} from './constants.ts';

const TWO_TO_32 = 2 ** 32;
/** Upper half of the largest safe integer. */
const SAFE_HIGH = 0x1fffff;

/** A parsed header. One object per connection, filled anew by each parse. */
export class Request {
  flags = 0;
  command = 0;
  /** Opaque, as two 32-bit halves, so that no BigInt is needed to echo it. */
  cookieHigh = 0;
  cookieLow = 0;
  /** The offset's halves as they came: extended replies echo them exactly, even above 2^53. */
  offsetHigh = 0;
  offsetLow = 0;
  /** Both exact, unless `outOfRange`: then the one that is too large reads 2^53 − 1. */
  offsetBytes = 0;
  lengthBytes = 0;
  /** Offset, length or their sum is above 2^53 − 1: beyond the end of anything. */
  outOfRange = false;
  /** Bytes that follow the header and belong to this request. */
  payloadBytes = 0;
}

/** What `parseRequest` returns instead of the header's length. */
export const REQUEST_INCOMPLETE = 0;
export const REQUEST_MALFORMED = -1;

/**
 * Parses the header at `offset`, of which `available` bytes have arrived. Returns the header's length (28 or 32),
 * `REQUEST_INCOMPLETE`, or `REQUEST_MALFORMED` when the magic is wrong, which is told as soon as it can be: there is no
 * way back into step from there. Commands, flags and ranges are the caller's to judge.
 */
export function parseRequest(
  view: DataView,
  offset: number,
  available: number,
  extended: boolean,
  out: Request,
): number {
  if (available < 4) return REQUEST_INCOMPLETE;
  if (view.getUint32(offset) !== (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) return REQUEST_MALFORMED;
  const headerBytes = extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
  if (available < headerBytes) return REQUEST_INCOMPLETE;

  const flags = view.getUint16(offset + 4);
  const command = view.getUint16(offset + 6);
  out.flags = flags;
  out.command = command;
  out.cookieHigh = view.getUint32(offset + 8);
  out.cookieLow = view.getUint32(offset + 12);
  const offsetHigh = view.getUint32(offset + 16);
  const offsetLow = view.getUint32(offset + 20);
  out.offsetHigh = offsetHigh;
  out.offsetLow = offsetLow;

  let outOfRange = false;
  let start = offsetHigh * TWO_TO_32 + offsetLow;
  if (offsetHigh > SAFE_HIGH) {
    start = Number.MAX_SAFE_INTEGER;
    outOfRange = true;
  }
  let length = view.getUint32(offset + 24);
  if (extended) {
    const high = length;
    length = high * TWO_TO_32 + view.getUint32(offset + 28);
    if (high > SAFE_HIGH) {
      length = Number.MAX_SAFE_INTEGER;
      outOfRange = true;
    }
  }
  out.offsetBytes = start;
  out.lengthBytes = length;
  out.outOfRange = outOfRange || start + length > Number.MAX_SAFE_INTEGER;
  // A WRITE without PAYLOAD_LEN breaks the extended format, but its payload follows all the same.
  out.payloadBytes = command === CMD_WRITE || (extended && (flags & CMD_FLAG_PAYLOAD_LEN) !== 0) ? length : 0;
  return headerBytes;
}

/** Writes a header as a client sends it; `offsetBytes` and `lengthBytes` are safe integers. Returns its length. */
export function encodeRequest(
  view: DataView,
  offset: number,
  extended: boolean,
  flags: number,
  command: number,
  cookieHigh: number,
  cookieLow: number,
  offsetBytes: number,
  lengthBytes: number,
): number {
  view.setUint32(offset, extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
  view.setUint16(offset + 4, flags);
  view.setUint16(offset + 6, command);
  view.setUint32(offset + 8, cookieHigh);
  view.setUint32(offset + 12, cookieLow);
  view.setUint32(offset + 16, Math.floor(offsetBytes / TWO_TO_32));
  view.setUint32(offset + 20, offsetBytes % TWO_TO_32);
  if (!extended) {
    view.setUint32(offset + 24, lengthBytes);
    return REQUEST_BYTES;
  }
  view.setUint32(offset + 24, Math.floor(lengthBytes / TWO_TO_32));
  view.setUint32(offset + 28, lengthBytes % TWO_TO_32);
  return EXTENDED_REQUEST_BYTES;
}
