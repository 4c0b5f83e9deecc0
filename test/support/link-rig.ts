/** Two real links to each other, one dialing and one accepting, over whatever connects them. */

import type { Checksums } from '../../src/base/checksum.ts';
import { crc32c, crc32cBlocks } from '../../src/base/crc32c.ts';
import { ReconnectPolicy } from '../../src/base/reconnect-policy.ts';
import type { Stream } from '../../src/base/stream.ts';
import { FRAME_HEADER_BYTES, type FrameKind, type LinkIdentity, sealFrame } from '../../src/link/frame.ts';
import { LinkAcceptor } from '../../src/link/link-acceptor.ts';
import { PeerLink, type PeerLinkPorts } from '../../src/link/peer-link.ts';

export const CLUSTER = 'c'.repeat(32);
export const DIALER: LinkIdentity = { cluster: CLUSTER, node: '1'.repeat(32) };
export const ACCEPTOR: LinkIdentity = { cluster: CLUSTER, node: '2'.repeat(32) };

export const plainChecksums: Checksums = { checksum: crc32c, checksumBlocks: crc32cBlocks };

export const SILENT_LOG = { info() {}, warn() {}, error() {} };

/** A frame as it is on the wire. */
export function frameOf(kind: FrameKind, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(FRAME_HEADER_BYTES + payload.length);
  bytes.set(payload, FRAME_HEADER_BYTES);
  sealFrame(new DataView(bytes.buffer), bytes, 0, kind, payload.length, plainChecksums);
  return bytes;
}

/** `connect` makes a pair of streams: the one is for the side that dials, the other goes to the acceptor. */
export function linkPair(
  near: PeerLinkPorts,
  far: PeerLinkPorts,
  connect: (accept: (stream: Stream) => void) => Promise<Stream>,
) {
  const acceptor = new LinkAcceptor(far, ACCEPTOR);
  const dial = () => connect(stream => acceptor.accept(stream));
  const policy = new ReconnectPolicy(() => 0.5);
  return {
    acceptor,
    near: new PeerLink(near, DIALER, ACCEPTOR.node, { dial, policy }),
    far: acceptor.linkTo(DIALER.node),
  };
}
