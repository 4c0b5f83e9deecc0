/** What pieces of memory are together. */
import { assert } from '../../src/base/assert.ts';
import type { MemoryPiece } from '../../src/base/memory.ts';
import type { Loan } from '../../src/nbd-server/exported-volume.ts';

/** What a send takes of its pieces, held to the rules for it. */
export function firstPieces(pieces: readonly MemoryPiece[], count: number): readonly MemoryPiece[] {
  const sent = pieces.slice(0, count);
  for (const { region, offset, length } of sent) {
    assert(length > 0 && offset >= 0 && offset + length <= region.bytes.length, 'the send lies in its region');
  }
  return sent;
}

/** A copy of `length` bytes, from `start` of all that the pieces are together. */
export function gathered(pieces: readonly MemoryPiece[], start: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let at = -start;
  for (const piece of pieces) {
    const from = Math.max(0, -at);
    const to = Math.min(piece.length, length - at);
    if (from < to) bytes.set(piece.region.bytes.subarray(piece.offset + from, piece.offset + to), at + from);
    at += piece.length;
  }
  return bytes;
}

export function totalBytes(pieces: readonly MemoryPiece[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}

/** A copy of what a loan has now. */
export function lentBytes(loan: Loan): Uint8Array {
  const pieces = loan.pieces.slice(0, loan.pieceCount);
  return gathered(pieces, 0, totalBytes(pieces));
}
