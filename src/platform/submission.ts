/**
 * The kernel's submission entry (struct io_uring_sqe, 64 bytes) as 32-bit words, and the operations that Sledge uses.
 * Both rings understand it, so that what stands here is all that TypeScript knows of either.
 *
 * | word | field | | word | field |
 * |---|---|---|---|---|
 * | 0 | opcode, flags << 8, priority << 16 | | 6 | length |
 * | 1 | descriptor | | 7 | flags of the operation |
 * | 2, 3 | position, low and high | | 8, 9 | mark that the completion carries |
 * | 4, 5 | address, low and high | | 10 … 15 | always 0 |
 */
export const SUBMISSION_WORDS = 16;
/** A completion: mark (two words), result, flags. */
export const COMPLETION_WORDS = 4;

export const OP_FSYNC = 3;
export const OP_POLL_ADD = 6;
export const OP_SYNC_FILE_RANGE = 8;
export const OP_SENDMSG = 9;
export const OP_ACCEPT = 13;
export const OP_ASYNC_CANCEL = 14;
export const OP_CONNECT = 16;
export const OP_FALLOCATE = 17;
export const OP_READ = 22;
export const OP_WRITE = 23;
/** A write that a worker of the kernel's ring does from its beginning (IOSQE_ASYNC); the thread ring has no such thing. */
export const OP_WRITE_BY_WORKER = OP_WRITE | (0x10 << 8);
export const OP_SEND = 26;
export const OP_RECV = 27;

export const FSYNC_DATASYNC = 1;
/** Of a write: it ends when its data is on stable storage. */
export const RWF_DSYNC = 2;
/** Write the range, and wait for it and for what was under way in it before. */
export const SYNC_FILE_RANGE_WRITE_AND_WAIT = 7;
export const POLL_IN = 1;
export const FALLOC_KEEP_SIZE = 1;
export const FALLOC_PUNCH_HOLE = 2;
export const MSG_WAITALL = 0x100;
export const MSG_NOSIGNAL = 0x4000;
export const SOCK_CLOEXEC = 0x80000;
