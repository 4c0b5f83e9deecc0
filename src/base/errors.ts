/**
 * Every error that a user or another part of Sledge may meet, in one table. Errors are told apart by `code`, never by
 * their text. Errors on the I/O path are not exceptions at all: there a completion carries a negative errno.
 */

/** What each code means, and whether the same call may succeed when it is made again unchanged. */
const TABLE = {
  usage: { retryable: false, hint: 'See --help for what this command takes.' },
  'bad-size': { retryable: false, hint: 'Give a whole number of 4 KiB blocks, such as 512MiB, 10GiB or 1TiB.' },
  'bad-name': {
    retryable: false,
    hint: 'A volume name has 1 to 128 characters: letters, digits, and . _ - (not first).',
  },
  'bad-address': { retryable: false, hint: 'Give HOST:PORT, [IPV6]:PORT or unix:PATH.' },
  'bad-format': {
    retryable: false,
    hint: 'The data directory was written by another version of Sledge: use that version, or another directory.',
  },
  'not-a-data-directory': {
    retryable: false,
    hint: 'Give an empty directory, or one that Sledge made before.',
  },
  'data-in-use': { retryable: true, hint: 'Stop that server first, or give another --data directory.' },
  'device-in-use': { retryable: true, hint: 'Unmount it or stop what uses it, or give another --device.' },
  'device-unusable': { retryable: false, hint: 'Give a regular file or a block device that can be opened O_DIRECT.' },
  'device-foreign': {
    retryable: false,
    hint: 'The device holds data that is not of this node. Give another one.',
  },
  'device-missing': {
    retryable: true,
    hint: 'Bring the device back under the path that it had, or give its new one with --device.',
  },
  'no-space': { retryable: true, hint: 'Free space on it, add a --device, or trim volumes.' },
  'volume-unknown': { retryable: false, hint: 'See `sledge volume list`.' },
  'volume-exists': { retryable: false, hint: 'Choose another name, or use the volume that is there.' },
  'volume-busy': { retryable: true, hint: 'Disconnect its clients first.' },
  'volume-limit': { retryable: false, hint: 'Delete volumes that are no longer needed.' },
  'shrink-refused': { retryable: false, hint: 'A volume can only grow.' },
  'address-in-use': { retryable: true, hint: 'Give another --listen address, or stop what listens there.' },
  'address-unusable': { retryable: false, hint: 'Give an address of this machine that you may bind.' },
  'not-running': { retryable: true, hint: 'Start it with `sledge serve`, or name its directory with --data.' },
  'connection-failed': { retryable: true, hint: 'Check the address, and that the server runs.' },
  'protocol-error': { retryable: false, hint: 'The other side does not speak the NBD protocol as documented.' },
  'tls-files': {
    retryable: false,
    hint: 'The directory needs ca-cert.pem, server-cert.pem and server-key.pem; a PSK file has lines NAME:HEXKEY.',
  },
  io: { retryable: false, hint: 'Check the device: the kernel log says more.' },
  corrupt: { retryable: false, hint: 'Stored data does not match its checksum: see `sledge status`.' },
  'no-nbd-driver': { retryable: false, hint: 'Load the module as root: modprobe nbd. In a container: on its host.' },
  'not-permitted': { retryable: false, hint: 'Run this as root: making block devices needs CAP_SYS_ADMIN.' },
  'not-attached': { retryable: false, hint: 'See `sledge attach --list`.' },
  'already-attached': { retryable: false, hint: 'See `sledge attach --list`; detach it first.' },
  'shutting-down': { retryable: true, hint: 'The server is stopping: connect again when it is back.' },
  cancelled: { retryable: true, hint: 'Nothing was changed: start it again when you like.' },
  'not-supported': { retryable: false, hint: 'This system does not offer what is needed.' },
} as const;

export type ErrorCode = keyof typeof TABLE;

/** An error with a code of the table; `message` says what happened, `hint` what to do about it. */
export class SledgeError extends Error {
  override readonly name = 'SledgeError';
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly hint: string;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown; hint?: string }) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = TABLE[code].retryable;
    this.hint = options?.hint ?? TABLE[code].hint;
  }
}
