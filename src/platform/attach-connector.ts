/**
 * Makes connections to a volume's server, and asks it for the volume's size: the `Connector` port of `attach/supervisor.ts`
 * over real sockets. Simple replies, no metadata contexts: what the kernel's client speaks.
 *
 * Where the server is, is asked for again when it cannot be reached: a node that was restarted may have another address.
 */
import type { Connector } from '../attach/supervisor.ts';
import { encodeOption } from '../nbd-server-protocol/client-handshake.ts';
import { OPT_ABORT } from '../nbd-server-protocol/constants.ts';
import { formatNbdUri, type NbdUri } from '../nbd-server-protocol/uri.ts';
import type { FirstConnection } from './client-negotiation.ts';
import { negotiate } from './client-negotiation.ts';
import { NbdChannel } from './nbd-channel.ts';
import type { TlsClientMaterial } from './tls-client.ts';
import { TlsRelay } from './tls-relay.ts';

/** For a connection with its handshake; a server that lives answers within a round trip or two. */
const CONNECT_TIMEOUT_MS = 5000;

export class AttachConnector implements Connector {
  readonly #findServer: () => Promise<NbdUri>;
  readonly #tls: TlsClientMaterial | undefined;
  #uri: NbdUri;

  /** `findServer` says where the server is now; it may reject like a connection. */
  private constructor(findServer: () => Promise<NbdUri>, tls: TlsClientMaterial | undefined, uri: NbdUri) {
    this.#findServer = findServer;
    this.#tls = tls;
    this.#uri = uri;
  }

  static async make(findServer: () => Promise<NbdUri>, tls: TlsClientMaterial | undefined): Promise<AttachConnector> {
    return new AttachConnector(findServer, tls, await findServer());
  }

  /** For a server that may not be there now. */
  static at(uri: NbdUri, findServer: () => Promise<NbdUri>, tls: TlsClientMaterial | undefined): AttachConnector {
    return new AttachConnector(findServer, tls, uri);
  }

  /** Where the last try went. */
  get uri(): NbdUri {
    return this.#uri;
  }

  async connect(): Promise<FirstConnection> {
    try {
      return await connectTo(this.#uri, this.#tls);
    } catch (error) {
      const uri = await this.#movedTo(error);
      return await connectTo(uri, this.#tls);
    }
  }

  async inquire(): Promise<number> {
    const uri = this.#uri;
    if (uri.tls) return TlsRelay.inquire(uri, this.#tls, CONNECT_TIMEOUT_MS);
    const channel = await NbdChannel.connect(uri.endpoint, CONNECT_TIMEOUT_MS);
    try {
      const handshake = await negotiate(channel, uri, true, undefined);
      await channel.send(encodeOption(OPT_ABORT));
      return handshake.agreement.sizeBytes;
    } finally {
      channel.close();
    }
  }

  /** The server's new address; throws `error` where it has none. */
  async #movedTo(error: unknown): Promise<NbdUri> {
    const uri = await this.#findServer();
    if (formatNbdUri(uri) === formatNbdUri(this.#uri)) throw error;
    this.#uri = uri;
    return uri;
  }
}

async function connectTo(uri: NbdUri, tls: TlsClientMaterial | undefined): Promise<FirstConnection> {
  if (uri.tls) return TlsRelay.connect(uri, tls, CONNECT_TIMEOUT_MS);
  const channel = await NbdChannel.connect(uri.endpoint, CONNECT_TIMEOUT_MS);
  try {
    const { agreement } = await negotiate(channel, uri, false, undefined);
    const { sizeBytes, transmissionFlags, minimumBlockBytes } = agreement;
    channel.stopWatching();
    const socket = channel.descriptor;
    return { sizeBytes, transmissionFlags, minimumBlockBytes, socket, release: () => channel.close() };
  } catch (error) {
    channel.close();
    throw error;
  }
}
