/**
 * The load of `sledge bench` against a server that is as small as can be, since what is tested is the client: how it
 * counts, measures, and what it makes of a server that misbehaves.
 */
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import {
  CLIENT_FLAGS_BYTES,
  CMD_READ,
  CMD_WRITE,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  GREETING_BYTES,
  OPT_GO,
  OPTION_HEADER_BYTES,
  REP_ERR_UNKNOWN,
  SIMPLE_REPLY_BYTES,
  TRANSMISSION_READ_ONLY,
} from '../../../src/nbd-server-protocol/constants.ts';
import { encodeGreeting } from '../../../src/nbd-server-protocol/greeting.ts';
import { encodeAck, encodeInfoExport, encodeOptionError } from '../../../src/nbd-server-protocol/option-reply.ts';
import { encodeSimpleReply } from '../../../src/nbd-server-protocol/reply.ts';
import { parseRequest, REQUEST_INCOMPLETE, Request } from '../../../src/nbd-server-protocol/request.ts';
import { CommandRun, runCommand } from '../../support/command-run.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

interface Behaviour {
  readonly sizeBytes?: number;
  readonly flags?: number;
  readonly refuse?: boolean;
  connected?(socket: Socket): void;
  /** The error of a reply; 0 where there is none. */
  errorOf?(request: Request): number;
  /** Called instead of an answer to the request of this number. */
  readonly misbehave?: { readonly atRequest: number; act(socket: Socket): void };
}

interface Seen {
  readonly offsets: number[];
  readonly lengths: Set<number>;
  readonly commands: Set<number>;
  connections: number;
  inFlightMax: number;
}

/** Serves on a Unix socket until the test ends; gives its URI and what was asked of it. */
async function serve(test: Parameters<typeof temporaryDirectory>[0], behaviour: Behaviour = {}) {
  const path = join(temporaryDirectory(test), 'nbd.sock');
  const seen: Seen = { offsets: [], lengths: new Set(), commands: new Set(), connections: 0, inFlightMax: 0 };
  const sockets = new Set<Socket>();
  const server = createServer(socket => {
    sockets.add(socket);
    seen.connections++;
    behaviour.connected?.(socket);
    converse(socket, behaviour, seen);
  });
  await new Promise<void>(done => server.listen(path, done));
  test.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { uri: `nbd+unix:///vol0?socket=${path}`, seen };
}

function converse(socket: Socket, behaviour: Behaviour, seen: Seen): void {
  let received = Buffer.alloc(0);
  let phase: 'flags' | 'option' | 'requests' = 'flags';
  const request = new Request();
  socket.on('error', () => {});
  const greeting = Buffer.alloc(GREETING_BYTES);
  encodeGreeting(viewOf(greeting), 0, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
  socket.write(greeting);
  socket.on('data', piece => {
    received = Buffer.concat([received, piece]);
    if (phase === 'flags' && received.length >= CLIENT_FLAGS_BYTES) {
      received = received.subarray(CLIENT_FLAGS_BYTES);
      phase = 'option';
    }
    if (phase === 'option' && received.length >= OPTION_HEADER_BYTES) {
      const end = OPTION_HEADER_BYTES + received.readUInt32BE(12);
      if (received.length < end) return;
      received = received.subarray(end);
      phase = 'requests';
      socket.write(answerToGo(behaviour));
    }
    if (phase !== 'requests') return;
    const replies: Buffer[] = [];
    for (;;) {
      const header = parseRequest(viewOf(received), 0, received.length, false, request);
      if (header === REQUEST_INCOMPLETE || received.length < header + request.payloadBytes) break;
      received = received.subarray(header + request.payloadBytes);
      if (request.command !== CMD_READ && request.command !== CMD_WRITE) continue;
      seen.offsets.push(request.offsetBytes);
      seen.lengths.add(request.lengthBytes);
      seen.commands.add(request.command);
      if (behaviour.misbehave?.atRequest === seen.offsets.length) {
        behaviour.misbehave.act(socket);
        return;
      }
      replies.push(answerTo(request, behaviour.errorOf?.(request) ?? 0));
    }
    seen.inFlightMax = Math.max(seen.inFlightMax, replies.length);
    // The newest first: replies come in any order.
    for (const reply of replies.reverse()) socket.write(reply);
  });
}

function answerToGo(behaviour: Behaviour): Buffer {
  const answer = Buffer.alloc(100);
  const view = viewOf(answer);
  if (behaviour.refuse) {
    const length = encodeOptionError(view, answer, 0, OPT_GO, REP_ERR_UNKNOWN, Buffer.from('no such volume'));
    return answer.subarray(0, length);
  }
  const length = encodeInfoExport(view, 0, OPT_GO, behaviour.sizeBytes ?? 1024 ** 2, behaviour.flags ?? 1);
  return answer.subarray(0, length + encodeAck(view, length, OPT_GO));
}

function answerTo(request: Request, error: number): Buffer {
  const dataBytes = request.command === CMD_READ && error === 0 ? request.lengthBytes : 0;
  const reply = Buffer.alloc(SIMPLE_REPLY_BYTES + dataBytes);
  encodeSimpleReply(viewOf(reply), 0, request, error);
  return reply;
}

function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

/** Runs a load and ends it when so many requests were seen; at the latest after a second. */
async function load(seen: Seen, requests: number, ...argv: string[]) {
  const run = new CommandRun();
  const done = run.run('bench', ...argv, '--seconds', '1', '--json');
  const look = setInterval(() => {
    if (seen.offsets.length >= requests) run.signals.emit('SIGINT');
  }, 2);
  const result = await done;
  clearInterval(look);
  return result;
}

t.test('random reads stay inside of the volume and keep the depth', async t => {
  const { uri, seen } = await serve(t, { sizeBytes: 10 * 4096 + 100 });
  const { code, out } = await load(seen, 500, uri, '--depth', '7');
  t.equal(code, 0);
  t.same([...seen.commands], [CMD_READ]);
  t.same([...seen.lengths], [4096]);
  t.ok(
    seen.offsets.every(offset => offset % 4096 === 0 && offset <= 9 * 4096),
    'aligned, and the last block that is whole is the last one read',
  );
  t.equal(new Set(seen.offsets).size, 10, 'every block is met');
  t.equal(seen.inFlightMax, 7);
  const result = JSON.parse(out);
  t.match(result, { mode: 'randread', requestBytes: 4096, depth: 7, connections: 1, errors: 0 });
  t.equal(result.requests, seen.offsets.length, 'each request is counted once');
  const { p50, p95, p99, p999, max } = result.latencyUs;
  t.ok(p50 > 0 && p50 <= p95 && p95 <= p99 && p99 <= p999 && p999 <= max, 'percentiles rise');
});

t.test('sequential writes go through the volume and begin again', async t => {
  const { uri, seen } = await serve(t, { sizeBytes: 4 * 8192 });
  const { code } = await load(seen, 20, uri, '--mode', 'write', '--size', '8KiB', '--depth', '2', '--yes');
  t.equal(code, 0);
  t.same([...seen.commands], [CMD_WRITE]);
  t.same(
    seen.offsets.slice(0, 9),
    [0, 1, 2, 3, 0, 1, 2, 3, 0].map(number => number * 8192),
  );
});

t.test('replies that arrive in pieces are put together', async t => {
  const { uri, seen } = await serve(t, { sizeBytes: 1024 ** 2 });
  const { code, out } = await load(seen, 40, uri, '--size', '512KiB', '--depth', '2');
  t.equal(code, 0);
  t.match(JSON.parse(out), { requestBytes: 524_288, errors: 0 });
});

t.test('several connections share the load and the count', async t => {
  const { uri, seen } = await serve(t);
  const { out } = await load(seen, 100, uri, '--connections', '3', '--depth', '4');
  t.equal(seen.connections, 3);
  t.equal(JSON.parse(out).requests, seen.offsets.length);
});

t.test('requests that fail are counted apart, and end the command with 1', async t => {
  const { uri, seen } = await serve(t, { errorOf: request => (request.offsetBytes === 0 ? 5 : 0) });
  const { code, out } = await load(seen, 2000, uri);
  t.equal(code, 1);
  const result = JSON.parse(out);
  t.equal(result.errors, seen.offsets.filter(offset => offset === 0).length);
  t.equal(result.requests + result.errors, seen.offsets.length);
});

t.test('without --json there is a summary for people', async t => {
  const { uri } = await serve(t);
  const { code, out, error } = await runCommand('bench', uri, '--seconds', '1');
  t.equal(code, 0);
  t.match(
    out,
    /^load +randread of 4 KiB, 1 × depth 16\nrate .*\nlatency +p50 .*\n +p99\.9 .*\nrequests +\d+ in 1\.\d s, 0 failed\n$/,
  );
  t.match(error, /^ +1 s {2}.*\/s {2}.*p99 so far|^$/);
});

t.test('what the server tells is heeded before anything is sent', async t => {
  const readOnly = await serve(t, { flags: 1 | TRANSMISSION_READ_ONLY });
  const write = await runCommand('bench', readOnly.uri, '--mode', 'randwrite', '--yes');
  t.equal(write.code, 1);
  t.match(write.error, /read-only/);
  const small = await serve(t, { sizeBytes: 2048 });
  t.match((await runCommand('bench', small.uri)).error, /smaller than one request/);
  const refused = await serve(t, { refuse: true });
  t.match((await runCommand('bench', refused.uri)).error, /no such volume/);
  t.same([...readOnly.seen.offsets, ...small.seen.offsets, ...refused.seen.offsets], []);
});

t.test('a server that goes away or talks nonsense is an error', async t => {
  const gone = await serve(t, { misbehave: { atRequest: 50, act: socket => void socket.destroy() } });
  const lost = await runCommand('bench', gone.uri, '--json');
  t.equal(lost.code, 1);
  t.match(JSON.parse(lost.out), { error: { code: 'connection-failed', retryable: true } });

  const noise = Buffer.alloc(64, 0x55);
  const loud = await serve(t, { misbehave: { atRequest: 50, act: socket => void socket.write(noise) } });
  t.match(JSON.parse((await runCommand('bench', loud.uri, '--json')).out), { error: { code: 'protocol-error' } });

  const stranger = Buffer.alloc(SIMPLE_REPLY_BYTES);
  encodeSimpleReply(viewOf(stranger), 0, { cookieHigh: 0, cookieLow: 9999, offsetHigh: 0, offsetLow: 0 }, 0);
  const odd = await serve(t, { misbehave: { atRequest: 50, act: socket => void socket.write(stranger) } });
  t.match(JSON.parse((await runCommand('bench', odd.uri, '--json')).out), { error: { code: 'protocol-error' } });
});

t.test('a server that hangs up on the first connection while the second is made is an error', async t => {
  let first: Socket | undefined;
  const { uri } = await serve(t, {
    connected: socket => {
      if (first !== undefined) first.destroy();
      first ??= socket;
    },
  });
  const { code, out } = await runCommand('bench', uri, '--connections', '3', '--seconds', '1', '--json');
  t.equal(code, 1);
  t.match(JSON.parse(out), { error: { code: 'connection-failed' } });
});

t.test('where nobody listens the connection fails', async t => {
  const path = join(temporaryDirectory(t), 'nobody.sock');
  const { code, out } = await runCommand('bench', `nbd+unix:///?socket=${path}`, '--json');
  t.equal(code, 1);
  t.match(JSON.parse(out), { error: { code: 'connection-failed' } });
});
