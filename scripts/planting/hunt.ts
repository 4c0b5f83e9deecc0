/**
 * Looks for what catches a bug that is planted in a copy of the checkout: first the simulator, with more and more runs,
 * then the unit tests of the folder that the bug is in and of the head, which puts most folders together. Where a bug is in
 * a folder that the simulator does not run, only the tests of that folder are left.
 *
 * The time that each may take is bounded. A simulator that is out of time has caught nothing; a unit test that takes many
 * times as long as without the bug has.
 */
import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { PlantedBug } from './planted-bug.ts';
import { runTap, type TapResult } from './tap-program.ts';

/** Runs of the simulator, each kind of crash for itself, before they are more. */
const SIMULATOR_STAGES: readonly number[] = [4, 16, 40];
const SIMULATOR = 'test/model/head.test.js';
const SCENARIOS = 'test/model/head-scenarios.test.js';
/** How the simulator names the seed of a run that failed, not the one it began with. */
const FAILED_SEED = /(?:> |- |run of )seed (\d+)/;
const SIMULATOR_MS = 30_000;
/** Folders whose code the simulator runs; the rest it puts in place itself. */
const SIMULATED_FOLDERS: ReadonlySet<string> = new Set(['oplog', 'index', 'sled', 'volume', 'head']);
const UNIT_TEST_MS = 180_000;
const LIMIT_MS_MIN = 10_000;
const LIMIT_FACTOR = 4;

export type Verdict =
  | { readonly kind: 'simulator'; readonly seed: number; readonly runs: number; readonly says: string }
  | { readonly kind: 'test'; readonly file: string; readonly test: string; readonly says: string }
  | { readonly kind: 'missed' };

export class Hunt {
  readonly #directory: string;
  readonly #firstSeed: number;
  /** How long each unit test may take, since `control` knows how long it takes. */
  readonly #limitsMs = new Map<string, number>();

  constructor(directory: string, firstSeed: number) {
    this.#directory = directory;
    this.#firstSeed = firstSeed;
  }

  async run(bug: PlantedBug): Promise<Verdict> {
    const simulated = isSimulated(bug.file) ? await this.#simulate(SIMULATOR_MS, bug.trouble) : undefined;
    if (simulated !== undefined) return simulated;
    return this.#test(unitTestsOf(bug.file, this.#directory));
  }

  /** Everything that `run` may use, where there is no bug. */
  async control(bugs: readonly PlantedBug[]): Promise<Verdict> {
    const simulated = await this.#simulate(10 * SIMULATOR_MS);
    if (simulated !== undefined) return simulated;
    const files = new Set(bugs.flatMap(bug => unitTestsOf(bug.file, this.#directory)));
    return this.#test([...files]);
  }

  async #simulate(timeoutMs: number, trouble?: string): Promise<Verdict | undefined> {
    const deadline = Date.now() + timeoutMs;
    let first = this.#firstSeed;
    for (const runs of SIMULATOR_STAGES) {
      const left = deadline - Date.now();
      if (left <= 0) return undefined;
      const environment = {
        SLEDGE_TEST_SEED: String(first),
        SLEDGE_TEST_RUNS: String(runs),
        ...(trouble !== undefined && { SLEDGE_TEST_TROUBLE: trouble }),
      };
      const result = await this.#runFile(SIMULATOR, environment, left, FAILED_SEED);
      if (result.outcome === 'failed') {
        const seed = seedOf(result) ?? first;
        return { kind: 'simulator', seed, runs: seed - this.#firstSeed + 1, says: saysOf(result) };
      }
      first += runs;
    }
    return undefined;
  }

  async #test(files: readonly string[]): Promise<Verdict> {
    for (const file of files) {
      const limitMs = this.#limitsMs.get(file) ?? UNIT_TEST_MS;
      const startedAt = Date.now();
      const result = await this.#runFile(file, {}, limitMs);
      if (result.outcome === 'passed') {
        if (!this.#limitsMs.has(file)) this.#limitsMs.set(file, LIMIT_MS_MIN + LIMIT_FACTOR * (Date.now() - startedAt));
        continue;
      }
      const test = result.outcome === 'timed out' ? `not done after ${Math.round(limitMs / 1000)} s` : result.name;
      return { kind: 'test', file: file.replace(/\.js$/, '.ts'), test, says: saysOf(result) };
    }
    return { kind: 'missed' };
  }

  async #runFile(
    file: string,
    environment: Readonly<Record<string, string>>,
    timeoutMs: number,
    awaited?: RegExp,
  ): Promise<TapResult> {
    const result = await runTap(join('dist', file), this.#directory, environment, timeoutMs, awaited);
    const nonsense = [result.name, ...result.details].find(line => /\b(ReferenceError|SyntaxError)\b/.test(line));
    if (nonsense !== undefined) throw new Error(`what is planted cannot be run: ${nonsense.trim()}`);
    return result;
  }
}

function folderOf(source: string): string {
  return source.split('/')[1] ?? '';
}

function isSimulated(source: string): boolean {
  return SIMULATED_FOLDERS.has(folderOf(source));
}

/**
 * Test files, below dist, of the folder that a source is in: that of the same name first. Then, for what the simulator
 * runs as well, those of the head and the simulator's scenarios.
 */
export function unitTestsOf(source: string, directory: string): string[] {
  const own = `${basename(source, '.ts')}.test.js`;
  const found: string[] = [];
  const folders = isSimulated(source) ? [folderOf(source), 'head'] : [folderOf(source)];
  for (const name of new Set(folders)) {
    const path = join('test/unit', name);
    if (!existsSync(join(directory, 'dist', path))) continue;
    const files = readdirSync(join(directory, 'dist', path)).filter(file => file.endsWith('.test.js'));
    files.sort((a, b) => Number(b === own) - Number(a === own) || (a < b ? -1 : 1));
    found.push(...files.map(file => join(path, file)));
  }
  return isSimulated(source) ? [...found, SCENARIOS] : found;
}

/**
 * The seed that a failure of the simulator names, or that a broken invariant ended. Undefined where a broken invariant left
 * the simulation hanging: then it is one of the seeds that the simulator was started with.
 */
function seedOf(result: TapResult): number | undefined {
  for (const text of [result.name, ...result.comments]) {
    const match = FAILED_SEED.exec(text);
    if (match !== null) return Number(match[1]);
  }
  return undefined;
}

/** The line that tells most, for people; empty when that is the name. */
function saysOf(result: TapResult): string {
  const lines = [...result.details, ...result.comments].map(line => line.trim());
  const telling = lines.find(line => /^(\w*Error\b|AssertionError|.*\ballowed\b|v\d+[ :]|.*\bassert)/.test(line));
  return (telling ?? '').slice(0, 200);
}
