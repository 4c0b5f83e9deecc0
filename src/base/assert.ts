/**
 * Assertions are for bugs, never for input or for I/O that fails. They are always on: a broken invariant ends the
 * process, because going on would spread the damage to data that is still good.
 */

/** Thrown when an invariant does not hold. Nothing in Sledge catches it. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/** Ends the process (by an exception nobody catches) unless `condition` holds. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Closes a `switch` over a union: the compiler refuses it while a case is missing. */
export function assertNever(value: never): never {
  throw new AssertionError(`no case for ${JSON.stringify(value)}`);
}
