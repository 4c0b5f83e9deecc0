/**
 * Reads what `node --cpu-prof` writes: a tree of functions, and which of them was running at each sample. It knows the
 * main thread's JavaScript only: what a function calls of native code counts as its own, and functions that V8 inlined
 * are named all the same.
 */
import { type Frame, MAIN_THREAD, type Sample } from './sample.ts';
import type { PlaceFinder } from './source-places.ts';

/** As of the inspector's protocol, `Profiler.Profile`; lines and columns from 0, times in µs of the monotonic clock. */
export interface CpuProfile {
  readonly nodes: readonly CpuProfileNode[];
  readonly startTime: number;
  readonly samples?: readonly number[];
  /** From one sample to the next; the first from `startTime`. */
  readonly timeDeltas?: readonly number[];
}

interface CpuProfileNode {
  readonly id: number;
  readonly callFrame: {
    readonly functionName: string;
    readonly url: string;
    readonly lineNumber: number;
    readonly columnNumber: number;
  };
  readonly children?: readonly number[];
}

export interface Window {
  /** µs of the monotonic clock. */
  readonly fromUs: number;
  readonly toUs: number;
}

/** Samples within the window, without those in which nothing ran. */
export function samplesOf(profile: CpuProfile, window: Window, placeOf: PlaceFinder): Sample[] {
  const stacks = stacksOf(profile, placeOf);
  const { samples = [], timeDeltas = [] } = profile;
  const found: Sample[] = [];
  let atUs = profile.startTime;
  for (let i = 0; i < samples.length; i++) {
    atUs += timeDeltas[i];
    const frames = stacks.get(samples[i]);
    if (frames === undefined || atUs < window.fromUs || atUs >= window.toUs) continue;
    // It stands for the time until the next one; of the last one that is not known.
    found.push({ thread: MAIN_THREAD, seconds: Math.max(0, timeDeltas[i + 1] ?? 0) / 1e6, frames });
  }
  return found;
}

/** By node, the innermost function first; a node that stands for idleness has none. */
function stacksOf(profile: CpuProfile, placeOf: PlaceFinder): Map<number, readonly Frame[]> {
  const nodes = new Map(profile.nodes.map(node => [node.id, node]));
  const stacks = new Map<number, readonly Frame[]>();
  const visit = (node: CpuProfileNode, outer: readonly Frame[]): void => {
    const { functionName } = node.callFrame;
    const frames = functionName === '(root)' ? outer : [frameOf(node, placeOf), ...outer];
    if (functionName !== '(idle)' && functionName !== '(root)') stacks.set(node.id, frames);
    for (const child of node.children ?? []) visit(nodes.get(child)!, frames);
  };
  const root = profile.nodes.find(node => node.callFrame.functionName === '(root)');
  if (root !== undefined) visit(root, []);
  return stacks;
}

function frameOf({ callFrame }: CpuProfileNode, placeOf: PlaceFinder): Frame {
  const { functionName, url, lineNumber, columnNumber } = callFrame;
  if (functionName === '(garbage collector)') return { kind: 'collector', name: 'garbage collector' };
  if (functionName === '(program)') return { kind: 'program', name: 'native code outside of JavaScript' };
  const name = functionName === '' ? '(anonymous)' : functionName;
  if (url === '') return { kind: 'builtin', name };
  return { kind: 'javascript', name, ...placeOf(url, lineNumber + 1, columnNumber + 1) };
}
