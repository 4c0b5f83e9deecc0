/** `sledge status`: how the node that runs in a data directory is doing. */
import { ControlClient } from '../admin/control-client.ts';
import { type Command, EXIT_DONE } from './command.ts';
import { statusText } from './status-page.ts';

export const statusCommand: Command = {
  name: 'status',
  summary: 'show what is served, what is wrong, why, and what to do about it',
  positionals: [],
  options: [{ name: 'data', value: 'DIR', default: './data', help: 'data directory of the running server' }],
  notes: `
Rates are of the last seconds, latencies (from the arrival of a request to its reply) and counts
since the start. The exit code says whether the status could be had, not whether it is good.`,
  async run(input, context) {
    const status = await new ControlClient(input.text('data') ?? './data').status();
    context.out(input.json ? `${JSON.stringify(status)}\n` : statusText(status));
    return EXIT_DONE;
  },
};
