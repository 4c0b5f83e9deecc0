/**
 * Finds the line of a source that a position in compiled JavaScript came from. Samplers name `dist/src/….js`; people read
 * `src/….ts`. What has no source map keeps its own name, relative to the project where it lies inside of it.
 */
import { readFileSync } from 'node:fs';
import { SourceMap, type SourceMapPayload } from 'node:module';
import { dirname, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Place {
  readonly file: string;
  readonly line: number;
}

/** Gives the place of a position, with line and column from 1. */
export type PlaceFinder = (url: string, line: number, column: number) => Place;

export class SourcePlaces {
  readonly #root: string;
  readonly #maps = new Map<string, SourceMap | undefined>();

  constructor(root: string) {
    this.#root = root;
  }

  readonly find: PlaceFinder = (url, line, column) => {
    if (!url.startsWith('file://') && !url.startsWith('/')) return { file: url, line };
    const path = url.startsWith('file://') ? fileURLToPath(url) : url;
    const entry = this.#map(path)?.findEntry(line - 1, column - 1);
    if (entry === undefined || !('originalSource' in entry)) return { file: this.#relative(path), line };
    return { file: this.#relative(resolve(dirname(path), entry.originalSource)), line: entry.originalLine + 1 };
  };

  #map(path: string): SourceMap | undefined {
    if (!this.#maps.has(path)) this.#maps.set(path, readMap(`${path}.map`));
    return this.#maps.get(path);
  }

  #relative(path: string): string {
    const inside = relative(this.#root, path);
    return inside.startsWith('..') ? path : inside;
  }
}

function readMap(path: string): SourceMap | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    // Packages come without.
    return undefined;
  }
  return new SourceMap(JSON.parse(text) as SourceMapPayload);
}
