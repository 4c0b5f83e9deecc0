/**
 * The kernel's NBD driver over generic netlink: requests to bytes, answers and events to values. The numbers are those of
 * `linux/nbd-netlink.h` and `linux/genetlink.h`. Pure; `platform/nbd-kernel.ts` sends and receives.
 *
 * What the driver makes of them (drivers/block/nbd.c), as far as it matters here:
 * - CONNECT takes references to the sockets, so that ours can be closed, and answers with the device's number. From then
 *   on nobody needs to be alive for the device to work.
 * - A dead socket is told of once, by LINK_DEAD to all who listen. I/O then waits for another socket up to the dead
 *   connection timeout. What was in flight is sent again only once the *request* timeout has passed for it.
 * - RECONFIGURE puts each of its sockets in the place of a dead one. Surplus sockets are dropped without an error, so
 *   offering some in doubt does no harm. A new size takes effect at once, for those who have the device open, too.
 * - A device that has a backend identifier refuses to be reconfigured by those who do not name it (EINVAL).
 */
import {
  AttributeList,
  type Attributes,
  encodeGenericRequest,
  type NetlinkMessage,
  NLM_F_ACK,
  NLM_F_REQUEST,
} from './netlink-message.ts';

// --- the controller, which knows families by their names ---
const CONTROL_FAMILY = 16;
const CONTROL_GET_FAMILY = 3;
const CONTROL_FAMILY_ID = 1;
const CONTROL_FAMILY_NAME = 2;
const CONTROL_GROUPS = 7;
const CONTROL_GROUP_NAME = 1;
const CONTROL_GROUP_ID = 2;

// --- the NBD driver ---
const FAMILY_NAME = 'nbd';
const GROUP_NAME = 'nbd_mc_group';
const VERSION = 1;
const COMMAND_CONNECT = 1;
const COMMAND_DISCONNECT = 2;
const COMMAND_RECONFIGURE = 3;
const COMMAND_LINK_DEAD = 4;

const INDEX = 1;
const SIZE_BYTES = 2;
const BLOCK_SIZE_BYTES = 3;
const TIMEOUT = 4;
const SERVER_FLAGS = 5;
const SOCKETS = 7;
const DEAD_CONNECTION_TIMEOUT = 8;
const BACKEND_IDENTIFIER = 10;
const SOCKET_ITEM = 1;
const SOCKET_DESCRIPTOR = 1;

/**
 * The longest time to wait, which stands for "for ever", too: more than 31 years. The driver multiplies by its ticks and
 * keeps the product in a long; 0 means no waiting at all.
 */
export const TIMEOUT_SECONDS_MAX = 999_999_999;

/** How the kernel's NBD family is addressed: given by the controller when the module is loaded. */
export interface NbdFamily {
  readonly family: number;
  /** Where LINK_DEAD is sent. */
  readonly group: number;
}

export interface ConnectRequest {
  /** /dev/nbdN; undefined takes any that is free, and makes one where none is. */
  readonly index: number | undefined;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly transmissionFlags: number;
  readonly requestTimeoutSeconds: number;
  readonly deadTimeoutSeconds: number;
  /** Ours to tell the device from one that somebody else made under the same number; see /sys/block/nbdN/backend. */
  readonly backend: string;
  readonly sockets: readonly number[];
}

export interface ReconfigureRequest {
  readonly index: number;
  readonly backend: string;
  readonly sizeBytes?: number;
  readonly sockets?: readonly number[];
}

export function encodeFamilyRequest(sequence: number): Uint8Array {
  return encodeGenericRequest({
    family: CONTROL_FAMILY,
    command: CONTROL_GET_FAMILY,
    version: 1,
    flags: NLM_F_REQUEST | NLM_F_ACK,
    sequence,
    attributes: new AttributeList().text(CONTROL_FAMILY_NAME, FAMILY_NAME),
  });
}

export function parseFamily(attributes: Attributes): NbdFamily | undefined {
  const family = attributes.number(CONTROL_FAMILY_ID);
  const groups = attributes.nested(CONTROL_GROUPS)?.elements() ?? [];
  const group = groups.find(candidate => candidate.text(CONTROL_GROUP_NAME) === GROUP_NAME)?.number(CONTROL_GROUP_ID);
  return family === undefined || group === undefined ? undefined : { family, group };
}

export function encodeConnect(family: number, sequence: number, request: ConnectRequest): Uint8Array {
  const attributes = new AttributeList();
  if (request.index !== undefined) attributes.u32(INDEX, request.index);
  attributes
    .u64(SIZE_BYTES, request.sizeBytes)
    .u64(BLOCK_SIZE_BYTES, request.blockBytes)
    .u64(TIMEOUT, request.requestTimeoutSeconds)
    .u64(SERVER_FLAGS, request.transmissionFlags)
    .u64(DEAD_CONNECTION_TIMEOUT, request.deadTimeoutSeconds)
    .text(BACKEND_IDENTIFIER, request.backend)
    .nested(SOCKETS, socketList(request.sockets));
  return encode(family, sequence, COMMAND_CONNECT, attributes);
}

/** The number of the device that was connected; undefined for what is no answer to CONNECT. */
export function parseConnected(message: NetlinkMessage): number | undefined {
  if (message.kind !== 'generic' || message.command !== COMMAND_CONNECT) return undefined;
  return message.attributes.number(INDEX);
}

export function encodeReconfigure(family: number, sequence: number, request: ReconfigureRequest): Uint8Array {
  const attributes = new AttributeList().u32(INDEX, request.index).text(BACKEND_IDENTIFIER, request.backend);
  if (request.sizeBytes !== undefined) attributes.u64(SIZE_BYTES, request.sizeBytes);
  if (request.sockets !== undefined) attributes.nested(SOCKETS, socketList(request.sockets));
  return encode(family, sequence, COMMAND_RECONFIGURE, attributes);
}

export function encodeDisconnect(family: number, sequence: number, index: number): Uint8Array {
  return encode(family, sequence, COMMAND_DISCONNECT, new AttributeList().u32(INDEX, index));
}

/** The number of the device one of whose connections has died; undefined for any other message. */
export function parseLinkDead(family: number, message: NetlinkMessage): number | undefined {
  if (message.kind !== 'generic' || message.family !== family || message.command !== COMMAND_LINK_DEAD)
    return undefined;
  return message.attributes.number(INDEX);
}

function encode(family: number, sequence: number, command: number, attributes: AttributeList): Uint8Array {
  const flags = NLM_F_REQUEST | NLM_F_ACK;
  return encodeGenericRequest({ family, command, version: VERSION, flags, sequence, attributes });
}

function socketList(sockets: readonly number[]): AttributeList {
  const list = new AttributeList();
  for (const fd of sockets) list.nested(SOCKET_ITEM, new AttributeList().u32(SOCKET_DESCRIPTOR, fd));
  return list;
}
