/**
 * The client's handshake over a connection, with what an attached device needs of its end. Used by the connector for plain
 * connections and by the relay for those under TLS.
 */
import type { Connection } from '../attach/supervisor.ts';
import { SledgeError } from '../base/errors.ts';
import { ClientHandshake } from '../nbd-server-protocol/client-handshake.ts';
import {
  REP_ERR_POLICY,
  REP_ERR_SHUTDOWN,
  REP_ERR_TLS_REQD,
  REP_ERR_UNKNOWN,
} from '../nbd-server-protocol/constants.ts';
import { formatNbdUri, type NbdUri } from '../nbd-server-protocol/uri.ts';

/** What one handshake needs of a connection. */
export interface HandshakeChannel {
  send(bytes: Uint8Array): Promise<void>;
  receive(): Promise<Uint8Array>;
}

export interface FirstConnection extends Connection {
  readonly minimumBlockBytes: number;
}

/**
 * A handshake up to its end, over TLS from where `upgrade` gives the channel under TLS. Rejects with `volume-unknown`,
 * `not-supported`, `shutting-down`, `protocol-error`, or what the channel rejects with.
 */
export async function negotiate(
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
