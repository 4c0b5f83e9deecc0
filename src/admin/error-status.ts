/**
 * How errors travel over the control socket: as the body `{"error":{code,message,hint,retryable}}` and a status of HTTP
 * that fits. The same shape is what commands print with --json.
 */
import { type ErrorCode, SledgeError } from '../base/errors.ts';

export interface ErrorBody {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly hint: string;
    readonly retryable: boolean;
  };
}

/** All codes stand here, so that a new one cannot be forgotten; it also tells which codes this version knows. */
const STATUS: Record<ErrorCode, number> = {
  usage: 400,
  'bad-size': 400,
  'bad-name': 400,
  'bad-address': 400,
  'bad-format': 500,
  'not-a-data-directory': 500,
  'data-in-use': 409,
  'device-in-use': 409,
  'device-unusable': 400,
  'device-foreign': 409,
  'device-missing': 503,
  'no-space': 507,
  'volume-unknown': 404,
  'volume-exists': 409,
  'volume-busy': 409,
  'volume-limit': 409,
  'shrink-refused': 409,
  'address-in-use': 409,
  'address-unusable': 400,
  'not-running': 503,
  'connection-failed': 502,
  'protocol-error': 502,
  'tls-files': 500,
  io: 500,
  corrupt: 500,
  'no-nbd-driver': 501,
  'not-permitted': 403,
  'not-attached': 404,
  'already-attached': 409,
  'shutting-down': 503,
  cancelled: 409,
  'not-supported': 501,
};

export function httpStatusOf(code: ErrorCode): number {
  return STATUS[code];
}

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(STATUS, code);
}

export function errorBody(error: SledgeError): ErrorBody {
  return { error: { code: error.code, message: error.message, hint: error.hint, retryable: error.retryable } };
}

/** The error of a body, or undefined if it is none; a code of another version becomes `protocol-error`. */
export function errorOfBody(body: unknown): SledgeError | undefined {
  if (!isRecord(body) || !isRecord(body['error'])) return undefined;
  const { code, message, hint } = body['error'];
  if (typeof code !== 'string' || typeof message !== 'string') return undefined;
  const options = typeof hint === 'string' ? { hint } : undefined;
  if (isErrorCode(code)) return new SledgeError(code, message, options);
  return new SledgeError('protocol-error', `${message} (${code})`, options);
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
