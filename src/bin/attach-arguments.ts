/**
 * From the arguments of `sledge attach` to what is wanted, and back to arguments: the background supervisor and the systemd
 * unit are started with the same command line. Reads nothing but its input.
 */
import { resolve } from 'node:path';
import { checkVolumeName } from '../admin/volume-rules.ts';
import { type AttachOptions, type AttachTarget, deviceIndex, devicePath } from '../attach/device-record.ts';
import { TIMEOUT_SECONDS_MAX } from '../attach/nbd-netlink.ts';
import { SledgeError } from '../base/errors.ts';
import { formatNbdUri, type NbdUri, parseNbdUri } from '../nbd-server-protocol/uri.ts';
import { parseCount } from './arguments.ts';
import { type Command, type CommandInput, usage } from './command.ts';

const CONNECTIONS_MAX = 16;
const REQUEST_TIMEOUT_SECONDS_MAX = 3600;
/** The longest stall by a lost answer; below the time that a busy disk may take to flush, it would do harm. */
const REQUEST_TIMEOUT_SECONDS = 4;

/** What says how a device is to be made. */
const MAKING = [
  'from',
  'data',
  'connections',
  'timeout',
  'request-timeout',
  'read-only',
  'tls-certificates',
  'tls-psk',
] as const;

export interface AttachArguments {
  readonly options: AttachOptions;
  /** The device that was asked for; undefined: any that is free. */
  readonly index: number | undefined;
}

export function attachArguments(command: Command, input: CommandInput): AttachArguments {
  const [name, device] = input.positionals;
  if (name === undefined) throw usage(command, 'NAME is missing');
  if (deviceIndex(name) !== undefined) throw usage(command, `${name} is a device: the name of the volume comes first`);
  checkVolumeName(name);
  const timeout = input.text('timeout');
  const requestTimeout = input.text('request-timeout') ?? String(REQUEST_TIMEOUT_SECONDS);
  const certificates = input.text('tls-certificates');
  const psk = input.text('tls-psk');
  const target = targetOf(command, input, name);
  if (certificates !== undefined && psk !== undefined) {
    throw usage(command, '--tls-certificates and --tls-psk exclude each other');
  }
  if ((certificates !== undefined || psk !== undefined) && target.kind === 'uri' && !parseUri(target.uri).tls) {
    throw usage(command, '--tls-certificates and --tls-psk go with a URI that begins with nbds: this one means no TLS');
  }
  return {
    index: device === undefined ? undefined : parseDeviceIndex(device),
    options: {
      target,
      name,
      connections: parseCount(input.text('connections') ?? '1', '--connections', 1, CONNECTIONS_MAX),
      deadTimeoutSeconds: timeout === undefined ? null : parseCount(timeout, '--timeout', 1, TIMEOUT_SECONDS_MAX),
      requestTimeoutSeconds: parseCount(requestTimeout, '--request-timeout', 1, REQUEST_TIMEOUT_SECONDS_MAX),
      readOnly: input.flag('read-only'),
      tlsCertificates: certificates === undefined ? null : resolve(certificates),
      tlsPsk: psk === undefined ? null : resolve(psk),
    },
  };
}

/** Refuses options that would have no effect. */
export function checkCombination(command: Command, input: CommandInput): void {
  for (const other of ['foreground', 'adopt']) {
    if (input.flag('persist') && input.flag(other)) {
      throw usage(command, `--persist and --${other} exclude each other: the unit starts a supervisor of its own`);
    }
  }
  const [name, device] = input.positionals;
  if (!input.flag('adopt')) return;
  // The supervisor of a unit attaches a volume of that name where there is nothing to adopt.
  if (input.flag('foreground') && name !== undefined && deviceIndex(name) === undefined) return;
  const surplus = MAKING.find(option => input.flag(option) || input.text(option) !== undefined);
  if (surplus !== undefined || device !== undefined) {
    const what = surplus === undefined ? device : `--${surplus}`;
    throw usage(command, `--adopt takes a device over as it is: ${what} has no effect`);
  }
}

export function parseDeviceIndex(text: string): number {
  const index = deviceIndex(text);
  if (index !== undefined) return index;
  throw new SledgeError('usage', `${JSON.stringify(text)} is not a device`, { hint: 'Give one such as /dev/nbd0.' });
}

export function parseUri(text: string): NbdUri {
  const parsed = parseNbdUri(text);
  if (parsed.ok) return parsed.uri;
  throw new SledgeError('bad-address', `${JSON.stringify(text)} is not an NBD URI: ${parsed.reason}`, {
    hint: 'Give one such as nbd://127.0.0.1:10809/vol0 or nbd+unix:///vol0?socket=/run/sledge.sock.',
  });
}

function targetOf(command: Command, input: CommandInput, name: string): AttachTarget {
  const from = input.text('from');
  const data = input.text('data');
  if (from === undefined) return { kind: 'volume', dataDirectory: resolve(data ?? './data'), volume: name };
  if (data !== undefined) throw usage(command, '--from and --data exclude each other');
  const uri = parseUri(from);
  if (uri.endpoint.kind === 'tcp') return { kind: 'uri', uri: formatNbdUri(uri) };
  // A supervisor has a working directory of its own.
  return { kind: 'uri', uri: formatNbdUri({ ...uri, endpoint: { kind: 'unix', path: resolve(uri.endpoint.path) } }) };
}

/** The arguments that stand for these options, behind `sledge`. */
export function attachWords(options: AttachOptions, index: number | undefined, ...flags: readonly string[]): string[] {
  const { target } = options;
  const words = ['attach', options.name];
  if (index !== undefined) words.push(devicePath(index));
  if (target.kind === 'uri') words.push('--from', target.uri);
  else words.push('--data', target.dataDirectory);
  if (options.connections > 1) words.push('--connections', String(options.connections));
  if (options.deadTimeoutSeconds !== null) words.push('--timeout', String(options.deadTimeoutSeconds));
  words.push('--request-timeout', String(options.requestTimeoutSeconds));
  if (options.readOnly) words.push('--read-only');
  if (options.tlsCertificates !== null) words.push('--tls-certificates', options.tlsCertificates);
  if (options.tlsPsk !== null) words.push('--tls-psk', options.tlsPsk);
  return [...words, ...flags];
}
