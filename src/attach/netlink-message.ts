/**
 * Generic netlink messages as bytes: what `nbd-netlink.ts` builds its requests from and reads answers with. Pure.
 *
 * ```
 *  nlmsghdr     u32 length | u16 type | u16 flags | u32 sequence | u32 port          all of the machine's byte order,
 *  genlmsghdr   u8 command | u8 version | u16 0                                       which is little-endian wherever
 *  attributes   u16 length | u16 type | payload | padding to 4                        Sledge runs
 * ```
 * An attribute's length counts its header but not its padding. The two top bits of its type are flags (0x8000: nested).
 * Everything that comes from the kernel is checked all the same: a length that does not fit ends the reading.
 */
import { assert } from '../base/assert.ts';

export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

export const NETLINK_HEADER_BYTES = 16;
const GENERIC_HEADER_BYTES = 4;
const ATTRIBUTE_HEADER_BYTES = 4;
const NESTED = 0x8000;
const TYPE_MASK = 0x3fff;
const TWO_TO_32 = 2 ** 32;

/** Attributes one behind the other; nested ones are made with a list of their own. */
export class AttributeList {
  #parts: Uint8Array[] = [];

  u32(type: number, value: number): this {
    assert(Number.isInteger(value) && value >= 0 && value < TWO_TO_32, 'a u32 attribute has 32 bits');
    const payload = new Uint8Array(4);
    new DataView(payload.buffer).setUint32(0, value, true);
    return this.#add(type, payload);
  }

  /** Of a safe integer. */
  u64(type: number, value: number): this {
    assert(Number.isSafeInteger(value) && value >= 0, 'a u64 attribute is a safe integer');
    const payload = new Uint8Array(8);
    const view = new DataView(payload.buffer);
    view.setUint32(0, value % TWO_TO_32, true);
    view.setUint32(4, Math.floor(value / TWO_TO_32), true);
    return this.#add(type, payload);
  }

  /** With a NUL at its end, as the kernel wants its strings. */
  text(type: number, value: string): this {
    return this.#add(type, new TextEncoder().encode(`${value}\0`));
  }

  nested(type: number, inner: AttributeList): this {
    return this.#add(type | NESTED, inner.bytes());
  }

  bytes(): Uint8Array {
    return joined(this.#parts);
  }

  #add(type: number, payload: Uint8Array): this {
    const bytes = new Uint8Array(padded(ATTRIBUTE_HEADER_BYTES + payload.length));
    const view = new DataView(bytes.buffer);
    view.setUint16(0, ATTRIBUTE_HEADER_BYTES + payload.length, true);
    view.setUint16(2, type, true);
    bytes.set(payload, ATTRIBUTE_HEADER_BYTES);
    this.#parts.push(bytes);
    return this;
  }
}

export interface GenericRequest {
  readonly family: number;
  readonly command: number;
  readonly version: number;
  readonly flags: number;
  readonly sequence: number;
  readonly attributes: AttributeList;
}

export function encodeGenericRequest(request: GenericRequest): Uint8Array {
  const attributes = request.attributes.bytes();
  const header = new Uint8Array(NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint32(0, header.length + attributes.length, true);
  view.setUint16(4, request.family, true);
  view.setUint16(6, request.flags, true);
  view.setUint32(8, request.sequence, true);
  view.setUint8(NETLINK_HEADER_BYTES, request.command);
  view.setUint8(NETLINK_HEADER_BYTES + 1, request.version);
  return joined([header, attributes]);
}

export type NetlinkMessage =
  /** The end of a request: 0, or a negative errno. */
  | { readonly kind: 'ended'; readonly sequence: number; readonly result: number }
  | {
      readonly kind: 'generic';
      readonly family: number;
      readonly sequence: number;
      readonly command: number;
      readonly attributes: Attributes;
    };

/** The messages of one datagram, in order; what cannot be one is left out, with all that follows it. */
export function parseDatagram(datagram: Uint8Array): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  let at = 0;
  while (datagram.length - at >= NETLINK_HEADER_BYTES) {
    const view = new DataView(datagram.buffer, datagram.byteOffset + at, datagram.length - at);
    const length = view.getUint32(0, true);
    if (length < NETLINK_HEADER_BYTES || length > view.byteLength) break;
    const message = parseMessage(datagram.subarray(at, at + length), view);
    if (message !== undefined) messages.push(message);
    at += padded(length);
  }
  return messages;
}

function parseMessage(bytes: Uint8Array, view: DataView): NetlinkMessage | undefined {
  const type = view.getUint16(4, true);
  const sequence = view.getUint32(8, true);
  if (type === NLMSG_ERROR || type === NLMSG_DONE) {
    const result = bytes.length >= NETLINK_HEADER_BYTES + 4 ? view.getInt32(NETLINK_HEADER_BYTES, true) : 0;
    return { kind: 'ended', sequence, result };
  }
  if (type < NLMSG_ERROR || bytes.length < NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES) return undefined;
  const command = bytes[NETLINK_HEADER_BYTES];
  const attributes = new Attributes(bytes.subarray(NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES));
  return { kind: 'generic', family: type, sequence, command, attributes };
}

/** Attributes that were received. Of a type that occurs twice, the getters take the last one. */
export class Attributes {
  readonly #found: (readonly [type: number, payload: Uint8Array])[] = [];

  constructor(bytes: Uint8Array) {
    let at = 0;
    while (bytes.length - at >= ATTRIBUTE_HEADER_BYTES) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at);
      const length = view.getUint16(0, true);
      if (length < ATTRIBUTE_HEADER_BYTES || length > bytes.length - at) break;
      this.#found.push([view.getUint16(2, true) & TYPE_MASK, bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length)]);
      at += padded(length);
    }
  }

  number(type: number): number | undefined {
    const payload = this.#payload(type);
    if (payload === undefined) return undefined;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    switch (payload.length) {
      case 1:
        return view.getUint8(0);
      case 2:
        return view.getUint16(0, true);
      case 4:
        return view.getUint32(0, true);
      default:
        return undefined;
    }
  }

  text(type: number): string | undefined {
    const payload = this.#payload(type);
    if (payload === undefined) return undefined;
    const end = payload.indexOf(0);
    return new TextDecoder().decode(end < 0 ? payload : payload.subarray(0, end));
  }

  nested(type: number): Attributes | undefined {
    const payload = this.#payload(type);
    return payload === undefined ? undefined : new Attributes(payload);
  }

  /** Each attribute taken as a nest, whatever its type: the elements of an array. */
  elements(): Attributes[] {
    return this.#found.map(([, payload]) => new Attributes(payload));
  }

  #payload(type: number): Uint8Array | undefined {
    return this.#found.findLast(([found]) => found === type)?.[1];
  }
}

function padded(bytes: number): number {
  return (bytes + 3) & ~3;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
