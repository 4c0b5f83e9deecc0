/**
 * Linux errno values as completions carry them: a result of 0 or more is a success, -EIO and the like a failure.
 * Only those that Sledge tells apart stand here; `errnoName` names these and prints the number of any other.
 */
export const EPERM = 1;
export const EIO = 5;
export const EBADF = 9;
export const ENOMEM = 12;
export const EINVAL = 22;
export const ENOSPC = 28;
export const EPIPE = 32;
export const EOVERFLOW = 75;
export const EOPNOTSUPP = 95;
export const ECONNRESET = 104;
export const ESHUTDOWN = 108;
export const ETIMEDOUT = 110;
export const EDQUOT = 122;
export const ECANCELED = 125;

const NAMES = new Map<number, string>([
  [EPERM, 'EPERM'],
  [EIO, 'EIO'],
  [EBADF, 'EBADF'],
  [ENOMEM, 'ENOMEM'],
  [EINVAL, 'EINVAL'],
  [ENOSPC, 'ENOSPC'],
  [EPIPE, 'EPIPE'],
  [EOVERFLOW, 'EOVERFLOW'],
  [EOPNOTSUPP, 'EOPNOTSUPP'],
  [ECONNRESET, 'ECONNRESET'],
  [ESHUTDOWN, 'ESHUTDOWN'],
  [ETIMEDOUT, 'ETIMEDOUT'],
  [EDQUOT, 'EDQUOT'],
  [ECANCELED, 'ECANCELED'],
]);

/** Whether a result says that nothing failed but room, which may come free again. */
export function isNoSpace(result: number): boolean {
  const positive = Math.abs(result);
  return positive === ENOSPC || positive === EDQUOT;
}

/** `5` → `EIO`, `-5` → `EIO`, `200` → `errno 200`. */
export function errnoName(errno: number): string {
  const positive = Math.abs(errno);
  return NAMES.get(positive) ?? `errno ${positive}`;
}
