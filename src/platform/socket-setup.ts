/** Binds listening sockets and connects streams: the control plane of sockets. Each way to fail has its code. */
import { lstatSync, rmSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, ECONNREFUSED } from '../base/errno.ts';
import { type ErrorCode, SledgeError } from '../base/errors.ts';
import type { Region } from '../base/memory.ts';
import { addon } from './addon.ts';
import { ControlRequest } from './control-request.ts';
import { allocateRegion } from './io-memory.ts';
import type { IoKind, ListenAddress } from './io-platform.ts';
import type { Operation, OperationOwner } from './operation.ts';
import type { RingLoop } from './ring-loop.ts';
import { isEveryAddress, printAddress, type SocketAddress, tcpAddress, unixAddress } from './socket-address.ts';
import { OP_CONNECT } from './submission.ts';
import { systemError } from './system-error.ts';

const BACKLOG = 1024;

export interface BoundSocket {
  readonly fd: number;
  readonly address: ListenAddress;
}

/** A listening socket, in the mode that the ring of `kind` needs. */
export async function bindSocket(kind: IoKind, wanted: ListenAddress): Promise<BoundSocket> {
  const bound = await bindByKind(wanted);
  // The kernel's ring waits for what blocks; the thread ring's poller must never block (a connection may be gone by the
  // time it accepts). The mode matters for a descriptor that was handed over, too.
  const result = addon.setNonBlocking(bound.fd, kind === 'threads');
  assert(result >= 0, 'the mode of an own descriptor can be set');
  return bound;
}

/** The descriptor of a socket connected to `address`. Rejects with `connection-failed` or `bad-address`. */
export async function connectSocket(loop: RingLoop, address: ListenAddress): Promise<number> {
  assert(address.kind !== 'fd', 'a listening descriptor is nothing to connect to');
  const target = address.kind === 'tcp' ? await tcpAddress(address.host, address.port) : unixAddress(address.path);
  const fd = addon.socketFor(target.bytes, target.length);
  if (fd < 0) throw systemError('connection-failed', `cannot make a socket for ${printAddress(address)}`, fd);
  const result = await new Connecting(loop, fd, target).ended.done;
  if (result === 0) return fd;
  addon.closeDescriptor(fd);
  throw systemError('connection-failed', `cannot connect to ${printAddress(address)}`, result);
}

/** One connect on the ring: the kernel reads the address from memory of ours. */
class Connecting implements OperationOwner {
  readonly ended = new ControlRequest();
  readonly #loop: RingLoop;

  constructor(loop: RingLoop, fd: number, target: SocketAddress) {
    this.#loop = loop;
    const region: Region = allocateRegion(4096);
    region.bytes.set(target.bytes.subarray(0, target.length));
    const operation = loop.acquire(this);
    operation.opcode = OP_CONNECT;
    operation.fd = fd;
    operation.region = region;
    operation.address = region.address;
    // The kernel's layout: a connect has the length of its address in the position.
    operation.position = target.length;
    operation.length = 0;
    operation.operationFlags = 0;
    loop.start(operation);
  }

  operationEnded(operation: Operation, result: number): void {
    this.#loop.release(operation);
    this.ended.ioCompleted(result);
  }
}

async function bindByKind(wanted: ListenAddress): Promise<BoundSocket> {
  switch (wanted.kind) {
    case 'tcp':
      return bindTcp(wanted.host, wanted.port, wanted);
    case 'unix':
      return bindUnix(wanted.path, wanted);
    case 'fd':
      return adopt(wanted.fd);
  }
}

async function bindTcp(host: string, port: number, wanted: ListenAddress): Promise<BoundSocket> {
  const every = isEveryAddress(host);
  let fd = listenOn(await tcpAddress(host, port), every);
  // A machine without IPv6 has no dual stack either.
  if (every && (fd === -EAFNOSUPPORT || fd === -EADDRNOTAVAIL)) fd = listenOn(await tcpAddress('0.0.0.0', port), false);
  if (fd < 0) throw listenError(wanted, fd);
  const name = addon.nameOf(fd, false);
  assert(typeof name !== 'number', 'a bound socket has a name');
  return { fd, address: { kind: 'tcp', host: name.host, port: name.port } };
}

function bindUnix(path: string, wanted: ListenAddress): BoundSocket {
  const address = unixAddress(path);
  let fd = listenOn(address, false);
  if (fd === -EADDRINUSE && isStaleSocket(path, address)) {
    rmSync(path, { force: true });
    fd = listenOn(address, false);
  }
  if (fd < 0) throw listenError(wanted, fd);
  return { fd, address: { kind: 'unix', path } };
}

/**
 * A socket's file stays behind when its server is killed: then connecting is refused. Any other answer (no permission, a
 * full queue) may be a server's; and files that are no sockets are never stale.
 */
function isStaleSocket(path: string, address: SocketAddress): boolean {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  return addon.probeSocket(address.bytes, address.length) === -ECONNREFUSED;
}

function adopt(fd: number): BoundSocket {
  const name = addon.nameOf(fd, false);
  if (typeof name === 'number') throw systemError('address-unusable', `descriptor ${fd} is not a socket`, name);
  if (!name.listens) throw new SledgeError('address-unusable', `descriptor ${fd} is a socket that does not listen`);
  switch (name.family) {
    case 'tcp':
      return { fd, address: { kind: 'tcp', host: name.host, port: name.port } };
    default:
      // A Unix socket's path stays the service manager's, so that the address keeps its kind and nobody removes it.
      return { fd, address: { kind: 'fd', fd } };
  }
}

function listenOn(address: SocketAddress, dualStack: boolean): number {
  return addon.listenOn(address.bytes, address.length, BACKLOG, dualStack);
}

function listenError(wanted: ListenAddress, errno: number) {
  const code: ErrorCode = errno === -EADDRINUSE ? 'address-in-use' : 'address-unusable';
  return systemError(code, `cannot listen on ${printAddress(wanted)}`, errno);
}
