/** What a sample's time was spent on, by its stack. */
import t from 'tap';
import { categoryOf } from '../../../../scripts/profiling/categories.ts';
import type { Frame, NativeKind } from '../../../../scripts/profiling/sample.ts';

/** `kind:name …` for native functions, `NAME@FILE` for JavaScript; the innermost first. */
function stack(text: string): Frame[] {
  return text.split(' ').map(word => {
    const [name, file] = word.split('@');
    if (file !== undefined) return { kind: 'javascript', name, file, line: 1 };
    const at = word.indexOf(':');
    return { kind: word.slice(0, at) as NativeKind, name: word.slice(at + 1) };
  });
}

function category(text: string): string {
  const { group, part } = categoryOf(stack(text));
  return part === undefined ? group : `${group}: ${part}`;
}

t.test('the innermost of the kernel’s functions that a rule knows decides', t => {
  const cases: readonly (readonly [string, string])[] = [
    ['sock_def_readable unix_stream_sendmsg sock_sendmsg io_send io_issue_sqe do_syscall_64', 'socket'],
    ['try_to_wake_up __wake_up sock_def_readable unix_stream_sendmsg io_send', 'thread wake-ups'],
    ['ep_poll_callback __wake_up_common eventfd_signal io_eventfd_signal', 'thread wake-ups'],
    ['__schedule schedule exit_to_user_mode_loop do_syscall_64', 'sleeping and switching threads'],
    ['__schedule schedule schedule_hrtimeout_range_clock do_epoll_wait', 'sleeping and switching threads'],
    ['ep_send_events do_epoll_wait __x64_sys_epoll_pwait do_syscall_64', 'epoll'],
    [
      'clear_page_erms folio_zero_user vma_alloc_anon_folio_pmd do_huge_pmd_anonymous_page handle_mm_fault',
      'page faults',
    ],
    ['exc_page_fault asm_exc_page_fault', 'page faults'],
    ['mpage_process_page_bufs mpage_prepare_extent_to_map ext4_do_writepages ext4_sync_file io_fsync', 'syncs'],
    ['iowrite16 vp_notify virtqueue_notify virtio_queue_rq blk_mq_dispatch_rq_list submit_bio', 'block I/O'],
    ['xas_load ext4_finish_bio ext4_end_bio blk_update_request', 'block I/O'],
    [
      'copy_folio_from_iter_atomic generic_perform_write ext4_buffered_write_iter vfs_write',
      'writing to the page cache',
    ],
    ['mark_buffer_dirty block_commit_write ext4_da_write_end', 'writing to the page cache'],
    ['_copy_to_iter filemap_read ext4_file_read_iter io_read io_issue_sqe', 'reading from the page cache'],
    ['fdget io_submit_sqes __do_sys_io_uring_enter do_syscall_64', 'io_uring'],
    ['handle_softirqs __irq_exit_rcu common_interrupt asm_common_interrupt copy_page', 'interrupts and timers'],
    ['do_syscall_64 entry_SYSCALL_64_after_hwframe', 'entering and leaving the kernel'],
    ['something_new', 'other'],
  ];
  for (const [names, part] of cases) {
    const frames = names.split(' ').map(name => `kernel:${name}`);
    t.equal(category(`${frames.join(' ')} library:syscall addon:Enter submit@src/ring.ts`), `kernel: ${part}`, names);
  }
  t.end();
});

t.test('the kernel’s functions are not looked for beyond the system call', t => {
  t.equal(category('kernel:something_new library:syscall run@src/a.ts kernel:unix_stream_sendmsg'), 'kernel: other');
  t.end();
});

t.test('JavaScript counts by its file, and so does what V8 and libc do for it', t => {
  t.equal(category('put@src/cache.ts run@src/loop.ts'), 'JavaScript: src/cache.ts');
  t.equal(category('builtin:Builtins_KeyedLoadIC builtin:Builtins_Call put@src/cache.ts'), 'JavaScript: src/cache.ts');
  t.equal(category('library:memmove put@src/cache.ts'), 'JavaScript: src/cache.ts');
  t.equal(category('builtin:Builtins_JSEntry node:v8::internal::Execution::Call'), 'V8: runtime');
  t.end();
});

t.test('native code counts for the library that it is of', t => {
  t.equal(category('addon:Ring::Enter run@src/loop.ts'), 'native addon');
  t.equal(category('library:memmove addon:Ring::Copy run@src/loop.ts'), 'native addon');
  t.equal(category('lmdb:mdb_page_search node:napi_call_function'), 'LMDB');
  t.equal(category('library:memcmp lmdb:mdb_node_search'), 'LMDB');
  t.equal(category('library:start_thread'), 'C library');
  t.equal(categoryOf([]).group, 'unknown');
  t.end();
});

t.test('of V8, Node and libuv, the caller says which it is', t => {
  const v8 = 'node:v8::internal::';
  t.equal(
    category(`${v8}Map::Size ${v8}Scavenger::Process ${v8}Heap::Scavenge put@src/a.ts`),
    'V8: garbage collection',
  );
  t.equal(category(`${v8}ConcurrentMarking::RunMajor node:node::PlatformWorkerThread`), 'V8: garbage collection');
  t.equal(category(`${v8}Node::New ${v8}compiler::GraphReducer::ReduceTop`), 'V8: compiling');
  t.equal(category(`${v8}Runtime_GetProperty builtin:Builtins_CEntry put@src/a.ts`), 'V8: runtime');
  t.equal(category(`${v8}JSTypedArray::type node:napi_get_typedarray_info addon:Enter`), 'Node-API');
  t.equal(category('node:uv__io_poll node:uv_run node:node::SpinEventLoop'), 'Node and libuv');
  t.equal(category('node:v8::Function::Call node:node::MakeCallback node:uv_run'), 'Node and libuv');
  t.equal(category('node:_aesni_ctr32_ghash_6x'), 'TLS');
  t.equal(
    category('library:malloc node:CRYPTO_malloc node:EVP_CIPHER_CTX_new node:node::crypto::TLSWrap::EncOut'),
    'TLS',
  );
  t.equal(category('node:something_small'), 'Node and libuv');
  t.equal(category(`${v8}Map::Size put@src/a.ts ${v8}Heap::CollectGarbage`), 'V8: runtime', 'what JavaScript called');
  t.end();
});

t.test('Node’s own profiler names what it knows', t => {
  t.equal(category('collector:gc put@src/a.ts'), 'V8: garbage collection');
  t.equal(category('program:native'), 'native code');
  t.end();
});
