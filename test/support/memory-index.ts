/**
 * The index port over sorted maps in memory, for simulations and as the other side of the contract tests. A commit is
 * applied when the caller lets it (`ports.commit`), so a simulated crash can fall before or after it.
 */
import type { IoRequest } from '../../src/base/io.ts';
import type { VolumeNumber } from '../../src/base/units.ts';
import type { ChunkEntry } from '../../src/index/chunk-entry.ts';
import type {
  ColumnEntry,
  IndexState,
  IndexStore,
  IndexTransaction,
  VolumeEntry,
} from '../../src/index/index-store.ts';

/** What a memory index holds; survives the index object, as a file survives a process. */
export class IndexContents {
  state: IndexState | undefined;
  nextVolume = 1 as VolumeNumber;
  readonly volumes = new Map<VolumeNumber, VolumeEntry>();
  readonly columns = new Map<string, ColumnEntry>();
  readonly chunks = new Map<VolumeNumber, Map<number, ChunkEntry>>();

  /** Another one with the same entries, which are never changed themselves. */
  fork(): IndexContents {
    const copy = new IndexContents();
    copy.state = this.state;
    copy.nextVolume = this.nextVolume;
    for (const [number, entry] of this.volumes) copy.volumes.set(number, entry);
    for (const [key, entry] of this.columns) copy.columns.set(key, entry);
    for (const [number, chunks] of this.chunks) copy.chunks.set(number, new Map(chunks));
    return copy;
  }
}

type Change = (contents: IndexContents) => void;

/** Decides when, and whether, a commit takes place; `apply` may be called for other contents too. */
export type CommitGate = (apply: (contents?: IndexContents) => void, request: IoRequest) => void;

const applyNow: CommitGate = (apply, request) => {
  queueMicrotask(() => {
    apply();
    request.ioCompleted(0);
  });
};

export class MemoryIndex implements IndexStore {
  readonly #contents: IndexContents;
  readonly #gate: CommitGate;

  constructor(contents = new IndexContents(), gate: CommitGate = applyNow) {
    this.#contents = contents;
    this.#gate = gate;
  }

  get sizeBytes(): number {
    let entries = 0;
    for (const chunks of this.#contents.chunks.values()) entries += chunks.size;
    return entries * 100;
  }

  state(): IndexState | undefined {
    return this.#contents.state;
  }

  nextVolume(): VolumeNumber {
    return this.#contents.nextVolume;
  }

  volumes(): Iterable<VolumeEntry> {
    return [...this.#contents.volumes.values()].sort((a, b) => a.number - b.number);
  }

  columns(): Iterable<ColumnEntry> {
    return [...this.#contents.columns.values()].sort((a, b) => a.device - b.device || a.column - b.column);
  }

  chunk(volume: VolumeNumber, chunk: number): ChunkEntry | undefined {
    return this.#contents.chunks.get(volume)?.get(chunk);
  }

  chunks(volume: VolumeNumber, from: number, to: number, limit: number): Iterable<readonly [number, ChunkEntry]> {
    return [...(this.#contents.chunks.get(volume) ?? [])]
      .filter(([chunk]) => chunk >= from && chunk < to)
      .sort((a, b) => a[0] - b[0])
      .slice(0, limit);
  }

  chunkVolumes(): Iterable<VolumeNumber> {
    const { chunks } = this.#contents;
    return [...chunks.keys()].filter(number => chunks.get(number)!.size > 0).sort((a, b) => a - b);
  }

  /** Tests take it away. */
  hasRoom(_bytes: number): boolean {
    return true;
  }

  begin(): IndexTransaction {
    const changes: Change[] = [];
    return {
      putChunk: (volume, chunk, entry) => {
        changes.push(({ chunks }) => {
          let map = chunks.get(volume);
          if (map === undefined) {
            map = new Map();
            chunks.set(volume, map);
          }
          map.set(chunk, entry);
        });
      },
      removeChunk: (volume, chunk) => void changes.push(({ chunks }) => chunks.get(volume)?.delete(chunk)),
      putColumn: entry => void changes.push(({ columns }) => columns.set(`${entry.device}/${entry.column}`, entry)),
      removeColumn: (device, column) => void changes.push(({ columns }) => columns.delete(`${device}/${column}`)),
      putVolume: entry => void changes.push(({ volumes }) => volumes.set(entry.number, entry)),
      removeVolume: number => void changes.push(({ volumes }) => volumes.delete(number)),
      putState: state => {
        changes.push(contents => {
          contents.state = state;
        });
      },
      putNextVolume: number => {
        changes.push(contents => {
          contents.nextVolume = number;
        });
      },
      commit: request => {
        const apply = (contents = this.#contents) => {
          for (const change of changes) change(contents);
        };
        this.#gate(apply, request);
      },
    };
  }

  async close(): Promise<void> {}
}
