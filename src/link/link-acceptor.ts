/**
 * The side that is dialed: takes connected streams, hears who is there, and gives the connection to the link to that node.
 * A hello tells nodes apart and proves nothing: where strangers reach the address, the streams have to come from TLS.
 *
 * Invariants:
 * - At most `linkGreetingsMax` connections whose hello has not come; a stream beyond that is closed at once.
 * - A connection is held here or by a link, never by both.
 */
import { assert } from '../base/assert.ts';
import { linkGreetingsMax } from '../base/limits.ts';
import type { Stream } from '../base/stream.ts';
import type { LinkIdentity } from './frame.ts';
import { PeerLink, type PeerLinkPorts } from './peer-link.ts';
import { type ConnectionEnd, type ConnectionOwner, type Greeter, StreamLink } from './stream-link.ts';

export class LinkAcceptor implements Greeter {
  readonly #ports: PeerLinkPorts;
  readonly #self: LinkIdentity;
  readonly #links = new Map<string, PeerLink>();
  readonly #greeting = new Set<StreamLink>();
  #closed = false;

  constructor(ports: PeerLinkPorts, self: LinkIdentity) {
    this.#ports = ports;
    this.#self = self;
  }

  /** The link to `node`, to be started; until then that node is refused. There is none to it yet, or it is closed. */
  linkTo(node: string): PeerLink {
    assert(this.#links.get(node)?.isReady !== true, 'there is one link to a node');
    const link = new PeerLink(this.#ports, this.#self, node);
    this.#links.set(node, link);
    return link;
  }

  accept(stream: Stream): void {
    if (this.#closed || this.#greeting.size >= linkGreetingsMax) stream.close();
    else this.#greeting.add(new StreamLink(this.#ports, stream, 'accepted', this.#self, this));
  }

  /** Takes no further stream. The links stay. */
  close(): void {
    this.#closed = true;
    for (const connection of this.#greeting) connection.close();
    this.#greeting.clear();
  }

  greeted(connection: StreamLink, node: string): ConnectionOwner | undefined {
    const link = this.#links.get(node);
    if (link?.isReady !== true) return undefined;
    this.#greeting.delete(connection);
    return link;
  }

  greetingFailed(connection: StreamLink, reason: ConnectionEnd): void {
    this.#greeting.delete(connection);
    this.#ports.log.warn({ peer: connection.peer, reason }, 'link: a connection was refused');
  }
}
