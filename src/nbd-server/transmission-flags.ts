/**
 * What an export is advertised with. Every flag here is a promise: it is set only where the session and the volume keep
 * it, and a read-only export does not offer what it would refuse.
 */
import * as nbd from '../nbd-server-protocol/index.ts';
import type { ExportedVolume } from './exported-volume.ts';

/**
 * `structured`: structured replies or extended headers were agreed on, without which there is no DF. CAN_MULTI_CONN is
 * always set: a volume has one sequence of operations for all its connections, and nothing is cached for one of them.
 */
export function transmissionFlagsOf(volume: ExportedVolume, structured: boolean): number {
  const common =
    nbd.TRANSMISSION_HAS_FLAGS |
    nbd.TRANSMISSION_SEND_FLUSH |
    nbd.TRANSMISSION_SEND_FUA |
    nbd.TRANSMISSION_SEND_CACHE |
    nbd.TRANSMISSION_CAN_MULTI_CONN |
    (structured ? nbd.TRANSMISSION_SEND_DF : 0);
  if (volume.readOnly) return common | nbd.TRANSMISSION_READ_ONLY;
  return common | nbd.TRANSMISSION_SEND_TRIM | nbd.TRANSMISSION_SEND_WRITE_ZEROES | nbd.TRANSMISSION_SEND_FAST_ZERO;
}
