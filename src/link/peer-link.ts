/**
 * The `Link` to a peer over connections that come and go. One of the two nodes dials, again and again with growing
 * pauses; the other has an acceptor (`link-acceptor.ts`) hand it what comes.
 *
 * Invariants:
 * - At most one connection at a time. A newer one of the same node replaces it: that node no longer knows of the old one,
 *   which only a network in trouble keeps looking alive.
 * - A dialing link has exactly one of: a pause before the next try, a dial under way, a connection.
 * - A pause belongs to the link, not to the connection.
 */
import { assert } from '../base/assert.ts';
import type { CancelTimer } from '../base/io.ts';
import type { Logger } from '../base/logger.ts';
import type { ReconnectPolicy } from '../base/reconnect-policy.ts';
import type { Stream } from '../base/stream.ts';
import type { LinkIdentity } from './frame.ts';
import type { DisconnectReason, Link, LinkHandler, SendResult } from './link.ts';
import {
  type ConnectionEnd,
  type ConnectionOwner,
  type Greeter,
  StreamLink,
  type StreamLinkPorts,
} from './stream-link.ts';

export interface PeerLinkPorts extends StreamLinkPorts {
  readonly log: Logger;
}

export interface Dialing {
  /**
   * A connected stream, under TLS where that is wanted; rejects where there is none to be had, or not in time. One that
   * comes after the link was closed is closed.
   */
  readonly dial: () => Promise<Stream>;
  readonly policy: ReconnectPolicy;
}

export class PeerLink implements Link, ConnectionOwner, Greeter {
  readonly #ports: PeerLinkPorts;
  readonly #self: LinkIdentity;
  /** Identity of the node that the link is to. */
  readonly #peer: string;
  readonly #dialing: Dialing | undefined;
  #handler: LinkHandler | undefined;
  /** Of a dialing link also while it says hello. */
  #connection: StreamLink | undefined;
  #isOpen = false;
  #paused = false;
  #closed = false;
  #cancelPause: CancelTimer = () => {};
  /** Why the last try failed: what stays the same is said once. */
  #complaint = '';

  /** Without `dialing` an acceptor brings the connections. */
  constructor(ports: PeerLinkPorts, self: LinkIdentity, peer: string, dialing?: Dialing) {
    this.#ports = ports;
    this.#self = self;
    this.#peer = peer;
    this.#dialing = dialing;
  }

  /** Takes connections: started and not closed. */
  get isReady(): boolean {
    return this.#handler !== undefined && !this.#closed;
  }

  start(handler: LinkHandler): void {
    assert(this.#handler === undefined && !this.#closed, 'a link is started once');
    this.#handler = handler;
    if (this.#dialing !== undefined) this.#dialAfter(0, this.#dialing);
  }

  send(message: Uint8Array): SendResult {
    assert(!this.#closed, 'the link is not closed');
    if (!this.#isOpen) return 'disconnected';
    return this.#connection!.send(message);
  }

  pause(): void {
    assert(!this.#closed, 'the link is not closed');
    this.#paused = true;
    if (this.#isOpen) this.#connection!.pause();
  }

  resume(): void {
    assert(!this.#closed, 'the link is not closed');
    this.#paused = false;
    if (this.#isOpen) this.#connection!.resume();
  }

  close(): void {
    assert(!this.#closed, 'a link is closed once');
    this.#closed = true;
    this.#isOpen = false;
    this.#cancelPause();
    this.#connection?.close();
    this.#connection = undefined;
  }

  // --- dialing ---------------------------------------------------------------------------------------------------------

  #dialAfter(pauseMs: number, dialing: Dialing): void {
    this.#cancelPause = this.#ports.clock.after(pauseMs, () => {
      void dialing.dial().then(
        stream => this.#dialed(stream),
        (error: unknown) => this.#dialFailed(error, dialing),
      );
    });
  }

  #dialed(stream: Stream): void {
    if (this.#closed) stream.close();
    else this.#connection = new StreamLink(this.#ports, stream, 'dialed', this.#self, this);
  }

  #dialFailed(error: unknown, dialing: Dialing): void {
    if (this.#closed) return;
    this.#complain(error instanceof Error ? error.message : String(error));
    this.#dialAfter(dialing.policy.failed(), dialing);
  }

  greeted(_connection: StreamLink, node: string): ConnectionOwner | undefined {
    return node === this.#peer ? this : undefined;
  }

  greetingFailed(_connection: StreamLink, reason: ConnectionEnd): void {
    assert(this.#dialing !== undefined, 'a link whose connections are brought says no hello');
    this.#connection = undefined;
    this.#complain(reason);
    this.#dialAfter(this.#dialing.policy.failed(), this.#dialing);
  }

  #complain(why: string): void {
    if (why === this.#complaint) return;
    this.#complaint = why;
    this.#ports.log.warn({ node: this.#peer, why }, 'link: cannot connect');
  }

  // --- connections -----------------------------------------------------------------------------------------------------

  opened(connection: StreamLink): void {
    const handler = this.#handler;
    assert(handler !== undefined && !this.#closed, 'a link that is ready is given a connection');
    if (this.#isOpen) {
      this.#connection!.close();
      this.#disconnected('replaced');
    }
    // The handler may have closed the link.
    if (this.#closed) {
      connection.close();
      return;
    }
    this.#connection = connection;
    this.#isOpen = true;
    this.#complaint = '';
    if (this.#paused) connection.pause();
    this.#dialing?.policy.connected(this.#ports.clock.nowMs());
    this.#ports.log.info({ node: this.#peer, peer: connection.peer }, 'link: connected');
    handler.connected();
  }

  messageArrived(message: Uint8Array): void {
    this.#handler!.messageArrived(message);
  }

  roomAgain(): void {
    this.#handler!.roomAgain();
  }

  ended(reason: DisconnectReason): void {
    if (this.#dialing !== undefined) {
      this.#dialAfter(this.#dialing.policy.lost(this.#ports.clock.nowMs()), this.#dialing);
    }
    this.#disconnected(reason);
  }

  #disconnected(reason: DisconnectReason): void {
    this.#connection = undefined;
    this.#isOpen = false;
    this.#ports.log.warn({ node: this.#peer, reason }, 'link: disconnected');
    this.#handler!.disconnected(reason);
  }
}
