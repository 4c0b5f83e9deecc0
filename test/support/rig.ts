/**
 * The kernel rig: a guest script runs under a real Linux kernel with the nbd driver, and talks to a server on this host.
 * Called by test/kernel; the rig itself is test/kernel/rig.
 *
 * Invariants: a guest runs only as long as its limit says; it sees the host's files, writes to none of them but those in
 * `share`, and reaches this host's 127.0.0.1 as $HOST.
 */
import { accessSync } from 'node:fs';
import { join } from 'node:path';
import {
  describeFailure,
  projectDirectory,
  type RunResult,
  run,
  skipUnless,
  skipUnlessInstalled,
} from './nbd-programs.ts';

export interface GuestOptions {
  /** A file of test/kernel/guest. */
  readonly script: string;
  readonly args?: readonly string[];
  /** A directory that the guest may write to. User-Mode Linux only. */
  readonly share?: string;
  /** Several processors: QEMU instead of User-Mode Linux, and much slower. */
  readonly processors?: number;
  readonly limitSeconds?: number;
}

const rigDirectory = join(projectDirectory, 'test', 'kernel', 'rig');
const guestDirectory = join(projectDirectory, 'test', 'kernel', 'guest');

export function skipWithoutRig(): string | false {
  return skipUnlessInstalled(
    'linux.uml',
    'libslirp-helper',
    'busybox',
    'perl',
    'nbd-client',
    'mkfs.ext4',
    'mkfs.xfs',
    'fio',
  );
}

/** The rig with several processors needs root, virtiofsd, and the kernel package (from a mirror, or kept from last time). */
export function skipWithoutMultiprocessorRig(): string | false {
  const virtiofsd = exists('/usr/lib/qemu/virtiofsd');
  return (
    skipUnlessInstalled('qemu-system-x86_64', 'busybox', 'cpio', 'depmod', 'apt-get', 'nbd-client', 'fio') ||
    skipUnless(virtiofsd, 'not installed: virtiofsd') ||
    skipUnless(process.getuid?.() === 0, 'needs root')
  );
}

/**
 * Prepares the kernel and the initramfs of the rig with several processors; gives a reason to skip where the package
 * cannot be had.
 */
export async function prepareMultiprocessorRig(): Promise<string | false> {
  const result = await run(join(rigDirectory, 'boot-and-run-smp.sh'), ['-p'], { timeoutMs: 120_000 });
  return skipUnless(result.code === 0, `the kernel package cannot be fetched: ${lastLine(result.stderr)}`);
}

/** Runs a guest script to its end. */
export async function runGuest(options: GuestOptions): Promise<RunResult> {
  const limit = options.limitSeconds ?? 150;
  const several = options.processors !== undefined;
  const args = ['-t', String(limit)];
  if (several) args.push('-c', String(options.processors));
  if (options.share !== undefined) args.push('-w', options.share);
  args.push(join(guestDirectory, options.script), ...(options.args ?? []));
  const program = join(rigDirectory, several ? 'boot-and-run-smp.sh' : 'boot-and-run.sh');
  // The rig keeps its own limit and cleans up behind itself; killing it from here is for a rig that hangs.
  return await run(program, args, { timeoutMs: (limit + 15) * 1000 });
}

/** Runs a guest script that has to succeed; gives its output. */
export async function runGuestOk(options: GuestOptions): Promise<string> {
  const result = await runGuest(options);
  if (result.code !== 0) throw new Error(describeFailure(options.script, options.args ?? [], result));
  return result.stdout;
}

/** The values of the lines `key=value` that a guest script prints for its test. */
export function guestValues(output: string): Map<string, string> {
  const values = new Map<string, string>();
  for (const line of output.split('\n')) {
    const match = /^([a-z][a-z0-9_]*)=(.*)$/.exec(line.trim());
    if (match !== null) values.set(match[1], match[2]);
  }
  return values;
}

function lastLine(text: string): string {
  return text.trim().split('\n').pop() ?? '';
}

function exists(path: string): boolean {
  try {
    accessSync(path);
    return true;
  } catch {
    return false;
  }
}
