/**
 * One end of a link in a test's hands: what the handler heard, and a look at the rules of `Link` that hold at every call:
 * calls alternate, and none comes from inside of a call on the link or after its end.
 */
import type { DisconnectReason, Link, LinkHandler, SendResult } from '../../src/link/link.ts';

export class LinkSide implements LinkHandler {
  readonly link: Link;
  readonly messages: Uint8Array[] = [];
  readonly reasons: DisconnectReason[] = [];
  /** Rules that were broken. */
  readonly violations: string[] = [];
  connects = 0;
  rooms = 0;
  isConnected = false;
  /** What the test does when it hears something. */
  onConnected: () => void = () => {};
  onMessage: (message: Uint8Array) => void = () => {};
  onRoom: () => void = () => {};
  onDisconnected: () => void = () => {};
  #inCall = false;
  #closed = false;
  #paused = false;
  #fullSeen = false;

  constructor(link: Link) {
    this.link = link;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  // --- calls on the link -----------------------------------------------------------------------------------------------

  start(): void {
    this.#call(() => this.link.start(this));
  }

  send(message: Uint8Array): SendResult {
    const result = this.#call(() => this.link.send(message));
    if ((result === 'disconnected') === this.isConnected) this.#broke(`send says ${result}`);
    if (result === 'full') this.#fullSeen = true;
    return result;
  }

  pause(): void {
    this.#paused = true;
    this.#call(() => this.link.pause());
  }

  resume(): void {
    this.#paused = false;
    this.#call(() => this.link.resume());
  }

  close(): void {
    this.#closed = true;
    this.#call(() => this.link.close());
  }

  // --- what is heard ---------------------------------------------------------------------------------------------------

  connected(): void {
    this.#heard('connected', !this.isConnected);
    this.isConnected = true;
    this.connects++;
    this.#fullSeen = false;
    this.onConnected();
  }

  messageArrived(message: Uint8Array): void {
    this.#heard('a message', this.isConnected && !this.#paused);
    this.messages.push(message.slice());
    this.onMessage(message);
  }

  roomAgain(): void {
    this.#heard('roomAgain', this.isConnected && this.#fullSeen);
    this.#fullSeen = false;
    this.rooms++;
    this.onRoom();
  }

  disconnected(reason: DisconnectReason): void {
    this.#heard('disconnected', this.isConnected);
    this.isConnected = false;
    this.reasons.push(reason);
    this.onDisconnected();
  }

  #call<T>(call: () => T): T {
    const outer = this.#inCall;
    this.#inCall = true;
    try {
      return call();
    } finally {
      this.#inCall = outer;
    }
  }

  #heard(what: string, isInPlace: boolean): void {
    if (this.#closed) this.#broke(`${what} after close`);
    else if (this.#inCall) this.#broke(`${what} from inside of a call`);
    else if (!isInPlace) this.#broke(`${what} out of place`);
  }

  #broke(rule: string): void {
    this.violations.push(rule);
  }
}
