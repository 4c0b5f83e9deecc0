/**
 * Draws samples as a flame graph: a box for each function below the one that called it, as wide as the time that was
 * spent in it and in what it called, with its numbers in a tooltip. One SVG file that needs nothing else.
 *
 * Threads come first, then the outermost function at the top. Boxes below a third of a pixel are left out.
 */
import { type Frame, frameKey, type Sample } from './sample.ts';

const WIDTH = 1600;
const ROW = 17;
const TOP = 44;
const NARROWEST = 1 / 3;
const CHARACTER = 6.6;

const COLOURS: Readonly<Record<Frame['kind'] | 'thread', string>> = {
  thread: '#d0d0d0',
  javascript: '#8fce7a',
  builtin: '#c9e39b',
  addon: '#7fb4e6',
  lmdb: '#b69ae0',
  node: '#f2d16b',
  library: '#e3dcc4',
  kernel: '#ee8f6b',
  collector: '#e58fb5',
  program: '#e3dcc4',
};

/** A function as it was called from one place. */
class Box {
  readonly label: string;
  readonly place: string;
  readonly colour: string;
  seconds = 0;
  readonly inner = new Map<string, Box>();

  constructor(label: string, place: string, colour: string) {
    this.label = label;
    this.place = place;
    this.colour = colour;
  }

  child(key: string, make: () => Box): Box {
    let box = this.inner.get(key);
    if (box === undefined) {
      box = make();
      this.inner.set(key, box);
    }
    return box;
  }
}

export function flameGraph(samples: readonly Sample[], title: string): string {
  const root = boxesOf(samples);
  const parts: string[] = [];
  const deepest = draw(parts, root, root.seconds, 0, 0);
  const height = TOP + (deepest + 1) * ROW + 8;
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"
  font-family="monospace" font-size="11">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="8" y="18" font-size="14">${escapeXml(title)}</text>
${legend()}
${parts.join('\n')}
</svg>
`;
}

function boxesOf(samples: readonly Sample[]): Box {
  const root = new Box('all threads', '', COLOURS.thread);
  for (const { thread, seconds, frames } of samples) {
    root.seconds += seconds;
    let box = root.child(thread, () => new Box(thread, '', COLOURS.thread));
    box.seconds += seconds;
    for (let i = frames.length - 1; i >= 0; i--) {
      const frame = frames[i];
      box = box.child(frameKey(frame), () => new Box(frame.name, placeOf(frame), COLOURS[frame.kind]));
      box.seconds += seconds;
    }
  }
  return root;
}

function placeOf(frame: Frame): string {
  return frame.kind === 'javascript' ? `${frame.file}:${frame.line}` : frame.kind;
}

/** Gives the depth of the deepest box that it drew. */
function draw(parts: string[], box: Box, all: number, x: number, depth: number): number {
  const width = all > 0 ? (box.seconds / all) * WIDTH : 0;
  if (width < NARROWEST) return depth - 1;
  const y = TOP + depth * ROW;
  const share = `${(box.seconds * 1000).toFixed(1)} ms, ${((100 * box.seconds) / all).toFixed(2)} %`;
  const tip = [box.label, box.place, share].filter(text => text !== '').join('\n');
  const fit = Math.floor((width - 4) / CHARACTER);
  const label = box.label.length <= fit ? box.label : `${box.label.slice(0, fit - 1)}…`;
  parts.push(
    `<g><title>${escapeXml(tip)}</title><rect x="${x.toFixed(2)}" y="${y}" width="${width.toFixed(2)}" height="${ROW - 1}" ` +
      `fill="${box.colour}" stroke="#ffffff" stroke-width="0.4"/>` +
      (fit < 3 ? '</g>' : `<text x="${(x + 2).toFixed(2)}" y="${y + 12}">${escapeXml(label)}</text></g>`),
  );
  let deepest = depth;
  let at = x;
  // By name, so that two graphs can be compared.
  for (const [, inner] of [...box.inner].sort(([a], [b]) => (a < b ? -1 : 1))) {
    deepest = Math.max(deepest, draw(parts, inner, all, at, depth + 1));
    at += (inner.seconds / all) * WIDTH;
  }
  return deepest;
}

function legend(): string {
  let x = 8;
  const entries = Object.entries(COLOURS).map(([kind, colour]) => {
    const at = x;
    x += 22 + kind.length * CHARACTER + 10;
    return `<rect x="${at}" y="26" width="12" height="12" fill="${colour}"/><text x="${at + 16}" y="36">${kind}</text>`;
  });
  return entries.join('');
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
