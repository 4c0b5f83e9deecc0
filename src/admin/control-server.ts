/**
 * The control plane of a running node: HTTP with JSON bodies over a Unix socket in the data directory. `sledge serve`
 * starts it beside the node, `control-client.ts` talks to it, and so can `curl --unix-socket`.
 *
 * | request | answer |
 * |---|---|
 * | GET /v1/status | NodeStatus |
 * | GET /v1/volumes | {"volumes": [VolumeInfo …]} |
 * | POST /v1/volumes {name, sizeBytes, chunkBytes?, ack?, readOnly?} | 201 VolumeInfo |
 * | GET /v1/volumes/NAME | VolumeInfo |
 * | POST /v1/volumes/NAME/grow {sizeBytes} | VolumeInfo |
 * | DELETE /v1/volumes/NAME | {} |
 * | POST /v1/volumes/NAME/scrub {bytesPerSecond?} | ScrubReport, at its end; closing the connection cancels it |
 * | GET /v1/volumes/NAME/scrub | {"scrub": ScrubProgress, or null while none runs} |
 *
 * Invariants: only the user that runs the node reaches the socket (mode 0600 from its first moment on); nothing that
 * arrives is trusted before it was checked; whoever holds the lock of the data directory is the only one to start a
 * server in it, which is why a socket file that is already there is a leftover and is replaced.
 */
import { unlinkSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { z } from 'zod';
import { SledgeError } from '../base/errors.ts';
import { chunkBytesDefault, scrubRateDefault, scrubRateMin } from '../base/limits.ts';
import { controlSocketPath } from './control-socket.ts';
import { errorBody, httpStatusOf } from './error-status.ts';
import type { NodeControl } from './node-control.ts';
import { checkChunkSize, checkVolumeName, checkVolumeSize } from './volume-rules.ts';

/** Larger than any request in the table, by far. */
const BODY_BYTES_MAX = 64 * 1024;
const CONNECTIONS_MAX = 64;
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 10_000;
/** What is under way at a stop gets this long to be answered. */
const STOP_TIMEOUT_MS = 5_000;

const createBody = z.strictObject({
  name: z.string(),
  sizeBytes: z.number(),
  chunkBytes: z.number().default(chunkBytesDefault),
  ack: z.enum(['written', 'durable']).default('written'),
  readOnly: z.boolean().default(false),
});

const growBody = z.strictObject({ sizeBytes: z.number() });

const scrubBody = z.strictObject({
  bytesPerSecond: z.number().int().min(scrubRateMin).max(Number.MAX_SAFE_INTEGER).default(scrubRateDefault),
});

/** Told about errors that are not the caller's: anything but a SledgeError is a bug or a broken system. */
export interface ControlServerLog {
  error(fields: object, message: string): void;
}

export interface ControlServer {
  readonly path: string;
  /** Takes no further request, answers those under way, removes the socket. */
  stop(): Promise<void>;
}

interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly allow?: string;
}

/** Rejects with `address-unusable` when the socket cannot be made. */
export async function startControlServer(
  dataDirectory: string,
  control: NodeControl,
  log: ControlServerLog,
): Promise<ControlServer> {
  // Node looks for connections that are over their time only now and then.
  const stopping = new AbortController();
  const server = createServer({ connectionsCheckingInterval: 2_000 }, (request, response) => {
    const caller = new Caller(response, stopping.signal);
    void respond(request, response, control, caller, log).finally(() => caller.answered());
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.headersTimeout = HEADERS_TIMEOUT_MS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.keepAliveTimeout = 1_000;

  const address = controlSocketPath(dataDirectory);
  try {
    removeLeftover(address.reachablePath);
    await listen(server, address.reachablePath);
    // Such as a connection for which there is no descriptor left: those that there are go on.
    server.on('error', error => log.error({ err: error }, 'a control connection failed'));
  } catch (cause) {
    address.release();
    throw new SledgeError('address-unusable', `the control socket ${address.path} cannot be made: ${textOf(cause)}`, {
      cause,
      hint: 'The data directory has to be writable and on a file system that knows sockets.',
    });
  }
  return {
    path: address.path,
    async stop() {
      stopping.abort();
      await close(server);
      address.release();
    },
  };
}

/** Who waits for an answer: the signal says that what takes long is not wanted any more, its reason says why. */
class Caller {
  readonly #controller = new AbortController();
  readonly #stopping: AbortSignal;
  readonly #onStop = () =>
    this.#controller.abort(new SledgeError('shutting-down', 'the server is stopping: this has not come to its end'));

  constructor(response: ServerResponse, stopping: AbortSignal) {
    this.#stopping = stopping;
    if (stopping.aborted) this.#onStop();
    stopping.addEventListener('abort', this.#onStop);
    response.once('close', () => this.#controller.abort(new SledgeError('cancelled', 'the caller has gone')));
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  answered(): void {
    this.#stopping.removeEventListener('abort', this.#onStop);
  }
}

function removeLeftover(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((done, failed) => {
    server.once('error', failed);
    // The path is bound within the call, so that nobody else's file is made under this mask, and at no time is the
    // socket open to other users.
    const mask = process.umask(0o177);
    try {
      server.listen(path, () => {
        server.off('error', failed);
        done();
      });
    } finally {
      process.umask(mask);
    }
  });
}

function close(server: Server): Promise<void> {
  return new Promise(done => {
    const timer = setTimeout(() => server.closeAllConnections(), STOP_TIMEOUT_MS);
    server.close(() => {
      clearTimeout(timer);
      done();
    });
    server.closeIdleConnections();
  });
}

async function respond(
  request: IncomingMessage,
  response: ServerResponse,
  control: NodeControl,
  caller: Caller,
  log: ControlServerLog,
): Promise<void> {
  // The caller may be gone at any time, which is its own affair.
  response.on('error', () => {});
  let answer: Answer;
  try {
    answer = await route(request, control, caller.signal);
  } catch (error) {
    if (error === request.errored) return;
    answer = answerToError(error, log);
  }
  if (response.destroyed) return;
  const body = `${JSON.stringify(answer.body)}\n`;
  response.statusCode = answer.status;
  response.setHeader('content-type', 'application/json');
  response.setHeader('content-length', Buffer.byteLength(body));
  if (answer.allow !== undefined) response.setHeader('allow', answer.allow);
  // What was not read of a refused body is not read any more.
  if (!request.complete) response.setHeader('connection', 'close');
  response.end(body);
}

function answerToError(error: unknown, log: ControlServerLog): Answer {
  if (error instanceof BodyTooLarge) return { status: 413, body: errorBody(usage('the body is too large')) };
  if (error instanceof SledgeError) return { status: httpStatusOf(error.code), body: errorBody(error) };
  log.error({ err: error }, 'a control request failed');
  return { status: 500, body: errorBody(new SledgeError('io', `the server failed: ${textOf(error)}`)) };
}

async function route(request: IncomingMessage, control: NodeControl, signal: AbortSignal): Promise<Answer> {
  const path = (request.url ?? '/').split('?')[0] ?? '/';
  const parts = path.split('/').slice(1);
  if (parts[0] !== 'v1') return notFound(path);
  if (path === '/v1/status') {
    if (request.method !== 'GET') return wrongMethod('GET');
    return { status: 200, body: control.status() };
  }
  if (parts[1] !== 'volumes' || parts.length > 4) return notFound(path);
  if (parts.length === 2) return routeVolumes(request, control);
  const name = decodeName(parts[2] ?? '');
  if (parts.length === 3) return routeVolume(request, control, name);
  if (parts[3] === 'scrub') return routeScrub(request, control, name, signal);
  if (parts[3] !== 'grow') return notFound(path);
  if (request.method !== 'POST') return wrongMethod('POST');
  const { sizeBytes } = parse(growBody, await readJson(request));
  checkVolumeSize(sizeBytes);
  return { status: 200, body: await control.growVolume(name, sizeBytes) };
}

async function routeVolumes(request: IncomingMessage, control: NodeControl): Promise<Answer> {
  if (request.method === 'GET') return { status: 200, body: { volumes: control.volumes() } };
  if (request.method !== 'POST') return wrongMethod('GET, POST');
  const wanted = parse(createBody, await readJson(request));
  checkVolumeName(wanted.name);
  checkVolumeSize(wanted.sizeBytes);
  checkChunkSize(wanted.chunkBytes);
  return { status: 201, body: await control.createVolume(wanted) };
}

async function routeVolume(request: IncomingMessage, control: NodeControl, name: string): Promise<Answer> {
  if (request.method === 'GET') {
    const volume = control.volume(name);
    if (volume === undefined) throw new SledgeError('volume-unknown', `there is no volume ${name}`);
    return { status: 200, body: volume };
  }
  if (request.method !== 'DELETE') return wrongMethod('GET, DELETE');
  await control.deleteVolume(name);
  return { status: 200, body: {} };
}

async function routeScrub(
  request: IncomingMessage,
  control: NodeControl,
  name: string,
  signal: AbortSignal,
): Promise<Answer> {
  if (request.method === 'GET') return { status: 200, body: { scrub: control.scrubProgress(name) ?? null } };
  if (request.method !== 'POST') return wrongMethod('GET, POST');
  const { bytesPerSecond } = parse(scrubBody, await readJson(request));
  return { status: 200, body: await control.scrubVolume(name, bytesPerSecond, signal) };
}

function decodeName(part: string): string {
  let name: string;
  try {
    name = decodeURIComponent(part);
  } catch {
    throw new SledgeError('bad-name', 'the name in the path is not encoded as in a URI');
  }
  checkVolumeName(name);
  return name;
}

function notFound(path: string): Answer {
  return { status: 404, body: errorBody(usage(`there is nothing at ${JSON.stringify(path.slice(0, 100))}`)) };
}

function wrongMethod(allow: string): Answer {
  return { status: 405, allow, body: errorBody(usage(`this takes ${allow}`)) };
}

function usage(message: string): SledgeError {
  return new SledgeError('usage', message, { hint: 'The requests are listed in src/admin/control-server.ts.' });
}

function parse<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue === undefined || issue.path.length === 0 ? 'the body' : issue.path.join('.');
  throw usage(`${where}: ${issue?.message ?? 'not as it should be'}`);
}

class BodyTooLarge extends Error {}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  if (Number(request.headers['content-length'] ?? 0) > BODY_BYTES_MAX) throw new BodyTooLarge();
  for await (const piece of request) {
    bytes += (piece as Buffer).length;
    if (bytes > BODY_BYTES_MAX) throw new BodyTooLarge();
    pieces.push(piece as Buffer);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString('utf8')) as unknown;
  } catch {
    throw usage('the body is not JSON');
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
