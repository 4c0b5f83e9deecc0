/**
 * Reads what `perf script -F comm,pid,tid,time,period,ip,sym,dso` prints: for each sample a line that says which thread
 * and for how long, then a line for each function, the innermost first, then an empty one. Lines come one at a time,
 * since there are a million of them.
 *
 * Three things make of this what one wants to read:
 * - In a virtual machine a sample is often taken only when interrupts are enabled again, so that the function that does
 *   this seems to cost what came before it. It is left out: the sample counts for its caller.
 * - Addresses of compiled JavaScript become functions with their places in the sources (`compiled-code.ts`).
 * - Names of C++ functions lose what makes them long: arguments of templates, anonymous namespaces.
 */
import type { CompiledCode } from './compiled-code.ts';
import { type Frame, MAIN_THREAD, type Sample } from './sample.ts';

const HEAD = /^\s*(.*?)\s+(\d+)\/(\d+)\s+([\d.]+):\s+(\d+)\s*$/;
const FRAME = /^\s+([0-9a-f]+) (.*)$/;
const COMPILED = / \(.*\/perf-\d+\.map\)$/;
const nameless: Frame = { kind: 'builtin', name: 'compiled code without a name' };
const INTERRUPTS_ENABLED =
  /^(?:(?:__raw_callee_save_)?(?:pvm|native|xen)_(?:irq_enable|irq_disable|save_fl|restore_fl)|_raw_(?:spin|read|write)_unlock(?:_irq|_irqrestore|_bh)?|__raw_spin_unlock(?:_irq|_irqrestore)?|finish_task_switch)$/;

/** By what it runs at its outer end, or by its name. */
const THREADS: readonly (readonly [RegExp, string])[] = [
  [/PlatformWorkerThread/, 'V8 workers'],
  [/^io_wq_worker$/, 'io_uring workers'],
  [/^(?:worker|uv__threadpool.*)$/, 'libuv pool'],
];

interface Seen {
  readonly threadId: number;
  readonly threadName: string;
  readonly seconds: number;
  readonly frames: readonly Frame[];
}

/** One whose lines still come. */
interface Open extends Seen {
  readonly frames: Frame[];
}

export class PerfScript {
  readonly #pid: number;
  readonly #code: CompiledCode;
  readonly #frames = new Map<string, Frame>();
  readonly #done: Seen[] = [];
  readonly #threads = new Map<number, string>();
  #open: Open | undefined;

  /** Samples of other processes are left out. */
  constructor(pid: number, code: CompiledCode) {
    this.#pid = pid;
    this.#code = code;
    this.#threads.set(pid, MAIN_THREAD);
  }

  line(text: string): void {
    if (text.trim() === '') {
      this.#close();
      return;
    }
    const frame = FRAME.exec(text);
    if (frame !== null) {
      const frames = this.#open?.frames;
      frames?.push(this.#frame(Number.parseInt(frame[1], 16), frame[2], frames.length === 0));
      return;
    }
    this.#close();
    const head = HEAD.exec(text);
    if (head === null || Number(head[2]) !== this.#pid) return;
    this.#code.advanceTo(Number(head[4]));
    this.#open = { threadName: head[1], threadId: Number(head[3]), seconds: Number(head[5]) / 1e9, frames: [] };
  }

  end(): Sample[] {
    this.#close();
    return this.#done.map(({ threadId, seconds, frames }) => ({
      thread: this.#threads.get(threadId) ?? 'other threads',
      seconds,
      frames,
    }));
  }

  #close(): void {
    const open = this.#open;
    this.#open = undefined;
    if (open === undefined) return;
    if (!this.#threads.has(open.threadId)) this.#nameThread(open);
    this.#done.push({ ...open, frames: withoutInterruptsEnabled(open.frames) });
  }

  /** A thread is known by any of its samples; some show only the kernel's side. */
  #nameThread({ threadId, threadName, frames }: Open): void {
    const name = threadName.startsWith('iou-')
      ? 'io_uring workers'
      : THREADS.find(([pattern]) => frames.some(frame => pattern.test(frame.name)))?.[1];
    if (name !== undefined) this.#threads.set(threadId, name);
  }

  #frame(address: number, text: string, innermost: boolean): Frame {
    // Of a caller it is where it goes on, which may be behind its end.
    if (COMPILED.test(text)) return this.#code.find(innermost ? address : address - 1) ?? nameless;
    const known = this.#frames.get(text);
    if (known !== undefined) return known;
    const frame = parseFrame(text);
    this.#frames.set(text, frame);
    return frame;
  }
}

function parseFrame(text: string): Frame {
  const whole = text.replace(/ \(deleted\)\)$/, ')');
  const at = whole.lastIndexOf(' (');
  const symbol = at < 0 ? whole : whole.slice(0, at);
  const object = at < 0 ? '' : whole.slice(at + 2, -1);
  const name = simpleName(symbol);
  if (/^\[(?!vdso|vsyscall|unknown|stack|heap)/.test(object)) return { kind: 'kernel', name };
  if (/\/sledge\.node$/.test(object)) return { kind: 'addon', name };
  if (/lmdb/.test(object)) return { kind: 'lmdb', name };
  if (/\/node$/.test(object)) return { kind: name.startsWith('Builtins_') ? 'builtin' : 'node', name };
  return { kind: 'library', name: symbol === '[unknown]' ? object : name };
}

function simpleName(symbol: string): string {
  let name = symbol
    .replaceAll('(anonymous namespace)::', '')
    .replace(/(?:\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)?)+$/, '');
  for (let shorter = name; ; name = shorter) {
    // From the inside out; `operator<` and `operator->` stay.
    shorter = name.replace(/(?<!operator)<[^<>]*>/g, '');
    if (shorter === name) return name;
  }
}

function withoutInterruptsEnabled(frames: readonly Frame[]): readonly Frame[] {
  const first = frames.findIndex(frame => frame.kind !== 'kernel' || !INTERRUPTS_ENABLED.test(frame.name));
  // All of them: then at least say so.
  return first < 0 ? frames.slice(-1) : frames.slice(first);
}
