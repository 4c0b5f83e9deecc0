/**
 * Measures Sledge and its peers in one run, interleaved, and prints one table. Started by `scripts/bench/nbd`, which
 * builds and holds the lock that keeps two measurements apart.
 *
 * How it stays fair: all servers get the same load from the same client (nbdload.c) on volumes filled beforehand, on one
 * disk; a server is started anew for each measurement; what one measurement has left to write, in the page cache or in
 * Sledge's log, is on disk before the next begins; each repeat visits the servers in another order, and the medians of
 * the repeats are compared. The machine is assumed to be shared: the spread stands beside each rate with what others took
 * of the processors, and a gap below about 30 % that does not repeat means nothing.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { makeCertificates } from '../../test/support/nbd-certificates.ts';
import { findProgram } from '../../test/support/nbd-programs.ts';
import { type EngineSpec, isInstalled, type Workplace } from './nbd-engines.ts';
import { type Figure, judgeFigures } from './nbd-figures.ts';
import { fioHasNbd, fioOnFile, fioTogether } from './nbd-fio.ts';
import { judge, type Verdict } from './nbd-gates.ts';
import { loadHasTls, WARM_UP_SECONDS } from './nbd-load.ts';
import { formatMarkdown } from './nbd-markdown.ts';
import { measureServer } from './nbd-measurement.ts';
import { type Options, parseOptions, USAGE, UsageError } from './nbd-options.ts';
import { stopProcesses } from './nbd-process.ts';
import { formatFigures, formatSummary, formatTable } from './nbd-report.ts';
import { type Result, type ResultClass, ratios, type Sample, summarize } from './nbd-results.ts';
import { type Row, rampSecondsOf, type Together } from './nbd-rows.ts';
import { inTurn, turnsOf } from './nbd-turns.ts';
import { fillFile, fillVolume, syncDisk } from './nbd-volumes.ts';

interface Outcome {
  readonly results: readonly Result[];
  readonly figures: readonly Figure[];
  readonly verdicts: readonly Verdict[];
  /** One sentence each: what could not be measured. */
  readonly failures: readonly string[];
}

/**
 * For the estimate: starting, warming and stopping a server, and bringing a write to rest, which takes about as long as
 * the write did until the volume is dirty all over.
 */
const SECONDS_AROUND = 0.8;
const SECONDS_OF_REST_MAX = 10;

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) {
    process.stdout.write(USAGE);
    return;
  }
  const directory = mkdtempSync(join(options.parentDirectory, 'sledge-bench-'));
  const clean = (): void => rmSync(directory, { recursive: true, force: true });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void stopProcesses().finally(() => {
        clean();
        process.exit(1);
      });
    });
  }
  try {
    await run(options, directory);
  } finally {
    await stopProcesses();
    clean();
  }
}

async function run(options: Options, directory: string): Promise<void> {
  const available = await withoutMissing(options);
  const { sizeBytes, transport } = options;
  const certificates = available.rows.some(row => row.tls) ? join(directory, 'tls') : undefined;
  if (certificates !== undefined) await makeCertificates(certificates);
  const file = join(directory, 'volume');
  const place = { directory, file, sizeBytes, transport, ...(certificates !== undefined && { certificates }) };
  say(`this takes about ${Math.ceil(estimateSeconds(available) / 60)} min`);

  const outcome = await measure(available, place);
  const { results, figures, verdicts, failures } = outcome;
  process.stdout.write(`${machine(options)}\n`);
  if (results.length > 0) process.stdout.write(`${formatTable(available.rows, results, verdicts)}\n`);
  if (figures.length > 0) process.stdout.write(`\nSledge alone\n${formatFigures(figures)}\n`);
  if (verdicts.length > 0) process.stdout.write(`\n${formatSummary(verdicts)}\n`);
  for (const failure of failures) say(`failed: ${failure}`);
  if (options.json !== undefined) writeJson(options.json, options, outcome);
  if (options.markdown !== undefined) {
    const { rows, engines } = available;
    writeFileSync(options.markdown, formatMarkdown({ rows, engines, results, verdicts, figures }));
  }
  if (failures.length > 0) process.exitCode = 1;
}

/** The options without what this machine has no program for; says what is left out. */
async function withoutMissing(options: Options): Promise<Options> {
  const engines = options.engines.filter(isInstalled);
  for (const { name } of options.engines.filter(engine => !isInstalled(engine))) {
    say(`${name} is not installed: skipped`);
  }
  const hasFio = findProgram('fio') !== undefined;
  if (options.raw && !hasFio) say('fio is not installed: the raw file is skipped');
  let { rows } = options;
  const leaveOut = (without: (row: Row) => boolean, why: string): void => {
    const names = rows.filter(without).map(row => row.name);
    if (names.length > 0) say(`${why}: ${names.join(', ')} skipped`);
    rows = rows.filter(row => !without(row));
  };
  if (rows.some(row => row.client === 'fio') && !(hasFio && (await fioHasNbd()))) {
    leaveOut(row => row.client === 'fio', 'fio with its nbd engine is not installed');
  }
  if (rows.some(row => row.tls)) {
    if (!(await loadHasTls())) leaveOut(row => row.tls ?? false, 'libnbd and its headers are not installed');
    if (findProgram('certtool') === undefined) leaveOut(row => row.tls ?? false, 'certtool (GnuTLS) is not installed');
  }
  return { ...options, engines, rows, raw: options.raw && hasFio };
}

function canMeasure(engine: EngineSpec, row: Row): boolean {
  return row.classes.includes(engine.class) && (engine.tls || !row.tls);
}

function measuresRaw(row: Row, options: Options): boolean {
  return options.raw && row.classes.includes('raw') && row.fio !== undefined;
}

function estimateSeconds(options: Options): number {
  const bytes = options.rows.length === 0 ? 0 : 2 * options.sizeBytes;
  const ofRows = options.rows.map(row => {
    const onFile = measuresRaw(row, options) ? 1 + Number(row.together !== undefined) : 0;
    const runs = options.engines.filter(engine => canMeasure(engine, row)).length + onFile;
    const warmUp = row.warmLoad === undefined ? 0 : WARM_UP_SECONDS;
    const rest = row.writes ? Math.min(row.seconds, SECONDS_OF_REST_MAX) : 0;
    return runs * options.repeat * (warmUp + row.seconds + rampSecondsOf(row) + SECONDS_AROUND + rest);
  });
  const ofFigures = options.figures.map(figure => figure.seconds);
  // Half a gigabyte a second is what a disk takes at least that is worth measuring.
  return [...ofRows, ...ofFigures].reduce((sum, seconds) => sum + seconds, bytes / 2 ** 29);
}

async function measure(options: Options, place: Workplace): Promise<Outcome> {
  const failures = new Set<string>();
  const attempt = async <T>(what: string, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      failures.add(`${what}: ${error instanceof Error ? error.message.trim() : String(error)}`);
      return undefined;
    }
  };
  const results = options.rows.length === 0 ? [] : await measureRows(options, place, attempt);
  const figures: Figure[] = [];
  for (const { name, measure } of options.figures) {
    if (!options.engines.some(engine => engine.class === 'sledge')) continue;
    say(name);
    figures.push(...((await attempt(name, () => measure(place, options.repeat))) ?? []));
  }
  const verdicts = [...judge(options.rows, results), ...judgeFigures(figures)];
  return { results, figures, verdicts, failures: [...failures] };
}

type Attempt = <T>(what: string, work: () => Promise<T>) => Promise<T | undefined>;

async function measureRows(options: Options, place: Workplace, attempt: Attempt): Promise<Result[]> {
  say(`filling the volumes, ${place.sizeBytes / 2 ** 20} MiB each`);
  await fillFile(place.file, place.sizeBytes);
  const present: EngineSpec[] = [];
  for (const engine of options.engines) {
    const fill = async (): Promise<true> => {
      if (engine.class === 'sledge') await fillVolume(engine, place, options.rows);
      return true;
    };
    if (await attempt(engine.name, fill)) present.push(engine);
  }

  const samples = new Map<string, Sample[]>();
  const add = async (row: Row, name: string, work: () => Promise<Sample>): Promise<void> => {
    const sample = await attempt(`${row.name}, ${name}`, work);
    const key = `${row.name} ${name}`;
    if (sample !== undefined) samples.set(key, [...(samples.get(key) ?? []), sample]);
  };
  for (const { row, turn } of turnsOf(options.rows, options.repeat)) {
    say(`repeat ${turn + 1} of ${options.repeat}: ${row.name}`);
    const able = present.filter(engine => canMeasure(engine, row));
    for (const engine of inTurn(able, turn)) {
      await add(row, engine.name, () => measureServer(engine, row, place));
    }
    if (measuresRaw(row, options)) {
      await add(row, 'raw', () => fioOnFile(row, rampSecondsOf(row), place.file));
      if (row.writes) await syncDisk(place);
      const { together } = row;
      if (together === undefined) continue;
      await add(row, atOnce(together), () => fioTogether(row, together, rampSecondsOf(row), place.file));
    }
  }
  return options.rows.flatMap(row => {
    const file: { name: string; class: ResultClass }[] = [{ name: 'raw', class: 'raw' }];
    if (row.together !== undefined) file.push({ name: atOnce(row.together), class: 'limit' });
    return [...present, ...file].flatMap(({ name, class: class_ }) => {
      const found = samples.get(`${row.name} ${name}`);
      return found === undefined ? [] : [summarize(row, name, class_, found)];
    });
  });
}

function atOnce({ count }: Together): string {
  return `raw, ${count} at once`;
}

function machine(options: Options): string {
  const [cpu] = cpus();
  return (
    `${cpus().length} × ${cpu?.model.trim()}, Linux ${release()}, Node ${process.version}; ${options.transport}, ` +
    `${options.sizeBytes / 2 ** 30} GiB, medians of ${options.repeat}; * best peer of its class`
  );
}

function writeJson(path: string, options: Options, outcome: Outcome): void {
  const { transport, sizeBytes, repeat } = options;
  const seconds = Object.fromEntries(options.rows.map(row => [row.name, row.seconds]));
  const host = { cpu: cpus()[0]?.model.trim(), cores: cpus().length, kernel: release(), node: process.version };
  const all = {
    measuredAt: new Date().toISOString(),
    host,
    settings: { transport, sizeBytes, repeat, seconds },
    ...outcome,
    ratios: ratios(outcome.results),
  };
  writeFileSync(path, `${JSON.stringify(all, undefined, 2)}\n`);
}

/** Progress and failures, with the minutes and seconds since the start. */
function say(text: string): void {
  const seconds = Math.floor(performance.now() / 1000);
  const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  process.stderr.write(`bench: ${time} ${text}\n`);
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  if (error instanceof UsageError) process.stderr.write('  See: scripts/bench/nbd --help\n');
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
