/** The volumes before the first measurement: data in every block, so that a read has to read. */
import { execFile } from 'node:child_process';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { BLOCK_BYTES, MIB } from '../../src/base/units.ts';
import { type EngineSpec, startEngine, type Workplace } from './nbd-engines.ts';
import { fillLog, fillOverNbd } from './nbd-load.ts';
import { type Row, rampSecondsOf } from './nbd-rows.ts';

/** Enough for the log's whole length. */
const LOG_FILL_SECONDS = 20;
const execute = promisify(execFile);

/** The file that the peers serve, and the raw row reads. */
export async function fillFile(path: string, sizeBytes: number): Promise<void> {
  const words = new Uint32Array(MIB / 4);
  for (let i = 0, state = 1; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[i] = state;
  }
  const bytes = new Uint8Array(words.buffer);
  const file = await open(path, 'w');
  try {
    for (let position = 0; position < sizeBytes; position += bytes.length) {
      // A stamp in each block, so that no two are the same.
      for (let at = 0; at < bytes.length; at += BLOCK_BYTES) words[at / 4] = (position + at) / BLOCK_BYTES;
      await file.write(bytes, 0, Math.min(bytes.length, sizeBytes - position), position);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Brings the file into the page cache, as far as that has room: where a server that lives from it has its data after a
 * while. Direct writes of the others throw out what they pass, and its reads would go to the disk.
 */
export async function cacheFile(path: string): Promise<void> {
  const piece = new Uint8Array(4 * MIB);
  const file = await open(path, 'r');
  try {
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, piece.length);
      if (bytesRead === 0) return;
    }
  } finally {
    await file.close();
  }
}

/** Sledge's volume, which is no file of its own: written through the server, as its log is. */
export async function fillVolume(engine: EngineSpec, place: Workplace, rows: readonly Row[]): Promise<void> {
  const server = await startEngine(engine, place, { tls: false, sledgeArguments: [] });
  try {
    await fillOverNbd(server.uri);
    const logSeconds = logFillSeconds(rows);
    if (logSeconds > 0) await fillLog(server.uri, logSeconds);
    await server.settle();
  } finally {
    await server.stop();
  }
  await syncDisk(place);
}

/** A measurement gets no further in a log than this: it meets no file that has still to be made. */
function logFillSeconds(rows: readonly Row[]): number {
  const longest = Math.max(0, ...rows.filter(row => row.writes).map(row => rampSecondsOf(row) + row.seconds));
  return Math.min(LOG_FILL_SECONDS, 2 * longest);
}

/** What is left in the page cache goes to the disk now, not during the next measurement. */
export async function syncDisk(place: Workplace): Promise<void> {
  await execute('sync', ['-f', place.directory]);
}
