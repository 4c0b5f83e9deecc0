/**
 * Makes connections to a volume's server, and asks it for the volume's size: the `Connector` port of `attach/supervisor.ts`
 * over real sockets. Simple replies, no metadata contexts: what the kernel's client speaks.
 *
 * Where the server is, is asked for again when it cannot be reached: a node that was restarted may have another address.
 */
import type { Connection, Connector } from '../attach/supervisor.ts';
import { SledgeError } from '../base/errors.ts';
import { ClientHandshake, encodeOption } from '../nbd-server-protocol/client-handshake.ts';
import {
  OPT_ABORT,
  REP_ERR_POLICY,
  REP_ERR_SHUTDOWN,
  REP_ERR_TLS_REQD,
  REP_ERR_UNKNOWN,
} from '../nbd-server-protocol/constants.ts';
import { formatNbdUri, type NbdUri } from '../nbd-server-protocol/uri.ts';
import { NbdChannel } from './nbd-channel.ts';
import type { TlsClientMaterial } from './tls-client.ts';
import { TlsRelay } from './tls-relay.ts';

/** For a connection with its handshake; a server that lives answers within a round trip or two. */
const CONNECT_TIMEOUT_MS = 5000;

/** What one handshake needs of a connection. */
export interface HandshakeChannel {
  send(bytes: Uint8Array): Promise<void>;
  receive(): Promise<Uint8Array>;
}

export interface FirstConnection extends Connection {
  readonly minimumBlockBytes: number;
}

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
    if (uri.tls) return TlsRelay.inquire(uri, this.#tls, CONNECT_TIMEOUT_MS, negotiate);
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
  if (uri.tls) return TlsRelay.connect(uri, tls, CONNECT_TIMEOUT_MS, negotiate);
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

export type Negotiate = typeof negotiate;

/**
 * A handshake up to its end, over TLS from where `upgrade` gives the channel under TLS. Rejects with `volume-unknown`,
 * `not-supported`, `shutting-down`, `protocol-error`, or what the channel rejects with.
 */
async function negotiate(
  channel: HandshakeChannel,
  uri: NbdUri,
  informationOnly: boolean,
  upgrade: (() => Promise<HandshakeChannel>) | undefined,
): Promise<ClientHandshake> {
  const handshake = new ClientHandshake({
    exportName: uri.exportName,
    tls: uri.tls,
    structuredReplies: false,
    extendedHeaders: false,
    blockStatus: false,
    informationOnly,
  });
  let current = channel;
  while (handshake.state !== 'ready') {
    if (handshake.state === 'failed') throw refusal(handshake, uri);
    if (handshake.state === 'tls') {
      if (upgrade === undefined || handshake.rest().length > 0) throw unexpected(uri);
      current = await upgrade();
      handshake.tlsStarted();
    }
    const output = handshake.output();
    if (output.length > 0) await current.send(output);
    handshake.input(await current.receive());
  }
  if (handshake.rest().length > 0) throw unexpected(uri);
  return handshake;
}

function unexpected(uri: NbdUri): SledgeError {
  return new SledgeError('protocol-error', `${formatNbdUri(uri)} sent something before it was asked to`);
}

function refusal(handshake: ClientHandshake, uri: NbdUri): SledgeError {
  const place = formatNbdUri(uri);
  switch (handshake.refusal) {
    case 0:
      return new SledgeError('protocol-error', `${place}: ${handshake.failure}`);
    case REP_ERR_UNKNOWN:
      return new SledgeError(
        'volume-unknown',
        `the server of ${place} has no volume ${JSON.stringify(uri.exportName)}`,
        {
          hint: 'List what a server has with `sledge volume list` or `nbdinfo --list`.',
        },
      );
    case REP_ERR_TLS_REQD:
      return new SledgeError('not-supported', `the server of ${place} wants TLS`, {
        hint: 'Give --tls-certificates or --tls-psk, and with --from a URI that begins with nbds.',
      });
    case REP_ERR_POLICY:
      return new SledgeError('not-permitted', `${place}: ${handshake.failure}`, {
        hint: "The server's policy forbids it: ask whoever runs the server.",
      });
    case REP_ERR_SHUTDOWN:
      return new SledgeError('shutting-down', `the server of ${place} is stopping`);
    default:
      return new SledgeError('not-supported', `${place}: ${handshake.failure}`, {
        hint: 'The server cannot do what was asked for: see its log.',
      });
  }
}
