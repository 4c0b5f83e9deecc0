/** Figures of Sledge by itself, which no peer is compared with: what it costs when idle, and how soon it is there. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Workplace } from './nbd-engines.ts';
import type { Verdict } from './nbd-gates.ts';
import { cpuSeconds, residentBytes, sleep } from './nbd-process.ts';
import { median } from './nbd-results.ts';
import { startSledge } from './nbd-sledge.ts';

export interface Figure {
  readonly name: string;
  readonly title: string;
  readonly value: number;
  readonly unit: '%' | 'MiB' | 's';
  /** The gate: the value lies below this. */
  readonly below: number;
}

export interface FigureSpec {
  /** As rows have one, for --rows. */
  readonly name: string;
  /** How long it takes, for an estimate. */
  readonly seconds: number;
  measure(place: Workplace, repeat: number): Promise<Figure[]>;
}

export const figures: readonly FigureSpec[] = [
  { name: 'idle', seconds: 9, measure: measureIdle },
  { name: 'volumes', seconds: 9, measure: measureStart },
];

const IDLE_SECONDS = 5;
/** Until what a start leaves to do is done. */
const CALM_SECONDS = 2;
const VOLUME_COUNT = 1000;

/** Default settings, one volume, no client. */
async function measureIdle(place: Workplace): Promise<Figure[]> {
  return await inDirectory(place, async (dataDirectory, listen) => {
    const server = await startSledge({ dataDirectory, listen, volumes: ['idle:10GiB'], arguments: [] });
    try {
      await sleep(CALM_SECONDS * 1000);
      const before = cpuSeconds(server.pid);
      const started = performance.now();
      await sleep(IDLE_SECONDS * 1000);
      const seconds = (performance.now() - started) / 1000;
      const share = (cpuSeconds(server.pid) - before) / seconds;
      const mebibytes = residentBytes(server.pid) / 2 ** 20;
      return [
        { name: 'idle', title: 'CPU of one core, one volume and no client', value: share * 100, unit: '%', below: 1 },
        { name: 'idle', title: 'memory, one volume and no client', value: mebibytes, unit: 'MiB', below: 150 },
      ];
    } finally {
      await server.stop();
    }
  });
}

/** From the start of the program to its word that clients can connect. */
async function measureStart(place: Workplace, repeat: number): Promise<Figure[]> {
  return await inDirectory(place, async (dataDirectory, listen) => {
    const volumes = Array.from({ length: VOLUME_COUNT }, (_, i) => `volume-${i + 1}:1GiB`);
    const first = await startSledge({ dataDirectory, listen, volumes, arguments: [] });
    await first.stop();
    const seconds: number[] = [];
    for (let turn = 0; turn < repeat; turn++) {
      const before = performance.now();
      const server = await startSledge({ dataDirectory, listen, volumes: [], arguments: [] });
      seconds.push((performance.now() - before) / 1000);
      await server.stop();
    }
    const title = `time to start with ${VOLUME_COUNT} volumes`;
    return [{ name: 'volumes', title, value: median(seconds), unit: 's', below: 2 }];
  });
}

async function inDirectory<T>(place: Workplace, work: (data: string, listen: string) => Promise<T>): Promise<T> {
  const directory = join(place.directory, 'figures');
  mkdirSync(directory);
  try {
    return await work(join(directory, 'data'), `unix:${join(directory, 'socket')}`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

export function formatFigure(figure: Figure): string {
  return `${figure.value.toFixed(figure.unit === 'MiB' ? 0 : 2)} ${figure.unit}`;
}

export function judgeFigures(measured: readonly Figure[]): Verdict[] {
  return measured.map(figure => ({
    row: figure.name,
    sentence: `${figure.title} < ${figure.below} ${figure.unit}`,
    found: formatFigure(figure),
    value: figure.value,
    state: isMet(figure) ? 'met' : 'missed',
  }));
}

export function isMet(figure: Figure): boolean {
  return figure.value < figure.below;
}
