/**
 * LISTEN_FDS: a service manager binds the socket and hands it over as descriptor 3. The manager here is a few lines of
 * Python, since it has to become the server with execve: LISTEN_PID names the process that the sockets are for.
 */
import { join } from 'node:path';
import t from 'tap';
import { nbdsh, runOk, skipUnlessInstalled, temporaryDirectory } from '../support/nbd-programs.ts';
import { ServerProcess, skipOnStandIn, sledgeArguments, sledgeProgram } from '../support/server-process.ts';

const MIB = 2 ** 20;
const skip = skipUnlessInstalled('python3', 'nbdinfo', 'nbdsh') || skipOnStandIn();

/** Arguments: COUNT PATH… PROGRAM ARG…; binds each path, hands them over from descriptor 3 on. */
const manager = `
import os, socket, sys
count = int(sys.argv[1])
sockets = []
for path in sys.argv[2:2 + count]:
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(16)
    sockets.append(s)
# First out of the way of the numbers that they are to have.
high = [os.dup2(s.fileno(), 100 + i, inheritable=False) for i, s in enumerate(sockets)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ["LISTEN_FDS"] = str(count)
os.environ["LISTEN_PID"] = str(os.getpid())
command = sys.argv[2 + count:]
os.execvp(command[0], command)
`;

for (const count of [1, 2]) {
  t.test(`${count} socket${count === 1 ? '' : 's'} handed over by a service manager`, { skip }, async t => {
    const directory = temporaryDirectory(t);
    const paths = Array.from({ length: count }, (_, i) => join(directory, `socket${i}`));
    const serve = sledgeArguments({
      dataDirectory: join(directory, 'data'),
      volumes: [{ name: 'disk', sizeBytes: 16 * MIB }],
    });
    const server = new ServerProcess('python3', ['-c', manager, String(count), ...paths, sledgeProgram, ...serve]);
    t.teardown(() => {
      server.child.kill('SIGKILL');
    });
    const { pid } = await server.readyEvent(30_000);
    t.equal(pid, server.child.pid, 'the server is the process that the sockets were for');
    for (const path of paths) {
      const uri = `nbd+unix:///disk?socket=${encodeURIComponent(path)}`;
      t.equal((await runOk('nbdinfo', ['--size', uri])).trim(), String(16 * MIB));
    }
    const [same] = await nbdsh(`
h.connect_uri(${JSON.stringify(`nbd+unix:///disk?socket=${encodeURIComponent(paths[0])}`)})
h.pwrite(b"handed over", 0)
emit(h.pread(11, 0) == b"handed over")
`);
    t.equal(same, true);
    server.child.kill('SIGTERM');
    t.equal(await server.ended(15_000), 0);
  });
}
