/**
 * Every number of the NBD protocol that Sledge speaks, by the names of the protocol document (`doc/proto.md` of
 * NetworkBlockDevice/nbd, with the branch `extension-ext-header` for what is marked EXT). Nothing here is computed and
 * nothing here may change: these are the wire.
 *
 * 64-bit magic numbers stand as two halves, since the codec never makes a BigInt.
 */

// --- magic numbers ---------------------------------------------------------------------------------------------------
/** `NBDMAGIC`, the first eight bytes a server sends. */
export const NBD_MAGIC_HIGH = 0x4e42444d;
export const NBD_MAGIC_LOW = 0x41474943;
/** `IHAVEOPT`, in the greeting and in front of each option. */
export const OPTION_MAGIC_HIGH = 0x49484156;
export const OPTION_MAGIC_LOW = 0x454f5054;
/** In front of each reply to an option: 0x0003e889045565a9. */
export const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
export const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
export const REQUEST_MAGIC = 0x25609513;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

// --- sizes -----------------------------------------------------------------------------------------------------------
export const GREETING_BYTES = 18;
export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
/** Of the answer to EXPORT_NAME: 8 size, 2 flags, and the zeroes unless NO_ZEROES was agreed. */
export const EXPORT_NAME_REPLY_BYTES = 10;
export const EXPORT_NAME_ZEROES_BYTES = 124;
export const REQUEST_BYTES = 28;
export const EXTENDED_REQUEST_BYTES = 32;
export const SIMPLE_REPLY_BYTES = 16;
export const STRUCTURED_REPLY_BYTES = 20;
export const EXTENDED_REPLY_BYTES = 32;
/** No string of the protocol (name, description, error text, context) may be longer. */
export const STRING_BYTES_MAX = 4096;
export const DEFAULT_PORT = 10809;

// --- handshake flags (server) and client flags -----------------------------------------------------------------------
export const FLAG_FIXED_NEWSTYLE = 1 << 0;
export const FLAG_NO_ZEROES = 1 << 1;

// --- options ---------------------------------------------------------------------------------------------------------
export const OPT_EXPORT_NAME = 1;
export const OPT_ABORT = 2;
export const OPT_LIST = 3;
/** Withdrawn from the protocol; known so that tests can show that it is refused. */
export const OPT_PEEK_EXPORT = 4;
export const OPT_STARTTLS = 5;
export const OPT_INFO = 6;
export const OPT_GO = 7;
export const OPT_STRUCTURED_REPLY = 8;
export const OPT_LIST_META_CONTEXT = 9;
export const OPT_SET_META_CONTEXT = 10;
/** EXT */
export const OPT_EXTENDED_HEADERS = 11;

// --- option replies --------------------------------------------------------------------------------------------------
export const REP_ACK = 1;
export const REP_SERVER = 2;
export const REP_INFO = 3;
export const REP_META_CONTEXT = 4;
export const REP_ERR_UNSUP = 0x80000001;
export const REP_ERR_POLICY = 0x80000002;
export const REP_ERR_INVALID = 0x80000003;
export const REP_ERR_PLATFORM = 0x80000004;
export const REP_ERR_TLS_REQD = 0x80000005;
export const REP_ERR_UNKNOWN = 0x80000006;
export const REP_ERR_SHUTDOWN = 0x80000007;
export const REP_ERR_BLOCK_SIZE_REQD = 0x80000008;
export const REP_ERR_TOO_BIG = 0x80000009;
/** EXT */
export const REP_ERR_EXT_HEADER_REQD = 0x8000000a;

// --- information of INFO and GO --------------------------------------------------------------------------------------
export const INFO_EXPORT = 0;
export const INFO_NAME = 1;
export const INFO_DESCRIPTION = 2;
export const INFO_BLOCK_SIZE = 3;

// --- transmission flags ----------------------------------------------------------------------------------------------
export const TRANSMISSION_HAS_FLAGS = 1 << 0;
export const TRANSMISSION_READ_ONLY = 1 << 1;
export const TRANSMISSION_SEND_FLUSH = 1 << 2;
export const TRANSMISSION_SEND_FUA = 1 << 3;
export const TRANSMISSION_ROTATIONAL = 1 << 4;
export const TRANSMISSION_SEND_TRIM = 1 << 5;
export const TRANSMISSION_SEND_WRITE_ZEROES = 1 << 6;
export const TRANSMISSION_SEND_DF = 1 << 7;
export const TRANSMISSION_CAN_MULTI_CONN = 1 << 8;
export const TRANSMISSION_SEND_RESIZE = 1 << 9;
export const TRANSMISSION_SEND_CACHE = 1 << 10;
export const TRANSMISSION_SEND_FAST_ZERO = 1 << 11;
/** EXT */
export const TRANSMISSION_BLOCK_STATUS_PAYLOAD = 1 << 12;

// --- commands --------------------------------------------------------------------------------------------------------
export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
export const CMD_FLUSH = 3;
export const CMD_TRIM = 4;
export const CMD_CACHE = 5;
export const CMD_WRITE_ZEROES = 6;
export const CMD_BLOCK_STATUS = 7;
export const CMD_RESIZE = 8;

export const CMD_FLAG_FUA = 1 << 0;
export const CMD_FLAG_NO_HOLE = 1 << 1;
export const CMD_FLAG_DF = 1 << 2;
export const CMD_FLAG_REQ_ONE = 1 << 3;
export const CMD_FLAG_FAST_ZERO = 1 << 4;
/** EXT: the length field counts a payload that follows the header. */
export const CMD_FLAG_PAYLOAD_LEN = 1 << 5;

// --- structured and extended replies ---------------------------------------------------------------------------------
export const REPLY_FLAG_DONE = 1 << 0;

export const REPLY_NONE = 0;
export const REPLY_OFFSET_DATA = 1;
export const REPLY_OFFSET_HOLE = 2;
export const REPLY_BLOCK_STATUS = 5;
/** EXT */
export const REPLY_BLOCK_STATUS_EXT = 6;
export const REPLY_ERROR = 0x8001;
export const REPLY_ERROR_OFFSET = 0x8002;

// --- base:allocation -------------------------------------------------------------------------------------------------
export const CONTEXT_BASE_ALLOCATION = 'base:allocation';
export const STATE_HOLE = 1 << 0;
export const STATE_ZERO = 1 << 1;
