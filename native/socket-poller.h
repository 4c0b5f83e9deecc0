// The sockets of the thread ring: one thread on epoll that does what a socket is ready for. The thread ring hands it
// submissions; they end in its sink, from either thread.
//
// Invariants: a socket has at most one operation that waits to read (receive, accept) and one that waits to write
// (send, connect); what is not in the table is not touched; all of the table is under one lock.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace sledge {

class CompletionSink {
 public:
  virtual void Complete(uint64_t userData, int32_t result) = 0;

 protected:
  ~CompletionSink() = default;
};

class SocketPoller {
 public:
  explicit SocketPoller(CompletionSink* sink) : sink_(sink) {}
  ~SocketPoller();

  // 0 or an errno.
  int Start();
  // Ends the thread: nothing reaches the sink from it afterwards.
  void Stop();
  // Tries at once; what would block waits in the table.
  void Submit(const io_uring_sqe& submission);
  // 0, or -ENOENT where nothing with that mark waits.
  int Cancel(uint64_t userData);
  void CancelAll();

 private:
  struct Waiting {
    bool present = false;
    bool connecting = false;
    io_uring_sqe submission;
  };
  struct Socket {
    Waiting reader;
    Waiting writer;
  };

  void Run();
  void Ready(int fd, uint32_t events);
  void Watch(int fd, Socket* socket);
  void Finish(Waiting* waiting, int32_t result);
  void CancelWaiting(Waiting* waiting);

  CompletionSink* sink_;
  std::mutex lock_;
  std::vector<Socket> sockets_;
  std::thread thread_;
  int epollFd_ = -1;
  int stopFd_ = -1;
};

}  // namespace sledge
