/**
 * Metadata contexts: what a client may ask BLOCK_STATUS about. A source answers for one namespace; `base` is built in,
 * others (changes since a snapshot, dirty bitmaps) join the registry without a change to the handshake.
 */
import { CONTEXT_BASE_ALLOCATION } from '../nbd-server-protocol/index.ts';
import type { ExportedVolume } from './exported-volume.ts';

export interface MetaContextSource {
  /** What stands before the colon. */
  readonly namespace: string;
  /** Names (whole ones) that the volume offers, for a listing. */
  list(volume: ExportedVolume): readonly string[];
  /** Whether this whole name can be selected; names that are not listed may be, too. */
  offers(volume: ExportedVolume, name: string): boolean;
}

/** A context selected for a connection; `id` is what its replies carry. */
export interface SelectedContext {
  readonly id: number;
  readonly name: string;
}

const baseSource: MetaContextSource = {
  namespace: 'base',
  list: () => [CONTEXT_BASE_ALLOCATION],
  offers: (_volume, name) => name === CONTEXT_BASE_ALLOCATION,
};

export class MetaContextRegistry {
  readonly #sources: readonly MetaContextSource[];

  constructor(more: readonly MetaContextSource[] = []) {
    this.#sources = [baseSource, ...more];
  }

  /** Names that a LIST answers with: all without a query; `namespace:` is a wildcard. */
  list(volume: ExportedVolume, queries: readonly string[]): string[] {
    if (queries.length === 0) return this.#sources.flatMap(source => source.list(volume));
    const names = new Set<string>();
    for (const query of queries) {
      const source = this.#sourceOf(query);
      if (source === undefined) continue;
      if (query === `${source.namespace}:`) for (const name of source.list(volume)) names.add(name);
      else if (source.offers(volume, query)) names.add(query);
    }
    return [...names];
  }

  /** Contexts that a SET selects; what is not known is passed over, and so is a wildcard. */
  select(volume: ExportedVolume, queries: readonly string[]): SelectedContext[] {
    const names = new Set<string>();
    for (const query of queries) {
      if (this.#sourceOf(query)?.offers(volume, query) === true) names.add(query);
    }
    return [...names].map((name, index) => ({ id: index + 1, name }));
  }

  #sourceOf(query: string): MetaContextSource | undefined {
    const colon = query.indexOf(':');
    return this.#sources.find(source => source.namespace === query.slice(0, Math.max(0, colon)));
  }
}
