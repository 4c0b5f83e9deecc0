/**
 * Bad requests become an error once, here, before anything else looks at them: what passes is a known command with flags
 * that belong to it, a range inside of the volume and a payload of a size that is taken. The errors are those that the
 * protocol document asks for ("Error values" and each command's text).
 */
import { nbdPayloadBytesMax } from '../base/limits.ts';
import {
  CMD_BLOCK_STATUS,
  CMD_CACHE,
  CMD_FLAG_DF,
  CMD_FLAG_FAST_ZERO,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLAG_PAYLOAD_LEN,
  CMD_FLAG_REQ_ONE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EPERM,
  type Request,
} from '../nbd-server-protocol/index.ts';
import { makeRefusal, type Refusal } from './refusal.ts';

const UNKNOWN_COMMAND = makeRefusal(NBD_EINVAL, 'the command is not known');
const BAD_FLAGS = makeRefusal(NBD_EINVAL, 'a flag does not belong to the command');
const UNASKED_PAYLOAD = makeRefusal(NBD_EINVAL, 'the command takes no payload');
const READ_ONLY = makeRefusal(NBD_EPERM, 'the export is read-only');
const MISALIGNED = makeRefusal(NBD_EINVAL, 'the range is no multiple of the minimum block size');
const TOO_LONG = makeRefusal(NBD_EINVAL, 'longer than the advertised maximum');
const FLUSH_RANGE = makeRefusal(NBD_EINVAL, 'a flush has no offset and no length');
const NO_CONTEXT = makeRefusal(NBD_EINVAL, 'no metadata context was selected');
const NO_LENGTH = makeRefusal(NBD_EINVAL, 'the length is 0');
const BEYOND_END = makeRefusal(NBD_EINVAL, 'beyond the end of the export');
const BEYOND_END_OF_SPACE = makeRefusal(NBD_ENOSPC, 'beyond the end of the export');

interface Rule {
  /** Flags it may carry; FUA is among them everywhere, since it is offered (X6). */
  readonly flags: number;
  readonly writes: boolean;
  /** The data of the range travels with the request or its reply. */
  readonly carriesData: boolean;
  readonly beyondEnd: Refusal;
}

const rule = (flags: number, writes: boolean, carriesData: boolean, beyondEnd: Refusal): Rule => ({
  flags: flags | CMD_FLAG_FUA,
  writes,
  carriesData,
  beyondEnd,
});

/** By command number; a gap is a command that is not served here (DISC is met before, RESIZE is not offered). */
const RULES: readonly (Rule | undefined)[] = (() => {
  const rules: (Rule | undefined)[] = new Array(CMD_BLOCK_STATUS + 1).fill(undefined);
  rules[CMD_READ] = rule(CMD_FLAG_DF, false, true, BEYOND_END);
  rules[CMD_WRITE] = rule(0, true, true, BEYOND_END_OF_SPACE);
  rules[CMD_FLUSH] = rule(0, false, false, FLUSH_RANGE);
  rules[CMD_TRIM] = rule(0, true, false, BEYOND_END);
  rules[CMD_CACHE] = rule(0, false, false, BEYOND_END);
  rules[CMD_WRITE_ZEROES] = rule(CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO, true, false, BEYOND_END_OF_SPACE);
  rules[CMD_BLOCK_STATUS] = rule(CMD_FLAG_REQ_ONE, false, false, BEYOND_END);
  return rules;
})();

/** What a connection agreed on and what its volume allows. */
export interface TransmissionTerms {
  readonly structured: boolean;
  readonly extended: boolean;
  readonly readOnly: boolean;
  readonly minimumBlockBytes: number;
  readonly blockStatus: boolean;
}

/** The refusal that a request has earned, or undefined when it may be served. */
export function refusalOf(request: Request, terms: TransmissionTerms, sizeBytes: number): Refusal | undefined {
  const { command, flags, offsetBytes, lengthBytes } = request;
  const found = command <= CMD_BLOCK_STATUS ? RULES[command] : undefined;
  if (found === undefined) return UNKNOWN_COMMAND;
  let allowed = found.flags;
  if (terms.extended) {
    if ((flags & CMD_FLAG_PAYLOAD_LEN) !== 0 && command !== CMD_WRITE) return UNASKED_PAYLOAD;
    allowed |= CMD_FLAG_PAYLOAD_LEN;
  } else if (!terms.structured) {
    allowed &= ~CMD_FLAG_DF;
  }
  if ((flags & ~allowed) !== 0) return BAD_FLAGS;
  if (found.writes && terms.readOnly) return READ_ONLY;
  if (command === CMD_FLUSH) return offsetBytes === 0 && lengthBytes === 0 ? undefined : FLUSH_RANGE;
  if (request.outOfRange || offsetBytes + lengthBytes > sizeBytes) {
    // Too long for any payload is told first, so that the client learns what would never work.
    return found.carriesData && !found.writes && lengthBytes > nbdPayloadBytesMax ? TOO_LONG : found.beyondEnd;
  }
  if (found.carriesData && lengthBytes > nbdPayloadBytesMax) return TOO_LONG;
  const block = terms.minimumBlockBytes;
  if (block > 1 && (offsetBytes % block !== 0 || lengthBytes % block !== 0)) return MISALIGNED;
  if (command === CMD_BLOCK_STATUS) {
    if (!terms.blockStatus) return NO_CONTEXT;
    if (lengthBytes === 0) return NO_LENGTH;
  }
  return undefined;
}
