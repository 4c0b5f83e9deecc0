/**
 * Samples with Node's own profiler, which is there wherever Node is. It runs from the start of the server to its end and
 * writes its file then; what was before the load, and after it, is cut off by the clock.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CpuProfile, samplesOf, type Window } from './cpu-profile.ts';
import type { Sample } from './sample.ts';
import type { Sampler } from './sampler.ts';
import type { PlaceFinder } from './source-places.ts';

/** Each sample interrupts the main thread by a signal. */
const INTERVAL_US = 1000;

export class CpuProfSampler implements Sampler {
  readonly name = 'cpu-prof';
  readonly nodeOptions: readonly string[];
  readonly blindSpots = [
    'The kernel, the addon and LMDB are not seen: a call of them counts as the JavaScript that called.',
    'Other threads are not seen: workers of V8, of io_uring, of LMDB.',
  ];
  readonly #directory: string;
  readonly #placeOf: PlaceFinder;
  #window: Window | undefined;

  constructor(directory: string, placeOf: PlaceFinder) {
    this.#directory = join(directory, 'cpu-prof');
    this.#placeOf = placeOf;
    const where = `--cpu-prof-dir=${this.#directory}`;
    this.nodeOptions = ['--cpu-prof', where, '--cpu-prof-interval', String(INTERVAL_US)];
  }

  attach(): void {}

  async watch(seconds: number): Promise<void> {
    const fromUs = clockUs();
    await sleep(seconds * 1000);
    this.#window = { fromUs, toUs: clockUs() };
  }

  async samples(): Promise<Sample[]> {
    const files = existsSync(this.#directory) ? readdirSync(this.#directory) : [];
    const name = files.find(file => file.endsWith('.cpuprofile'));
    if (name === undefined || this.#window === undefined) throw new Error('the server has left no profile');
    const profile = JSON.parse(readFileSync(join(this.#directory, name), 'utf8')) as CpuProfile;
    return samplesOf(profile, this.#window, this.#placeOf);
  }

  clean(): void {}
}

/** V8's profiles are in the time of this clock, which all processes share. */
function clockUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}
