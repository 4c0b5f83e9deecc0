/**
 * What TLS needs on disk, read and checked once at start: certificates or pre-shared keys, in files named as nbdkit,
 * qemu and libnbd name them, so that one directory serves them all. With `tls-stream.ts` the only user of node:tls.
 *
 * | file | holds |
 * |---|---|
 * | `ca-cert.pem` | whoever signs the clients' certificates |
 * | `server-cert.pem`, `server-key.pem` | what the server shows |
 * | `ca-crl.pem` | optional: client certificates that were withdrawn |
 * | a PSK file | lines `NAME:HEXKEY`; `#` begins a comment |
 *
 * With certificates every client must show one that `ca-cert.pem` signed. TLS 1.2 is the oldest spoken.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext, type TlsOptions } from 'node:tls';
import { SledgeError } from '../base/errors.ts';

export type TlsFiles = { readonly certificates: string } | { readonly psk: string };

export interface TlsMaterial {
  readonly kind: 'certificates' | 'psk';
  /** For `tls.createServer`. */
  readonly options: TlsOptions;
  /** For the log: files that others than their owner can read. */
  readonly warnings: readonly string[];
}

/**
 * Suites with forward secrecy first. TLS 1.2 throughout: Node hands pre-shared keys to OpenSSL by the interface of 1.2.
 */
const PSK_CIPHERS = [
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES128-GCM-SHA256',
  'ECDHE-PSK-AES256-CBC-SHA384',
  'ECDHE-PSK-AES128-CBC-SHA256',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
].join(':');
/** What OpenSSL and GnuTLS take. */
const PSK_BYTES_MAX = 256;

/** Rejects (`tls-files`) naming the file that is missing, unreadable or does not fit the others. */
export function loadTlsMaterial(files: TlsFiles): TlsMaterial {
  return 'psk' in files ? loadKeys(files.psk) : loadCertificates(files.certificates);
}

function loadCertificates(directory: string): TlsMaterial {
  const warnings: string[] = [];
  const ca = read(join(directory, 'ca-cert.pem'));
  const cert = read(join(directory, 'server-cert.pem'));
  const keyPath = join(directory, 'server-key.pem');
  const key = read(keyPath);
  warnIfOpen(keyPath, warnings);
  const crl = read(join(directory, 'ca-crl.pem'), 'optional');
  const context = { ca, cert, key, ...(crl === undefined ? {} : { crl }), minVersion: 'TLSv1.2' as const };
  try {
    createSecureContext(context);
  } catch (cause) {
    const files = 'ca-cert.pem, server-cert.pem and server-key.pem';
    throw new SledgeError('tls-files', `${files} in ${directory} do not fit: ${textOf(cause)}`, { cause });
  }
  return { kind: 'certificates', options: { ...context, requestCert: true, rejectUnauthorized: true }, warnings };
}

function loadKeys(path: string): TlsMaterial {
  const warnings: string[] = [];
  const keys = parseKeys(read(path), path);
  warnIfOpen(path, warnings);
  return {
    kind: 'psk',
    warnings,
    options: {
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.2',
      ciphers: PSK_CIPHERS,
      dhparam: 'auto',
      pskCallback: (_socket, identity) => {
        const key = keys.get(identity);
        // OpenSSL's way to refuse: an unknown name fails the handshake.
        return key === undefined ? null : (key as NodeJS.ArrayBufferView);
      },
    },
  };
}

function parseKeys(content: Buffer, path: string): Map<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of content.toString('utf8').split(/\r?\n/).entries()) {
    if (line === '' || line.startsWith('#')) continue;
    const colon = line.lastIndexOf(':');
    const hex = line.slice(colon + 1).trim();
    const usable = /^(?:[0-9a-fA-F]{2})+$/.test(hex) && hex.length <= PSK_BYTES_MAX * 2;
    if (colon < 1 || !usable) {
      // The line itself is a secret.
      throw new SledgeError('tls-files', `${path}, line ${index + 1}: not NAME:HEXKEY`);
    }
    keys.set(line.slice(0, colon), Buffer.from(hex, 'hex'));
  }
  if (keys.size === 0) throw new SledgeError('tls-files', `${path} holds no key`);
  return keys;
}

function read(path: string): Buffer;
function read(path: string, need: 'optional'): Buffer | undefined;
function read(path: string, need?: 'optional'): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (cause) {
    if (need === 'optional' && (cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new SledgeError('tls-files', `cannot read ${path}: ${textOf(cause)}`, { cause });
  }
}

function warnIfOpen(path: string, warnings: string[]): void {
  if ((statSync(path).mode & 0o077) !== 0) warnings.push(`${path} can be read by others than its owner`);
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
