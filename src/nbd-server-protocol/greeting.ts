/**
 * The first bytes of a connection, before any option.
 *
 * ```
 *  server: 8 NBDMAGIC, 8 IHAVEOPT, 2 handshake flags        client: 4 client flags
 *  answer to EXPORT_NAME: 8 size, 2 transmission flags, then 124 zeroes unless NO_ZEROES was agreed
 * ```
 */
import {
  EXPORT_NAME_REPLY_BYTES,
  EXPORT_NAME_ZEROES_BYTES,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  GREETING_BYTES,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
} from './constants.ts';

const TWO_TO_32 = 2 ** 32;

export function encodeGreeting(view: DataView, offset: number, handshakeFlags: number): number {
  view.setUint32(offset, NBD_MAGIC_HIGH);
  view.setUint32(offset + 4, NBD_MAGIC_LOW);
  view.setUint32(offset + 8, OPTION_MAGIC_HIGH);
  view.setUint32(offset + 12, OPTION_MAGIC_LOW);
  view.setUint16(offset + 16, handshakeFlags);
  return GREETING_BYTES;
}

export interface ClientFlags {
  readonly fixedNewstyle: boolean;
  readonly noZeroes: boolean;
}

/** The client's four bytes of flags; undefined when one is set that the server did not offer. */
export function decodeClientFlags(flags: number): ClientFlags | undefined {
  if ((flags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)) !== 0) return undefined;
  return { fixedNewstyle: (flags & FLAG_FIXED_NEWSTYLE) !== 0, noZeroes: (flags & FLAG_NO_ZEROES) !== 0 };
}

export function encodeExportNameReply(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  sizeBytes: number,
  transmissionFlags: number,
  noZeroes: boolean,
): number {
  view.setUint32(offset, Math.floor(sizeBytes / TWO_TO_32));
  view.setUint32(offset + 4, sizeBytes % TWO_TO_32);
  view.setUint16(offset + 8, transmissionFlags);
  if (noZeroes) return EXPORT_NAME_REPLY_BYTES;
  const end = offset + EXPORT_NAME_REPLY_BYTES;
  bytes.fill(0, end, end + EXPORT_NAME_ZEROES_BYTES);
  return EXPORT_NAME_REPLY_BYTES + EXPORT_NAME_ZEROES_BYTES;
}
