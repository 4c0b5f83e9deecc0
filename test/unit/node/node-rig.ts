/** Starts nodes in this process on a directory of their own, and talks to their volumes without a network. */
import { join } from 'node:path';
import { plainRegion, type Region } from '../../../src/base/memory.ts';
import { MIB } from '../../../src/base/units.ts';
import type { VolumeCommand } from '../../../src/nbd-server/exported-volume.ts';
import { Node } from '../../../src/node/node.ts';
import type { NodeLog, NodeOptions } from '../../../src/node/options.ts';
import { startNode } from '../../../src/node/start.ts';
import { allocateRegion } from '../../../src/platform/io-memory.ts';
import type { IoKind } from '../../../src/platform/io-platform.ts';
import { TestRequest } from '../head/head-rig.ts';

export class MemoryLog implements NodeLog {
  readonly lines: string[] = [];
  debug(_fields: object, message: string): void {
    this.lines.push(message);
  }
  info(_fields: object, message: string): void {
    this.lines.push(message);
  }
  warn(_fields: object, message: string): void {
    this.lines.push(`warning: ${message}`);
  }
  error(_fields: object, message: string): void {
    this.lines.push(`error: ${message}`);
  }
}

export interface TestNode {
  readonly node: Node;
  readonly log: MemoryLog;
  /** A request to a volume, waited for; fails the promise unless it ends with 0. */
  request(
    volume: string,
    command: VolumeCommand,
    offset: number,
    data: number | Uint8Array,
    options?: Partial<TestRequest>,
  ): Promise<TestRequest>;
  /** A read to the start of a region of the platform; resolves whatever it ends with. */
  read(volume: string, offset: number, length: number, region: Region): Promise<TestRequest>;
  stop(): Promise<void>;
}

export interface TestNodeOptions extends Partial<Omit<NodeOptions, 'log'>> {
  readonly kind?: IoKind;
}

/** The options that a node in `directory` is started with; a small log, so that little has to be written for it. */
export async function startTestNode(directory: string, options: TestNodeOptions = {}): Promise<TestNode> {
  const log = new MemoryLog();
  const { kind, ...rest } = options;
  const before = process.env['SLEDGE_IO'];
  if (kind !== undefined) process.env['SLEDGE_IO'] = kind;
  try {
    const running = await startNode({
      dataDirectory: join(directory, 'data'),
      devices: [],
      volumes: [],
      cacheBytes: 16 * MIB,
      logBytes: 64 * MIB,
      listen: [],
      ...rest,
      log,
    });
    if (!(running instanceof Node)) throw new Error('a node is a Node');
    return testNode(running, log);
  } finally {
    if (before === undefined) delete process.env['SLEDGE_IO'];
    else process.env['SLEDGE_IO'] = before;
  }
}

function testNode(node: Node, log: MemoryLog): TestNode {
  const exported = (name: string) => {
    const volume = node.find(name);
    if (volume === undefined) throw new Error(`there is no volume ${name}`);
    return volume;
  };
  return {
    node,
    log,
    request: (name, command, offset, data, options = {}) =>
      new Promise((resolve, reject) => {
        const volume = exported(name);
        const length = typeof data === 'number' ? data : data.length;
        const request = new AlignedRequest(command, offset, length, done => {
          if (done.errno === 0) resolve(done);
          else reject(new Error(`${command} at ${offset} failed with ${done.errno}`));
        });
        Object.assign(request, options);
        if (typeof data !== 'number') {
          request.region = allocateRegion(Math.max(4096, Math.ceil(length / 4096) * 4096));
          request.region.bytes.set(data);
        }
        volume.submit(request);
      }),
    read: (name, offset, length, region) =>
      new Promise(resolve => {
        const request = new TestRequest('read', offset, length, resolve);
        Object.assign(request, { region, placed: 1 });
        region.bytes.fill(0xee, 0, length);
        exported(name).submit(request);
      }),
    stop: () => node.stop(),
  };
}

/** Its memory is such as devices can read into. */
class AlignedRequest extends TestRequest {
  override place(): void {
    if (this.placed++ > 0) return;
    const bytes = Math.max(4096, Math.ceil(this.lengthBytes / 4096) * 4096);
    this.region = bytes > 32 * 1024 ? allocateRegion(bytes) : plainRegion(bytes);
    this.region.bytes.fill(0xee);
    this.regionOffset = 0;
  }
}

/** A volume's worth of `createVolume`. */
export function volumeRequest(name: string, sizeBytes: number) {
  return { name, sizeBytes, chunkBytes: 64 * 1024, ack: 'written' as const, readOnly: false };
}
