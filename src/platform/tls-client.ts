/**
 * What a client under TLS needs on disk, in files named as libnbd and qemu name them: `ca-cert.pem`, which has signed the
 * server's certificate, with `client-cert.pem` and `client-key.pem` where the server asks for one; or a PSK file with
 * lines NAME:HEXKEY. Read once by each supervisor: new files take effect when it is started again.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import type { ConnectionOptions } from 'node:tls';
import { SledgeError } from '../base/errors.ts';
import type { NbdUri } from '../nbd-server-protocol/uri.ts';

export interface TlsClientMaterial {
  /** For `tls.connect`; without the socket and the server's name. */
  readonly options: ConnectionOptions;
}

const CLIENT_HINT = {
  hint: 'The directory needs ca-cert.pem, and client-cert.pem with client-key.pem where the server asks for one; a PSK file has lines NAME:HEXKEY.',
};

/** Throws `tls-files`. */
export function loadClientCertificates(directory: string): TlsClientMaterial {
  const ca = read(join(directory, 'ca-cert.pem'));
  const cert = readOptional(join(directory, 'client-cert.pem'));
  const key = readOptional(join(directory, 'client-key.pem'));
  const pair = cert !== undefined && key !== undefined ? { cert, key } : {};
  return { options: { ca, ...pair, minVersion: 'TLSv1.2' } };
}

/** The key of `user`, or the first one of the file. Throws `tls-files`. */
export function loadClientPsk(path: string, user: string | undefined): TlsClientMaterial {
  for (const line of read(path).toString('utf8').split(/\r?\n/)) {
    const match = /^([^#:][^:]*):((?:[0-9a-fA-F]{2})+)\s*$/.exec(line);
    if (match === null || (user !== undefined && match[1] !== user)) continue;
    const [, identity, hex] = match;
    const psk = Buffer.from(hex as string, 'hex');
    return {
      options: {
        // Node hands pre-shared keys to OpenSSL by the interface of TLS 1.2.
        minVersion: 'TLSv1.2',
        maxVersion: 'TLSv1.2',
        ciphers:
          'ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384',
        pskCallback: () => ({ identity: identity as string, psk }),
        // The key itself says who the server is.
        checkServerIdentity: () => undefined,
      },
    };
  }
  const whose = user === undefined ? '' : ` of ${user}`;
  throw new SledgeError('tls-files', `${path} holds no key${whose}`, CLIENT_HINT);
}

/** The name that the server's certificate has to bear. */
export function serverName(uri: NbdUri): string {
  if (uri.tlsHostname !== undefined) return uri.tlsHostname;
  return uri.endpoint.kind === 'tcp' ? uri.endpoint.host : 'localhost';
}

export function connectionOptions(uri: NbdUri, material: TlsClientMaterial | undefined): ConnectionOptions {
  const host = serverName(uri);
  const verify = uri.tlsVerifyPeer === false ? { rejectUnauthorized: false } : {};
  // An address is no name to ask for; the certificate is checked against `host` all the same.
  return { ...material?.options, ...verify, host, ...(isIP(host) === 0 ? { servername: host } : {}) };
}

function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new SledgeError('tls-files', `cannot read ${path}: ${text}`, { cause, ...CLIENT_HINT });
  }
}

function readOptional(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    return read(path);
  }
}
