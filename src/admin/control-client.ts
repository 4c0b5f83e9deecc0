/**
 * The caller's side of `control-server.ts`: `sledge volume` and `sledge status` reach a running node with it. Every call
 * is one request over a connection of its own, and rejects with a `SledgeError`: the one that the node answered with, or
 * `not-running` when nobody listens (a socket file that a killed server left behind counts as nobody).
 */
import { existsSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { resolve } from 'node:path';
import { SledgeError } from '../base/errors.ts';
import { type ControlSocketPath, controlSocketPath } from './control-socket.ts';
import { errorOfBody, isRecord } from './error-status.ts';
import type { CreateVolumeRequest, NodeStatus, ScrubProgress, ScrubReport, VolumeInfo } from './node-control.ts';

/** Answers to look-ups come at once; making or growing a volume may wait for a device. */
const LOOK_TIMEOUT_MS = 15_000;
const CHANGE_TIMEOUT_MS = 120_000;
/** A status with the most volumes there can be takes a few MiB. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

export class ControlClient {
  readonly #dataDirectory: string;

  constructor(dataDirectory: string) {
    this.#dataDirectory = resolve(dataDirectory);
  }

  async status(): Promise<NodeStatus> {
    return (await this.#look('/v1/status')) as NodeStatus;
  }

  async volumes(): Promise<VolumeInfo[]> {
    const answer = await this.#look('/v1/volumes');
    if (!isRecord(answer) || !Array.isArray(answer['volumes'])) throw unexpected('an answer without volumes');
    return answer['volumes'] as VolumeInfo[];
  }

  async volume(name: string): Promise<VolumeInfo> {
    return (await this.#look(volumePath(name))) as VolumeInfo;
  }

  async createVolume(wanted: CreateVolumeRequest): Promise<VolumeInfo> {
    return (await this.#change('POST', '/v1/volumes', wanted)) as VolumeInfo;
  }

  async growVolume(name: string, sizeBytes: number): Promise<VolumeInfo> {
    return (await this.#change('POST', `${volumePath(name)}/grow`, { sizeBytes })) as VolumeInfo;
  }

  async deleteVolume(name: string): Promise<void> {
    await this.#change('DELETE', volumePath(name), undefined);
  }

  /** Resolves when all was gone through, however long that takes; an abort of the signal cancels it (`cancelled`). */
  async scrubVolume(name: string, bytesPerSecond: number, signal: AbortSignal): Promise<ScrubReport> {
    return (await this.#call('POST', `${volumePath(name)}/scrub`, { bytesPerSecond }, 0, signal)) as ScrubReport;
  }

  /** Undefined while none runs. */
  async scrubProgress(name: string): Promise<ScrubProgress | undefined> {
    const answer = await this.#look(`${volumePath(name)}/scrub`);
    return isRecord(answer) && isRecord(answer['scrub']) ? (answer['scrub'] as unknown as ScrubProgress) : undefined;
  }

  #look(path: string): Promise<unknown> {
    return this.#call('GET', path, undefined, LOOK_TIMEOUT_MS);
  }

  #change(method: string, path: string, body: unknown): Promise<unknown> {
    return this.#call(method, path, body, CHANGE_TIMEOUT_MS);
  }

  /** Without a limit on its time when that is 0. */
  async #call(method: string, path: string, body: unknown, timeoutMs: number, signal?: AbortSignal): Promise<unknown> {
    const address = this.#address();
    let answer: { status: number; text: string };
    try {
      answer = await exchange(address.reachablePath, method, path, body, timeoutMs, signal);
    } catch (error) {
      if (signal?.aborted) throw new SledgeError('cancelled', 'cancelled before it had ended');
      throw this.#connectionError(error, address.path);
    } finally {
      address.release();
    }
    const value = parseAnswer(answer.text);
    const error = errorOfBody(value);
    if (error !== undefined) throw error;
    if (answer.status >= 300 || !isRecord(value)) throw unexpected(`status ${answer.status} without a reason`);
    return value;
  }

  #address(): ControlSocketPath {
    try {
      return controlSocketPath(this.#dataDirectory);
    } catch (error) {
      throw this.#connectionError(error, this.#dataDirectory);
    }
  }

  #connectionError(error: unknown, path: string): SledgeError {
    if (error instanceof SledgeError) return error;
    const code = (error as NodeJS.ErrnoException).code;
    const message = error instanceof Error ? error.message : String(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      const missing = existsSync(this.#dataDirectory) ? 'no server runs there' : 'there is no such directory';
      return new SledgeError('not-running', `no server answers for ${this.#dataDirectory}: ${missing}`, {
        cause: error,
      });
    }
    if (code === 'ECONNREFUSED') {
      const what = `no server runs for ${this.#dataDirectory}: the last one left its socket behind`;
      return new SledgeError('not-running', what, { cause: error });
    }
    if (code === 'EACCES' || code === 'EPERM') {
      return new SledgeError('connection-failed', `the control socket ${path} may not be opened`, {
        cause: error,
        hint: 'Run this as the user that runs the server, or as root.',
      });
    }
    return new SledgeError('connection-failed', `the control socket ${path} failed: ${message}`, { cause: error });
  }
}

function volumePath(name: string): string {
  return `/v1/volumes/${encodeURIComponent(name)}`;
}

function parseAnswer(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw unexpected('an answer that is not JSON');
  }
}

function unexpected(what: string): SledgeError {
  return new SledgeError('protocol-error', `the server gave ${what}`, {
    hint: 'Use the same version of sledge as the server.',
  });
}

function exchange(
  socketPath: string,
  method: string,
  path: string,
  body: unknown,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<{ status: number; text: string }> {
  return new Promise((done, failed) => {
    const text = body === undefined ? '' : JSON.stringify(body);
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const options = { socketPath, method, path, headers, agent: false as const, ...(signal ? { signal } : {}) };
    const request = httpRequest(options, response => {
      collect(response).then(answer => done({ status: response.statusCode ?? 0, text: answer }), failed);
    });
    request.setTimeout(timeoutMs, () => {
      request.destroy(new SledgeError('connection-failed', `the server gave no answer for ${timeoutMs / 1000} s`));
    });
    request.once('error', failed);
    request.end(text);
  });
}

async function collect(response: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of response) {
    bytes += (piece as Buffer).length;
    if (bytes > ANSWER_BYTES_MAX) throw unexpected('an answer that does not end');
    pieces.push(piece as Buffer);
  }
  return Buffer.concat(pieces).toString('utf8');
}
