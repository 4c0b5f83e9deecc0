/** The order in which a comparison visits rows and servers: neither a neighbour nor what was written before decides it. */
import type { Row } from './nbd-rows.ts';

export interface Turn {
  readonly row: Row;
  /** Which repeat of the row it is, from 0. */
  readonly turn: number;
}

/** Reads first, all repeats of them: what a write row leaves in a server's caches would speed them up. */
export function* turnsOf(rows: readonly Row[], repeat: number): Iterable<Turn> {
  for (const writes of [false, true]) {
    for (let turn = 0; turn < repeat; turn++) {
      for (const row of rows) if (row.writes === writes) yield { row, turn };
    }
  }
}

/** Another one goes first each time, so that none always follows the same neighbour. */
export function inTurn<Thing>(things: readonly Thing[], turn: number): Thing[] {
  return things.map((_, i) => things[(i + turn) % things.length]);
}
