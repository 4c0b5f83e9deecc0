/**
 * The log of a server: pino, to standard error, one line an entry, readable by people or (with --json) by machines.
 * Made once by `sledge serve` and handed to everything that has something to say.
 *
 * Lines are written in the background, so that a reader of the pipe who stops reading does not stop the event loop and
 * with it every client; beyond a bound, lines of the log are dropped rather than that. `flush` writes out what is left
 * and is called before the process ends.
 */
import { type Logger, pino } from 'pino';
import type { NodeLog } from './node-log.ts';

export type LogFormat = 'text' | 'json';
export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** What waits to be written at most. */
const BUFFER_BYTES_MAX = 4 * 1024 * 1024;

export interface ServerLog extends NodeLog {
  flush(): void;
}

/** Where lines go: pino's destination in the product, an array in tests. */
export interface LogSink {
  write(text: string): void;
  flushSync(): void;
}

export function createLog(format: LogFormat, level: LogLevel, sink: LogSink = standardError()): ServerLog {
  const stream = format === 'json' ? sink : { write: (line: string) => sink.write(formatLine(line)) };
  const logger: Logger = pino(
    {
      level,
      // The process and its host are known to whoever reads its standard error.
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: label => ({ level: label }) },
    },
    stream,
  );
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
    flush: () => sink.flushSync(),
  };
}

function standardError(): LogSink {
  const destination = pino.destination({ fd: 2, sync: false, minLength: 0, maxLength: BUFFER_BYTES_MAX });
  // Standard error may be closed by whoever reads it; the server goes on without a log.
  destination.on('error', () => {});
  return destination;
}

/** `2026-01-31 12:00:00.123 info  the message (volume vol0, bytes 4096)` from a line of JSON. */
export function formatLine(line: string): string {
  const entry = JSON.parse(line) as Record<string, unknown>;
  const { time, level, msg, err, ...fields } = entry;
  const moment = String(time).replace('T', ' ').replace('Z', '');
  const shown = Object.entries(fields).map(([key, value]) => `${key} ${formatValue(value)}`);
  const details = shown.length === 0 ? '' : ` (${shown.join(', ')})`;
  return `${moment} ${String(level).padEnd(5)} ${oneLine(String(msg ?? ''))}${details}${formatError(err)}\n`;
}

function formatValue(value: unknown): string {
  return oneLine(typeof value === 'string' ? value : JSON.stringify(value));
}

/** An error's message on the line itself; its stack, which is for whoever mends it, on lines below. */
function formatError(error: unknown): string {
  if (typeof error !== 'object' || error === null) return '';
  const { message, stack } = error as { message?: unknown; stack?: unknown };
  const head = `: ${oneLine(String(message ?? ''))}`;
  return typeof stack === 'string' ? `${head}\n${stack.replace(/^/gm, '    ')}` : head;
}

/** Text from outside may hold line ends and escape sequences, neither of which belongs on a terminal. */
function oneLine(text: string): string {
  return text.replace(/\p{Cc}/gu, character => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
