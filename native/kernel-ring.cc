// The ring on io_uring, by raw system calls: set-up with a ladder of flags, submission, completion, waking.
//
// With DEFER_TASKRUN the kernel does a completion's work only while the owner is in io_uring_enter with GETEVENTS, and
// says in the submission flags (TASKRUN) that some waits. So waiting is a look at two words of memory, and a system
// call only when one of them says that it is worth it.
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "assert.h"
#include "ring.h"

// Headers of an older kernel may lack these; the running kernel refuses what it does not know.
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif
#ifndef IORING_ASYNC_CANCEL_ALL
#define IORING_ASYNC_CANCEL_ALL (1U << 0)
#define IORING_ASYNC_CANCEL_ANY (1U << 2)
#endif

namespace sledge {

Mapping::~Mapping() { munmap(address_, bytes_); }

// A first touch costs a page fault: 0.5 µs on bare metal, 14 µs measured in a virtual machine without nested paging. So
// large regions ask for huge pages, and begin where one can.
std::shared_ptr<Mapping> Mapping::Anonymous(size_t bytes) {
  constexpr size_t kHugePage = 2u << 20;
  const size_t slack = bytes >= 2 * kHugePage ? kHugePage : 0;
  void* mapped =
      mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  if (slack == 0) return std::make_shared<Mapping>(mapped, bytes);
  auto* start = static_cast<uint8_t*>(mapped);
  const size_t before = -reinterpret_cast<uintptr_t>(start) % kHugePage;
  if (before > 0) munmap(start, before);
  munmap(start + before + bytes, slack - before);
  madvise(start + before, bytes, MADV_HUGEPAGE);  // A wish: without it the region is as good, and slower.
  return std::make_shared<Mapping>(start + before, bytes);
}

// Not madvise(MADV_POPULATE_WRITE), which would hold up every mmap and munmap of the process meanwhile.
void Mapping::TouchBeside(std::shared_ptr<Mapping> mapping) {
  const auto touch = [mapping = std::move(mapping)] {
    BlockSignals();
    // A write that changes nothing, atomic so that it undoes nobody else's.
    for (size_t at = 0; at < mapping->bytes(); at += 4096) {
      __atomic_fetch_or(mapping->address() + at, 0, __ATOMIC_RELAXED);
    }
  };
  try {
    std::thread(touch).detach();
  } catch (const std::system_error&) {
    // Then whoever uses it touches it.
  }
}

// The signals of the process are for Node's thread.
void BlockSignals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

uint64_t MonotonicNanos() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

namespace {

// Operations that TypeScript submits (see src/platform/submission.ts); a kernel without one of them is too old.
constexpr uint8_t kNeededOpcodes[] = {IORING_OP_READ, IORING_OP_WRITE,  IORING_OP_FSYNC,   IORING_OP_FALLOCATE,
                                      IORING_OP_SEND, IORING_OP_RECV,   IORING_OP_ACCEPT,  IORING_OP_CONNECT,
                                      IORING_OP_NOP,  IORING_OP_SENDMSG, IORING_OP_ASYNC_CANCEL,
                                      IORING_OP_SYNC_FILE_RANGE};
constexpr uint32_t kNeededFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL;
constexpr uint64_t kQuiesceNanos = 2'000'000'000;

int Setup(uint32_t entries, io_uring_params* params) {
  return static_cast<int>(syscall(__NR_io_uring_setup, entries, params));
}

int Register(int fd, unsigned opcode, const void* argument, unsigned count) {
  return static_cast<int>(syscall(__NR_io_uring_register, fd, opcode, argument, count));
}

class KernelRing final : public Ring {
 public:
  ~KernelRing() override {
    if (ringFd_ >= 0) close(ringFd_);
    if (eventFd_ >= 0) close(eventFd_);
  }

  // 0 or an errno.
  int Open(uint32_t entries) {
    io_uring_params params;
    const uint32_t base = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    const uint32_t ladder[] = {
        base | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        base | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        base,
    };
    for (uint32_t flags : ladder) {
      std::memset(&params, 0, sizeof params);
      params.flags = flags;
      params.cq_entries = entries * 2;
      ringFd_ = Setup(entries, &params);
      if (ringFd_ >= 0 || errno != EINVAL) break;
    }
    if (ringFd_ < 0) return errno;
    // Without a place for the completion flags (before 5.8) the eventfd cannot be switched off.
    if ((params.features & kNeededFeatures) != kNeededFeatures || params.cq_off.flags == 0 || !Probe()) return ENOSYS;
    deferred_ = (params.flags & IORING_SETUP_DEFER_TASKRUN) != 0;
    canWait_ = (params.features & IORING_FEAT_EXT_ARG) != 0;
    return Map(params);
  }

  int Enter(uint32_t count, uint32_t spinMicros) override {
    Release();
    if (armed_) Disarm();
    if (count > 0) {
      const int error = Submit(count, deferred_ ? IORING_ENTER_GETEVENTS : 0);
      if (error != 0) return -error;
    } else {
      Reap();
    }
    if (Ready() == 0 && spinMicros > 0) Spin(spinMicros);
    announced_ = Ready();
    return static_cast<int>(announced_);
  }

  int Push(uint32_t count) override { return -Submit(count, 0); }

  bool CanWait() const override { return canWait_; }

  int Wait(int milliseconds) override {
    Release();
    if (armed_) Disarm();
    if (Ready() == 0) {
      __kernel_timespec limit = {milliseconds / 1000, (milliseconds % 1000) * 1'000'000LL};
      io_uring_getevents_arg argument = {};
      if (milliseconds >= 0) argument.ts = reinterpret_cast<uint64_t>(&limit);
      // ETIME and EINTR are what the caller looks out for; of anything else the next Enter tells.
      syscall(__NR_io_uring_enter, ringFd_, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
              sizeof argument);
    }
    return static_cast<int>(Ready());
  }

  int Arm() override {
    Release();
    armed_ = true;
    __atomic_and_fetch(completionFlags_, ~IORING_CQ_EVENTFD_DISABLED, __ATOMIC_SEQ_CST);
    // What became due before this line signalled nobody: run it now. What comes later signals. The kernel marks the work
    // before it looks whether to signal, both with locked instructions on x86, so that a look at the mark is enough there.
#if defined(__x86_64__)
    if (deferred_) {
      Reap();
    } else {
      SystemEnter(0, IORING_ENTER_GETEVENTS);
    }
#else
    SystemEnter(0, IORING_ENTER_GETEVENTS);
#endif
    const uint32_t ready = Ready();
    if (ready > 0) Disarm();
    return static_cast<int>(ready);
  }

  void Disarm() override {
    armed_ = false;
    __atomic_or_fetch(completionFlags_, IORING_CQ_EVENTFD_DISABLED, __ATOMIC_SEQ_CST);
  }

  bool Quiesce() override {
    Release();
    const uint64_t deadline = MonotonicNanos() + kQuiesceNanos;
    bool cancelled = false;
    // Every submission has one completion, so these numbers are equal when nothing is under way.
    while (submitted_ != CompletionTail()) {
      __atomic_store_n(completionHead_, CompletionTail(), __ATOMIC_RELEASE);
      if (!cancelled) {
        cancelled = true;
        auto* entry = reinterpret_cast<io_uring_sqe*>(submissions_) + (submitted_ & (submissionCount_ - 1));
        std::memset(entry, 0, sizeof *entry);
        entry->opcode = IORING_OP_ASYNC_CANCEL;
        entry->cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY;
        submitted_ += 1;
        __atomic_store_n(submissionTail_, submitted_, __ATOMIC_RELEASE);
        SystemEnter(1, IORING_ENTER_GETEVENTS);
      } else {
        SystemEnter(0, IORING_ENTER_GETEVENTS);
        usleep(200);
      }
      if (MonotonicNanos() > deadline) return false;
    }
    return true;
  }

 private:
  bool Probe() {
    constexpr unsigned kOps = 256;
    alignas(io_uring_probe) uint8_t memory[sizeof(io_uring_probe) + kOps * sizeof(io_uring_probe_op)] = {};
    auto* probe = reinterpret_cast<io_uring_probe*>(memory);
    if (Register(ringFd_, IORING_REGISTER_PROBE, probe, kOps) < 0) return false;
    for (uint8_t opcode : kNeededOpcodes) {
      if (opcode > probe->last_op || (probe->ops[opcode].flags & IO_URING_OP_SUPPORTED) == 0) return false;
    }
    return true;
  }

  int Map(const io_uring_params& params) {
    const size_t submissionBytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    const size_t completionBytes = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
    const size_t ringBytes = submissionBytes > completionBytes ? submissionBytes : completionBytes;
    completionMapping_ = MapRing(ringBytes, IORING_OFF_SQ_RING);
    submissionMapping_ = MapRing(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
    if (!completionMapping_ || !submissionMapping_) return ENOMEM;
    uint8_t* ring = completionMapping_->address();
    submissionCount_ = params.sq_entries;
    completionCount_ = params.cq_entries;
    submissions_ = submissionMapping_->address();
    completions_ = ring + params.cq_off.cqes;
    submissionHead_ = reinterpret_cast<uint32_t*>(ring + params.sq_off.head);
    submissionTail_ = reinterpret_cast<uint32_t*>(ring + params.sq_off.tail);
    submissionFlags_ = reinterpret_cast<uint32_t*>(ring + params.sq_off.flags);
    completionHead_ = reinterpret_cast<uint32_t*>(ring + params.cq_off.head);
    completionTail_ = reinterpret_cast<uint32_t*>(ring + params.cq_off.tail);
    completionFlags_ = reinterpret_cast<uint32_t*>(ring + params.cq_off.flags);
    // Entry n is always submitted from place n: the indirection is filled in once.
    auto* array = reinterpret_cast<uint32_t*>(ring + params.sq_off.array);
    for (uint32_t place = 0; place < submissionCount_; place++) array[place] = place;

    eventFd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (eventFd_ < 0) return errno;
    Disarm();
    if (Register(ringFd_, IORING_REGISTER_EVENTFD, &eventFd_, 1) < 0) return errno;
    return 0;
  }

  std::shared_ptr<Mapping> MapRing(size_t bytes, off_t offset) {
    void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ringFd_, offset);
    if (address == MAP_FAILED) return nullptr;
    return std::make_shared<Mapping>(address, bytes);
  }

  void Release() {
    if (announced_ == 0) return;
    completed_ += announced_;
    announced_ = 0;
    __atomic_store_n(completionHead_, completed_, __ATOMIC_RELEASE);
  }

  uint32_t CompletionTail() const { return __atomic_load_n(completionTail_, __ATOMIC_ACQUIRE); }
  uint32_t Ready() const { return CompletionTail() - completed_; }

  int SystemEnter(uint32_t count, uint32_t flags) {
    return static_cast<int>(syscall(__NR_io_uring_enter, ringFd_, count, 0, flags, nullptr, 0));
  }

  // Hands over `count` more entries. The kernel takes fewer when it is short of memory: then wait a little, for what is
  // under way gives memory back. 0 or an errno.
  int Submit(uint32_t count, uint32_t flags) {
    submitted_ += count;
    __atomic_store_n(submissionTail_, submitted_, __ATOMIC_RELEASE);
    for (int attempt = 0; attempt < 10'000; attempt++) {
      const uint32_t left = submitted_ - __atomic_load_n(submissionHead_, __ATOMIC_ACQUIRE);
      if (left == 0) return 0;
      int taken = SystemEnter(left, flags);
      if (taken >= 0) continue;
      if (errno != EAGAIN && errno != EBUSY && errno != EINTR) return errno;
      if (errno != EINTR) {
        SystemEnter(0, IORING_ENTER_GETEVENTS);
        usleep(100);
      }
    }
    return EAGAIN;
  }

  // Lets the kernel finish what it says is waiting for us.
  void Reap() {
    const uint32_t flags = __atomic_load_n(submissionFlags_, __ATOMIC_SEQ_CST);
    if ((flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0) SystemEnter(0, IORING_ENTER_GETEVENTS);
  }

  void Spin(uint32_t micros) {
    const uint64_t deadline = MonotonicNanos() + static_cast<uint64_t>(micros) * 1000;
    for (;;) {
      Reap();
      if (Ready() > 0) return;
      for (int turn = 0; turn < 8; turn++) Relax();
      if (MonotonicNanos() >= deadline) return;
    }
  }

  int ringFd_ = -1;
  bool deferred_ = false;
  bool canWait_ = false;
  bool armed_ = false;
  uint32_t submitted_ = 0;
  uint32_t completed_ = 0;
  uint32_t announced_ = 0;
  uint32_t* submissionHead_ = nullptr;
  uint32_t* submissionTail_ = nullptr;
  uint32_t* submissionFlags_ = nullptr;
  uint32_t* completionHead_ = nullptr;
  uint32_t* completionTail_ = nullptr;
  uint32_t* completionFlags_ = nullptr;
};

}  // namespace

std::unique_ptr<Ring> MakeKernelRing(uint32_t entries, int* error) {
  auto ring = std::make_unique<KernelRing>();
  *error = ring->Open(entries);
  if (*error != 0) return nullptr;
  return ring;
}

}  // namespace sledge
