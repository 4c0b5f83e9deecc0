/** A bug that is put into the product on purpose, to see whether a test notices: what `scripts/planted-bugs` works on. */

export interface PlantedBug {
  readonly name: string;
  /** What is wrong then, in one sentence. */
  readonly breaks: string;
  /** The file that it is planted in, below the checkout. */
  readonly file: string;
  /** Stands in the file exactly once. */
  readonly find: string;
  readonly replacement: string;
  /** Where it shows only when a certain thing goes wrong, which the simulator is told then (test/support/sim-run.ts). */
  readonly trouble?: string;
}

/** The file's text with the bug in it. Throws where the text to find is not there, or more than once. */
export function plant(source: string, bug: PlantedBug): string {
  const parts = source.split(bug.find);
  if (parts.length !== 2) {
    throw new Error(`${bug.name}: its text stands ${parts.length - 1} times in ${bug.file}, not once`);
  }
  return parts.join(bug.replacement);
}
