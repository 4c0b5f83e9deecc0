/**
 * Strings of the protocol: UTF-8, no NUL inside and none at the end, at most 4096 bytes. Only the handshake and error
 * texts use them, so these functions may allocate.
 */
import { STRING_BYTES_MAX } from './constants.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Why bytes are no string of the protocol. */
export type TextFault = 'too long' | 'holds NUL' | 'not UTF-8';

export type TextResult =
  | { readonly ok: true; readonly text: string }
  | { readonly ok: false; readonly fault: TextFault };

/** Reads `length` bytes at `offset`; the caller has checked that they lie within its message. */
export function decodeText(bytes: Uint8Array, offset: number, length: number): TextResult {
  if (length > STRING_BYTES_MAX) return { ok: false, fault: 'too long' };
  const part = bytes.subarray(offset, offset + length);
  if (part.includes(0)) return { ok: false, fault: 'holds NUL' };
  try {
    return { ok: true, text: decoder.decode(part) };
  } catch {
    return { ok: false, fault: 'not UTF-8' };
  }
}

/**
 * The bytes of `text`, cut to at most `bytesMax` at a character's boundary and without NUL: what goes out is always a
 * string of the protocol, whatever was handed in.
 */
export function encodeText(text: string, bytesMax: number = STRING_BYTES_MAX): Uint8Array {
  const bytes = encoder.encode(text.includes('\0') ? text.replaceAll('\0', '') : text);
  if (bytes.length <= bytesMax) return bytes;
  let end = bytesMax;
  // Bytes 10xxxxxx continue a character: step back to its first one.
  while (end > 0 && (bytes[end] & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}
