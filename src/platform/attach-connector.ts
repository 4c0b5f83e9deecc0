/**
 * Makes connections to a volume's server, and asks it for the volume's size: the `Connector` port of `attach/supervisor.ts`
 * over real sockets. Simple replies, no metadata contexts: what the kernel's client speaks.
 *
 * Where the server is, is asked for before each connection: a node that was restarted may have another address, and at the
 * old one somebody else may serve a volume of the same name. What the kernel has in its cache must not get there.
 */
import type { Connector } from '../attach/supervisor.ts';
import { SledgeError } from '../base/errors.ts';
import { encodeOption } from '../nbd-server-protocol/client-handshake.ts';
import { OPT_ABORT } from '../nbd-server-protocol/constants.ts';
import type { NbdUri } from '../nbd-server-protocol/uri.ts';
import type { FirstConnection } from './client-negotiation.ts';
import { negotiate } from './client-negotiation.ts';
import { NbdChannel } from './nbd-channel.ts';
import type { TlsClientMaterial } from './tls-client.ts';
import { TlsRelay } from './tls-relay.ts';

/** For a connection with its handshake; a server that lives answers within a round trip or two. */
const CONNECT_TIMEOUT_MS = 5000;

export interface FoundServer {
  readonly uri: NbdUri;
  /** When its volume was made, which tells it from another one of that name; undefined where that is not known. */
  readonly volumeMade: string | undefined;
}

/** Says where the server is now; may reject like a connection. */
export type FindServer = () => Promise<FoundServer>;

const NOWHERE: NbdUri = { endpoint: { kind: 'unix', path: '/' }, tls: false, exportName: '' };

export class AttachConnector implements Connector {
  readonly #findServer: FindServer;
  readonly #tls: TlsClientMaterial | undefined;
  #server: FoundServer;

  private constructor(findServer: FindServer, tls: TlsClientMaterial | undefined, server: FoundServer) {
    this.#findServer = findServer;
    this.#tls = tls;
    this.#server = server;
  }

  static async make(findServer: FindServer, tls: TlsClientMaterial | undefined): Promise<AttachConnector> {
    return new AttachConnector(findServer, tls, await findServer());
  }

  /** For a volume that is attached already, made at `volumeMade` if that is known; its server may not be there now. */
  static async again(
    volumeMade: string | undefined,
    findServer: FindServer,
    tls: TlsClientMaterial | undefined,
  ): Promise<AttachConnector> {
    const found = await findServer().catch((error: unknown) => {
      if (error instanceof SledgeError) return undefined;
      throw error;
    });
    const isSame = found !== undefined && (volumeMade === undefined || found.volumeMade === volumeMade);
    return new AttachConnector(findServer, tls, isSame ? found : { uri: NOWHERE, volumeMade });
  }

  /** Where the last try went. */
  get uri(): NbdUri {
    return this.#server.uri;
  }

  get volumeMade(): string | undefined {
    return this.#server.volumeMade;
  }

  /** Rejects with `volume-unknown`, too, where the volume of that name is another one by now. */
  async connect(): Promise<FirstConnection> {
    const { volumeMade } = this.#server;
    const server = await this.#findServer();
    if (volumeMade !== undefined && server.volumeMade !== volumeMade) {
      throw new SledgeError('volume-unknown', 'the volume was deleted, and another one has its name', {
        hint: 'Detach the device: what it has in its cache belongs to the one that is gone.',
      });
    }
    this.#server = server;
    return await connectTo(server.uri, this.#tls);
  }

  async inquire(): Promise<number> {
    const { uri } = this.#server;
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
