/** Runs a command line in the test's own process and keeps what it printed. */
import { EventEmitter } from 'node:events';
import type { CommandContext } from '../../src/bin/command.ts';
import { runCommandLine } from '../../src/bin/command-line.ts';

export interface CommandResult {
  readonly code: number;
  readonly out: string;
  readonly error: string;
}

export class CommandRun implements CommandContext {
  out = (text: string): void => {
    this.printed += text;
    this.events.emit('printed');
  };
  error = (text: string): void => {
    this.complained += text;
  };
  readonly env: NodeJS.ProcessEnv = {};
  readonly pid = 4711;
  readonly signals = new EventEmitter();
  readonly events = new EventEmitter();
  printed = '';
  complained = '';
  exitedNow: number | undefined;
  startNode: CommandContext['startNode'] = () => {
    throw new Error('this test starts no node');
  };

  exitNow(code: number): void {
    this.exitedNow = code;
  }

  async run(...argv: string[]): Promise<CommandResult> {
    const code = await runCommandLine(argv, this);
    return { code, out: this.printed, error: this.complained };
  }
}

export function runCommand(...argv: string[]): Promise<CommandResult> {
  return new CommandRun().run(...argv);
}
