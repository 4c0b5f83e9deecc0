/**
 * A node's data directory: who it belongs to, which format it has, and that one process at a time uses it.
 *
 *   node.json   format version, identity, devices, seed of the log's checksums     lock   see directory-lock.ts
 *   log/        op log segments                          index/  the B-tree; checksums of it
 *   devices/    mass storage files made by default       sync-failed   there after a sync failed, until one succeeds
 *
 * Nothing is changed before the lock is held and the format is known.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { SledgeError } from '../base/errors.ts';
import { lockForServing } from './directory-lock.ts';

/** 1: the checksums of the log's records begin with 0. 2: with a seed. */
const FORMAT_VERSION = 2;

const identity = z.string().regex(/^[0-9a-f]{32}$/);
/** Eight digits and their complement: with another seed than its own a log would look empty. */
const logSeed = z
  .string()
  .regex(/^[0-9a-f]{16}$/)
  .refine(text => text === logSeedText(Number.parseInt(text.slice(0, 8), 16)));

const nodeFile = z
  .object({
    format: z.literal([1, FORMAT_VERSION]),
    node: identity,
    createdAt: z.string(),
    logSeed: logSeed.optional(),
    devices: z.array(z.object({ number: z.int().min(0), identity, path: z.string() })),
  })
  .refine(({ format, logSeed }) => (format === 1) === (logSeed === undefined), 'the seed of the log is not there');

export type NodeFile = z.infer<typeof nodeFile>;
export type DeviceRecord = NodeFile['devices'][number];

const PARTS = ['log', 'index', 'devices'];

/** What may lie in a directory that is taken for an empty one. */
const HARMLESS = new Set(['lost+found', 'lock', 'control.sock', 'node.json.new']);

export function newIdentity(): string {
  return randomBytes(16).toString('hex');
}

/** What the checksums of the log's records begin with. */
export function logSeedOf(node: NodeFile): number {
  return node.logSeed === undefined ? 0 : Number.parseInt(node.logSeed.slice(0, 8), 16);
}

function logSeedText(seed: number): string {
  return [seed, ~seed >>> 0].map(half => half.toString(16).padStart(8, '0')).join('');
}

export class DataDirectory {
  readonly path: string;
  readonly #lock: number;
  /** What of it was there before: abandoning it takes away no more than what was made. */
  readonly #found: 'data' | 'empty' | 'nothing';
  #node: NodeFile;

  private constructor(path: string, lock: number, node: NodeFile, found: 'data' | 'empty' | 'nothing') {
    this.path = path;
    this.#lock = lock;
    this.#node = node;
    this.#found = found;
  }

  /** Opens the directory and locks it; makes it when it is missing or empty. Throws `data-in-use`, `bad-format` … */
  static open(directory: string): DataDirectory {
    const path = resolve(directory);
    const file = join(path, 'node.json');
    const found = existsSync(file) ? 'data' : existsSync(path) ? 'empty' : 'nothing';
    makeDirectory(path);
    if (found !== 'data') refuseForeign(path);
    const lock = lockForServing(path);
    try {
      const node = existsSync(file) ? readNodeFile(file) : writeNodeFile(path, newNodeFile());
      for (const name of PARTS) makeDirectory(join(path, name));
      syncDirectory(path);
      return new DataDirectory(path, lock, node, found);
    } catch (error) {
      closeSync(lock);
      throw error;
    }
  }

  get node(): NodeFile {
    return this.#node;
  }

  get logPath(): string {
    return join(this.path, 'log');
  }

  get indexPath(): string {
    return join(this.path, 'index');
  }

  get devicesPath(): string {
    return join(this.path, 'devices');
  }

  /** Whether a sync has failed in some process, and none has succeeded for everything since. */
  get syncHasFailed(): boolean {
    return existsSync(this.#syncFailed);
  }

  /** To be known to the next process, too. Throws where the disk does not even take that. */
  syncFailed(): void {
    closeSync(openSync(this.#syncFailed, 'w'));
    syncDirectory(this.path);
  }

  syncSucceeded(): void {
    rmSync(this.#syncFailed, { force: true });
    syncDirectory(this.path);
  }

  get #syncFailed(): string {
    return join(this.path, 'sync-failed');
  }

  /** Puts the devices on record; durable when it returns. */
  recordDevices(devices: readonly DeviceRecord[]): void {
    this.#node = writeNodeFile(this.path, { ...this.#node, devices: [...devices] });
  }

  /** Gives up the lock. A directory that was made and has taken no device yet is left as it was found. */
  close(): void {
    if (this.#found !== 'data' && this.#node.devices.length === 0) this.#unmake();
    closeSync(this.#lock);
  }

  #unmake(): void {
    for (const name of [...PARTS, 'node.json', 'lock']) rmSync(join(this.path, name), { recursive: true, force: true });
    if (this.#found === 'nothing') rmdirSync(this.path);
  }
}

function newNodeFile(): NodeFile {
  return {
    format: FORMAT_VERSION,
    node: newIdentity(),
    createdAt: new Date().toISOString(),
    logSeed: logSeedText(randomBytes(4).readUInt32LE()),
    devices: [],
  };
}

function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
    if (!statSync(path).isDirectory()) throw new Error('it is not a directory');
  } catch (cause) {
    throw new SledgeError('not-a-data-directory', `${path} cannot be used: ${textOf(cause)}`, { cause });
  }
}

function refuseForeign(path: string): void {
  const other = readdirSync(path).find(name => !HARMLESS.has(name));
  if (other === undefined) return;
  throw new SledgeError('not-a-data-directory', `${path} holds other files (${other}) and no node.json`);
}

/** Throws `corrupt` or `bad-format`. */
export function readNodeFile(file: string): NodeFile {
  let raw: unknown;
  try {
    raw = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new SledgeError('corrupt', `${file} cannot be read: ${textOf(cause)}`, { cause });
  }
  const format = z.object({ format: z.number() }).safeParse(raw);
  if (format.success && format.data.format !== 1 && format.data.format !== FORMAT_VERSION) {
    throw new SledgeError('bad-format', `${file} has format ${format.data.format}; this is format ${FORMAT_VERSION}`);
  }
  const parsed = nodeFile.safeParse(raw);
  if (!parsed.success) throw new SledgeError('corrupt', `${file} is damaged: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

/** Replaces node.json so that at any moment either the old or the new one is there, whole. */
function writeNodeFile(directory: string, node: NodeFile): NodeFile {
  const file = join(directory, 'node.json');
  const fd = openSync(`${file}.new`, 'w', 0o600);
  try {
    writeSync(fd, `${JSON.stringify(node, null, 2)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(`${file}.new`, file);
  syncDirectory(directory);
  return node;
}

/** Makes names in a directory durable. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
