// The ring where io_uring is not allowed: the same memory layout, served by a pool of threads for files and by one
// thread on epoll for sockets. Completions are written under a lock; the owner reads them without it, up to a tail that
// is published with release order.
//
// One file has a bounded number of threads at a time, and where all are busy another one is made for the others: a file
// that takes its time does not hold up the rest.
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

#include "assert.h"
#include "ring.h"
#include "socket-poller.h"

namespace sledge {
namespace {

constexpr uint64_t kQuiesceNanos = 2'000'000'000;
// So many files may take their time until the next one has to wait.
constexpr size_t kSlowFilesMax = 8;

// What is to be done for one descriptor.
struct FileWork {
  std::deque<io_uring_sqe> waiting;
  uint32_t running = 0;
  // In the list of those that a thread may take up.
  bool isListed = false;
};

int32_t RunFileOperation(const io_uring_sqe& submission) {
  void* address = reinterpret_cast<void*>(submission.addr);
  const auto position = static_cast<off_t>(submission.off);
  for (;;) {
    ssize_t result;
    switch (submission.opcode) {
      case IORING_OP_READ:
        result = pread(submission.fd, address, submission.len, position);
        break;
      case IORING_OP_WRITE:
        result = pwrite(submission.fd, address, submission.len, position);
        break;
      case IORING_OP_FSYNC:
        result = (submission.fsync_flags & IORING_FSYNC_DATASYNC) != 0 ? fdatasync(submission.fd) : fsync(submission.fd);
        break;
      case IORING_OP_SYNC_FILE_RANGE:
        result = sync_file_range(submission.fd, position, submission.len, submission.sync_range_flags);
        break;
      case IORING_OP_FALLOCATE:
        // The kernel's layout: the length stands in the address, the mode in the length.
        result = fallocate(submission.fd, static_cast<int>(submission.len), position,
                           static_cast<off_t>(submission.addr));
        break;
      default:
        return -EINVAL;
    }
    if (result >= 0) return static_cast<int32_t>(result);
    // A sync that was cut short may have consumed an error that the next one would not tell of.
    if (errno != EINTR || submission.opcode == IORING_OP_FSYNC) return -errno;
  }
}

class ThreadRing final : public Ring, private CompletionSink {
 public:
  ThreadRing() : poller_(this) {}

  ~ThreadRing() override {
    poller_.Stop();
    {
      std::lock_guard<std::mutex> guard(workLock_);
      stopping_ = true;
    }
    workCome_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    if (eventFd_ >= 0) close(eventFd_);
  }

  int Open(uint32_t entries, uint32_t threads) {
    submissionCount_ = entries;
    completionCount_ = entries * 2;
    submissionMapping_ = Mapping::Anonymous(submissionCount_ * sizeof(io_uring_sqe));
    completionMapping_ = Mapping::Anonymous(completionCount_ * sizeof(io_uring_cqe));
    if (!submissionMapping_ || !completionMapping_) return ENOMEM;
    submissions_ = submissionMapping_->address();
    completions_ = completionMapping_->address();
    eventFd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (eventFd_ < 0) return errno;
    try {
      int error = poller_.Start();
      if (error != 0) return error;
      threadsPerFile_ = threads;
      for (uint32_t count = 0; count < threads; count++) workers_.emplace_back([this] { Work(); });
    } catch (const std::system_error& error) {
      return error.code().value();
    }
    return 0;
  }

  int Enter(uint32_t count, uint32_t spinMicros) override {
    Release();
    Disarm();
    Push(count);
    if (Ready() == 0 && spinMicros > 0) Spin(spinMicros);
    announced_ = Ready();
    return static_cast<int>(announced_);
  }

  int Push(uint32_t count) override {
    for (uint32_t index = 0; index < count; index++) Start(EntryAt(submitted_ + index));
    submitted_ += count;
    HandOver();
    return 0;
  }

  int Arm() override {
    Release();
    std::lock_guard<std::mutex> guard(completionLock_);
    const uint32_t ready = Ready();
    armed_ = ready == 0;
    return static_cast<int>(ready);
  }

  void Disarm() override {
    // Only this thread arms, so that a stale look is a look at its own last word or at a wake-up under way.
    if (!armed_.load(std::memory_order_relaxed)) return;
    std::lock_guard<std::mutex> guard(completionLock_);
    armed_ = false;
  }

  bool Quiesce() override {
    poller_.CancelAll();
    {
      std::lock_guard<std::mutex> guard(workLock_);
      for (auto& [descriptor, file] : files_) {
        for (const io_uring_sqe& submission : file.waiting) Complete(submission.user_data, -ECANCELED);
        file.waiting.clear();
        file.isListed = false;
      }
      due_.clear();
    }
    const uint64_t deadline = MonotonicNanos() + kQuiesceNanos;
    while (tail_.load(std::memory_order_acquire) != submitted_) {
      if (MonotonicNanos() > deadline) return false;
      usleep(200);
    }
    return true;
  }

 private:
  io_uring_sqe EntryAt(uint32_t number) const {
    io_uring_sqe entry;
    std::memcpy(&entry, submissions_ + (number & (submissionCount_ - 1)) * sizeof entry, sizeof entry);
    return entry;
  }

  void Start(const io_uring_sqe& submission) {
    switch (submission.opcode) {
      case IORING_OP_NOP:
        Complete(submission.user_data, 0);
        break;
      case IORING_OP_ASYNC_CANCEL:
        Complete(submission.user_data, poller_.Cancel(submission.addr));
        break;
      case IORING_OP_RECV:
      case IORING_OP_SEND:
      case IORING_OP_SENDMSG:
      case IORING_OP_ACCEPT:
      case IORING_OP_CONNECT:
        poller_.Submit(submission);
        break;
      default:
        gathered_.push_back(submission);
    }
  }

  void HandOver() {
    if (gathered_.empty()) return;
    const size_t count = gathered_.size();
    size_t missing = 0;
    {
      std::lock_guard<std::mutex> guard(workLock_);
      for (const io_uring_sqe& submission : gathered_) {
        FileWork& file = files_[submission.fd];
        file.waiting.push_back(submission);
        List(submission.fd, &file);
      }
      missing = due_.size() - std::min(due_.size(), idleCount_);
    }
    gathered_.clear();
    for (; missing > 0; missing--) AddWorker();
    if (count == 1) {
      workCome_.notify_one();
    } else {
      workCome_.notify_all();
    }
  }

  void AddWorker() {
    if (workers_.size() >= kSlowFilesMax * threadsPerFile_) return;
    try {
      workers_.emplace_back([this] { Work(); });
    } catch (const std::system_error&) {
      // Those that there are do it later.
    }
  }

  // A thread may take up what waits for the file, unless it has all of its threads.
  void List(int descriptor, FileWork* file) {
    if (file->isListed || file->waiting.empty() || file->running == threadsPerFile_) return;
    file->isListed = true;
    due_.push_back(descriptor);
  }

  void Work() {
    BlockSignals();
    std::unique_lock<std::mutex> guard(workLock_);
    for (;;) {
      idleCount_++;
      workCome_.wait(guard, [this] { return stopping_ || !due_.empty(); });
      idleCount_--;
      if (due_.empty()) return;
      const int descriptor = due_.front();
      due_.pop_front();
      FileWork& file = files_[descriptor];
      file.isListed = false;
      const io_uring_sqe submission = file.waiting.front();
      file.waiting.pop_front();
      file.running++;
      List(descriptor, &file);
      guard.unlock();
      const int32_t result = RunFileOperation(submission);
      guard.lock();
      // Before the owner hears of it: it may close the descriptor then.
      file.running--;
      List(descriptor, &file);
      if (file.running == 0 && file.waiting.empty()) files_.erase(descriptor);
      Complete(submission.user_data, result);
    }
  }

  void Complete(uint64_t userData, int32_t result) override {
    std::lock_guard<std::mutex> guard(completionLock_);
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    auto* completion = reinterpret_cast<io_uring_cqe*>(completions_) + (tail & (completionCount_ - 1));
    completion->user_data = userData;
    completion->res = result;
    completion->flags = 0;
    tail_.store(tail + 1, std::memory_order_release);
    if (!armed_) return;
    armed_ = false;
    uint64_t one = 1;
    ssize_t written = write(eventFd_, &one, sizeof one);
    SLEDGE_ASSERT(written == sizeof one, "the owner can be woken");
  }

  void Release() {
    completed_ += announced_;
    announced_ = 0;
  }

  uint32_t Ready() const { return tail_.load(std::memory_order_acquire) - completed_; }

  void Spin(uint32_t micros) {
    const uint64_t deadline = MonotonicNanos() + static_cast<uint64_t>(micros) * 1000;
    while (Ready() == 0 && MonotonicNanos() < deadline) {
      for (int turn = 0; turn < 8; turn++) Relax();
    }
  }

  std::mutex completionLock_;
  std::atomic<bool> armed_{false};
  std::atomic<uint32_t> tail_{0};
  uint32_t submitted_ = 0;
  uint32_t completed_ = 0;
  uint32_t announced_ = 0;

  std::mutex workLock_;
  std::condition_variable workCome_;
  std::unordered_map<int, FileWork> files_;
  std::deque<int> due_;
  size_t idleCount_ = 0;
  uint32_t threadsPerFile_ = 0;
  std::vector<io_uring_sqe> gathered_;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
  SocketPoller poller_;
};

}  // namespace

std::unique_ptr<Ring> MakeThreadRing(uint32_t entries, uint32_t threads, int* error) {
  auto ring = std::make_unique<ThreadRing>();
  *error = ring->Open(entries, threads);
  if (*error != 0) return nullptr;
  return ring;
}

}  // namespace sledge
