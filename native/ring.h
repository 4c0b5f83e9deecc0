// A ring as TypeScript sees it, whoever does the work behind it: the kernel (kernel-ring) or a pool of threads
// (thread-ring). Both use the kernel's own memory layout, so that everything above the addon is one code path.
//
// The contract, both ways:
// - `submissions` holds `submissionCount` entries of 64 bytes, `completions` `completionCount` of 16; both counts are
//   powers of two. TypeScript fills submission number n at index n mod count and reads completion number n likewise;
//   numbers start at 0 and nobody looks at the ring's heads and tails but the code behind this interface.
// - Enter announces completions, and TypeScript reads them all; the next call of Enter, Wait or Arm gives them back.
// - Each submission ends in exactly one completion, and never more than `submissionCount` are under way, so that no
//   queue can overflow.
// - All calls come from the thread that made the ring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace sledge {

// Memory mapped from the kernel; unmapped with the last reference, which may be an ArrayBuffer's.
class Mapping {
 public:
  Mapping(void* address, size_t bytes) : address_(address), bytes_(bytes) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  uint8_t* address() const { return static_cast<uint8_t*>(address_); }
  size_t bytes() const { return bytes_; }

  // Zero-filled pages of our own; null when the system has no more to give.
  static std::shared_ptr<Mapping> Anonymous(size_t bytes);

  // Has a thread of its own take all pages from the system now, while others use them already. A wish.
  static void TouchBeside(std::shared_ptr<Mapping> mapping);

 private:
  void* address_;
  size_t bytes_;
};

class Ring {
 public:
  virtual ~Ring() = default;

  // Submits the next `count` entries, then waits for completions for at most `spinMicros`, burning the processor.
  // Returns how many are ready, or -errno where the ring itself is broken.
  virtual int Enter(uint32_t count, uint32_t spinMicros) = 0;

  // Submits the next `count` entries, and leaves the completions that were announced as they are. 0 or -errno.
  virtual int Push(uint32_t count) = 0;

  // Sleeps until a completion is there, at most so long; without limit when negative. Returns how many are ready: 0 when
  // the time is over or a signal came. The next Enter announces them. Only rings that can be waited for.
  virtual bool CanWait() const { return false; }
  virtual int Wait(int milliseconds) {
    static_cast<void>(milliseconds);
    return 0;
  }

  // From here until the next Enter, Wait or Disarm, a completion makes `eventFd` readable. Returns how many are ready
  // already, for the next Enter to announce: then the ring is not armed, since nothing would come to wake its owner.
  virtual int Arm() = 0;
  virtual void Disarm() = 0;

  // Cancels what is under way and waits for it, so that no buffer is touched any more. False when that took too long.
  virtual bool Quiesce() = 0;

  int eventFd() const { return eventFd_; }
  uint32_t submissionCount() const { return submissionCount_; }
  uint32_t completionCount() const { return completionCount_; }
  uint8_t* submissions() const { return submissions_; }
  uint8_t* completions() const { return completions_; }
  const std::shared_ptr<Mapping>& submissionMapping() const { return submissionMapping_; }
  const std::shared_ptr<Mapping>& completionMapping() const { return completionMapping_; }

 protected:
  int eventFd_ = -1;
  uint32_t submissionCount_ = 0;
  uint32_t completionCount_ = 0;
  uint8_t* submissions_ = nullptr;
  uint8_t* completions_ = nullptr;
  std::shared_ptr<Mapping> submissionMapping_;
  std::shared_ptr<Mapping> completionMapping_;
};

// Null when the kernel does not give one, with the reason in `error` (an errno, ENOSYS also for a kernel too old).
std::unique_ptr<Ring> MakeKernelRing(uint32_t entries, int* error);
std::unique_ptr<Ring> MakeThreadRing(uint32_t entries, uint32_t threads, int* error);

uint64_t MonotonicNanos();

// Of the thread that calls it.
void BlockSignals();

// Tells the processor that this is a loop that waits.
inline void Relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace sledge
