/**
 * A connected byte stream as sessions and links see it: plain sockets on the ring, TLS on Node's streams, memory in tests.
 *
 * Rules that every implementation keeps (`test/contract` holds them to it), besides those of `io.ts`:
 * - At most one `receive` and one `send` are under way at a time.
 * - `receive` completes with the count of bytes that arrived (1 to `length`), 0 at the end of the stream, or -errno.
 * - `send` completes when the last byte was handed on (`length`), or with -errno; it never completes short. `sendPieces` is
 *   a send of several pieces of memory, one behind another, and completes with the sum of their lengths.
 * - `close` may be called at any time, once: what is under way then completes with a negative errno, soon. Nothing that
 *   was sent before is taken back.
 */
import type { IoRequest } from './io.ts';
import type { MemoryPiece, Region } from './memory.ts';

/** So many pieces are sent at once, at most. */
export const sendPiecesMax = 252;

export interface Stream {
  /** For the log and the status page: `unix`, `127.0.0.1:51234`. */
  readonly peer: string;
  readonly encrypted: boolean;
  /** Whether the peer will send nothing more, as far as the system knows; what it sent before may wait to be received. */
  readonly peerHasEnded: boolean;
  receive(region: Region, offset: number, length: number, request: IoRequest): void;
  send(region: Region, offset: number, length: number, request: IoRequest): void;
  /** Sends the first `count` of `pieces`; they are the stream's until it completes. */
  sendPieces(pieces: readonly MemoryPiece[], count: number, request: IoRequest): void;
  /** Ends the sending half after what was sent; under TLS with a close_notify. */
  shutdown(): void;
  close(): void;
}
