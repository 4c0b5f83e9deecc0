/**
 * Bytes between two nodes: frames, one behind the other on a stream. Integers are little-endian.
 *
 *  offset  bytes  field
 *       0      4  magic "SLLK"
 *       4      1  version of the protocol, 1
 *       5      1  kind (see FrameKind)
 *       6      2  flags, 0
 *       8      4  length of the payload
 *      12      4  CRC32C of the payload
 *      16      4  CRC32C of the 16 bytes before
 *      20         payload
 *                   hello:     identity of the cluster (16), identity of the node (16)
 *                   refusal:   why (4, see REFUSALS)
 *                   message:   1 to `linkMessageBytesMax` bytes of the cores
 *                   heartbeat: nothing
 *
 * Magic and version come first and stay there in every version, so that another program and another version are told apart
 * before anything else is believed. The length has a checksum of its own, since it has to be believed before the payload is
 * there: a damaged one would have the receiver wait for bytes that nobody sends. That checksum covers the payload's, so
 * a payload cannot pass under another header.
 *
 * The one who dialed says hello first. The other answers with its own hello, and both are connected; or with a refusal,
 * and closes. A refusal is laid out like this in every version.
 *
 * Version 1: the first.
 */
import { assert } from '../base/assert.ts';
import type { Checksums } from '../base/checksum.ts';
import { identityBytes, identityText } from '../base/identity.ts';
import { linkMessageBytesMax } from '../base/limits.ts';

const MAGIC = 0x4b4c4c53;
const VERSION = 1;
export const FRAME_HEADER_BYTES = 20;
export const HELLO_BYTES = 32;
export const REFUSAL_BYTES = 4;

/** The numbers are on the wire. */
export const FrameKind = { hello: 1, refusal: 2, message: 3, heartbeat: 4 } as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

/** Why two nodes do not speak with each other, in the order of the numbers on the wire, from 1. */
const REFUSALS = ['foreign-version', 'foreign-cluster', 'foreign-node'] as const;
export type Refusal = (typeof REFUSALS)[number];

/** Who a node is; 32 hexadecimal digits each, as in node.json. */
export interface LinkIdentity {
  readonly cluster: string;
  readonly node: string;
}

/** A frame's header as parsed; a reused object. */
export interface Frame {
  kind: FrameKind;
  payloadBytes: number;
  /** Header and payload; of an incomplete frame, how much has to be there to go on. */
  frameBytes: number;
}

export function emptyFrame(): Frame {
  return { kind: FrameKind.heartbeat, payloadBytes: 0, frameBytes: FRAME_HEADER_BYTES };
}

/** Puts the header at `offset`, before a payload that is in place. Returns the length of the frame. */
export function sealFrame(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  kind: FrameKind,
  payloadBytes: number,
  checksums: Checksums,
): number {
  assert(lengthFits(kind, payloadBytes), 'a payload has a length of its kind');
  view.setUint32(offset, MAGIC, true);
  view.setUint32(offset + 4, VERSION | (kind << 8), true);
  view.setUint32(offset + 8, payloadBytes, true);
  view.setUint32(offset + 12, checksums.checksum(bytes, offset + FRAME_HEADER_BYTES, payloadBytes, 0), true);
  view.setUint32(offset + 16, checksums.checksum(bytes, offset, 16, 0), true);
  return FRAME_HEADER_BYTES + payloadBytes;
}

export type ParsedFrame = 'whole' | 'incomplete' | 'foreign-version' | 'invalid';

/**
 * Parses the frame at `offset`, of which `available` bytes are there; `frame` holds its kind and lengths when it is `whole`.
 * `incomplete` has `frame.frameBytes` say how many bytes it takes to go on, which never exceeds the longest frame of
 * `payloadBytesMax`. With `foreign-version` and `invalid` nothing behind can be made sense of.
 */
export function parseFrame(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  available: number,
  payloadBytesMax: number,
  frame: Frame,
  checksums: Checksums,
): ParsedFrame {
  frame.frameBytes = FRAME_HEADER_BYTES;
  if (available < FRAME_HEADER_BYTES) return 'incomplete';
  if (view.getUint32(offset, true) !== MAGIC) return 'invalid';
  const versionAndKind = view.getUint32(offset + 4, true);
  if ((versionAndKind & 0xff) !== VERSION) return 'foreign-version';
  if (checksums.checksum(bytes, offset, 16, 0) !== view.getUint32(offset + 16, true)) return 'invalid';
  const kind = (versionAndKind >>> 8) as FrameKind;
  const payloadBytes = view.getUint32(offset + 8, true);
  if (!lengthFits(kind, payloadBytes) || payloadBytes > payloadBytesMax) return 'invalid';
  frame.kind = kind;
  frame.payloadBytes = payloadBytes;
  frame.frameBytes = FRAME_HEADER_BYTES + payloadBytes;
  if (available < frame.frameBytes) return 'incomplete';
  const sum = checksums.checksum(bytes, offset + FRAME_HEADER_BYTES, payloadBytes, 0);
  return sum === view.getUint32(offset + 12, true) ? 'whole' : 'invalid';
}

/** Of a kind that there is, with flags of 0. */
function lengthFits(kind: FrameKind, payloadBytes: number): boolean {
  switch (kind) {
    case FrameKind.hello:
      return payloadBytes === HELLO_BYTES;
    case FrameKind.refusal:
      return payloadBytes === REFUSAL_BYTES;
    case FrameKind.message:
      return payloadBytes >= 1 && payloadBytes <= linkMessageBytesMax;
    case FrameKind.heartbeat:
      return payloadBytes === 0;
    default:
      return false;
  }
}

export function putHello(bytes: Uint8Array, offset: number, { cluster, node }: LinkIdentity): void {
  bytes.set(identityBytes(cluster), offset);
  bytes.set(identityBytes(node), offset + 16);
}

export function getHello(bytes: Uint8Array, offset: number): LinkIdentity {
  return {
    cluster: identityText(bytes.subarray(offset, offset + 16)),
    node: identityText(bytes.subarray(offset + 16, offset + HELLO_BYTES)),
  };
}

export function putRefusal(view: DataView, offset: number, refusal: Refusal): void {
  view.setUint32(offset, REFUSALS.indexOf(refusal) + 1, true);
}

/** A reason that is not known here is one of another version. */
export function getRefusal(view: DataView, offset: number): Refusal {
  return REFUSALS[view.getUint32(offset, true) - 1] ?? 'foreign-version';
}
