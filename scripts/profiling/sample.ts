/**
 * What a sampler saw: at one moment, on one thread, the functions that were being called. Made from the output of `perf`
 * (`perf-script.ts`) or from a profile of V8's (`cpu-profile.ts`); everything that is shown is made of these.
 */

/**
 * Where a frame's code comes from. `builtin` is what V8 brings for JavaScript (property access, `TypedArray.set`), and
 * what has no name of its own among compiled code: it does the work of the function that called it. `library` is C code
 * that works for whoever calls it: libc, libstdc++, the vdso.
 */
export type NativeKind = 'kernel' | 'builtin' | 'addon' | 'lmdb' | 'node' | 'library' | 'collector' | 'program';

export type Frame =
  | { readonly kind: NativeKind; readonly name: string }
  | { readonly kind: 'javascript'; readonly name: string; readonly file: string; readonly line: number };

export type ScriptFrame = Extract<Frame, { kind: 'javascript' }>;

export interface Sample {
  /** What kind of thread: `main`, `io_uring workers` … */
  readonly thread: string;
  /** How long a time on a processor this sample stands for. */
  readonly seconds: number;
  /** The innermost first. */
  readonly frames: readonly Frame[];
}

export const MAIN_THREAD = 'main';

/** The JavaScript function that `frames[from]` works for, or is. */
export function nearestScript(frames: readonly Frame[], from = 0): ScriptFrame | undefined {
  for (let i = from; i < frames.length; i++) {
    const frame = frames[i];
    if (frame.kind === 'javascript') return frame;
  }
  return undefined;
}

/** One text for one function, wherever it is called from. */
export function frameKey(frame: Frame): string {
  return frame.kind === 'javascript' ? `${frame.name} ${frame.file}:${frame.line}` : `${frame.kind} ${frame.name}`;
}
