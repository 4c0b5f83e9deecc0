/** What a disk does that forgets: one bit of a file is another. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';

export function flip(file: string, position: number): void {
  const fd = openSync(file, 'r+');
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, position);
  byte[0]! ^= 0x10;
  writeSync(fd, byte, 0, 1, position);
  closeSync(fd);
}
