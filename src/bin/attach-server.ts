/**
 * Where the server of a volume is, as an NBD URI: what `--from` says, or what the node that runs in a data directory says of
 * itself. Used by `attach-supervisor.ts` for each connection that it makes.
 */
import { ControlClient } from '../admin/control-client.ts';
import { nbdUri } from '../admin/nbd-uri.ts';
import type { AttachOptions } from '../attach/device-record.ts';
import { SledgeError } from '../base/errors.ts';
import type { FoundServer } from '../platform/attach-connector.ts';
import { loadClientCertificates, loadClientPsk, type TlsClientMaterial } from '../platform/tls-client.ts';
import { parseUri } from './attach-arguments.ts';

/** Rejects with `not-running`, `volume-unknown` or `connection-failed`. */
export async function findServer(options: AttachOptions): Promise<FoundServer> {
  const { target } = options;
  if (target.kind === 'uri') return { uri: parseUri(target.uri), volumeMade: undefined };
  const status = await new ControlClient(target.dataDirectory).status();
  const volume = status.volumes.find(({ name }) => name === target.volume);
  if (volume === undefined) {
    throw new SledgeError('volume-unknown', `the server in ${target.dataDirectory} has no volume ${target.volume}`);
  }
  const tls = options.tlsCertificates !== null || options.tlsPsk !== null;
  for (const kind of ['unix', 'tcp'] as const) {
    for (const address of status.addresses) {
      const text = address.kind === kind ? nbdUri(address, target.volume, tls) : undefined;
      if (text !== undefined) return { uri: parseUri(text), volumeMade: volume.createdAt };
    }
  }
  throw new SledgeError('connection-failed', `the server in ${target.dataDirectory} tells no address`, {
    hint: 'Its socket was opened by a service manager: give a URI with --from.',
  });
}

/** Throws `tls-files`. */
export function tlsMaterial(options: AttachOptions): TlsClientMaterial | undefined {
  if (options.tlsCertificates !== null) return loadClientCertificates(options.tlsCertificates);
  if (options.tlsPsk === null) return undefined;
  const { target } = options;
  return loadClientPsk(options.tlsPsk, target.kind === 'uri' ? parseUri(target.uri).user : undefined);
}
