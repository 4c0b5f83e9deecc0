/**
 * The eight error values that the protocol knows, and what each Linux errno becomes on the wire. The only place where
 * the two meet: whoever sends an error passes it through `nbdErrorOfErrno`, so nothing else ever goes out.
 */
export const NBD_EPERM = 1;
export const NBD_EIO = 5;
export const NBD_ENOMEM = 12;
export const NBD_EINVAL = 22;
export const NBD_ENOSPC = 28;
export const NBD_EOVERFLOW = 75;
export const NBD_ENOTSUP = 95;
export const NBD_ESHUTDOWN = 108;

const LINUX_EACCES = 13;
const LINUX_EFBIG = 27;
const LINUX_EROFS = 30;
const LINUX_EDQUOT = 122;

const NAMES = new Map<number, string>([
  [NBD_EPERM, 'EPERM'],
  [NBD_EIO, 'EIO'],
  [NBD_ENOMEM, 'ENOMEM'],
  [NBD_EINVAL, 'EINVAL'],
  [NBD_ENOSPC, 'ENOSPC'],
  [NBD_EOVERFLOW, 'EOVERFLOW'],
  [NBD_ENOTSUP, 'ENOTSUP'],
  [NBD_ESHUTDOWN, 'ESHUTDOWN'],
]);

/**
 * A positive Linux errno as the protocol's value ("Error values"): the document asks for EDQUOT and EFBIG to become
 * ENOSPC and for anything unlisted to become a value that the client knows, which is EIO here. 0 stays 0.
 */
export function nbdErrorOfErrno(errno: number): number {
  switch (errno) {
    case 0:
    case NBD_EPERM:
    case NBD_EIO:
    case NBD_ENOMEM:
    case NBD_EINVAL:
    case NBD_ENOSPC:
    case NBD_EOVERFLOW:
    case NBD_ENOTSUP:
    case NBD_ESHUTDOWN:
      return errno;
    case LINUX_EACCES:
    case LINUX_EROFS:
      return NBD_EPERM;
    case LINUX_EFBIG:
    case LINUX_EDQUOT:
      return NBD_ENOSPC;
    default:
      return NBD_EIO;
  }
}

export function isNbdError(value: number): boolean {
  return NAMES.has(value);
}

/** `22` → `EINVAL`, `7` → `error 7`. */
export function nbdErrorName(value: number): string {
  return NAMES.get(value) ?? `error ${value}`;
}
