/**
 * One bit changes in a thousand random places of what a stopped server has left, and the server is started again: each
 * change is found, or makes no difference. A client reads what was written or gets an error, never another byte.
 *
 * Where the bits are flipped, and what may come of it:
 *   index        a page of the B-tree                              the start is refused
 *   sums         checksums of the index                            nothing, but for a warning
 *   lmdb-lock    LMDB's table of readers                           nothing
 *   node.json    identity and devices                              the start is refused, or nothing (a creation date)
 *   superblock   one of the two copies on a device                 nothing
 *   data         blocks of the devices that hold, or held, data    reads of that block fail, or nothing (a freed slot)
 *   unused       the rest of the devices                           nothing
 *   log          from where recovery begins to the log's end       refused, reads of that block fail, or nothing
 *   log-record   headers and descriptors there                     the same
 *   log-end      its last 32 KiB                                   the same
 *   old-log      the rest of the log                               nothing
 *
 * Each flip has a start of its own, but for those on devices and in the old log: there each block stands for itself, so
 * several are flipped at a time. The seed of a run repeats it: SLEDGE_TEST_SEED.
 */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { EIO } from '../../src/base/errno.ts';
import { type ErrorCode, SledgeError } from '../../src/base/errors.ts';
import { logSegmentBytes } from '../../src/base/limits.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import { checkDirectory } from '../../src/node/check-directory.ts';
import { SUMS_FILE } from '../../src/node/index-sums.ts';
import { RECORD_HEADER_BYTES, RECORD_MAGIC, RecordKind, writeDataOffset } from '../../src/oplog/record.ts';
import { allocateRegion } from '../../src/platform/io-memory.ts';
import { INDEX_FILE } from '../../src/platform/lmdb-index.ts';
import { FIRST_COLUMN_POSITION, SUPERBLOCK_POSITIONS } from '../../src/sled/superblock.ts';
import { type BitPlace, GoldenDirectory } from '../support/golden-directory.ts';
import { SimRandom, seedOfRun } from '../support/sim-random.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { startTestNode, type TestNode, type TestNodeOptions } from '../unit/node/node-rig.ts';

const BLOCK = 4096;
const READ_BYTES = 1 * MIB;
const VOLUME_BYTES = 2 * MIB;
/** Where the log's live part begins, in its first segment, and how long it is. */
const OLD_LOG_BYTES = 14 * MIB;
const LOG_BYTES = 4 * MIB;
const LOG_END_BYTES = 32 * KIB;
const TIME_LIMIT_MS = 170_000;

t.setTimeout(TIME_LIMIT_MS);

type Verdict = 'refused' | 'read error' | 'harmless';

interface Kind {
  readonly name: string;
  readonly flips: number;
  /** Flipped together. */
  readonly atOnce: number;
  readonly verdicts: readonly Verdict[];
  /** Verdicts that have to come up, or the flips are not where they should be. */
  readonly expected: readonly Verdict[];
}

const ANY: readonly Verdict[] = ['refused', 'read error', 'harmless'];

const KINDS: readonly Kind[] = [
  { name: 'index', flips: 250, atOnce: 1, verdicts: ['refused'], expected: ['refused'] },
  { name: 'sums', flips: 10, atOnce: 1, verdicts: ['harmless'], expected: ['harmless'] },
  { name: 'lmdb-lock', flips: 5, atOnce: 1, verdicts: ['harmless'], expected: ['harmless'] },
  { name: 'node.json', flips: 75, atOnce: 1, verdicts: ['refused', 'harmless'], expected: ['refused'] },
  { name: 'superblock', flips: 10, atOnce: 1, verdicts: ['harmless'], expected: ['harmless'] },
  { name: 'data', flips: 330, atOnce: 22, verdicts: ['read error', 'harmless'], expected: ['read error'] },
  { name: 'unused', flips: 100, atOnce: 20, verdicts: ['harmless'], expected: ['harmless'] },
  { name: 'log', flips: 60, atOnce: 1, verdicts: ANY, expected: ['read error'] },
  { name: 'log-record', flips: 40, atOnce: 1, verdicts: ANY, expected: ['refused'] },
  { name: 'log-end', flips: 20, atOnce: 1, verdicts: ANY, expected: [] },
  { name: 'old-log', flips: 100, atOnce: 20, verdicts: ['harmless'], expected: ['harmless'] },
];

/** Codes with which a start may be refused: each says that something of the directory is not what it was. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set(['corrupt', 'bad-format', 'device-foreign', 'device-missing']);

const OPTIONS: TestNodeOptions = { cacheBytes: MIB };

interface Range {
  readonly file: string;
  readonly from: number;
  readonly to: number;
}

/** What clients know. */
interface Known {
  readonly volumes: Map<string, Uint8Array>;
  /** As the server describes them. */
  infos: readonly object[];
}

// --- the server that was stopped ---------------------------------------------------------------------------------------

function infosOf(running: TestNode): readonly object[] {
  return running.node.volumes().map(({ epoch: _, connections: __, problems: ___, ...rest }) => rest);
}

async function change(running: TestNode, known: Known, random: SimRandom, name: string): Promise<void> {
  const content = known.volumes.get(name)!;
  const pick = random.below(100);
  const bulk = pick < 4;
  const length = bulk ? random.between(1, 8) * 64 * KIB : random.between(1, 8) * BLOCK - (pick < 20 ? 100 : 0);
  const grain = bulk ? 64 * KIB : pick < 20 ? 1 : BLOCK;
  const offset = random.below(Math.floor((content.length - length) / grain) + 1) * grain;
  const command = pick >= 94 ? 'trim' : pick >= 88 ? 'writeZeroes' : 'write';
  if (command !== 'write') {
    await running.request(name, command, offset, length);
    content.fill(0, offset, offset + length);
    return;
  }
  const bytes = new Uint8Array(length);
  const stamp = random.between(1, 2 ** 31);
  const words = new Uint32Array(bytes.buffer, 0, Math.floor(length / 4));
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(stamp, i + 1);
  await running.request(name, command, offset, bytes, { fua: random.chance(5) });
  content.set(bytes, offset);
}

/** Volumes with data in mass storage, in the log, and in both; the log's live part lies in two segments. */
async function leaveDirectory(directory: string, random: SimRandom): Promise<Known> {
  const names = ['vol0', 'careful', 'wide'];
  const known: Known = { volumes: new Map(names.map(name => [name, new Uint8Array(VOLUME_BYTES)])), infos: [] };
  const devices = ['disk0', 'disk1'].map(name => ({ path: join(directory, name), sizeBytes: MIB + 32 * MIB }));
  let running = await startTestNode(directory, { ...OPTIONS, devices });
  for (const name of names) {
    const chunkBytes = name === 'wide' ? 256 * KIB : 64 * KIB;
    const ack = name === 'careful' ? 'durable' : 'written';
    await running.node.createVolume({ name, sizeBytes: VOLUME_BYTES, chunkBytes, ack, readOnly: false });
  }
  const changes = async (logBytes: number) => {
    while (running.node.status().log.usedBytes < logBytes) await change(running, known, random, random.oneOf(names));
  };
  await changes(OLD_LOG_BYTES);
  // Behind a deletion everything is destaged.
  await running.node.createVolume({
    name: 'gone',
    sizeBytes: MIB,
    chunkBytes: 64 * KIB,
    ack: 'written',
    readOnly: false,
  });
  await running.request('gone', 'write', 0, new Uint8Array(MIB).fill(1));
  await running.node.deleteVolume('gone');
  while (running.node.status().log.usedBytes > 0) await new Promise(resolve => setTimeout(resolve, 10));
  await changes(LOG_BYTES * 0.7);
  await running.stop();
  running = await startTestNode(directory, OPTIONS);
  await changes(LOG_BYTES);
  known.infos = infosOf(running);
  await running.stop();
  return known;
}

// --- places ------------------------------------------------------------------------------------------------------------

/** Where the segments of the log lie, by number. */
function segmentFiles(golden: GoldenDirectory): Map<number, string> {
  const files = new Map<number, string>();
  for (const name of golden.names.filter(name => name.endsWith('.log'))) {
    const bytes = golden.bytes(name);
    if (bytes.readUInt32LE(0) === RECORD_MAGIC) files.set(Number(bytes.readBigUInt64LE(16)) / logSegmentBytes, name);
  }
  return files;
}

/** Headers and descriptors of the records of a part of a segment. */
function recordRanges(golden: GoldenDirectory, { file, from, to }: Range): Range[] {
  const bytes = golden.bytes(file);
  const ranges: Range[] = [];
  for (let at = from; at + RECORD_HEADER_BYTES <= to && bytes.readUInt32LE(at) === RECORD_MAGIC; ) {
    const recordBytes = bytes.readUInt32LE(at + 8);
    const kind = bytes[at + 5];
    const count = Number(bytes.readBigUInt64LE(at + 56));
    const covered = kind === RecordKind.write ? writeDataOffset(count) : recordBytes;
    ranges.push({ file, from: at, to: at + (kind === RecordKind.end ? RECORD_HEADER_BYTES : covered) });
    at += recordBytes;
  }
  return ranges;
}

async function placesOf(t: Test, directory: string, golden: GoldenDirectory): Promise<Map<string, Range[]>> {
  const data = join(directory, 'data');
  const { summary, findings } = await checkDirectory(data);
  const bad = findings.filter(finding => finding.severity !== 'note');
  t.same(bad, [], 'the directory is whole');
  const { cut, end } = summary!.log!;
  const whole = (...path: string[]): Range => {
    const file = join('data', ...path);
    return { file, from: 0, to: golden.bytes(file).length };
  };
  const log: Range[] = [];
  const oldLog: Range[] = [];
  const segments = segmentFiles(golden);
  for (const name of golden.names.filter(name => name.endsWith('.log'))) {
    const [number = -1] = [...segments].find(([, file]) => file === name) ?? [];
    const from = Math.min(Math.max(cut - number * logSegmentBytes, 0), logSegmentBytes);
    const to = Math.min(Math.max(end - number * logSegmentBytes, from), logSegmentBytes);
    const isLive = number >= 0 && from < to;
    if (isLive) log.push({ file: name, from, to });
    oldLog.push({ file: name, from: 0, to: isLive ? from : logSegmentBytes });
    if (isLive) oldLog.push({ file: name, from: to, to: logSegmentBytes });
  }
  const superblock: Range[] = [];
  const used: Range[] = [];
  const unused: Range[] = [];
  for (const file of ['disk0', 'disk1']) {
    const bytes = golden.bytes(file);
    for (let from = 0; from < bytes.length; from += BLOCK) {
      const isZero = bytes.subarray(from, from + BLOCK).every(byte => byte === 0);
      const range = { file, from, to: from + BLOCK };
      if (SUPERBLOCK_POSITIONS.includes(from)) superblock.push(range);
      else if (isZero) unused.push(range);
      else used.push(range);
    }
  }
  t.equal(superblock.length, 4);
  t.ok(used.length > 1000 && used.every(({ from }) => from >= FIRST_COLUMN_POSITION), 'data lies in columns');
  t.equal(log.length, 2, 'the log that counts lies in two segments');
  const last = log.find(({ to }) => to < logSegmentBytes)!;
  const indexPages = whole('index', INDEX_FILE);
  t.comment(`log from ${cut} to ${end}, ${used.length} blocks of data, ${indexPages.to} bytes of index`);
  return new Map([
    ['index', [indexPages]],
    ['sums', [whole('index', SUMS_FILE)]],
    ['lmdb-lock', [whole('index', `${INDEX_FILE}-lock`)]],
    ['node.json', [whole('node.json')]],
    ['superblock', superblock],
    ['data', used],
    ['unused', unused],
    ['log', log],
    ['log-record', log.flatMap(range => recordRanges(golden, range))],
    ['log-end', [{ ...last, from: last.to - LOG_END_BYTES }]],
    ['old-log', oldLog],
  ]);
}

function somewhere(ranges: readonly Range[], random: SimRandom): BitPlace {
  let at = random.below(ranges.reduce((sum, { from, to }) => sum + to - from, 0));
  for (const { file, from, to } of ranges) {
    if (at < to - from) return { file, byte: from + at, bit: random.below(8) };
    at -= to - from;
  }
  throw new Error('there are bytes to choose from');
}

/** Places in blocks of their own. */
function placesFor(kind: Kind, ranges: readonly Range[], random: SimRandom): BitPlace[] {
  const places = new Map<string, BitPlace>();
  while (places.size < kind.atOnce) {
    const place = somewhere(ranges, random);
    places.set(`${place.file} ${Math.floor(place.byte / BLOCK)}`, place);
  }
  return [...places.values()];
}

// --- verdicts ----------------------------------------------------------------------------------------------------------

/** Blocks that give an error; throws where a byte is not what was written. */
async function readAll(running: TestNode, known: Known): Promise<number> {
  let failed = 0;
  const region = allocateRegion(READ_BYTES);
  const read = async (name: string, from: number, length: number): Promise<void> => {
    const { errno, holes } = await running.read(name, from, length, region);
    if (errno === 0) {
      for (const [at, holeLength] of holes) region.bytes.fill(0, at, at + holeLength);
      const content = known.volumes.get(name)!.subarray(from, from + length);
      if (Buffer.compare(region.bytes.subarray(0, length), content) !== 0)
        throw new Error(`wrong bytes in ${name} from ${from} on`);
    } else if (errno !== EIO) throw new Error(`${name} at ${from}: error ${errno}`);
    else if (length === BLOCK) failed++;
    else {
      const part = length > 64 * KIB ? 64 * KIB : BLOCK;
      for (let at = from; at < from + length; at += part) await read(name, at, part);
    }
  };
  for (const [name, content] of known.volumes) {
    for (let at = 0; at < content.length; at += READ_BYTES) await read(name, at, READ_BYTES);
  }
  return failed;
}

function refuseChanges(infos: readonly object[], known: readonly object[]): void {
  if (infos.length !== known.length) throw new Error(`there are ${infos.length} volumes of ${known.length}`);
  for (const [i, info] of infos.entries()) {
    const before = new Map(Object.entries(known[i]));
    for (const [key, value] of Object.entries(info)) {
      if (value !== before.get(key)) throw new Error(`${key} of a volume is ${value}, not ${before.get(key)}`);
    }
  }
}

/** What a start on the directory comes to, by flip. Throws what must never be. */
async function judge(directory: string, known: Known, kind: Kind, flips: number): Promise<Map<Verdict, number>> {
  let running: TestNode;
  try {
    running = await startTestNode(directory, OPTIONS);
  } catch (error) {
    if (!(error instanceof SledgeError) || !REFUSALS.has(error.code)) throw error;
    if (!(await isFoundByCheck(directory))) throw new Error(`a check finds nothing: ${error.message}`);
    return new Map([['refused', flips]]);
  }
  try {
    refuseChanges(infosOf(running), known.infos);
    const failed = await readAll(running, known);
    if (failed > flips) throw new Error(`${failed} blocks cannot be read after ${flips} flips`);
    const { health } = running.node.status();
    if (failed > 0 && health !== 'failed') throw new Error(`the status says ${health}`);
    const warned = running.log.lines.some(line => line.startsWith('warning: ') && line.includes(SUMS_FILE));
    if (warned !== (kind.name === 'sums'))
      throw new Error(warned ? 'the sums are warned of' : 'no warning of the sums');
    return new Map<Verdict, number>([
      ['read error', failed],
      ['harmless', flips - failed],
    ]);
  } catch (error) {
    const recovered = running.log.lines.filter(line => line.startsWith('recovered: ')).join();
    throw new Error(`${error instanceof Error ? error.message : String(error)} (${recovered})`);
  } finally {
    await running.stop();
  }
}

async function isFoundByCheck(directory: string): Promise<boolean> {
  try {
    return (await checkDirectory(join(directory, 'data'))).errors > 0;
  } catch (error) {
    if (!(error instanceof SledgeError) || !REFUSALS.has(error.code)) throw error;
    return true;
  }
}

function describe(places: readonly BitPlace[]): string {
  return places.map(({ file, byte, bit }) => `bit ${bit} of byte ${byte} of ${file}`).join(', ');
}

const seed = seedOfRun();

t.test(`a bit of a stopped server's files changes (seed ${seed})`, { timeout: TIME_LIMIT_MS }, async t => {
  const random = new SimRandom(seed);
  const directory = temporaryDirectory(t);
  const known = await leaveDirectory(directory, random);
  // A check makes LMDB enter a reader in its lock file.
  await checkDirectory(join(directory, 'data'));
  const golden = new GoldenDirectory(directory);
  const ranges = await placesOf(t, directory, golden);
  golden.restore();
  const isWhole = async () => (await judge(directory, known, KINDS[0], 0)).get('read error') === 0;
  t.ok(await isWhole(), 'as it was left, all of it is read');
  golden.restore();

  // An assertion that fails in the server ends this process: let it be known where.
  let now = '';
  const interrupted = () => console.error(`# ended at ${now} (seed ${seed})`);
  process.on('exit', interrupted);
  let all = 0;
  for (const kind of KINDS) {
    const counts = new Map<Verdict, number>();
    const failures: string[] = [];
    const startedAt = performance.now();
    for (let done = 0; done < kind.flips; done += kind.atOnce) {
      const places = placesFor(kind, ranges.get(kind.name)!, random);
      now = describe(places);
      for (const place of places) golden.flip(place);
      try {
        for (const [verdict, count] of await judge(directory, known, kind, places.length)) {
          counts.set(verdict, (counts.get(verdict) ?? 0) + count);
          if (count > 0 && !kind.verdicts.includes(verdict)) failures.push(`${now}: ${verdict}`);
        }
      } catch (error) {
        failures.push(`${now}: ${error instanceof Error ? error.message : String(error)}`);
      }
      golden.restore();
    }
    all += kind.flips;
    const said = [...counts].filter(([, count]) => count > 0).map(([verdict, count]) => `${count} ${verdict}`);
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
    t.comment(`${kind.name}: ${kind.flips} bits: ${said.join(', ')} (${seconds} s)`);
    t.same(failures.slice(0, 10), [], `${kind.name}: ${failures.length} of ${kind.flips} are wrong`);
    for (const verdict of kind.expected) t.ok((counts.get(verdict) ?? 0) > 0, `${kind.name}: some are "${verdict}"`);
  }
  process.off('exit', interrupted);
  t.ok(await isWhole(), 'and so it is when every bit is as it was again');
  t.equal(all, 1000);
});
