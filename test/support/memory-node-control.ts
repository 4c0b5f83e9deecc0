/**
 * A node without storage: keeps the rules of NodeControl (names, order, errors) over a map. For tests of the control
 * plane and the command line, which care for how a node is asked, not for what it stores.
 */
import type {
  CreateVolumeRequest,
  NodeControl,
  NodeStatus,
  Problem,
  ScrubProgress,
  ScrubReport,
  VolumeInfo,
} from '../../src/admin/node-control.ts';
import { SledgeError } from '../../src/base/errors.ts';
import type { ListenAddress } from '../../src/platform/io-platform.ts';

export class MemoryNodeControl implements NodeControl {
  readonly problems: Problem[] = [];
  addresses: readonly ListenAddress[] = [{ kind: 'tcp', host: '127.0.0.1', port: 10809 }];
  /** Thrown by the next change, once. */
  nextFailure: unknown;
  /** What scrubs find, and what they were asked for: name and rate. */
  scrubResult: Omit<ScrubReport, 'volume'> = { seconds: 3, bytesRead: 1024 ** 2, damagedBlocks: 0, damage: [] };
  readonly scrubsAsked: [string, number][] = [];
  /** While set, scrubs go on, and have come this far. */
  scrubHeld: ScrubProgress | undefined;
  readonly #scrubs = new Map<string, () => void>();
  readonly #volumes = new Map<string, VolumeInfo>();
  #lastNumber = 0;

  volumes(): VolumeInfo[] {
    return [...this.#volumes.values()].sort((left, right) => (left.name < right.name ? -1 : 1));
  }

  volume(name: string): VolumeInfo | undefined {
    return this.#volumes.get(name);
  }

  async createVolume(request: CreateVolumeRequest): Promise<VolumeInfo> {
    this.#mayFail();
    if (this.#volumes.has(request.name)) {
      throw new SledgeError('volume-exists', `there is a volume ${request.name} already`);
    }
    return this.put({ ...request, number: ++this.#lastNumber });
  }

  async growVolume(name: string, sizeBytes: number): Promise<VolumeInfo> {
    this.#mayFail();
    const volume = this.#known(name);
    if (sizeBytes < volume.sizeBytes) throw new SledgeError('shrink-refused', `${name} has ${volume.sizeBytes} bytes`);
    return this.put({ ...volume, sizeBytes });
  }

  async deleteVolume(name: string): Promise<void> {
    this.#mayFail();
    if (this.#known(name).connections > 0) throw new SledgeError('volume-busy', `${name} has clients`);
    this.#volumes.delete(name);
  }

  async scrubVolume(name: string, bytesPerSecond: number, signal: AbortSignal): Promise<ScrubReport> {
    this.#mayFail();
    this.#known(name);
    if (this.#scrubs.has(name)) throw new SledgeError('volume-busy', `${name} is being scrubbed already`);
    this.scrubsAsked.push([name, bytesPerSecond]);
    if (this.scrubHeld !== undefined) {
      await new Promise<void>((resolve, reject) => {
        this.#scrubs.set(name, resolve);
        signal.addEventListener('abort', () => reject(signal.reason as Error));
      }).finally(() => this.#scrubs.delete(name));
    }
    return { volume: name, ...this.scrubResult };
  }

  scrubProgress(name: string): ScrubProgress | undefined {
    return this.#scrubs.has(name) ? this.scrubHeld : undefined;
  }

  get scrubsRunning(): number {
    return this.#scrubs.size;
  }

  endScrubs(): void {
    for (const end of this.#scrubs.values()) end();
  }

  /** Puts a volume as it is given, with values of no meaning for the rest. */
  put(volume: Partial<VolumeInfo> & { readonly name: string }): VolumeInfo {
    const whole: VolumeInfo = {
      number: 1,
      sizeBytes: 1024 ** 3,
      chunkBytes: 64 * 1024,
      ack: 'written',
      readOnly: false,
      allocatedBytes: 0,
      lastOp: 0,
      epoch: 1,
      connections: 0,
      createdAt: '2026-01-01T00:00:00.000Z',
      problems: [],
      ...volume,
    };
    this.#volumes.set(whole.name, whole);
    return whole;
  }

  status(): NodeStatus {
    const latencyUs = { p50: 85, p95: 240, p99: 1200, p999: 9100, max: 1_500_000 };
    return {
      health: this.problems.length === 0 ? 'ok' : 'degraded',
      problems: this.problems,
      version: '0.1.0',
      pid: 4711,
      dataDirectory: '/srv/sledge',
      formatVersion: 1,
      startedAt: '2026-01-01T00:00:00.000Z',
      uptimeSeconds: 7500,
      io: { kind: 'io_uring', why: 'the default' },
      log: {
        usedBytes: 12 * 1024 ** 2,
        limitBytes: 2 * 1024 ** 3,
        segments: 3,
        lastSyncAt: '2026-01-01T02:00:00.000Z',
        checksumErrors: 0,
      },
      cache: { usedBytes: 1024 ** 2, limitBytes: 256 * 1024 ** 2, hits: 930, misses: 70 },
      index: { sizeBytes: 128 * 1024 },
      devices: [
        {
          name: 'main',
          path: '/srv/sledge/devices/main',
          kind: 'file',
          sizeBytes: 20 * 1024 ** 3,
          usedBytes: 5 * 1024 ** 3,
          alignmentBytes: 4096,
          state: 'ok',
          errors: { read: 1, write: 2, checksum: 3 },
        },
      ],
      volumes: this.volumes(),
      addresses: this.addresses,
      tls: 'off',
      connections: 2,
      commands: [
        {
          command: 'read',
          count: 5_000_000,
          errors: 0,
          bytes: 1024 ** 4,
          perSecond: 12_345,
          bytesPerSecond: 5e7,
          latencyUs,
        },
      ],
      eventLoopDelayMs: {
        lastMinute: { p50: 0.2, p99: 1.5, p999: 20, max: 25 },
        sinceStart: { p50: 0.3, p99: 2.5, p999: 30, max: 1250 },
      },
    };
  }

  #known(name: string): VolumeInfo {
    const volume = this.#volumes.get(name);
    if (volume === undefined) throw new SledgeError('volume-unknown', `there is no volume ${name}`);
    return volume;
  }

  #mayFail(): void {
    const failure = this.nextFailure;
    this.nextFailure = undefined;
    if (failure !== undefined) throw failure;
  }
}
