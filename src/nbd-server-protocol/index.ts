/**
 * # nbd-server-protocol
 *
 * The bytes of the NBD protocol (fixed newstyle, structured replies, and the extended headers of the branch
 * `extension-ext-header`) to messages and back. No sockets, no timers, nothing of Node but `TextEncoder`; no memory is
 * taken by a length that the other side claimed, and nothing is allocated in the transmission phase.
 *
 * | file | holds |
 * |---|---|
 * | `constants.ts` | every number of the wire |
 * | `greeting.ts` | the first bytes, client flags, the answer to EXPORT_NAME |
 * | `option.ts`, `option-reply.ts` | the haggling: options in, replies out |
 * | `request.ts`, `reply.ts` | the transmission phase: requests in, replies out |
 * | `nbd-error.ts` | Linux errno ↔ the eight values of the protocol |
 * | `client.ts`, `client-handshake.ts` | the other side: replies in, requests out, the handshake as a state machine |
 * | `uri.ts` | NBD URIs |
 *
 * A server's loop, in short:
 *
 * ```ts
 * const request = new Request();
 * const header = parseRequest(view, at, available, extended, request);
 * if (header === REQUEST_MALFORMED) disconnect();
 * else if (header !== REQUEST_INCOMPLETE) serve(request);   // its payload begins at `at + header`
 * ```
 */
export * from './client.ts';
export * from './client-handshake.ts';
export * from './constants.ts';
export * from './greeting.ts';
export * from './nbd-error.ts';
export * from './option.ts';
export * from './option-reply.ts';
export * from './reply.ts';
export * from './request.ts';
export * from './text.ts';
export * from './uri.ts';
