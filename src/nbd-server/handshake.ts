/**
 * The handshake as a pure state machine: a session hands it what has arrived and room for replies; it consumes one
 * message at a time and says what has to happen next. It never waits, never sends, and holds no buffer of its own.
 *
 * ```
 *  state      awaits                         next
 *  flags      4 bytes of client flags        option, or violation
 *  option     an option, whole               option; listing; done (GO, EXPORT_NAME); startTls; abort; violation
 *  listing    room for the next entry        listing, then option
 * ```
 * TLS: `none` never serves it; `forced` answers all but STARTTLS and ABORT with ERR_TLS_REQD until it runs; `selective`
 * does so only for INFO and GO of exports that need it. The mode stays the same for a connection's life, and all that
 * was agreed before TLS is forgotten with it.
 *
 * Each option but EXPORT_NAME gets exactly one final reply. The connection ends without an answer (`violation`) only
 * where the document allows it: flags that were not offered, a wrong magic, an EXPORT_NAME that cannot be served, and
 * what looks like an attack (a huge option, options without end).
 */
import {
  nbdMetaContextsMax,
  nbdOptionBytesMax,
  nbdOptionsPerHandshakeMax,
  nbdPayloadBytesMax,
} from '../base/limits.ts';
import * as nbd from '../nbd-server-protocol/index.ts';
import type { ExportedVolume, ExportTable } from './exported-volume.ts';
import type { MetaContextRegistry, SelectedContext } from './meta-context.ts';
import { transmissionFlagsOf } from './transmission-flags.ts';

export type TlsMode = 'none' | 'forced' | 'selective';

export interface HandshakePorts {
  readonly exports: ExportTable;
  readonly contexts: MetaContextRegistry;
  readonly tlsMode: TlsMode;
  /** Asked in selective mode only. */
  tlsOnly(volume: ExportedVolume): boolean;
}

/** Room for replies: `used` moves on as they are written. */
export interface HandshakeOutput {
  readonly view: DataView;
  readonly bytes: Uint8Array;
  used: number;
  readonly capacity: number;
}

/** What `step` returns beside the bytes it consumed. */
export type HandshakeOutcome =
  /** One message consumed (or one entry listed): call again. */
  | { readonly kind: 'continue' }
  | { readonly kind: 'needsBytes' }
  /** Send what is written first. */
  | { readonly kind: 'needsRoom' }
  | { readonly kind: 'startTls' }
  | { readonly kind: 'transmission'; readonly agreement: Agreement }
  | { readonly kind: 'abort' }
  | { readonly kind: 'violation'; readonly reason: string };

export interface Agreement {
  readonly volume: ExportedVolume;
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contexts: readonly SelectedContext[];
}

/** No message is answered with more than this, listings aside, which are written entry by entry. */
const ROOM_PER_STEP_BYTES = 64 * 1024;
const DESCRIPTION_BYTES_MAX = 256;

const CONTINUE: HandshakeOutcome = { kind: 'continue' };
const NEEDS_BYTES: HandshakeOutcome = { kind: 'needsBytes' };
const NEEDS_ROOM: HandshakeOutcome = { kind: 'needsRoom' };

type Option<Kind extends nbd.OptionMessage['kind']> = Extract<nbd.OptionMessage, { kind: Kind }>;

export class Handshake {
  readonly #ports: HandshakePorts;
  /** Bytes of input that the last step consumed. */
  consumed = 0;
  #state: 'flags' | 'option' | 'listing' = 'flags';
  #encrypted: boolean;
  #draining = false;
  #noZeroes = false;
  #fixedNewstyle = false;
  #structured = false;
  #extended = false;
  /** Valid only for the export that was named with them. */
  #contexts: { readonly exportName: string; readonly selected: readonly SelectedContext[] } | undefined;
  #listing: Iterator<ExportedVolume> | undefined;
  #optionCount = 0;
  /** Number of the option being answered. */
  #option = 0;
  #output!: HandshakeOutput;
  readonly #header: nbd.OptionHeader = { option: 0, dataBytes: 0 };

  constructor(ports: HandshakePorts, encrypted: boolean) {
    this.#ports = ports;
    this.#encrypted = encrypted;
  }

  greet(output: HandshakeOutput): void {
    output.used += nbd.encodeGreeting(output.view, output.used, nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES);
  }

  /** From now on options are answered with ERR_SHUTDOWN. */
  drain(): void {
    this.#draining = true;
  }

  /** TLS runs: what was agreed in clear does not count. */
  tlsStarted(): void {
    this.#encrypted = true;
    this.#structured = false;
    this.#extended = false;
    this.#contexts = undefined;
  }

  /** Consumes at most one message of the `available` bytes at `offset`. */
  step(
    view: DataView,
    bytes: Uint8Array,
    offset: number,
    available: number,
    output: HandshakeOutput,
  ): HandshakeOutcome {
    this.consumed = 0;
    this.#output = output;
    if (output.capacity - output.used < ROOM_PER_STEP_BYTES) return NEEDS_ROOM;
    if (this.#state === 'flags') return this.#takeFlags(view, offset, available);
    if (this.#state === 'listing') return this.#listNext();

    const header = nbd.parseOptionHeader(view, offset, available, this.#header);
    if (header === nbd.OPTION_MALFORMED) return violation('wrong magic in front of an option');
    if (header === nbd.OPTION_INCOMPLETE) return NEEDS_BYTES;
    const { option, dataBytes } = this.#header;
    if (dataBytes > nbdOptionBytesMax) return violation('option of absurd length');
    if (available < header + dataBytes) return NEEDS_BYTES;
    this.#optionCount += 1;
    if (this.#optionCount > nbdOptionsPerHandshakeMax) return violation('too many options');
    this.consumed = header + dataBytes;
    this.#option = option;
    return this.#gate(option, view, bytes, offset + header, dataBytes);
  }

  #takeFlags(view: DataView, offset: number, available: number): HandshakeOutcome {
    if (available < nbd.CLIENT_FLAGS_BYTES) return NEEDS_BYTES;
    this.consumed = nbd.CLIENT_FLAGS_BYTES;
    const flags = nbd.decodeClientFlags(view.getUint32(offset));
    if (flags === undefined) return violation('client flags that were not offered');
    // Without fixed newstyle there is no STARTTLS, so such a client can never be served here.
    if (!flags.fixedNewstyle && this.#ports.tlsMode === 'forced') return violation('a client without TLS');
    this.#fixedNewstyle = flags.fixedNewstyle;
    this.#noZeroes = flags.noZeroes;
    this.#state = 'option';
    return CONTINUE;
  }

  /** What is decided before an option's data is looked at: leaving, shutdown, forced TLS. */
  #gate(option: number, view: DataView, bytes: Uint8Array, offset: number, dataBytes: number): HandshakeOutcome {
    if (option === nbd.OPT_ABORT) {
      this.#acknowledge();
      return { kind: 'abort' };
    }
    if (this.#draining) {
      if (option === nbd.OPT_EXPORT_NAME) return violation('shutting down');
      return this.#refuse(nbd.REP_ERR_SHUTDOWN, 'the server is shutting down');
    }
    if (this.#ports.tlsMode === 'forced' && !this.#encrypted && option !== nbd.OPT_STARTTLS) {
      if (option === nbd.OPT_EXPORT_NAME) return violation('EXPORT_NAME before TLS');
      return this.#refuse(nbd.REP_ERR_TLS_REQD, 'STARTTLS comes first here');
    }
    return this.#dispatch(nbd.parseOptionData(option, view, bytes, offset, dataBytes, nbdMetaContextsMax));
  }

  #dispatch(message: nbd.OptionMessage): HandshakeOutcome {
    switch (message.kind) {
      case 'exportName':
        return this.#exportName(message);
      case 'list':
        this.#listing = this.#ports.exports.list()[Symbol.iterator]();
        this.#state = 'listing';
        return CONTINUE;
      case 'startTls':
        return this.#startTls();
      case 'info':
      case 'go':
        return this.#infoOrGo(message);
      case 'structuredReply':
        return this.#structuredReply();
      case 'extendedHeaders':
        return this.#extendedHeaders();
      case 'listMetaContext':
        return this.#listMetaContext(message);
      case 'setMetaContext':
        return this.#setMetaContext(message);
      case 'malformed':
      case 'tooBig':
        return this.#unreadable(message);
      default:
        return this.#refuse(nbd.REP_ERR_UNSUP, 'the option is not known');
    }
  }

  // --- the options, one by one ---------------------------------------------------------------------------------------

  #exportName(message: Option<'exportName'>): HandshakeOutcome {
    const volume = this.#find(message.name);
    if (volume === undefined) return violation('EXPORT_NAME of an unknown export');
    if (this.#needsTls(volume)) return violation('EXPORT_NAME of an export that needs TLS');
    if (this.#extended) return violation('EXPORT_NAME with extended headers');
    const { view, bytes, used } = this.#output;
    const flags = this.#flagsOf(volume);
    this.#output.used += nbd.encodeExportNameReply(view, bytes, used, volume.sizeBytes, flags, this.#noZeroes);
    return this.#enter(message.name, volume);
  }

  #startTls(): HandshakeOutcome {
    if (this.#encrypted) return this.#refuse(nbd.REP_ERR_INVALID, 'TLS runs already');
    if (this.#ports.tlsMode === 'none' || !this.#fixedNewstyle) {
      return this.#refuse(nbd.REP_ERR_POLICY, 'TLS is not offered here');
    }
    this.#acknowledge();
    return { kind: 'startTls' };
  }

  #infoOrGo(message: Option<'info' | 'go'>): HandshakeOutcome {
    const volume = this.#find(message.name);
    if (volume === undefined) return this.#refuse(nbd.REP_ERR_UNKNOWN, 'there is no such export');
    if (this.#needsTls(volume)) return this.#refuse(nbd.REP_ERR_TLS_REQD, 'the export needs TLS');
    const output = this.#output;
    const flags = this.#flagsOf(volume);
    output.used += nbd.encodeInfoExport(output.view, output.used, this.#option, volume.sizeBytes, flags);
    // Each kind of information once, however often it was asked for; kinds that are not known are passed over.
    for (const request of new Set(message.requests)) this.#inform(request, volume);
    this.#acknowledge();
    return message.kind === 'go' ? this.#enter(message.name, volume) : CONTINUE;
  }

  #inform(request: number, volume: ExportedVolume): void {
    const output = this.#output;
    const { view, bytes, used } = output;
    if (request === nbd.INFO_NAME) {
      output.used += nbd.encodeInfoText(view, bytes, used, this.#option, request, nbd.encodeText(volume.name));
    } else if (request === nbd.INFO_DESCRIPTION && volume.description !== '') {
      const text = nbd.encodeText(volume.description);
      output.used += nbd.encodeInfoText(view, bytes, used, this.#option, request, text);
    } else if (request === nbd.INFO_BLOCK_SIZE) {
      const { minimumBlockBytes, preferredBlockBytes } = volume;
      output.used += nbd.encodeInfoBlockSize(
        view,
        used,
        this.#option,
        minimumBlockBytes,
        Math.max(preferredBlockBytes, minimumBlockBytes, 512),
        nbdPayloadBytesMax,
      );
    }
  }

  #structuredReply(): HandshakeOutcome {
    if (this.#extended) {
      return this.#refuse(nbd.REP_ERR_EXT_HEADER_REQD, 'extended headers were agreed on');
    }
    if (this.#structured) return this.#refuse(nbd.REP_ERR_INVALID, 'structured replies were agreed on before');
    this.#structured = true;
    return this.#acknowledge();
  }

  #extendedHeaders(): HandshakeOutcome {
    if (this.#extended) return this.#refuse(nbd.REP_ERR_INVALID, 'extended headers were agreed on before');
    this.#extended = true;
    return this.#acknowledge();
  }

  #listMetaContext(message: Option<'listMetaContext' | 'setMetaContext'>): HandshakeOutcome {
    const volume = this.#visible(message.name);
    if (volume === undefined) return this.#refuse(nbd.REP_ERR_UNKNOWN, 'there is no such export');
    for (const name of this.#ports.contexts.list(volume, message.queries)) this.#replyContext(0, name);
    return this.#acknowledge();
  }

  #setMetaContext(message: Option<'listMetaContext' | 'setMetaContext'>): HandshakeOutcome {
    // Whatever comes of it, what was selected before is gone.
    this.#contexts = undefined;
    if (!this.#structured && !this.#extended) {
      return this.#refuse(nbd.REP_ERR_INVALID, 'structured replies come first');
    }
    const volume = this.#visible(message.name);
    if (volume === undefined) return this.#refuse(nbd.REP_ERR_UNKNOWN, 'there is no such export');
    const selected = this.#ports.contexts.select(volume, message.queries);
    this.#contexts = { exportName: message.name, selected };
    for (const context of selected) this.#replyContext(context.id, context.name);
    return this.#acknowledge();
  }

  #unreadable(message: Option<'malformed' | 'tooBig'>): HandshakeOutcome {
    if (this.#option === nbd.OPT_EXPORT_NAME) return violation(message.reason);
    if (this.#option === nbd.OPT_SET_META_CONTEXT) this.#contexts = undefined;
    const error = message.kind === 'tooBig' ? nbd.REP_ERR_TOO_BIG : nbd.REP_ERR_INVALID;
    return this.#refuse(error, message.reason);
  }

  /** One entry of LIST a step, so that a long list needs no more room than a short one. */
  #listNext(): HandshakeOutcome {
    const next = this.#listing!.next();
    if (next.done === true) {
      this.#listing = undefined;
      this.#state = 'option';
      return this.#acknowledge();
    }
    if (!this.#needsTls(next.value)) {
      const { view, bytes, used } = this.#output;
      const name = nbd.encodeText(next.value.name);
      const description = nbd.encodeText(next.value.description, DESCRIPTION_BYTES_MAX);
      this.#output.used += nbd.encodeServer(view, bytes, used, this.#option, name, description);
    }
    return CONTINUE;
  }

  // --- what they share -----------------------------------------------------------------------------------------------

  #find(name: string): ExportedVolume | undefined {
    return this.#ports.exports.find(name);
  }

  /** As `find`, but an export that needs TLS does not exist for the metadata options before it (S4). */
  #visible(name: string): ExportedVolume | undefined {
    const volume = this.#find(name);
    return volume === undefined || this.#needsTls(volume) ? undefined : volume;
  }

  #needsTls(volume: ExportedVolume): boolean {
    return this.#ports.tlsMode === 'selective' && !this.#encrypted && this.#ports.tlsOnly(volume);
  }

  #flagsOf(volume: ExportedVolume): number {
    return transmissionFlagsOf(volume, this.#structured || this.#extended);
  }

  #enter(exportName: string, volume: ExportedVolume): HandshakeOutcome {
    const contexts = this.#contexts?.exportName === exportName ? this.#contexts.selected : [];
    const agreement = { volume, structured: this.#structured, extended: this.#extended, contexts };
    return { kind: 'transmission', agreement };
  }

  #acknowledge(): HandshakeOutcome {
    this.#output.used += nbd.encodeAck(this.#output.view, this.#output.used, this.#option);
    return CONTINUE;
  }

  #refuse(error: number, reason: string): HandshakeOutcome {
    const { view, bytes, used } = this.#output;
    this.#output.used += nbd.encodeOptionError(view, bytes, used, this.#option, error, nbd.encodeText(reason));
    return CONTINUE;
  }

  #replyContext(id: number, name: string): void {
    const { view, bytes, used } = this.#output;
    this.#output.used += nbd.encodeMetaContext(view, bytes, used, this.#option, id, nbd.encodeText(name));
  }
}

function violation(reason: string): HandshakeOutcome {
  return { kind: 'violation', reason };
}
