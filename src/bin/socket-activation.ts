/**
 * Listening sockets that a service manager opened and hands over (sd_listen_fds(3)): `LISTEN_FDS` of them from
 * descriptor 3 on, meant for the process `LISTEN_PID`. Used by `sledge serve`.
 */
import { SledgeError } from '../base/errors.ts';
import type { ListenAddress } from '../platform/io-platform.ts';

const FIRST_FD = 3;
const FDS_MAX = 64;

/** Empty when there are none, or when they are meant for another process, such as the one that started this one. */
export function inheritedSockets(env: NodeJS.ProcessEnv, pid: number): ListenAddress[] {
  const countText = env['LISTEN_FDS'];
  if (countText === undefined || env['LISTEN_PID'] !== String(pid)) return [];
  const count = /^\d{1,3}$/.test(countText) ? Number(countText) : Number.NaN;
  if (!(count <= FDS_MAX)) {
    throw new SledgeError('usage', `LISTEN_FDS is ${JSON.stringify(countText)}, not a number up to ${FDS_MAX}`, {
      hint: 'The service manager sets it: see sd_listen_fds(3).',
    });
  }
  return Array.from({ length: count }, (_, index) => ({ kind: 'fd', fd: FIRST_FD + index }) as const);
}
