/**
 * The loop of a data-plane instance: files, streams and listeners of this folder start operations on it, cores ask it
 * for end-of-turn tasks. It runs inside of Node's loop, as one callback per batch of turns.
 *
 * A turn: completions are drained, tasks and the completions that were there at once run in the order of asking (and
 * what they ask for in their turn, some rounds deep), then one native call submits everything. Where nothing is ready
 * after that, the loop waits a little if that has paid lately (`wait-budget.ts`), then sleeps: in the ring, where the
 * kernel lets it, with a poll of Node's own epoll under way; else in Node's epoll, until the ring's eventfd wakes it.
 *
 * Reads and writes of files do not wait for the end of the turn: some at a time are pushed, and the disk works meanwhile.
 * So is what somebody hurries.
 * Else disk and server take turns with a client that sends as many requests at once as it gets replies at once: measured,
 * 4 KiB reads at depth 4 22 000 a second instead of 28 000, at depth 16 42 000 instead of 49 000.
 *
 * Measured on two virtual processors, 4 KiB random reads O_DIRECT: at depth 64 4 to 5 µs of processor an operation,
 * kernel included, and 0.9 to 1 × the rate of fio; at depth 1 1.2 to 1.4 × fio's. Registered files would save about
 * 0.1 µs of that and registered buffers 0.7 µs, which the pinned memory (RLIMIT_MEMLOCK) is not worth so far.
 *
 * Invariants:
 * - An operation completes exactly once, never from inside of the call that started it.
 * - At most as many operations are in the ring as it has entries; the others wait here, in order.
 * - Before sleeping the ring is armed and then looked at once more, so that no completion is slept over.
 * - It sleeps in the ring only with the poll of Node's epoll under way, so that none of Node's events is slept over.
 * - It never waits with the processor burning while a sync is under way: the kernel's thread that has to go on with it
 *   may need this very processor (measured: 4 ms instead of 0.24).
 * - Node's own events (timers, TLS, HTTP) wait at most about `BATCH_MS`, however busy the ring is.
 */
import { performance } from 'node:perf_hooks';
import { AssertionError, assert } from '../base/assert.ts';
import { errnoName } from '../base/errno.ts';
import type { IoRequest, Turns, TurnTask } from '../base/io.ts';
import { RingQueue } from '../base/ring-queue.ts';
import { WaitBudget } from '../base/wait-budget.ts';
import { addon, type NativeRing } from './addon.ts';
import { Operation, type OperationOwner, WAITS_FOR_DATA, WAITS_FOR_PEER, WAITS_FOR_SYNC } from './operation.ts';
import { COMPLETION_WORDS, OP_ASYNC_CANCEL, OP_POLL_ADD, POLL_IN, SUBMISSION_WORDS } from './submission.ts';

const BATCH_MS = 1;
/**
 * Data operations that are prepared are pushed once there are half as many of them as the disk has, within these limits:
 * few while it has little to do, more when the calls cost more than its waiting.
 */
const PUSH_MIN = 2;
const PUSH_MAX = 8;
/** Tasks that ask for tasks run in the same turn this many times over; what is left then runs in the next turn. */
const ROUNDS_MAX = 16;
const TWO_32 = 2 ** 32;

export interface RingLoopOptions {
  readonly kind: number;
  readonly entries: number;
  /** Of the thread ring's pool for files. */
  readonly threads: number;
  /** How long a turn with activity waits for more before Node's loop gets its turn. */
  readonly spinMicros: number;
}

/** Cancellations report to nobody: the cancelled operation itself does. */
class CancelOwner implements OperationOwner {
  readonly #loop: RingLoop;

  constructor(loop: RingLoop) {
    this.#loop = loop;
  }

  operationEnded(operation: Operation): void {
    this.#loop.release(operation);
  }
}

/** A poll of the descriptor that tells that Node's own loop has something to do. */
class NodeWatch implements OperationOwner {
  readonly #loop: RingLoop;
  readonly #fd: number;
  /** The poll; undefined when it has ended. */
  #poll: Operation | undefined;

  constructor(loop: RingLoop, fd: number) {
    this.#loop = loop;
    this.#fd = fd;
  }

  get isUnderWay(): boolean {
    return this.#poll !== undefined;
  }

  begin(): void {
    const poll = this.#loop.acquire(this);
    poll.opcode = OP_POLL_ADD;
    poll.fd = this.#fd;
    poll.operationFlags = POLL_IN;
    poll.position = 0;
    poll.address = 0;
    poll.length = 0;
    this.#poll = poll;
    this.#loop.start(poll);
  }

  operationEnded(operation: Operation): void {
    this.#poll = undefined;
    this.#loop.release(operation);
  }

  end(): void {
    if (this.#poll !== undefined) this.#loop.cancel(this.#poll);
  }
}

export class RingLoop implements Turns {
  readonly #ring: NativeRing;
  /** Where the ring can be slept in. */
  readonly #nodeWatch: NodeWatch | undefined;
  readonly #submissions: Uint32Array;
  readonly #completions: Int32Array;
  readonly #submissionMask: number;
  readonly #completionMask: number;
  readonly #inRingMax: number;
  /** One for waits that only peers can end, one for those that a disk may. */
  readonly #peerBudget: WaitBudget;
  readonly #diskBudget: WaitBudget;
  readonly #cancelOwner = new CancelOwner(this);
  readonly #turn = () => this.#runScheduled();

  readonly #operations: Operation[] = [];
  readonly #free: Operation[] = [];
  /**
   * Operations beyond the ring's room. Nothing overtakes them: a cancellation that came late would meet another
   * operation under the same mark.
   */
  readonly #waiting = new RingQueue<Operation>();
  /** Numbers of the next entry to fill and of the next completion to read, modulo 2^32. */
  #submissionNumber = 0;
  #completionNumber = 0;
  #prepared = 0;
  /** Of the prepared ones, those that wait for data. */
  #dataPrepared = 0;
  #inRing = 0;
  #dataInRing = 0;
  #syncsInRing = 0;
  #ready = 0;

  #tasks: TurnTask[] = [];
  #tasksRunning: TurnTask[] = [];
  #doneRequests: IoRequest[] = [];
  #doneRequestsRunning: IoRequest[] = [];
  #doneResults: number[] = [];
  #doneResultsRunning: number[] = [];

  /** Runs when its time has come; the loop does not sleep before. */
  #lateTask: TurnTask | undefined;
  #lateTaskDueMs = 0;

  #running = false;
  #scheduled = false;
  #closing = false;
  #closed = false;
  #becameIdle: (() => void) | undefined;

  /** Throws what the addon throws (an Error with `errno`) where there is no such ring. */
  constructor(options: RingLoopOptions) {
    this.#ring = new addon.Ring(options.kind, options.entries, options.threads, () => this.#run());
    this.#submissions = new Uint32Array(this.#ring.submissions);
    this.#completions = new Int32Array(this.#ring.completions);
    const submissionCount = this.#submissions.length / SUBMISSION_WORDS;
    this.#submissionMask = submissionCount - 1;
    this.#completionMask = this.#completions.length / COMPLETION_WORDS - 1;
    this.#inRingMax = submissionCount;
    this.#peerBudget = new WaitBudget(options.spinMicros);
    this.#diskBudget = new WaitBudget(options.spinMicros);
    if (this.#ring.loopFd >= 0) this.#nodeWatch = new NodeWatch(this, this.#ring.loopFd);
  }

  /** An operation to fill in and start. It is the caller's until `release`. */
  acquire(owner: OperationOwner): Operation {
    let operation = this.#free.pop();
    if (operation === undefined) {
      operation = new Operation(this.#operations.length);
      this.#operations.push(operation);
    }
    operation.owner = owner;
    return operation;
  }

  release(operation: Operation): void {
    operation.owner = undefined;
    operation.request = undefined;
    operation.region = undefined;
    operation.waitsFor = WAITS_FOR_PEER;
    operation.done = 0;
    this.#free.push(operation);
  }

  /** Submits with this turn, or as soon as there is room. */
  start(operation: Operation): void {
    assert(!this.#closed, 'the loop runs');
    if (this.#inRing < this.#inRingMax && this.#waiting.length === 0) {
      this.#prepare(operation);
    } else {
      this.#waiting.push(operation);
    }
    if (!this.#running) this.#schedule();
  }

  /** Makes what `operation` waits for end soon. It completes in any case, with whatever came first. */
  cancel(operation: Operation): void {
    const cancellation = this.acquire(this.#cancelOwner);
    cancellation.opcode = OP_ASYNC_CANCEL;
    cancellation.fd = -1;
    cancellation.operationFlags = 0;
    cancellation.position = 0;
    cancellation.address = operation.slot;
    cancellation.length = 0;
    this.start(cancellation);
  }

  /** Completes what was done at once: within this turn, but not from inside of this call. */
  completeSoon(request: IoRequest, result: number): void {
    this.#doneRequests.push(request);
    this.#doneResults.push(result);
    if (!this.#running) this.#schedule();
  }

  atEndOfTurn(task: TurnTask): void {
    this.#tasks.push(task);
    if (!this.#running) this.#schedule();
  }

  afterMicros(task: TurnTask, micros: number): void {
    assert(this.#lateTask === undefined, 'one late task at a time');
    this.#lateTask = task;
    this.#lateTaskDueMs = performance.now() + micros / 1000;
    if (!this.#running) this.#schedule();
  }

  cancelAfterMicros(): void {
    this.#lateTask = undefined;
  }

  hurry(): void {
    // Outside of a turn it goes with the next one, which is due already.
    if (this.#running && this.#prepared > 0) this.#push();
  }

  /** Ends when nothing is under way any more: whoever closes the loop has closed (or cancelled) all that uses it. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#nodeWatch?.end();
    if (this.#running || this.#inRing > 0 || this.#waiting.length > 0) {
      await new Promise<void>(resolve => {
        this.#becameIdle = resolve;
      });
    }
    if (this.#closed) return;
    this.#closed = true;
    this.#ring.close();
  }

  #prepare(operation: Operation): void {
    const words = this.#submissions;
    const at = (this.#submissionNumber & this.#submissionMask) * SUBMISSION_WORDS;
    const position = operation.position;
    const address = operation.address;
    words[at] = operation.opcode;
    words[at + 1] = operation.fd;
    words[at + 2] = position;
    words[at + 3] = position / TWO_32;
    words[at + 4] = address;
    words[at + 5] = address / TWO_32;
    words[at + 6] = operation.length - operation.done;
    words[at + 7] = operation.operationFlags;
    words[at + 8] = operation.slot;
    this.#submissionNumber = (this.#submissionNumber + 1) | 0;
    this.#prepared += 1;
    this.#inRing += 1;
    if (operation.waitsFor === WAITS_FOR_DATA) {
      this.#dataInRing += 1;
      this.#dataPrepared += 1;
      if (this.#running && this.#isWorthPushing()) this.#push();
    } else if (operation.waitsFor === WAITS_FOR_SYNC) {
      this.#syncsInRing += 1;
    }
  }

  #isWorthPushing(): boolean {
    const underWay = this.#dataInRing - this.#dataPrepared;
    return this.#dataPrepared >= Math.max(PUSH_MIN, Math.min(PUSH_MAX, underWay / 2));
  }

  /** Submits what is prepared, in the middle of a turn. */
  #push(): void {
    this.#checked(this.#ring.push(this.#prepared));
    this.#prepared = 0;
    this.#dataPrepared = 0;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  #runScheduled(): void {
    this.#scheduled = false;
    this.#run();
  }

  /** Returns whether Node's own loop comes next, rather than a sleep in the ring. */
  #run(): boolean {
    if (this.#closed) return true;
    this.#running = true;
    // Once it has ended it is not begun again before Node has had its turn: it would end at once.
    if (this.#nodeWatch?.isUnderWay === false && !this.#closing) this.#nodeWatch.begin();
    const until = performance.now() + BATCH_MS;
    for (;;) {
      const drained = this.#drain();
      if (this.#lateTask !== undefined) this.#runLateTask();
      const unsettled = this.#settle();
      const prepared = this.#prepared;
      this.#prepared = 0;
      this.#dataPrepared = 0;
      this.#ready = this.#enter(prepared, 0);
      if (this.#ready === 0 && this.#lateTask !== undefined) {
        this.#ready = this.#enter(0, Math.ceil(Math.max(1, (this.#lateTaskDueMs - performance.now()) * 1000)));
      } else if (this.#ready === 0 && !unsettled) {
        const active = drained > 0 || prepared > 0;
        if (!(active && this.#inRing > 0 && this.#spun())) {
          this.#ready = this.#ring.arm(this.#isWatching());
          if (this.#ready === 0) break;
        }
      }
      if (performance.now() >= until) {
        this.#schedule();
        break;
      }
    }
    this.#running = false;
    if (this.#inRing === 0 && this.#waiting.length === 0) this.#becameIdle?.();
    return !this.#isWatching();
  }

  #isWatching(): boolean {
    return this.#nodeWatch?.isUnderWay === true && this.#waiting.length === 0;
  }

  /** Waits a little, if that is likely to pay. True if it did. */
  #spun(): boolean {
    if (this.#syncsInRing > 0) return false;
    const budget = this.#dataInRing > 0 ? this.#diskBudget : this.#peerBudget;
    const micros = budget.next();
    if (micros === 0) return false;
    this.#ready = this.#enter(0, micros);
    budget.waited(this.#ready > 0);
    return this.#ready > 0;
  }

  #enter(count: number, spinMicros: number): number {
    return this.#checked(this.#ring.enter(count, spinMicros));
  }

  /** What a call of the ring has returned; below 0 it is an errno. */
  #checked(result: number): number {
    // The text is made only when it is needed: this is asked several times a turn.
    if (result < 0) throw new AssertionError(`the ring works: ${errnoName(result)}`);
    return result;
  }

  #drain(): number {
    const count = this.#ready;
    const words = this.#completions;
    const mask = this.#completionMask;
    for (let left = count; left > 0; left--) {
      const at = (this.#completionNumber & mask) * COMPLETION_WORDS;
      this.#completionNumber = (this.#completionNumber + 1) | 0;
      this.#inRing -= 1;
      const operation = this.#operations[words[at]];
      if (operation.waitsFor === WAITS_FOR_DATA) this.#dataInRing -= 1;
      else if (operation.waitsFor === WAITS_FOR_SYNC) this.#syncsInRing -= 1;
      const owner = operation.owner;
      assert(owner !== undefined, 'a completion belongs to an operation under way');
      owner.operationEnded(operation, words[at + 2]);
    }
    this.#ready = 0;
    if (this.#waiting.length > 0) this.#admitWaiting();
    return count;
  }

  #admitWaiting(): void {
    while (this.#waiting.length > 0 && this.#inRing < this.#inRingMax) this.#prepare(this.#waiting.shift());
  }

  #runLateTask(): void {
    const task = this.#lateTask!;
    if (performance.now() < this.#lateTaskDueMs) return;
    this.#lateTask = undefined;
    task.runAtEndOfTurn();
  }

  /** Runs what was asked for. True if there is more than one turn should do. */
  #settle(): boolean {
    for (let round = 0; round < ROUNDS_MAX; round++) {
      if (this.#tasks.length === 0 && this.#doneRequests.length === 0) return false;
      this.#completeDone();
      this.#runTasks();
    }
    return this.#tasks.length > 0 || this.#doneRequests.length > 0;
  }

  #completeDone(): void {
    const requests = this.#doneRequests;
    const results = this.#doneResults;
    this.#doneRequests = this.#doneRequestsRunning;
    this.#doneResults = this.#doneResultsRunning;
    for (let index = 0; index < requests.length; index++) requests[index].ioCompleted(results[index]);
    requests.length = 0;
    results.length = 0;
    this.#doneRequestsRunning = requests;
    this.#doneResultsRunning = results;
  }

  #runTasks(): void {
    const tasks = this.#tasks;
    this.#tasks = this.#tasksRunning;
    for (let index = 0; index < tasks.length; index++) tasks[index].runAtEndOfTurn();
    tasks.length = 0;
    this.#tasksRunning = tasks;
  }
}
