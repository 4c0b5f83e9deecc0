/**
 * Says what a sample's time was spent on. The innermost function decides, so that each sample counts once: a page that
 * the kernel clears because JavaScript touched it is the kernel's, and the table of functions says for whom.
 *
 * Of the kernel's functions the innermost that a rule knows decides: helpers that everything uses (locks, lists, copying)
 * count for what uses them. Rules are prefixes of names as of Linux 6; a new kernel may bring some that end in `other`.
 */
import { type Frame, nearestScript } from './sample.ts';

export type Group =
  | 'kernel'
  | 'JavaScript'
  | 'native addon'
  | 'LMDB'
  | 'V8: garbage collection'
  | 'V8: compiling'
  | 'V8: runtime'
  | 'Node-API'
  | 'Node and libuv'
  | 'TLS'
  | 'C library'
  | 'native code'
  | 'unknown';

export interface Category {
  readonly group: Group;
  /** Of the kernel, what it was doing; of JavaScript, the file. */
  readonly part?: string;
}

interface Rule {
  readonly part: string;
  readonly names: RegExp;
}

/** For each function, from the innermost outwards, the first rule that knows it. */
const KERNEL_RULES: readonly Rule[] = [
  {
    part: 'socket',
    names:
      /^(?:unix_|sock_|__sock|____?sys_(?:send|recv)|__sys_(?:send|recv)|sk_|__sk_|skb_|__skb|alloc_skb|__alloc_skb|consume_skb|kfree_skb|tcp_|__tcp|ip_|__ip_|inet_|netif_|__netif|net_rx|net_tx|process_backlog|io_send|io_recv|io_net)/,
  },
  {
    part: 'thread wake-ups',
    names:
      /^(?:try_to_wake_up|ttwu_|wake_up|__wake_up|wake_q|default_wake|autoremove_wake|pollwake|ep_poll_callback|ep_autoremove|futex_wake|eventfd_|select_task_rq|enqueue_task|activate_task|resched_curr|wakeup_preempt|check_preempt|io_eventfd|io_wq_enqueue|io_queue_iowq|create_io_thread|create_io_worker)/,
  },
  {
    part: 'sleeping and switching threads',
    names:
      /^(?:__schedule|schedule|preempt_schedule|io_schedule|dequeue_task|pick_next|put_prev|set_next|switch_|__switch|context_switch|prepare_task_switch|finish_task|futex_|do_futex|__cond_resched|sched_yield|do_sched_yield)/,
  },
  { part: 'epoll', names: /^(?:ep_|do_epoll|__x64_sys_epoll|__ep_|eventpoll)/ },
  {
    part: 'page faults',
    names:
      /^(?:asm_exc_page_fault|exc_page_fault|do_user_addr_fault|handle_mm_fault|__handle_mm_fault|handle_pte_fault|do_anonymous_page|do_huge_pmd|vma_alloc|do_fault|do_wp_page|do_swap_page|lock_vma|lock_mm_and_find|pvm_handle_page_fault|khugepaged|collapse_)/,
  },
  {
    part: 'memory mapping',
    names:
      /^(?:__x64_sys_(?:mmap|munmap|madvise|brk|mprotect|mremap)|do_madvise|madvise_|do_mmap|mmap_region|do_vmi|__mmap|do_brk|unmap_|zap_|tlb_|flush_tlb|free_pgtables|mprotect_|exit_mmap|do_mprotect)/,
  },
  {
    part: 'syncs',
    names:
      /^(?:ext4_sync_file|ext4_fsync|file_write_and_wait|__filemap_fdata|filemap_fdata|ext4_writepages|ext4_do_writepages|do_writepages|mpage_|ext4_bio_write|jbd2_|__jbd2|vfs_fsync|io_fsync|xfs_file_fsync|btrfs_sync|iomap_writepage|blkdev_issue_flush|blkdev_fsync|sync_)/,
  },
  {
    part: 'block I/O',
    names:
      /^(?:submit_bio|__submit_bio|bio_|__bio|blk_|__blk|blkdev_|elv_|dd_|virtio_|virtblk|virtqueue|vring|vp_|iowrite|ioread|nvme_|scsi_|sd_|ata_|nbd_|dm_|md_|loop_|iomap_dio|__iomap_dio|dio_|direct_|ext4_(?:end_bio|finish_bio|dio)|iov_iter_(?:get|extract)_pages|gup_|pin_user_pages|io_complete_rw|io_req_rw|end_bio|flush_end_io)/,
  },
  {
    part: 'writing to the page cache',
    names:
      /^(?:generic_perform_write|generic_file_write|__generic_file_write|ext4_(?:buffered_write|file_write|da_write|write_)|iomap_(?:file_buffered|write)|xfs_file_(?:buffered|write)|btrfs_(?:buffered|file_write)|vfs_write|vfs_pwrite|ksys_write|ksys_pwrite|__x64_sys_p?write|block_(?:write|commit)|balance_dirty|io_write)/,
  },
  {
    part: 'reading from the page cache',
    names:
      /^(?:filemap_read|filemap_get_pages|filemap_fault|generic_file_read|ext4_file_read|page_cache_|vfs_read|ksys_p?read|__x64_sys_p?read|io_read)/,
  },
  {
    part: 'files and directories',
    names:
      /^(?:do_sys_open|do_filp|path_|link_path|vfs_(?:open|stat|statx|unlink|fallocate|mkdir)|do_unlink|ext4_(?:fallocate|unlink|truncate|evict|ext_)|__x64_sys_(?:open|stat|unlink|ftruncate|fallocate|close|fcntl|flock))/,
  },
  { part: 'io_uring', names: /^(?:io_|__io_|tctx_|__x64_sys_io_uring|__do_sys_io_uring|req_ref)/ },
  {
    part: 'interrupts and timers',
    names:
      /^(?:handle_softirqs|__do_softirq|do_softirq|__irq_exit|irq_|asm_common_interrupt|common_interrupt|asm_sysvec|sysvec_|__sysvec|handle_edge|handle_irq|tick_|hrtimer|__hrtimer|run_timer|sched_tick|update_process_times|sched_balance|rcu_|ksoftirqd)/,
  },
  {
    part: 'entering and leaving the kernel',
    names: /^(?:do_syscall_64|x64_sys_call|entry_SYSCALL|syscall_|exit_to_user|irqentry|ret_from|pvm_)/,
  },
];

const COLLECTING =
  /(?:Scaveng|MarkCompact|MarkingVisitor|ConcurrentMarking|IncrementalMarking|MarkingWorklist|Sweeper|Evacuat|Heap::(?:Collect|Perform|Minor|Mark|Sweep|Scavenge)|GCTracer|GarbageCollect|ArrayBufferSweeper|Unmapper|HeapVisitor|YoungGeneration|ScavengeJob|PretenuringHandler)/;
const COMPILING =
  /(?:::compiler::|Compiler::|CompilationJob|OptimizingCompile|::baseline::|BaselineBatch|BaselineCompiler|::maglev::|::parsing::|::Parser|::interpreter::|BytecodeGenerator|Deoptimiz|TieringManager)/;

/** OpenSSL, which is a part of Node's program, and Node's wrapping of it. */
const ENCRYPTING =
  /^_?(?:(?:do_)?ssl\d?_|SSL_|tls|BIO_|bio_|EVP_|evp_|OPENSSL_|ossl_|CRYPTO_|aes|AES|gcm_|ghash|sha\d|SHA\d|WPACKET_|ERR_|RAND_|X509_|ASN1_|BN_|bn_|EC_|ec_|ecp_|x25519|poly1305|[Cc]ha[Cc]ha|node::crypto::)/;

export function categoryOf(frames: readonly Frame[]): Category {
  const at = frames.findIndex(frame => frame.kind !== 'library');
  if (at < 0) return { group: frames.length === 0 ? 'unknown' : 'C library' };
  const frame = frames[at];
  switch (frame.kind) {
    case 'kernel':
      return { group: 'kernel', part: kernelPart(frames) };
    case 'javascript':
      return { group: 'JavaScript', part: frame.file };
    case 'builtin':
      return ofScript(frames, at);
    case 'addon':
      return { group: 'native addon' };
    case 'lmdb':
      return { group: 'LMDB' };
    case 'collector':
      return { group: 'V8: garbage collection' };
    case 'program':
      return { group: 'native code' };
    case 'node':
      return { group: groupOfNode(frames, at) };
    case 'library':
      return { group: 'C library' };
  }
}

function kernelPart(frames: readonly Frame[]): string {
  for (const { kind, name } of frames) {
    if (kind !== 'kernel') break;
    const rule = KERNEL_RULES.find(({ names }) => names.test(name));
    if (rule !== undefined) return rule.part;
  }
  return 'other';
}

function ofScript(frames: readonly Frame[], at: number): Category {
  const script = nearestScript(frames, at);
  return script === undefined ? { group: 'V8: runtime' } : { group: 'JavaScript', part: script.file };
}

/** Of V8, Node and what they brought along, one program: by what called it, as far as that is of the same program. */
function groupOfNode(frames: readonly Frame[], at: number): Group {
  for (const { kind, name } of frames.slice(at)) {
    if (kind === 'javascript' || kind === 'addon') break;
    if (COLLECTING.test(name)) return 'V8: garbage collection';
    if (COMPILING.test(name)) return 'V8: compiling';
  }
  for (const { kind, name } of frames.slice(at)) {
    if (kind !== 'node') break;
    if (ENCRYPTING.test(name)) return 'TLS';
    if (/^(?:napi_|node_api_|v8impl::)/.test(name)) return 'Node-API';
    if (/^(?:node::|uv_|uv__)/.test(name)) return 'Node and libuv';
  }
  return frames[at].name.startsWith('v8::') ? 'V8: runtime' : 'Node and libuv';
}
