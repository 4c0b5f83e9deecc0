/**
 * NBD URIs (`doc/uri.md` of NetworkBlockDevice/nbd): printed by a server for its clients, read by clients.
 *
 * ```
 *  nbd://HOST[:PORT]/NAME          nbd+unix:///NAME?socket=PATH
 *  nbds://[USER@]HOST[:PORT]/NAME  nbds+unix:///NAME?socket=PATH      (the s: TLS, and nothing without it)
 * ```
 * The path without its first `/` is the export name. Query parameters: `socket`, `tls-type`, `tls-hostname`,
 * `tls-verify-peer`; others are reported, as the document asks, and those that begin with `x-` are passed over.
 */
import { DEFAULT_PORT } from './constants.ts';

export type NbdEndpoint =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface NbdUri {
  readonly endpoint: NbdEndpoint;
  readonly tls: boolean;
  readonly exportName: string;
  /** For pre-shared keys. */
  readonly user?: string;
  readonly tlsType?: 'anon' | 'x509' | 'psk';
  readonly tlsHostname?: string;
  readonly tlsVerifyPeer?: boolean;
}

export type NbdUriResult =
  | { readonly ok: true; readonly uri: NbdUri }
  | { readonly ok: false; readonly reason: string };

/** Percent-encodes what RFC 3986 does not allow in a path; `/` stays, since names may well hold it. */
function encodePath(text: string): string {
  return encodeURIComponent(text).replaceAll('%2F', '/').replaceAll('%3A', ':').replaceAll('%40', '@');
}

/** `/` in a query needs no escape, and addresses stay readable without. */
function encodeQuery(text: string): string {
  return encodeURIComponent(text).replaceAll('%2F', '/').replaceAll('%3A', ':');
}

export function formatNbdUri(uri: NbdUri): string {
  const scheme = uri.tls ? 'nbds' : 'nbd';
  const user = uri.user === undefined ? '' : `${encodeURIComponent(uri.user)}@`;
  const parameters: string[] = [];
  let start: string;
  if (uri.endpoint.kind === 'unix') {
    start = `${scheme}+unix://${user}`;
    parameters.push(`socket=${encodeQuery(uri.endpoint.path)}`);
  } else {
    const host = uri.endpoint.host.includes(':') ? `[${uri.endpoint.host}]` : encodeURIComponent(uri.endpoint.host);
    const port = uri.endpoint.port === DEFAULT_PORT ? '' : `:${uri.endpoint.port}`;
    start = `${scheme}://${user}${host}${port}`;
  }
  if (uri.tlsType !== undefined) parameters.push(`tls-type=${uri.tlsType}`);
  if (uri.tlsHostname !== undefined) parameters.push(`tls-hostname=${encodeQuery(uri.tlsHostname)}`);
  if (uri.tlsVerifyPeer !== undefined) parameters.push(`tls-verify-peer=${uri.tlsVerifyPeer ? 1 : 0}`);
  const query = parameters.length === 0 ? '' : `?${parameters.join('&')}`;
  return `${start}/${encodePath(uri.exportName)}${query}`;
}

const SCHEMES = new Map([
  ['nbd', { unix: false, tls: false }],
  ['nbds', { unix: false, tls: true }],
  ['nbd+unix', { unix: true, tls: false }],
  ['nbds+unix', { unix: true, tls: true }],
]);

/** Scheme, authority, path, query, as RFC 3986 appendix B splits them; a fragment has no meaning here. */
const SHAPE = /^([A-Za-z][A-Za-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?$/;
const AUTHORITY = /^(?:([^@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^:@[\]]*)(?::(\d*))?$/;

export function parseNbdUri(text: string): NbdUriResult {
  const shape = SHAPE.exec(text);
  if (shape === null) return refused('not a URI');
  const scheme = SCHEMES.get(shape[1].toLowerCase());
  if (scheme === undefined) return refused(`scheme ${shape[1]} is not nbd, nbds, nbd+unix or nbds+unix`);
  const authority = AUTHORITY.exec(shape[2] ?? '');
  if (authority === null) return refused('the host is not one');

  const path = decode(shape[3].startsWith('/') ? shape[3].slice(1) : shape[3]);
  const user = authority[1] === undefined ? undefined : decode(authority[1]);
  const host = decode(authority[2] ?? '');
  const query = parseQuery(shape[4] ?? '');
  if (typeof query === 'string') return refused(query);
  if (path === undefined || host === undefined) return refused('a percent escape is broken');
  if (authority[1] !== undefined && user === undefined) return refused('a percent escape is broken');
  if (path.includes('\0')) return refused('an export name holds no NUL');

  const endpoint = scheme.unix ? unixEndpoint(query.socket, shape[2]) : tcpEndpoint(host, authority[3], query.socket);
  if (typeof endpoint === 'string') return refused(endpoint);
  const { socket: _socket, ...tlsParameters } = query;
  return {
    ok: true,
    uri: { endpoint, tls: scheme.tls, exportName: path, ...(user === undefined ? {} : { user }), ...tlsParameters },
  };
}

function refused(reason: string): NbdUriResult {
  return { ok: false, reason };
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

function unixEndpoint(socket: string | undefined, authority: string | undefined): NbdEndpoint | string {
  if (socket === undefined || socket === '') return 'a socket parameter is needed with +unix';
  if (authority !== undefined && authority !== '' && !authority.endsWith('@')) return 'a Unix socket has no host';
  return { kind: 'unix', path: socket };
}

function tcpEndpoint(host: string, portText: string | undefined, socket: string | undefined): NbdEndpoint | string {
  if (socket !== undefined) return 'a socket parameter goes with +unix only';
  if (host === '') return 'a host is needed';
  const port = portText === undefined || portText === '' ? DEFAULT_PORT : Number(portText);
  if (port < 1 || port > 65535) return 'the port is not one';
  return { kind: 'tcp', host: host.startsWith('[') ? host.slice(1, -1) : host, port };
}

interface QueryParameters {
  socket?: string;
  tlsType?: 'anon' | 'x509' | 'psk';
  tlsHostname?: string;
  tlsVerifyPeer?: boolean;
}

function parseQuery(query: string): QueryParameters | string {
  const out: QueryParameters = {};
  for (const part of query.split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const key = decode(equals < 0 ? part : part.slice(0, equals));
    const value = decode(equals < 0 ? '' : part.slice(equals + 1));
    if (key === undefined || value === undefined) return 'a percent escape is broken';
    switch (key) {
      case 'socket':
        out.socket = value;
        break;
      case 'tls-type':
        if (value !== 'anon' && value !== 'x509' && value !== 'psk') return `tls-type ${value} is not known`;
        out.tlsType = value;
        break;
      case 'tls-hostname':
        out.tlsHostname = value;
        break;
      case 'tls-verify-peer':
        if (value !== '0' && value !== '1') return 'tls-verify-peer is 0 or 1';
        out.tlsVerifyPeer = value === '1';
        break;
      default:
        if (!key.startsWith('x-')) return `parameter ${key} is not known`;
    }
  }
  return out;
}
