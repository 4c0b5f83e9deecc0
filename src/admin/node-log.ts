/** How a node says what it does: one method for each level. Made by `log.ts`; a test may hand in `{ info() {}, … }`. */
export interface NodeLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}
