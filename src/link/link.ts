/**
 * Messages to one other node: the port that cores are written against. `PeerLink` is the real one; the simulated one loses,
 * repeats and reorders all that this page allows (`test/support/sim-link.ts`).
 *
 * What a core may rely on (`test/contract` holds every implementation to it):
 * 1. A message arrives whole and unchanged, or not at all, and was sent to this node by the one that the link is to.
 * 2. On each side calls alternate: `connected`, `disconnected`, `connected` … Messages arrive, and are accepted, only
 *    between the first and the second of them.
 * 3. What is accepted on one connection arrives in the order of sending, each message once, with none left out before one
 *    that arrived: until the connection ends on either side. So nobody needs a timer to send something again.
 * 4. The queue is bounded. After `full` comes one `roomAgain`, unless `disconnected` comes first; after `roomAgain`, and
 *    after `connected`, a message of any length is accepted.
 * 5. While the receiver is paused nothing arrives; the sender's queue fills up and stays so.
 * 6. No call of the handler comes from inside of a call on the link, and none after `close`.
 *
 * What it may not rely on:
 * - That an accepted message arrives, be it the first of many: the connection may end. `disconnected` does not say
 *   which have arrived, and comes on the two sides at different times, seconds apart when the network is to blame; the
 *   other side may have come and gone without this one having heard of it, and the other way round.
 * - That a new connection begins with an empty road: messages of *earlier* connections may still arrive during any later
 *   one, late, twice, and in any order among its own. A message has to say itself what it belongs to.
 * - That a dead node is noticed while this side is paused, or that a node that lives and is paused ever takes more: how
 *   long that is borne is the core's to decide.
 */

/** Why a connection is over. */
export type DisconnectReason =
  /** The other side closed it, or its process ended. */
  | 'ended'
  /** The network reported an error. */
  | 'failed'
  /** Nothing came for too long. */
  | 'silent'
  /** What came is damaged, or not of this protocol. */
  | 'invalid'
  /** The other node has made a newer connection: it no longer knew of this one. */
  | 'replaced';

export interface LinkHandler {
  connected(): void;
  /** `message` is the link's memory and valid only during the call. */
  messageArrived(message: Uint8Array): void;
  /** The queue, which was full, takes a message of any length. */
  roomAgain(): void;
  disconnected(reason: DisconnectReason): void;
}

export type SendResult = 'accepted' | 'full' | 'disconnected';

export interface Link {
  /** Called once, before anything else; the link connects from now on, and connects again whenever it has to. */
  start(handler: LinkHandler): void;
  /** Copies the message, of 1 to `linkMessageBytesMax` bytes, into the queue; or does not, and the result says why. */
  send(message: Uint8Array): SendResult;
  /** No message arrives until `resume`, whatever becomes of the connection; not even one that is here already. */
  pause(): void;
  resume(): void;
  /** For good: no further call on the link is allowed. What was accepted may still arrive, or not. */
  close(): void;
}
