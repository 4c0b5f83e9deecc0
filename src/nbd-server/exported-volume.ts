/**
 * What the NBD server needs of a volume. The volume implements it, the session calls it; tests implement it in memory.
 *
 * A request is an object that the session owns and reuses. It is handed over with `submit` and comes back with exactly
 * one call of `completed`, which may happen inside of `submit` (a read found in the cache) or in a later turn. Until
 * then the volume owns it and its buffers, with one exception, made so that small writes need no buffer of their own:
 * **the payload of a write of at most `nbdInlineBytesMax` bytes is the volume's only until `submit` returns.**
 *
 * Requests may overlap in any way and complete in any order. What a completed write wrote is seen by every read that is
 * submitted after its completion, on whichever connection; from inside of `completed` of a write nothing is submitted.
 */
import type { MemoryPiece, Region } from '../base/memory.ts';

export type VolumeCommand = 'read' | 'write' | 'writeZeroes' | 'trim' | 'flush' | 'cache' | 'blockStatus';

/** One run of a BLOCK_STATUS answer: `flags` are those of `base:allocation` (1 hole, 2 reads as zeroes). */
export interface Extent {
  lengthBytes: number;
  flags: number;
}

/** Memory of the volume's that a reply is sent from. Its bytes stay as they are until it is returned. */
export interface Loan {
  /** The bytes of the read are those of the first `pieceCount` of these, one behind another. */
  readonly pieces: readonly MemoryPiece[];
  readonly pieceCount: number;
  /** Called once, from wherever the session is: it may be in the call that made the loan. */
  returned(): void;
}

export interface VolumeRequest {
  command: VolumeCommand;
  /** Range in bytes; inside of the volume (the session has checked it), any alignment. 0 and 0 for `flush`. */
  offsetBytes: number;
  lengthBytes: number;
  /** Complete only when the request's effect is on stable storage. */
  fua: boolean;
  /** writeZeroes: the range has to stay allocated. */
  noHole: boolean;
  /** writeZeroes: complete with EOPNOTSUPP, and change nothing, unless it is faster than writing data. */
  fastZero: boolean;
  /** blockStatus: answer with one extent, that does not reach beyond the range. */
  oneExtent: boolean;
  /** read: zero runs may be left out of the destination and reported with `addHole` instead. */
  holesWanted: boolean;

  /** write: where the payload is. read: where the data goes, valid after `place`. */
  region: Region;
  regionOffset: number;

  /**
   * read: sets `region` and `regionOffset` to room for `lengthBytes`. For reads above `nbdInlineBytesMax` the room is
   * 4096-aligned, the request's own, and may be asked for at any time before completion, so that a device can read
   * straight into it. For smaller ones it is a piece of the connection's reply buffer: ask for it, fill it, and complete
   * the request before any other is placed or completed; a failed request never asks.
   */
  place(): void;
  /** read, when `holesWanted`: `lengthBytes` from `offset` (both within the request) are zeroes. Ascending. */
  addHole(offset: number, lengthBytes: number): void;
  /** blockStatus: the next run, ascending and without gaps from `offsetBytes`; the last may reach beyond the range. */
  addExtent(lengthBytes: number, flags: number): void;
  /** Ends the request: 0, or a positive Linux errno (EIO, ENOSPC, EPERM, EOPNOTSUPP, ESHUTDOWN). */
  completed(errno: number): void;
  /**
   * write: may follow `completed`, from inside of the same call from the loop. The volume goes on with work that the client need
   * not wait for, and the reply goes to the system with the next `Turns.hurry`, not at the end of the turn.
   */
  hurryReply(): void;
  /** Ends a read above `nbdInlineBytesMax` with success, in place of `completed`: its bytes go out from where they lie. */
  completedFrom(loan: Loan): void;
}

export interface ExportedVolume {
  readonly name: string;
  /** For humans; empty where there is none. */
  readonly description: string;
  /** Rises when the volume grows; new connections and INFO/GO see the new value. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  submit(request: VolumeRequest): void;
}

/** The volumes a server offers, by export name. The empty name is the default export, where there is just one volume. */
export interface ExportTable {
  find(name: string): ExportedVolume | undefined;
  list(): Iterable<ExportedVolume>;
  /** Called when a session enters and leaves the transmission phase of a volume, so that a volume in use is known. */
  opened(volume: ExportedVolume, session: SessionHandle): void;
  closed(volume: ExportedVolume, session: SessionHandle): void;
}

/** What the rest of the node may do with a session. */
export interface SessionHandle {
  readonly peer: string;
  /** Answers what is in flight, takes nothing more, then disconnects. */
  drain(): void;
}
