/**
 * Runs compiled tests: `node dist/scripts/run-tests.js [--only PATTERN] [--io KIND] [--fast] [--jobs N]`, called by
 * `scripts/test`. Prints a line a file and, last, `N passed, N failed, N skipped`; ends with 0 only if nothing failed.
 *
 * Each file is a program of its own that writes TAP (this is how tap's tests are made); it is run in a process group of
 * its own, which is gone when the file is done, so that no server that a broken test left behind disturbs the next. The
 * runner that comes with tap is not used: after one file that ran into its time limit it drops the results of the rest.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { TapCounter, type TapCounts, type TapNotice } from './tap-count.ts';

type IoKind = 'io_uring' | 'threads';

interface Group {
  readonly name: string;
  readonly timeoutSeconds: number;
  /**
   * `shared`: beside any other. `one`: beside others, but not of the same group, of which each takes a processor for
   * itself. `alone`: measures the machine, and nothing else runs meanwhile.
   */
  readonly beside: 'shared' | 'one' | 'alone';
  /** Run by --fast too. */
  readonly fast: boolean;
  /** `each`: once with each I/O kind; `default`: once, with the kind that the product takes by itself. */
  readonly io: 'each' | 'default';
}

/** What the kernel rig says when its guest made no progress: its user-mode network loses packets on a busy host. */
const STALLED_GUEST = /boot-and-run.*: over the limit/;

const GROUPS: readonly Group[] = [
  { name: 'unit', timeoutSeconds: 60, beside: 'shared', fast: true, io: 'default' },
  { name: 'contract', timeoutSeconds: 60, beside: 'shared', fast: true, io: 'default' },
  { name: 'native', timeoutSeconds: 120, beside: 'alone', fast: true, io: 'default' },
  { name: 'model', timeoutSeconds: 240, beside: 'shared', fast: true, io: 'default' },
  { name: 'sim', timeoutSeconds: 180, beside: 'shared', fast: true, io: 'default' },
  { name: 'fuzz', timeoutSeconds: 180, beside: 'shared', fast: false, io: 'default' },
  { name: 'integration', timeoutSeconds: 180, beside: 'shared', fast: true, io: 'each' },
  { name: 'tools', timeoutSeconds: 180, beside: 'shared', fast: true, io: 'default' },
  { name: 'damage', timeoutSeconds: 180, beside: 'shared', fast: false, io: 'default' },
  { name: 'interop', timeoutSeconds: 300, beside: 'shared', fast: false, io: 'default' },
  { name: 'kernel', timeoutSeconds: 900, beside: 'one', fast: false, io: 'default' },
];

/**
 * Seconds that the slowest files take, about, on two processors: they are begun first, so that none of them is left to run
 * by itself in the end. What is not named follows in the order of the groups.
 */
const SLOW_SECONDS: ReadonlyMap<string, number> = new Map([
  ['kernel/attach-lifecycle.test.js', 230],
  ['kernel/attach-kill.test.js', 160],
  ['kernel/file-systems.test.js', 120],
  ['kernel/connections.test.js', 70],
  ['kernel/kill.test.js', 40],
  ['kernel/tls.test.js', 40],
  ['kernel/unix-socket.test.js', 40],
  ['damage/bit-rot.test.js', 110],
  ['integration/crash.test.js', 75],
  ['tools/profile.test.js', 60],
  ['interop/nbdcopy.test.js', 55],
  ['damage/cli-repair.test.js', 50],
  ['model/head.test.js', 60],
  ['sim/faults.test.js', 40],
  ['tools/cli-check.test.js', 40],
  ['interop/tls.test.js', 30],
  ['fuzz/connects.test.js', 30],
  ['integration/cli-serve.test.js', 25],
  ['unit/node/node.test.js', 25],
  ['sim/power-cut.test.js', 22],
  ['tools/cli-bench.test.js', 20],
  ['tools/cli-scripts.test.js', 20],
]);

interface Run {
  readonly group: Group;
  readonly io: IoKind | undefined;
  readonly file: string;
}

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..');
const testDirectory = join(root, 'dist', 'test');
const outputDirectory = join(root, 'dist', 'test-output');
const running = new Set<ChildProcess>();

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    io: { type: 'string' },
    fast: { type: 'boolean' },
    jobs: { type: 'string', default: '2' },
    // What failed before, in `scripts/test`: so many are added.
    failures: { type: 'string', default: '0' },
  },
});

const total: TapCounts = { passed: 0, failed: Number(values.failures), skipped: 0 };

process.once('SIGINT', () => stopAll(130));
process.once('SIGTERM', () => stopAll(143));

const startedAt = Date.now();
const runs = plan();
rmSync(outputDirectory, { recursive: true, force: true });
mkdirSync(outputDirectory, { recursive: true });
if (runs.length === 0) {
  console.log('not ok - no test file matches');
  total.failed++;
}
await runShared();
for (const run of runs) if (run.group.beside === 'alone') await runFile(run);
console.log(`# ${runs.length} files in ${Math.round((Date.now() - startedAt) / 1000)} s`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed === 0 ? 0 : 1;

/** The runs in order; those of an I/O kind that the machine does not have count as skipped, except in CI. */
function plan(): Run[] {
  const only = values.only ?? [];
  const asked = values.io as IoKind | undefined;
  const inCi = process.env['CI'] === 'true';
  const ringMissing = inCi ? undefined : ioUringMissing();
  const planned: Run[] = [];
  for (const group of GROUPS) {
    if (values.fast && !group.fast && only.length === 0) continue;
    const files = testFiles(join(testDirectory, group.name));
    for (const io of kindsOf(group, asked)) {
      for (const file of files) {
        if (only.length > 0 && !only.some(pattern => file.includes(pattern))) continue;
        if (io === 'io_uring' && ringMissing !== undefined) {
          console.log(`skip ${file} (io_uring): ${ringMissing}`);
          total.skipped++;
        } else planned.push({ group, io, file });
      }
    }
  }
  return planned;
}

function kindsOf(group: Group, asked: IoKind | undefined): readonly (IoKind | undefined)[] {
  if (asked !== undefined) return [asked];
  if (group.io === 'default') return [undefined];
  return values.fast ? ['io_uring'] : ['io_uring', 'threads'];
}

/** Paths below dist/test. A compiled file whose source is gone is no test. */
function testFiles(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.test.js'))
    .map(name => join(directory, name).slice(testDirectory.length + 1))
    .filter(name => existsSync(join(root, 'test', name.replace(/\.js$/, '.ts'))))
    .sort();
}

/** Why io_uring cannot be used here, if so: asked of the system call itself, since a container may refuse it. */
function ioUringMissing(): string | undefined {
  const setting = '/proc/sys/kernel/io_uring_disabled';
  if (existsSync(setting) && readFileSync(setting, 'utf8').trim() === '2') return 'switched off by a sysctl';
  const program = [
    'import ctypes, os',
    'libc = ctypes.CDLL(None, use_errno=True)',
    'result = libc.syscall(425, 1, ctypes.create_string_buffer(120))',
    'print("" if result >= 0 else os.strerror(ctypes.get_errno()))',
  ].join('\n');
  try {
    const answer = execFileSync('python3', ['-c', program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return answer.trim() === '' ? undefined : answer.trim();
  } catch {
    return undefined;
  }
}

/** Everything that may share the machine, the slowest first. */
async function runShared(): Promise<void> {
  const seconds = (run: Run) => SLOW_SECONDS.get(run.file) ?? 0;
  // A group of which one runs at a time goes ahead: else the last of it would be left to run by themselves.
  const isOne = (run: Run) => (run.group.beside === 'one' ? 1 : 0);
  const queue = runs
    .filter(run => run.group.beside !== 'alone')
    .sort((a, b) => isOne(b) - isOne(a) || seconds(b) - seconds(a));
  const busy = new Set<Group>();
  const next = (): Run | undefined => {
    const at = queue.findIndex(({ group }) => group.beside !== 'one' || !busy.has(group));
    return at < 0 ? undefined : queue.splice(at, 1)[0];
  };
  const jobs = Math.max(1, Number(values.jobs) || 1);
  const workers = Array.from({ length: jobs }, async () => {
    // Whoever finds nothing leaves the rest to the one that runs what it would have to wait for.
    for (let run = next(); run !== undefined; run = next()) {
      busy.add(run.group);
      await runFile(run);
      busy.delete(run.group);
    }
  });
  await Promise.all(workers);
}

async function runFile(run: Run, attempt: 'first' | 'second' = 'first'): Promise<void> {
  const label = run.io === undefined ? run.file : `${run.file} (${run.io})`;
  const logPath = join(outputDirectory, `${run.file}${run.io === undefined ? '' : `.${run.io}`}.tap`);
  mkdirSync(dirname(logPath), { recursive: true });
  const log = createWriteStream(logPath);
  const fileStartedAt = Date.now();

  const environment = { ...process.env };
  if (run.io !== undefined) environment['SLEDGE_IO'] = run.io;
  // The limit is kept here, where it holds for a blocked event loop too.
  environment['TAP_TIMEOUT'] = '0';
  const child = spawn(process.execPath, ['--enable-source-maps', join(testDirectory, run.file)], {
    cwd: root,
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running.add(child);

  let timedOut = false;
  const timeout = setTimeout(() => {
    timedOut = true;
    // tap answers this one with what is still open; whoever does not is ended.
    child.kill('SIGALRM');
    setTimeout(() => endGroup(child), 3000);
  }, run.group.timeoutSeconds * 1000);

  const counter = new TapCounter();
  const lines = createInterface({ input: child.stdout });
  let guestStalled = false;
  lines.on('line', line => {
    log.write(`${line}\n`);
    guestStalled ||= STALLED_GUEST.test(line);
    counter.line(line);
  });
  const errorTail: string[] = [];
  const errorLines = createInterface({ input: child.stderr });
  errorLines.on('line', line => {
    log.write(`# stderr: ${line}\n`);
    errorTail.push(line);
    if (errorTail.length > 40) errorTail.shift();
  });

  const outputRead = Promise.all([closed(lines), closed(errorLines)]);
  const { code, signal } = await ended(child);
  clearTimeout(timeout);
  // Whoever inherited the pipes would hold them open; nothing of the group is to survive its test anyway.
  const leftBehind = endGroup(child);
  running.delete(child);
  // A process that left the group on purpose (a daemon) may still hold a pipe: it is not waited for for long.
  await Promise.race([outputRead, new Promise(done => setTimeout(done, 1000).unref())]);
  log.end();

  let why = signal === null ? `exit code ${code}` : `ended by ${signal}`;
  if (timedOut) why = `not done after ${run.group.timeoutSeconds} s`;
  const counts = counter.end(code === 0 && !timedOut, why);
  if (counts.failed > 0 && guestStalled && attempt === 'first') {
    console.log(`again ${label}: the guest stood still; a second time it fails`);
    await runFile(run, 'second');
    return;
  }
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;

  const seconds = ((Date.now() - fileStartedAt) / 1000).toFixed(1);
  const skipped = counts.skipped === 0 ? '' : `, ${counts.skipped} skipped`;
  const verdict = counts.failed === 0 ? 'ok  ' : 'FAIL';
  const failed = counts.failed === 0 ? '' : `, ${counts.failed} failed`;
  console.log(`${verdict} ${label}: ${counts.passed} passed${failed}${skipped} (${seconds} s)`);
  if (leftBehind) console.log('     (processes that it left behind were ended)');
  for (const notice of counter.notices) printNotice(notice);
  if (counts.failed > 0) {
    for (const line of errorTail) console.log(`     stderr: ${line}`);
    console.log(`     ${logPath.slice(root.length + 1)}`);
  }
}

function printNotice(notice: TapNotice): void {
  if (notice.kind === 'skipped') {
    console.log(`     skipped: ${notice.name}`);
    return;
  }
  console.log(`     failed: ${notice.name}`);
  for (const line of notice.details) console.log(`       ${line}`);
}

function ended(child: ChildProcess): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
  return new Promise(done => {
    child.once('error', () => done({ code: -1, signal: null }));
    child.once('exit', (code, signal) => done({ code, signal }));
  });
}

function closed(lines: ReturnType<typeof createInterface>): Promise<void> {
  return new Promise(done => {
    lines.once('close', done);
  });
}

/** Ends all that is left of a file's process group; true if there was something. */
function endGroup(child: ChildProcess): boolean {
  if (child.pid === undefined) return false;
  try {
    process.kill(-child.pid, 'SIGKILL');
    return true;
  } catch {
    return false;
  }
}

function stopAll(exitCode: number): never {
  for (const child of running) endGroup(child);
  console.log(`${total.passed} passed, ${total.failed + 1} failed, ${total.skipped} skipped`);
  process.exit(exitCode);
}
