/**
 * Counts what a stream of TAP (version 14, as tap writes it) says, line by line. Called by `run-tests.ts` for each file.
 *
 * What is counted are assertions: test points that are not the end of a subtest. A subtest that failed though none of
 * its assertions did (its plan was not kept, it threw) counts as one failure, an empty one as one assertion, a skipped
 * one as one skip, and so does what is marked as planned. YAML blocks are passed over: a diff may hold lines that look like TAP.
 */

export interface TapCounts {
  passed: number;
  failed: number;
  skipped: number;
}

/** A failed or skipped assertion, for people: the names of its subtests and its own, and its YAML lines. */
export interface TapNotice {
  readonly kind: 'failed' | 'skipped';
  readonly name: string;
  readonly details: string[];
}

const POINT = /^( *)(not )?ok\b(?: \d+)?(?: - )?(.*)$/;
const PLAN = /^( *)1\.\.(\d+)(?:\s*# ?(.*))?$/;
const SUBTEST = /^( *)# Subtest: (.*)$/;
const INDENT = 4;
const DETAIL_LINES_MAX = 60;

interface Level {
  /** Something of this level was seen since the last point of the level above: that point ends a subtest. */
  seen: boolean;
  failures: number;
  name: string;
  /** A point whose children follow in braces. */
  open: { failed: boolean; text: string } | undefined;
}

export class TapCounter {
  readonly counts: TapCounts = { passed: 0, failed: 0, skipped: 0 };
  readonly notices: TapNotice[] = [];
  readonly #levels: Level[] = [];
  #yamlIndent: number | undefined;
  #details: string[] | undefined;
  #points = 0;
  #emptyPlan = false;

  line(line: string): void {
    if (this.#yamlIndent !== undefined) {
      const end = line.trim() === '...' && indentOf(line) === this.#yamlIndent;
      if (end) this.#yamlIndent = undefined;
      else if (this.#details !== undefined && this.#details.length < DETAIL_LINES_MAX)
        this.#details.push(line.trimEnd());
      return;
    }
    if (line.trim() === '---') {
      this.#yamlIndent = indentOf(line);
      return;
    }
    const subtest = SUBTEST.exec(line);
    if (subtest !== null) {
      this.#level(depthOf(subtest[1] ?? '')).name = subtest[2] ?? '';
      return;
    }
    const point = POINT.exec(line);
    if (point !== null) {
      this.#point(depthOf(point[1] ?? ''), point[2] !== undefined, point[3] ?? '');
      return;
    }
    const plan = PLAN.exec(line);
    if (plan !== null) {
      const depth = depthOf(plan[1] ?? '');
      this.#level(depth).seen ||= plan[2] !== '0';
      if (depth === 0 && plan[2] === '0') {
        this.#emptyPlan = true;
        if (plan[3]) this.notices.push({ kind: 'skipped', name: plan[3], details: [] });
      }
      return;
    }
    if (/^ *\}\s*$/.test(line)) {
      const depth = depthOf(line.slice(0, indentOf(line)));
      const open = this.#level(depth).open;
      this.#level(depth).open = undefined;
      if (open !== undefined) this.#endPoint(depth, open.failed, open.text);
      return;
    }
    if (/^ *Bail out!/.test(line)) this.#notice('failed', line.trim());
  }

  /** After the last line: `exitedWell` is false when the process ended by a signal or with a code other than 0. */
  end(exitedWell: boolean, why: string): TapCounts {
    if (this.#points === 0 && this.counts.failed === 0) {
      // A file that skips itself as a whole has an empty plan; one that says nothing at all did not test anything.
      if (exitedWell && this.#emptyPlan) this.counts.skipped++;
      else this.#notice('failed', exitedWell ? 'the file has no test' : why);
    } else if (!exitedWell && this.counts.failed === 0) this.#notice('failed', why);
    return this.counts;
  }

  #point(depth: number, failed: boolean, text: string): void {
    this.#points++;
    const buffered = /\s*\{\s*$/.exec(text);
    if (buffered !== null) {
      const level = this.#level(depth);
      level.open = { failed, text: text.slice(0, buffered.index) };
      level.name = level.open.text.replace(/ # time=.*$/, '');
      return;
    }
    this.#endPoint(depth, failed, text);
  }

  #endPoint(depth: number, failed: boolean, text: string): void {
    const level = this.#level(depth);
    const below = this.#levels[depth + 1];
    const isSubtest = below?.seen === true;
    const failuresBelow = below?.failures ?? 0;
    this.#levels.length = depth + 1;
    level.seen = true;
    this.#details = undefined;
    const name = text.replace(/ # time=\S+$/, '').trim();
    if (/# (skip|todo)\b/i.test(text)) {
      if (!isSubtest) {
        this.counts.skipped++;
        this.notices.push({ kind: 'skipped', name: this.#path(depth, name), details: [] });
      }
    } else if (failed) {
      level.failures++;
      if (!isSubtest || failuresBelow === 0) this.#notice('failed', this.#path(depth, name));
    } else if (!isSubtest) this.counts.passed++;
  }

  #notice(kind: 'failed' | 'skipped', name: string): void {
    this.counts[kind]++;
    this.#details = [];
    this.notices.push({ kind, name, details: this.#details });
  }

  #path(depth: number, name: string): string {
    const names = this.#levels.slice(0, depth).map(level => level.name);
    return [...names, name].filter(part => part !== '').join(' > ');
  }

  #level(depth: number): Level {
    while (this.#levels.length <= depth) {
      this.#levels.push({ seen: false, failures: 0, name: '', open: undefined });
    }
    return this.#levels[depth] as Level;
  }
}

function indentOf(line: string): number {
  return line.length - line.trimStart().length;
}

function depthOf(indent: string): number {
  return Math.floor(indent.length / INDENT);
}
