/**
 * Keys and certificates for TLS tests, made anew for each run by GnuTLS's own tools. Called by test/interop and
 * test/kernel. The names are those that libnbd, nbdkit and qemu expect in a directory of certificates, so that one
 * directory serves as the server's and as the client's.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runOk } from './nbd-programs.ts';

export interface CertificateFiles {
  /** Holds ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem and client-key.pem. */
  readonly directory: string;
  readonly ca: string;
  readonly clientCertificate: string;
  readonly clientKey: string;
}

/** Makes an authority, a server certificate for localhost and 127.0.0.1, and a client certificate. */
export async function makeCertificates(directory: string): Promise<CertificateFiles> {
  mkdirSync(directory, { recursive: true });
  const path = (name: string): string => join(directory, name);
  await makeKey(path('ca-key.pem'));
  writeFileSync(path('ca.template'), 'cn = Test authority\nca\ncert_signing_key\nexpiration_days = 2\n');
  await runOk('certtool', [
    '--generate-self-signed',
    '--load-privkey',
    path('ca-key.pem'),
    '--template',
    path('ca.template'),
    '--outfile',
    path('ca-cert.pem'),
  ]);
  const names = 'dns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\n';
  await makeCertificate(directory, 'server', `cn = localhost\n${names}`);
  await makeCertificate(directory, 'client', 'cn = Test client\ntls_www_client\n');
  return {
    directory,
    ca: path('ca-cert.pem'),
    clientCertificate: path('client-cert.pem'),
    clientKey: path('client-key.pem'),
  };
}

async function makeCertificate(directory: string, name: string, template: string): Promise<void> {
  const path = (suffix: string): string => join(directory, `${name}${suffix}`);
  await makeKey(path('-key.pem'));
  writeFileSync(path('.template'), `${template}encryption_key\nsigning_key\nexpiration_days = 2\n`);
  await runOk('certtool', [
    '--generate-certificate',
    '--load-privkey',
    path('-key.pem'),
    '--load-ca-certificate',
    join(directory, 'ca-cert.pem'),
    '--load-ca-privkey',
    join(directory, 'ca-key.pem'),
    '--template',
    path('.template'),
    '--outfile',
    path('-cert.pem'),
  ]);
}

/** Elliptic, since an RSA key takes seconds to find. */
async function makeKey(file: string): Promise<void> {
  await runOk('certtool', ['--generate-privkey', '--key-type', 'ecdsa', '--curve', 'secp256r1', '--outfile', file]);
}

/** A file with one line NAME:HEXKEY. */
export function makePskFile(file: string, name: string, hexKey: string): string {
  writeFileSync(file, `${name}:${hexKey}\n`, { mode: 0o600 });
  return file;
}
