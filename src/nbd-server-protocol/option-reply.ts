/**
 * Replies to options, as a server writes them. Each function writes at `offset` and returns the count of bytes written.
 *
 * ```
 *  header, 20 bytes: 8 0x0003e889045565a9, 4 option, 4 reply type, 4 length of the data
 *
 *  data of ACK            none
 *          SERVER         4 name length, name, description
 *          INFO           2 information type, then EXPORT: 8 size, 2 flags; NAME, DESCRIPTION: text;
 *                         BLOCK_SIZE: 4 minimum, 4 preferred, 4 maximum
 *          META_CONTEXT   4 context id, name
 *          errors         text for humans
 * ```
 */
import {
  INFO_BLOCK_SIZE,
  type INFO_DESCRIPTION,
  INFO_EXPORT,
  type INFO_NAME,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  REP_ACK,
  REP_INFO,
  REP_META_CONTEXT,
  REP_SERVER,
} from './constants.ts';

const TWO_TO_32 = 2 ** 32;
const HEADER = OPTION_REPLY_HEADER_BYTES;

export function encodeOptionReplyHeader(
  view: DataView,
  offset: number,
  option: number,
  type: number,
  dataBytes: number,
): number {
  view.setUint32(offset, OPTION_REPLY_MAGIC_HIGH);
  view.setUint32(offset + 4, OPTION_REPLY_MAGIC_LOW);
  view.setUint32(offset + 8, option);
  view.setUint32(offset + 12, type);
  view.setUint32(offset + 16, dataBytes);
  return HEADER;
}

export function encodeAck(view: DataView, offset: number, option: number): number {
  return encodeOptionReplyHeader(view, offset, option, REP_ACK, 0);
}

/** An error with a text for humans, which may be empty. */
export function encodeOptionError(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  option: number,
  error: number,
  text: Uint8Array,
): number {
  encodeOptionReplyHeader(view, offset, option, error, text.length);
  bytes.set(text, offset + HEADER);
  return HEADER + text.length;
}

export function encodeServer(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  option: number,
  name: Uint8Array,
  description: Uint8Array,
): number {
  const dataBytes = 4 + name.length + description.length;
  encodeOptionReplyHeader(view, offset, option, REP_SERVER, dataBytes);
  view.setUint32(offset + HEADER, name.length);
  bytes.set(name, offset + HEADER + 4);
  bytes.set(description, offset + HEADER + 4 + name.length);
  return HEADER + dataBytes;
}

export function encodeInfoExport(
  view: DataView,
  offset: number,
  option: number,
  sizeBytes: number,
  transmissionFlags: number,
): number {
  encodeOptionReplyHeader(view, offset, option, REP_INFO, 12);
  view.setUint16(offset + HEADER, INFO_EXPORT);
  view.setUint32(offset + HEADER + 2, Math.floor(sizeBytes / TWO_TO_32));
  view.setUint32(offset + HEADER + 6, sizeBytes % TWO_TO_32);
  view.setUint16(offset + HEADER + 10, transmissionFlags);
  return HEADER + 12;
}

export function encodeInfoText(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  option: number,
  type: typeof INFO_NAME | typeof INFO_DESCRIPTION,
  text: Uint8Array,
): number {
  encodeOptionReplyHeader(view, offset, option, REP_INFO, 2 + text.length);
  view.setUint16(offset + HEADER, type);
  bytes.set(text, offset + HEADER + 2);
  return HEADER + 2 + text.length;
}

export function encodeInfoBlockSize(
  view: DataView,
  offset: number,
  option: number,
  minimumBytes: number,
  preferredBytes: number,
  maximumBytes: number,
): number {
  encodeOptionReplyHeader(view, offset, option, REP_INFO, 14);
  view.setUint16(offset + HEADER, INFO_BLOCK_SIZE);
  view.setUint32(offset + HEADER + 2, minimumBytes);
  view.setUint32(offset + HEADER + 6, preferredBytes);
  view.setUint32(offset + HEADER + 10, maximumBytes);
  return HEADER + 14;
}

export function encodeMetaContext(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  option: number,
  contextId: number,
  name: Uint8Array,
): number {
  encodeOptionReplyHeader(view, offset, option, REP_META_CONTEXT, 4 + name.length);
  view.setUint32(offset + HEADER, contextId);
  bytes.set(name, offset + HEADER + 4);
  return HEADER + 4 + name.length;
}
