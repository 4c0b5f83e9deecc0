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
  /** Files that measure, or use what there is one of on a machine, run one at a time. */
  readonly alone: boolean;
  /** Run by --fast too. */
  readonly fast: boolean;
  /** `each`: once with each I/O kind; `default`: once, with the kind that the product takes by itself. */
  readonly io: 'each' | 'default';
}

/** What the kernel rig says when its guest made no progress: its user-mode network loses packets on a busy host. */
const STALLED_GUEST = /boot-and-run.*: over the limit/;

const GROUPS: readonly Group[] = [
  { name: 'unit', timeoutSeconds: 60, alone: false, fast: true, io: 'default' },
  { name: 'contract', timeoutSeconds: 60, alone: false, fast: true, io: 'default' },
  { name: 'native', timeoutSeconds: 120, alone: true, fast: true, io: 'default' },
  { name: 'model', timeoutSeconds: 120, alone: false, fast: true, io: 'default' },
  { name: 'sim', timeoutSeconds: 180, alone: false, fast: true, io: 'default' },
  { name: 'fuzz', timeoutSeconds: 180, alone: false, fast: false, io: 'default' },
  { name: 'integration', timeoutSeconds: 180, alone: false, fast: true, io: 'each' },
  { name: 'tools', timeoutSeconds: 180, alone: false, fast: true, io: 'default' },
  { name: 'damage', timeoutSeconds: 180, alone: false, fast: false, io: 'default' },
  { name: 'interop', timeoutSeconds: 300, alone: true, fast: false, io: 'default' },
  { name: 'kernel', timeoutSeconds: 600, alone: true, fast: false, io: 'default' },
];

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
for (const alone of [false, true]) await runSome(alone);
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

/** First everything that may share the machine, then, one by one, what may not. */
async function runSome(alone: boolean): Promise<void> {
  const queue = runs.filter(run => run.group.alone === alone);
  const jobs = alone ? 1 : Math.max(1, Number(values.jobs) || 1);
  const workers = Array.from({ length: jobs }, async () => {
    for (let run = queue.shift(); run !== undefined; run = queue.shift()) await runFile(run);
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
