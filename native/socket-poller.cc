#include "socket-poller.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "assert.h"
#include "ring.h"

namespace sledge {
namespace {

constexpr int kWouldBlock = -EAGAIN;

bool IsReader(uint8_t opcode) { return opcode == IORING_OP_RECV || opcode == IORING_OP_ACCEPT; }

void SetNonBlocking(int fd, bool on) {
  int flags = fcntl(fd, F_GETFL);
  if (flags >= 0) fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

int Connect(const io_uring_sqe& submission) {
  SetNonBlocking(submission.fd, true);
  int result = connect(submission.fd, reinterpret_cast<const sockaddr*>(submission.addr),
                       static_cast<socklen_t>(submission.addr2));
  int error = errno;
  if (result < 0 && error == EINPROGRESS) return kWouldBlock;
  SetNonBlocking(submission.fd, false);
  if (result == 0) return 0;
  // A Unix socket whose listener's queue is full cannot be waited for: the caller may try again.
  return error == EAGAIN ? -ECONNREFUSED : -error;
}

int FinishConnect(int fd) {
  // The event may have been that of a socket which had this number before.
  pollfd polled = {fd, POLLOUT, 0};
  if (poll(&polled, 1, 0) == 0) return kWouldBlock;
  int error = 0;
  socklen_t bytes = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) < 0) error = errno;
  SetNonBlocking(fd, false);
  return -error;
}

// One attempt that never blocks: a result, or kWouldBlock.
int Attempt(const io_uring_sqe& submission) {
  void* address = reinterpret_cast<void*>(submission.addr);
  const int sendFlags = (static_cast<int>(submission.msg_flags) & ~MSG_WAITALL) | MSG_DONTWAIT;
  for (;;) {
    ssize_t result;
    switch (submission.opcode) {
      case IORING_OP_RECV:
        result = recv(submission.fd, address, submission.len, static_cast<int>(submission.msg_flags) | MSG_DONTWAIT);
        break;
      case IORING_OP_SEND:
        result = send(submission.fd, address, submission.len, sendFlags);
        break;
      case IORING_OP_SENDMSG:
        result = sendmsg(submission.fd, static_cast<const msghdr*>(address), sendFlags);
        break;
      case IORING_OP_ACCEPT:
        // Descriptors of listeners are non-blocking in this kind of ring: the connection may be gone by now.
        result = accept4(submission.fd, nullptr, nullptr, static_cast<int>(submission.accept_flags));
        break;
      case IORING_OP_CONNECT:
        return Connect(submission);
      default:
        return -EINVAL;
    }
    if (result >= 0) return static_cast<int>(result);
    if (errno != EINTR) return errno == EWOULDBLOCK ? kWouldBlock : -errno;
  }
}

}  // namespace

void SocketPoller::Stop() {
  if (!thread_.joinable()) return;
  uint64_t one = 1;
  ssize_t written = write(stopFd_, &one, sizeof one);
  SLEDGE_ASSERT(written == sizeof one, "the poller's thread can be told to stop");
  thread_.join();
}

SocketPoller::~SocketPoller() {
  Stop();
  if (epollFd_ >= 0) close(epollFd_);
  if (stopFd_ >= 0) close(stopFd_);
}

int SocketPoller::Start() {
  epollFd_ = epoll_create1(EPOLL_CLOEXEC);
  if (epollFd_ < 0) return errno;
  stopFd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stopFd_ < 0) return errno;
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = stopFd_;
  if (epoll_ctl(epollFd_, EPOLL_CTL_ADD, stopFd_, &event) < 0) return errno;
  thread_ = std::thread([this] { Run(); });
  return 0;
}

void SocketPoller::Submit(const io_uring_sqe& submission) {
  int result = Attempt(submission);
  if (result != kWouldBlock) {
    sink_->Complete(submission.user_data, result);
    return;
  }
  std::lock_guard<std::mutex> guard(lock_);
  const auto index = static_cast<size_t>(submission.fd);
  if (index >= sockets_.size()) sockets_.resize(index + 64);
  Socket* socket = &sockets_[index];
  Waiting* waiting = IsReader(submission.opcode) ? &socket->reader : &socket->writer;
  if (waiting->present) {
    sink_->Complete(submission.user_data, -EBUSY);
    return;
  }
  waiting->present = true;
  waiting->connecting = submission.opcode == IORING_OP_CONNECT;
  waiting->submission = submission;
  Watch(submission.fd, socket);
}

int SocketPoller::Cancel(uint64_t userData) {
  std::lock_guard<std::mutex> guard(lock_);
  for (Socket& socket : sockets_) {
    for (Waiting* waiting : {&socket.reader, &socket.writer}) {
      if (waiting->present && waiting->submission.user_data == userData) {
        CancelWaiting(waiting);
        return 0;
      }
    }
  }
  return -ENOENT;
}

void SocketPoller::CancelAll() {
  std::lock_guard<std::mutex> guard(lock_);
  for (Socket& socket : sockets_) {
    if (socket.reader.present) CancelWaiting(&socket.reader);
    if (socket.writer.present) CancelWaiting(&socket.writer);
  }
}

void SocketPoller::CancelWaiting(Waiting* waiting) {
  if (waiting->connecting) SetNonBlocking(waiting->submission.fd, false);
  Finish(waiting, -ECANCELED);
}

void SocketPoller::Run() {
  BlockSignals();
  epoll_event events[64];
  for (;;) {
    int count = epoll_wait(epollFd_, events, 64, -1);
    if (count < 0) {
      SLEDGE_ASSERT(errno == EINTR, "epoll_wait works");
      continue;
    }
    for (int index = 0; index < count; index++) {
      if (events[index].data.fd == stopFd_) return;
      Ready(events[index].data.fd, events[index].events);
    }
  }
}

// The descriptor may stand for another socket by now, closed and opened again: then the table says what waits, and an
// attempt too many does no harm.
void SocketPoller::Ready(int fd, uint32_t events) {
  std::lock_guard<std::mutex> guard(lock_);
  Socket* socket = &sockets_[static_cast<size_t>(fd)];
  const uint32_t broken = EPOLLERR | EPOLLHUP;
  if (socket->reader.present && (events & (EPOLLIN | EPOLLRDHUP | broken)) != 0) {
    int result = Attempt(socket->reader.submission);
    if (result != kWouldBlock) Finish(&socket->reader, result);
  }
  if (socket->writer.present && (events & (EPOLLOUT | broken)) != 0) {
    int result = socket->writer.connecting ? FinishConnect(fd) : Attempt(socket->writer.submission);
    if (result != kWouldBlock) Finish(&socket->writer, result);
  }
  if (socket->reader.present || socket->writer.present) Watch(fd, socket);
}

// Each event is reported once, then the socket is asked for again while something waits. A closed descriptor leaves
// epoll by itself, so there is nothing to take back.
void SocketPoller::Watch(int fd, Socket* socket) {
  epoll_event event = {};
  event.events = EPOLLONESHOT;
  if (socket->reader.present) event.events |= EPOLLIN | EPOLLRDHUP;
  if (socket->writer.present) event.events |= EPOLLOUT;
  event.data.fd = fd;
  int result = epoll_ctl(epollFd_, EPOLL_CTL_MOD, fd, &event);
  if (result < 0 && errno == ENOENT) result = epoll_ctl(epollFd_, EPOLL_CTL_ADD, fd, &event);
  if (result == 0) return;
  int error = errno;
  if (socket->reader.present) Finish(&socket->reader, -error);
  if (socket->writer.present) Finish(&socket->writer, -error);
}

void SocketPoller::Finish(Waiting* waiting, int32_t result) {
  waiting->present = false;
  sink_->Complete(waiting->submission.user_data, result);
}

}  // namespace sledge
