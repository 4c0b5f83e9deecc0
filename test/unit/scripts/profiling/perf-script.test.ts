/** Reading perf: whose samples count, what the frames are, and what virtual machines make of them. */
import t from 'tap';
import { CompiledCode } from '../../../../scripts/profiling/compiled-code.ts';
import { PerfScript } from '../../../../scripts/profiling/perf-script.ts';
import type { Frame, Sample } from '../../../../scripts/profiling/sample.ts';

/** At 7000, `first` until a second has passed, then `second`. */
function compiledCode(): CompiledCode {
  const map = '7000 100 JS:*first file:///a.js:1:1\n7000 100 JS:*second file:///b.js:1:1\n';
  const marks = [
    { atSeconds: 0, bytes: map.length / 2 },
    { atSeconds: 1, bytes: map.length / 2 },
    { atSeconds: 2, bytes: map.length },
  ];
  return new CompiledCode(Buffer.from(map), marks, (file, line) => ({ file, line }));
}

function read(text: string, pid = 7): Sample[] {
  const script = new PerfScript(pid, compiledCode());
  for (const line of text.split('\n')) script.line(line);
  return script.end();
}

/** The frames of one sample of the main thread with these lines. */
function frames(...lines: readonly string[]): readonly Frame[] {
  const [sample] = read(`node 7/7  1.0:     200040 \n${lines.map(line => `\t    7f00 ${line}`).join('\n')}\n`);
  return sample.frames;
}

t.test('a sample is a thread, a time and functions, the innermost first', t => {
  const samples = read(`node 7/7  2915.069692132:     200040 
\tffffffff81bb296d copy_folio_from_iter_atomic ([kernel.kallsyms])
\t           f64c7 __libc_pwrite (/usr/lib/x86_64-linux-gnu/libc.so.6)
\t           25e82 sledge::(anonymous namespace)::Write (/p/build/Release/sledge.node)
\t            7010 [unknown] (/tmp/perf-7.map)

node 7/7  2915.069892132:     100000 
\t           8b6e3 mdb_page_search_root (/p/node_modules/@lmdb/lmdb-linux-x64/node.abi115.glibc.node)

`);
  t.match(samples, [
    {
      thread: 'main',
      seconds: 200_040e-9,
      frames: [
        { kind: 'kernel', name: 'copy_folio_from_iter_atomic' },
        { kind: 'library', name: '__libc_pwrite' },
        { kind: 'addon', name: 'sledge::Write' },
        { kind: 'javascript', name: 'second', file: 'file:///b.js', line: 1 },
      ],
    },
    { seconds: 1e-4, frames: [{ kind: 'lmdb', name: 'mdb_page_search_root' }] },
  ]);
  t.equal(samples.length, 2);
  t.end();
});

t.test('samples of other processes are left out, with all their lines', t => {
  const samples = read(`swapper 0/0  1.0:     200040 
\tffffffff81bb296d pv_native_safe_halt ([kernel.kallsyms])

node 7/9  1.1:     200040 
\t            1000 start_thread (/usr/lib/libc.so.6)
nbdload 8/8  1.2:     200040 
\t            1000 main (/p/dist/bench/nbdload)
`);
  t.equal(samples.length, 1);
  t.match(samples[0].frames, [{ name: 'start_thread' }]);
  t.end();
});

t.test('threads are told apart by their names and by what runs at their outer end, in any one of their samples', t => {
  const samples = read(`iou-wrk-7 7/10  1.0:     1000 
\tffffffff81bb296d io_fsync ([kernel.kallsyms])

node 7/11  1.0:     1000 
\tffffffff81bb296d clear_page_erms ([kernel.kallsyms])

node 7/11  1.1:     1000 
\t            932c node::(anonymous namespace)::PlatformWorkerThread (/usr/bin/node)

node 7/12  1.1:     1000 
\t            932c worker (/usr/bin/node)

some name 7/13  1.1:     1000 
\t            932c start_thread (/usr/lib/libc.so.6)

node 7/7  1.1:     1000 

`);
  const threads = samples.map(sample => sample.thread);
  t.same(threads, ['io_uring workers', 'V8 workers', 'V8 workers', 'libuv pool', 'other threads', 'main']);
  t.end();
});

t.test(
  'a sample that was taken when interrupts were enabled counts for the first caller that does something else',
  t => {
    t.match(
      frames(
        'pvm_irq_enable ([kernel.kallsyms])',
        '__raw_callee_save_pvm_irq_enable ([kernel.kallsyms])',
        '_raw_spin_unlock_irqrestore ([kernel.kallsyms])',
        'sock_def_readable ([kernel.kallsyms])',
        '_raw_spin_unlock_irqrestore ([kernel.kallsyms])',
      ).map(frame => frame.name),
      ['sock_def_readable', '_raw_spin_unlock_irqrestore'],
      'only the innermost ones go',
    );
    t.match(
      frames(
        'pvm_irq_enable ([kernel.kallsyms])',
        'finish_task_switch.isra.0 ([kernel.kallsyms])',
        '__schedule ([kernel.kallsyms])',
      ),
      [{ name: '__schedule' }],
    );
    t.match(
      frames('pvm_irq_enable ([kernel.kallsyms])', '_raw_spin_unlock_irq ([kernel.kallsyms])'),
      [{ name: '_raw_spin_unlock_irq' }],
      'when there is nothing else, it stays',
    );
    t.end();
  },
);

t.test('an address of compiled code is what lay there at the time of the sample', t => {
  const stack = `
\t    7000 [unknown] (/tmp/perf-7.map)
\t    7100 [unknown] (/tmp/perf-7.map)
\t    7200 [unknown] (/tmp/perf-7.map)
\t    1234 Builtins_JSEntry (/usr/bin/node)

`;
  t.match(
    read(`node 7/7  0.5:     1000 ${stack}node 7/7  1.5:     1000 ${stack}`).map(sample => sample.frames),
    ['first', 'second'].map(name => [
      { kind: 'javascript', name },
      { kind: 'javascript', name },
      { kind: 'builtin', name: 'compiled code without a name' },
      { kind: 'builtin', name: 'Builtins_JSEntry' },
    ]),
    'of a caller, the call is what counts, not where it returns to',
  );
  t.end();
});

t.test('names of C++ functions lose what makes them long', t => {
  t.match(
    frames(
      'Napi::details::CallbackData<void (*)(Napi::CallbackInfo const&), std::vector<int> >::Wrapper (/p/build/Release/sledge.node)',
      'v8::internal::(anonymous namespace)::Invoke (/usr/bin/node)',
      'ext4_fsync_nojournal.constprop.0 ([kernel.kallsyms])',
      'std::operator< (/usr/lib/libstdc++.so.6)',
      'ByInstruction (/p/build/Release/sledge.node (deleted))',
      '[unknown] ([vdso])',
      'ext4_sync_file ([ext4])',
    ),
    [
      { kind: 'addon', name: 'Napi::details::CallbackData::Wrapper' },
      { kind: 'node', name: 'v8::internal::Invoke' },
      { kind: 'kernel', name: 'ext4_fsync_nojournal' },
      { kind: 'library', name: 'std::operator<' },
      { kind: 'addon', name: 'ByInstruction' },
      { kind: 'library', name: '[vdso]' },
      { kind: 'kernel', name: 'ext4_sync_file' },
    ],
  );
  t.end();
});
