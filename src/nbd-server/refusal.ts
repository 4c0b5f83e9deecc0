/**
 * Errors as they go to the client: a value of the wire with a short text. All are made once, when the module loads, so
 * that answering with one allocates nothing.
 */
import * as nbd from '../nbd-server-protocol/index.ts';

export interface Refusal {
  /** One of the protocol's eight values. */
  readonly error: number;
  /** For humans; at most `REFUSAL_TEXT_BYTES_MAX`. */
  readonly text: Uint8Array;
}

/** Reply space is reserved for texts up to this. */
export const REFUSAL_TEXT_BYTES_MAX = 64;

export function makeRefusal(error: number, text: string): Refusal {
  return { error, text: nbd.encodeText(text, REFUSAL_TEXT_BYTES_MAX) };
}

const REPORTED_EIO = makeRefusal(nbd.NBD_EIO, 'the volume reported EIO');
const REPORTED = new Map<number, Refusal>(
  [nbd.NBD_EPERM, nbd.NBD_ENOMEM, nbd.NBD_EINVAL, nbd.NBD_ENOSPC, nbd.NBD_ENOTSUP, nbd.NBD_ESHUTDOWN].map(error => [
    error,
    makeRefusal(error, `the volume reported ${nbd.nbdErrorName(error)}`),
  ]),
);

/**
 * What a volume's positive errno becomes. ENOTSUP answers FAST_ZERO and nothing else (WRITE_ZEROES), EOVERFLOW nothing
 * that reaches a volume (error values): where they come out of place they are EIO, like all that the wire can not tell.
 */
export function refusalOfErrno(errno: number, fastZero: boolean): Refusal {
  const error = nbd.nbdErrorOfErrno(errno);
  if (error === nbd.NBD_ENOTSUP && !fastZero) return REPORTED_EIO;
  return REPORTED.get(error) ?? REPORTED_EIO;
}
