/**
 * The program `sledge`: puts the process around the command line. Started by `scripts/sledge`. Nothing is decided here
 * but what happens at the very end: an error that nobody expected is a bug and says so.
 */
import { runCommandLine } from './command-line.ts';

// `sledge status | head` closes the pipe early, which is no failure of anything, and a server whose reader has gone has
// its clients to serve and its data to make durable all the same.
process.stdout.on('error', ignoreClosedPipe);
process.stderr.on('error', ignoreClosedPipe);

process.exitCode = await runCommandLine(process.argv.slice(2), {
  out: text => void process.stdout.write(text),
  error: text => void process.stderr.write(text),
  env: process.env,
  pid: process.pid,
  signals: process,
  startNode: async options => (await import('../node/start.ts')).startNode(options),
  exitNow: code => process.exit(code),
});

function ignoreClosedPipe(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error;
}
