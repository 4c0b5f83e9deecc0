/** A way to see what the server is doing. There are two: `perf-sampler.ts` and `cpu-prof-sampler.ts`. */
import type { Sample } from './sample.ts';

export interface Sampler {
  readonly name: 'perf' | 'cpu-prof';
  /** Options of Node that the server has to be started with. */
  readonly nodeOptions: readonly string[];
  /** What the samples do not show, in whole sentences. */
  readonly blindSpots: readonly string[];
  /** The server is being started, as this process. */
  attach(pid: number): void;
  /** Looks at the server, which is under load by now, for that long. */
  watch(seconds: number): Promise<void>;
  /** What was seen; called when the server has ended. */
  samples(): Promise<Sample[]>;
  /** Ends what runs and removes what lies outside of the profile's directory; called when the server has ended. */
  clean(): void;
}
