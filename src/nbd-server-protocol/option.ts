/**
 * Options of the handshake, as a server reads them: bytes in, one value of a union out. A length inside of a message is
 * always checked against the message's own length, and nothing is allocated by a claimed length.
 *
 * ```
 *  header, 16 bytes: 8 IHAVEOPT, 4 option, 4 length of the data
 *
 *  data of EXPORT_NAME             the name
 *          INFO, GO                4 name length, name, 2 count, count × 2 information type
 *          LIST_, SET_META_CONTEXT 4 name length, name, 4 count, count × (4 length, query)
 *          ABORT                   ignored
 *          all others              none
 * ```
 */
import {
  OPT_ABORT,
  OPT_EXPORT_NAME,
  OPT_EXTENDED_HEADERS,
  OPT_GO,
  OPT_INFO,
  OPT_LIST,
  OPT_LIST_META_CONTEXT,
  OPT_SET_META_CONTEXT,
  OPT_STARTTLS,
  OPT_STRUCTURED_REPLY,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
} from './constants.ts';
import { decodeText, type TextFault } from './text.ts';

export interface OptionHeader {
  option: number;
  /** Of the data behind the header, as claimed. */
  dataBytes: number;
}

export const OPTION_INCOMPLETE = 0;
export const OPTION_MALFORMED = -1;

/** Parses the header at `offset`: its length, `OPTION_INCOMPLETE`, or `OPTION_MALFORMED` for a wrong magic. */
export function parseOptionHeader(view: DataView, offset: number, available: number, out: OptionHeader): number {
  if (available >= 4 && view.getUint32(offset) !== OPTION_MAGIC_HIGH) return OPTION_MALFORMED;
  if (available >= 8 && view.getUint32(offset + 4) !== OPTION_MAGIC_LOW) return OPTION_MALFORMED;
  if (available < OPTION_HEADER_BYTES) return OPTION_INCOMPLETE;
  out.option = view.getUint32(offset + 8);
  out.dataBytes = view.getUint32(offset + 12);
  return OPTION_HEADER_BYTES;
}

export type OptionMessage =
  | { readonly kind: 'exportName'; readonly name: string }
  | { readonly kind: 'abort' }
  | { readonly kind: 'list' }
  | { readonly kind: 'startTls' }
  | { readonly kind: 'info' | 'go'; readonly name: string; readonly requests: readonly number[] }
  | { readonly kind: 'structuredReply' }
  | { readonly kind: 'extendedHeaders' }
  | { readonly kind: 'listMetaContext' | 'setMetaContext'; readonly name: string; readonly queries: readonly string[] }
  | { readonly kind: 'unknown' }
  /** The data breaks the option's format. */
  | { readonly kind: 'malformed'; readonly reason: string }
  /** Well-formed so far, but a string or a count is beyond what is taken. */
  | { readonly kind: 'tooBig'; readonly reason: string };

/** Reads one option's data; `queriesMax` bounds the queries of the metadata context options. */
export function parseOptionData(
  option: number,
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  dataBytes: number,
  queriesMax: number,
): OptionMessage {
  const reader = new Reader(view, bytes, offset, offset + dataBytes);
  switch (option) {
    case OPT_EXPORT_NAME: {
      const name = reader.text(dataBytes, 'export name');
      return typeof name === 'string' ? { kind: 'exportName', name } : name;
    }
    case OPT_ABORT:
      return { kind: 'abort' };
    case OPT_LIST:
      return dataBytes === 0 ? { kind: 'list' } : unexpectedData;
    case OPT_STARTTLS:
      return dataBytes === 0 ? { kind: 'startTls' } : unexpectedData;
    case OPT_STRUCTURED_REPLY:
      return dataBytes === 0 ? { kind: 'structuredReply' } : unexpectedData;
    case OPT_EXTENDED_HEADERS:
      return dataBytes === 0 ? { kind: 'extendedHeaders' } : unexpectedData;
    case OPT_INFO:
      return parseInfo('info', reader);
    case OPT_GO:
      return parseInfo('go', reader);
    case OPT_LIST_META_CONTEXT:
      return parseMetaContext('listMetaContext', reader, queriesMax);
    case OPT_SET_META_CONTEXT:
      return parseMetaContext('setMetaContext', reader, queriesMax);
    default:
      return { kind: 'unknown' };
  }
}

type Fault = Extract<OptionMessage, { kind: 'malformed' | 'tooBig' }>;

const unexpectedData: Fault = { kind: 'malformed', reason: 'this option takes no data' };

function textFault(what: string, fault: TextFault): Fault {
  const reason = `${what}: ${fault}`;
  return fault === 'too long' ? { kind: 'tooBig', reason } : { kind: 'malformed', reason };
}

function parseInfo(kind: 'info' | 'go', reader: Reader): OptionMessage {
  const name = reader.sizedText('export name');
  if (typeof name !== 'string') return name;
  if (reader.remaining < 2) return { kind: 'malformed', reason: 'no count of information requests' };
  const count = reader.uint16();
  if (reader.remaining !== count * 2) {
    return { kind: 'malformed', reason: 'the count of information requests does not match the length' };
  }
  const requests: number[] = [];
  for (let index = 0; index < count; index += 1) requests.push(reader.uint16());
  return { kind, name, requests };
}

function parseMetaContext(
  kind: 'listMetaContext' | 'setMetaContext',
  reader: Reader,
  queriesMax: number,
): OptionMessage {
  const name = reader.sizedText('export name');
  if (typeof name !== 'string') return name;
  if (reader.remaining < 4) return { kind: 'malformed', reason: 'no count of queries' };
  const count = reader.uint32();
  // Each query takes at least its length field: a count beyond that is a lie, found before anything is kept.
  if (count * 4 > reader.remaining) return { kind: 'malformed', reason: 'more queries than the option has room for' };
  const queries: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const query = reader.sizedText('query');
    if (typeof query !== 'string') return query;
    if (index < queriesMax) queries.push(query);
  }
  if (reader.remaining !== 0) return { kind: 'malformed', reason: 'data behind the last query' };
  if (count > queriesMax) return { kind: 'tooBig', reason: `more than ${queriesMax} queries` };
  return { kind, name, queries };
}

/** A cursor that stays inside of one option's data. */
class Reader {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #end: number;
  #position: number;

  constructor(view: DataView, bytes: Uint8Array, start: number, end: number) {
    this.#view = view;
    this.#bytes = bytes;
    this.#position = start;
    this.#end = end;
  }

  get remaining(): number {
    return this.#end - this.#position;
  }

  /** The caller has checked `remaining`, here and below. */
  uint16(): number {
    const value = this.#view.getUint16(this.#position);
    this.#position += 2;
    return value;
  }

  uint32(): number {
    const value = this.#view.getUint32(this.#position);
    this.#position += 4;
    return value;
  }

  text(length: number, what: string): string | Fault {
    const result = decodeText(this.#bytes, this.#position, length);
    this.#position += length;
    return result.ok ? result.text : textFault(what, result.fault);
  }

  sizedText(what: string): string | Fault {
    if (this.remaining < 4) return { kind: 'malformed', reason: `${what}: no length` };
    const length = this.uint32();
    if (length > this.remaining) return { kind: 'malformed', reason: `${what}: longer than the option` };
    return this.text(length, what);
  }
}
