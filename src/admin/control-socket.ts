/**
 * Where the control socket of a data directory is. A Unix socket's path holds at most 107 bytes, a data directory's may
 * be longer: then the socket is named by way of an open directory, `/proc/self/fd/N/control.sock`, on both sides.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const CONTROL_SOCKET_NAME = 'control.sock';
/** `sun_path` has 108 bytes, one of which is the NUL at the end. */
const SOCKET_PATH_BYTES_MAX = 107;

export interface ControlSocketPath {
  /** For people. */
  readonly path: string;
  /** For bind and connect, good until `release`. */
  readonly reachablePath: string;
  release(): void;
}

/** Throws what `open` throws, if the directory has to be opened for its long name. */
export function controlSocketPath(dataDirectory: string): ControlSocketPath {
  const path = join(resolve(dataDirectory), CONTROL_SOCKET_NAME);
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) return { path, reachablePath: path, release() {} };
  const fd = openSync(resolve(dataDirectory), constants.O_RDONLY | constants.O_DIRECTORY);
  let released = false;
  return {
    path,
    reachablePath: `/proc/self/fd/${fd}/${CONTROL_SOCKET_NAME}`,
    release() {
      if (!released) closeSync(fd);
      released = true;
    },
  };
}
