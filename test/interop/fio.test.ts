/** fio's own NBD engine with verification: random writes at depth, mixed sizes, several jobs, and after a restart. */
import { join } from 'node:path';
import t from 'tap';
import { runOk, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { type RunningServer, skipOnStandIn, startServer } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('fio');

interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: { readonly total_ios: number };
    readonly write: { readonly total_ios: number };
  }[];
}

/** Runs one fio job to its end; the report's totals are over all clones. fio writes files of its own into `directory`. */
async function fio(server: RunningServer, directory: string, ...options: readonly string[]): Promise<FioReport> {
  const args = ['--name=job', '--ioengine=nbd', `--uri=${server.uri}`, '--group_reporting', '--output-format=json'];
  const text = await runOk('fio', [...args, '--randseed=7', ...options], { directory, timeoutMs: 60_000 });
  return JSON.parse(text.slice(text.indexOf('{'))) as FioReport;
}

function options(directory: string) {
  return {
    dataDirectory: join(directory, 'data'),
    volumes: [{ name: 'disk', sizeBytes: 64 * MIB }],
    unix: join(directory, 'socket'),
  };
}

t.test('random 4 KiB writes at depth 16 verify', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, options(directory));
  const report = await fio(
    server,
    directory,
    '--rw=randwrite',
    '--bs=4k',
    '--size=24m',
    '--iodepth=16',
    '--verify=crc32c',
  );
  t.equal(report.jobs[0].error, 0);
  t.equal(report.jobs[0].write.total_ios, 6144);
  t.equal(report.jobs[0].read.total_ios, 6144, 'each block was read back');
});

t.test('blocks of many sizes, at odd offsets, with flushes between, verify', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, options(directory));
  const sizes = ['--bsrange=512-192k', '--blockalign=512', '--size=32m', '--iodepth=8', '--fsync=64'];
  const report = await fio(server, directory, '--rw=randwrite', ...sizes, '--verify=md5', '--serialize_overlap=1');
  t.equal(report.jobs[0].error, 0);
  t.ok(report.jobs[0].read.total_ios > 0, 'blocks were read back');
});

t.test('four jobs on connections of their own verify', { skip }, async t => {
  const directory = temporaryDirectory(t);
  const server = await startServer(t, options(directory));
  const jobs = ['--numjobs=4', '--size=8m', '--offset_increment=16m', '--bs=4k', '--iodepth=16'];
  const report = await fio(server, directory, '--rw=randwrite', ...jobs, '--verify=crc32c');
  t.equal(report.jobs[0].error, 0);
  t.equal(report.jobs[0].write.total_ios, 4 * 2048);
});

t.test('what fio wrote verifies after a restart', { skip: skip || skipOnStandIn() }, async t => {
  const directory = temporaryDirectory(t);
  const job = ['--rw=randwrite', '--bs=8k', '--size=32m', '--iodepth=16', '--verify=crc32c'];
  const first = await startServer(t, options(directory));
  await fio(first, directory, ...job, '--do_verify=0', '--end_fsync=1');
  t.equal(await first.stop(), 0);
  const second = await startServer(t, options(directory));
  const report = await fio(second, directory, ...job, '--verify_only=1');
  t.equal(report.jobs[0].error, 0);
});
