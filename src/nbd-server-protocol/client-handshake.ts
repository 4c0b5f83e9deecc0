/**
 * The client's side of the handshake as a pure state machine: bytes from the server in, bytes for the server out. It
 * asks for what the caller wants, takes less where the server does not offer it, and says how it ended.
 *
 * ```
 *  greeting → [STARTTLS → (caller upgrades) →] [EXTENDED_HEADERS] → [STRUCTURED_REPLY] → [SET_META_CONTEXT] → GO
 * ```
 * Used as: send `output()` whenever it is not empty; hand what arrives to `input`; look at `state`. In `tls` the caller
 * upgrades the connection and calls `tlsStarted`. In `ready`, `rest()` is what came behind the handshake.
 */
import {
  CONTEXT_BASE_ALLOCATION,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  GREETING_BYTES,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  OPT_EXTENDED_HEADERS,
  OPT_GO,
  OPT_INFO,
  OPT_SET_META_CONTEXT,
  OPT_STARTTLS,
  OPT_STRUCTURED_REPLY,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  REP_ACK,
  REP_INFO,
  REP_META_CONTEXT,
} from './constants.ts';
import { encodeText } from './text.ts';

const TWO_TO_32 = 2 ** 32;
/** A server's reply to an option is never near this; a longer claim is a fault. */
const REPLY_DATA_BYTES_MAX = 64 * 1024;

export interface ClientWishes {
  readonly exportName: string;
  readonly tls: boolean;
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** Asks for `base:allocation`; needs structured replies or extended headers. */
  readonly blockStatus: boolean;
  /** Asks with INFO instead of GO: in `ready` the agreement holds, and the haggling may go on or be aborted. */
  readonly informationOnly?: boolean;
}

export type ClientState = 'negotiating' | 'tls' | 'ready' | 'failed';

/** What the server told, once `state` is `ready`. */
export interface ClientAgreement {
  sizeBytes: number;
  transmissionFlags: number;
  structuredReplies: boolean;
  extendedHeaders: boolean;
  /** Of `base:allocation`; undefined where it was not granted. */
  allocationContextId: number | undefined;
  minimumBlockBytes: number;
  preferredBlockBytes: number;
  maximumPayloadBytes: number;
}

/** One option as a client sends it: header and data in one array. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(OPTION_HEADER_BYTES + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, OPTION_MAGIC_HIGH);
  view.setUint32(4, OPTION_MAGIC_LOW);
  view.setUint32(8, option);
  view.setUint32(12, data.length);
  bytes.set(data, OPTION_HEADER_BYTES);
  return bytes;
}

/** Data of INFO and GO. */
export function encodeInfoRequest(exportName: string, requests: readonly number[]): Uint8Array {
  const name = encodeText(exportName);
  const bytes = new Uint8Array(4 + name.length + 2 + requests.length * 2);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, name.length);
  bytes.set(name, 4);
  view.setUint16(4 + name.length, requests.length);
  for (const [index, request] of requests.entries()) view.setUint16(4 + name.length + 2 + index * 2, request);
  return bytes;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function encodeMetaContextQueries(exportName: string, queries: readonly string[]): Uint8Array {
  const name = encodeText(exportName);
  const texts = queries.map(query => encodeText(query));
  const bytes = new Uint8Array(8 + name.length + texts.reduce((sum, text) => sum + 4 + text.length, 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, name.length);
  bytes.set(name, 4);
  let at = 4 + name.length;
  view.setUint32(at, queries.length);
  at += 4;
  for (const text of texts) {
    view.setUint32(at, text.length);
    bytes.set(text, at + 4);
    at += 4 + text.length;
  }
  return bytes;
}

type Step = 'greeting' | 'tls' | 'extended' | 'structured' | 'context' | 'go';

export class ClientHandshake {
  readonly #wishes: ClientWishes;
  readonly agreement: ClientAgreement = {
    sizeBytes: 0,
    transmissionFlags: 0,
    structuredReplies: false,
    extendedHeaders: false,
    allocationContextId: undefined,
    minimumBlockBytes: 1,
    preferredBlockBytes: 4096,
    maximumPayloadBytes: 32 * 1024 * 1024,
  };
  #state: ClientState = 'negotiating';
  #step: Step = 'greeting';
  #failure = '';
  #refusal = 0;
  #received = new Uint8Array(0);
  #output: Uint8Array[] = [];

  constructor(wishes: ClientWishes) {
    this.#wishes = wishes;
  }

  get state(): ClientState {
    return this.#state;
  }

  /** Why it failed; empty otherwise. */
  get failure(): string {
    return this.#failure;
  }

  /** The error that the server refused the export or TLS with, such as REP_ERR_UNKNOWN; 0 otherwise. */
  get refusal(): number {
    return this.#refusal;
  }

  /** Takes what has to be sent; empty when there is nothing. */
  output(): Uint8Array {
    const parts = this.#output;
    this.#output = [];
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  /** What arrived behind the handshake, in `ready`. */
  rest(): Uint8Array {
    return this.#received;
  }

  input(bytes: Uint8Array): void {
    const joined = new Uint8Array(this.#received.length + bytes.length);
    joined.set(this.#received);
    joined.set(bytes, this.#received.length);
    this.#received = joined;
    while (this.#state === 'negotiating' && this.#advance()) {
      // each round consumes one message
    }
  }

  /** The caller has upgraded the connection: the haggling starts anew under TLS. */
  tlsStarted(): void {
    this.#state = 'negotiating';
    this.#askNext('tls');
  }

  /** Consumes one whole message; false when it has not all arrived. */
  #advance(): boolean {
    const view = new DataView(this.#received.buffer, this.#received.byteOffset, this.#received.byteLength);
    if (this.#step === 'greeting') {
      if (view.byteLength < GREETING_BYTES) return false;
      this.#greeted(view);
      this.#received = this.#received.slice(GREETING_BYTES);
      return true;
    }
    if (view.byteLength < OPTION_REPLY_HEADER_BYTES) return false;
    if (view.getUint32(0) !== OPTION_REPLY_MAGIC_HIGH || view.getUint32(4) !== OPTION_REPLY_MAGIC_LOW) {
      return this.#fail('the reply to an option has a wrong magic');
    }
    const dataBytes = view.getUint32(16);
    if (dataBytes > REPLY_DATA_BYTES_MAX) return this.#fail('the reply to an option is too long');
    const end = OPTION_REPLY_HEADER_BYTES + dataBytes;
    if (view.byteLength < end) return false;
    const data = this.#received.subarray(OPTION_REPLY_HEADER_BYTES, end);
    this.#received = this.#received.slice(end);
    this.#replied(view.getUint32(12), data);
    return true;
  }

  #fail(reason: string): false {
    this.#state = 'failed';
    this.#failure = reason;
    return false;
  }

  #greeted(view: DataView): void {
    const magic =
      view.getUint32(0) === NBD_MAGIC_HIGH &&
      view.getUint32(4) === NBD_MAGIC_LOW &&
      view.getUint32(8) === OPTION_MAGIC_HIGH &&
      view.getUint32(12) === OPTION_MAGIC_LOW;
    const flags = view.getUint16(16);
    if (!magic || (flags & FLAG_FIXED_NEWSTYLE) === 0) {
      this.#fail('the server does not speak fixed newstyle NBD');
      return;
    }
    const answer = new Uint8Array(4);
    new DataView(answer.buffer).setUint32(0, FLAG_FIXED_NEWSTYLE | (flags & FLAG_NO_ZEROES));
    this.#output.push(answer);
    this.#askNext('greeting');
  }

  /** Sends the next option that is wished for, after the step that is done. */
  #askNext(done: Step): void {
    const { wishes, agreement } = { wishes: this.#wishes, agreement: this.agreement };
    const order: readonly Step[] = ['greeting', 'tls', 'extended', 'structured', 'context', 'go'];
    for (const step of order.slice(order.indexOf(done) + 1)) {
      if (step === 'tls' && !wishes.tls) continue;
      if (step === 'extended' && !wishes.extendedHeaders) continue;
      if (step === 'structured' && (!wishes.structuredReplies || agreement.extendedHeaders)) continue;
      if (step === 'context' && !(wishes.blockStatus && (agreement.structuredReplies || agreement.extendedHeaders))) {
        continue;
      }
      this.#step = step;
      this.#output.push(this.#optionOf(step));
      return;
    }
  }

  #optionOf(step: Step): Uint8Array {
    const name = this.#wishes.exportName;
    switch (step) {
      case 'tls':
        return encodeOption(OPT_STARTTLS);
      case 'extended':
        return encodeOption(OPT_EXTENDED_HEADERS);
      case 'structured':
        return encodeOption(OPT_STRUCTURED_REPLY);
      case 'context':
        return encodeOption(OPT_SET_META_CONTEXT, encodeMetaContextQueries(name, [CONTEXT_BASE_ALLOCATION]));
      default:
        return encodeOption(
          this.#wishes.informationOnly === true ? OPT_INFO : OPT_GO,
          encodeInfoRequest(name, [INFO_BLOCK_SIZE]),
        );
    }
  }

  #replied(type: number, data: Uint8Array): void {
    const refused = type >= 0x80000000;
    if (!refused && type !== REP_ACK) {
      this.#informed(type, data);
      return;
    }
    const text = refused ? new TextDecoder().decode(data) : '';
    if (refused && (this.#step === 'tls' || this.#step === 'go')) this.#refusal = type;
    switch (this.#step) {
      case 'tls':
        if (refused) this.#fail(`the server refused TLS: ${text}`);
        else this.#state = 'tls';
        return;
      case 'extended':
        this.agreement.extendedHeaders = !refused;
        break;
      case 'structured':
        this.agreement.structuredReplies = !refused;
        break;
      case 'go':
        if (refused) this.#fail(`the server refused the export: ${text === '' ? type.toString(16) : text}`);
        else this.#state = 'ready';
        return;
      default:
    }
    this.#askNext(this.#step);
  }

  #informed(type: number, data: Uint8Array): void {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    if (type === REP_META_CONTEXT && data.length >= 4) {
      this.agreement.allocationContextId = view.getUint32(0);
      return;
    }
    if (type !== REP_INFO || data.length < 2) return;
    const info = view.getUint16(0);
    if (info === INFO_EXPORT && data.length === 12) {
      this.agreement.sizeBytes = view.getUint32(2) * TWO_TO_32 + view.getUint32(6);
      this.agreement.transmissionFlags = view.getUint16(10);
    } else if (info === INFO_BLOCK_SIZE && data.length === 14) {
      this.agreement.minimumBlockBytes = view.getUint32(2);
      this.agreement.preferredBlockBytes = view.getUint32(6);
      this.agreement.maximumPayloadBytes = view.getUint32(10);
    }
  }
}
