/** What is open on a platform: it refuses to close while there is any, and says what. */
export class OpenThings {
  readonly #things = new Set<object>();

  get count(): number {
    return this.#things.size;
  }

  opened(thing: object): void {
    this.#things.add(thing);
  }

  closed(thing: object): void {
    this.#things.delete(thing);
  }

  /** `2 RingStream, 1 RingFile`. */
  describe(): string {
    const counts = new Map<string, number>();
    for (const thing of this.#things) counts.set(thing.constructor.name, (counts.get(thing.constructor.name) ?? 0) + 1);
    return [...counts].map(([name, count]) => `${count} ${name}`).join(', ');
  }
}
