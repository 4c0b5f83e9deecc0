/**
 * What is wrong with a node at the moment, for `sledge status`: each problem once, by a key, until it is cleared. There are
 * as many as volumes, devices and `damagedBlocksShown` allow.
 */
import type { Problem } from '../admin/node-control.ts';
import type { Device } from '../sled/device.ts';

/** Of a device that goes bad block by block not all has to be read: the rest is counted. */
const PROBLEMS_SHOWN = 50;

export class ProblemList {
  readonly #problems = new Map<string, Problem>();
  readonly #volumes = new Map<string, string>();

  /** `volume` names the one that it concerns, where it is just one. */
  add(key: string, problem: Problem, volume?: string): void {
    this.#problems.set(key, problem);
    if (volume !== undefined) this.#volumes.set(key, volume);
  }

  clear(key: string): void {
    this.#problems.delete(key);
    this.#volumes.delete(key);
  }

  /** Errors first. */
  list(): Problem[] {
    const all = [...this.#problems.values()];
    const sorted = [...all.filter(p => p.severity === 'error'), ...all.filter(p => p.severity === 'warning')];
    const more = sorted.length - PROBLEMS_SHOWN;
    if (more <= 0) return sorted;
    const rest: Problem = {
      severity: 'error',
      what: `${more} further problems are not listed.`,
      why: `The list holds ${PROBLEMS_SHOWN}.`,
      todo: 'See the log of the server.',
    };
    return [...sorted.slice(0, PROBLEMS_SHOWN), rest];
  }

  ofVolume(name: string): Problem[] {
    return [...this.#volumes].filter(([, volume]) => volume === name).map(([key]) => this.#problems.get(key)!);
  }
}

/** What is wrong with devices that are aside at the moment, errors first. */
export function asideProblems(devices: Iterable<Device>): Problem[] {
  const aside = [...devices].filter(device => device.isAside);
  const problems = aside.map(({ path, failure, isFailing, illness }): Problem => {
    const isBroken = failure !== undefined || isFailing;
    return {
      severity: isBroken ? 'error' : 'warning',
      what: `${path} is set aside: what is written to volumes on it stays in the op log until it takes it, up to a limit.`,
      why: `${illness}, and others need not wait for it.`,
      todo: isBroken
        ? 'Repair the device, and start the server again; until then these volumes may wait.'
        : 'Look for what else keeps the device busy, or move its data to a quicker one.',
    };
  });
  return [
    ...problems.filter(problem => problem.severity === 'error'),
    ...problems.filter(p => p.severity === 'warning'),
  ];
}
