// What `sledge attach` needs of the system beyond Node: netlink, sockets whose descriptors are handed to the kernel, and
// being told when one of them is ready. Functions return at once; failures are -errno.
//
//   netlinkSocket(): fd, bound, of generic netlink      joinNetlinkGroup(fd, group)
//   socketPair(): [fd, fd] of a stream                  startConnect(fd, address: Uint8Array, length)
//   socketError(fd): of a connect that has ended        setLinkOptions(fd): keep-alive; reset when closed
//   sendBytes(fd, bytes, offset, length)                receiveBytes(fd, bytes, offset, length)
//   new DescriptorWatch(fd, ready: () => void)   .readable()  .writable()  .close()
//
// A DescriptorWatch calls `ready` once for each call of readable() or writable(). It does not own the descriptor, which
// has to stay open until close() was called.
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <cerrno>
#include <cstring>

#include "assert.h"
#include "binding.h"

namespace sledge {
namespace {

Napi::Value Outcome(Napi::Env env, ssize_t result) {
  return Napi::Number::New(env, result < 0 ? -errno : static_cast<double>(result));
}

Napi::Value NetlinkSocket(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_GENERIC);
  if (fd < 0) return Outcome(env, fd);
  sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return Napi::Number::New(env, fd);
  Napi::Value failure = Outcome(env, -1);
  close(fd);
  return failure;
}

Napi::Value JoinNetlinkGroup(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  uint32_t group;
  if (!ToDescriptor(env, info[0], &fd) || !ToUint32(env, info[1], &group)) return env.Undefined();
  return Outcome(env, setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
}

Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fds[2];
  int result = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
  if (result < 0) return Outcome(env, result);
  Napi::Array pair = Napi::Array::New(env, 2);
  pair.Set(0u, Napi::Number::New(env, fds[0]));
  pair.Set(1u, Napi::Number::New(env, fds[1]));
  return pair;
}

Napi::Value StartConnect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  ByteRange bytes;
  uint32_t length;
  if (!ToDescriptor(env, info[0], &fd) || !ToBytes(env, info[1], &bytes) || !ToUint32(env, info[2], &length)) {
    return env.Undefined();
  }
  sockaddr_storage address = {};
  if (length < sizeof(sa_family_t) || length > bytes.length || length > sizeof address) {
    ThrowTypeError(env, "not a socket address");
    return env.Undefined();
  }
  std::memcpy(&address, bytes.data, length);
  return Outcome(env, connect(fd, reinterpret_cast<const sockaddr*>(&address), length));
}

Napi::Value SocketError(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  if (!ToDescriptor(env, info[0], &fd)) return env.Undefined();
  int error = 0;
  socklen_t length = sizeof error;
  int result = getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return result < 0 ? Outcome(env, result) : Napi::Number::New(env, -error);
}

// Best effort, as a socket that refuses an option still works; a Unix socket knows none of these.
//
// Linger 0 is for data, not for speed: requests of a dead connection that TCP still holds are thrown away when the kernel
// closes it, and cannot reach the server after the same requests were answered on the next connection and overwritten.
void SetLinkOptions(const Napi::CallbackInfo& info) {
  int fd;
  if (!ToDescriptor(info.Env(), info[0], &fd)) return;
  int on = 1, idleSeconds = 10, intervalSeconds = 5, probes = 3;
  linger reset = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idleSeconds, sizeof idleSeconds);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &intervalSeconds, sizeof intervalSeconds);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

bool ToPart(const Napi::CallbackInfo& info, int* fd, ByteRange* part) {
  uint32_t offset, length;
  ByteRange bytes;
  if (!ToDescriptor(info.Env(), info[0], fd) || !ToBytes(info.Env(), info[1], &bytes) ||
      !ToUint32(info.Env(), info[2], &offset) || !ToUint32(info.Env(), info[3], &length)) {
    return false;
  }
  if (offset > bytes.length || length > bytes.length - offset) {
    ThrowTypeError(info.Env(), "a part lies within its bytes");
    return false;
  }
  *part = {bytes.data + offset, length};
  return true;
}

Napi::Value SendBytes(const Napi::CallbackInfo& info) {
  int fd;
  ByteRange part;
  if (!ToPart(info, &fd, &part)) return info.Env().Undefined();
  return Outcome(info.Env(), send(fd, part.data, part.length, MSG_NOSIGNAL | MSG_DONTWAIT));
}

Napi::Value ReceiveBytes(const Napi::CallbackInfo& info) {
  int fd;
  ByteRange part;
  if (!ToPart(info, &fd, &part)) return info.Env().Undefined();
  return Outcome(info.Env(), recv(fd, part.data, part.length, MSG_DONTWAIT));
}

// The native side of a watch: lives until libuv has let go of it, which may be after the JavaScript object.
class WatchHandle {
 public:
  WatchHandle(Napi::Env env, Napi::Function ready)
      : env_(env), context_(env, "sledge:watch"), ready_(Napi::Persistent(ready)) {}

  // 0 or a libuv error.
  int Open(int fd) {
    uv_loop_t* loop = nullptr;
    if (napi_get_uv_event_loop(env_, &loop) != napi_ok) return UV_EINVAL;
    int error = uv_poll_init(loop, &poll_, fd);
    if (error != 0) return error;
    poll_.data = this;
    napi_status status = napi_add_async_cleanup_hook(env_, OnEnvironmentEnd, this, &hook_);
    SLEDGE_ASSERT(status == napi_ok, "a cleanup hook can be added");
    return 0;
  }

  int Start(int events) { return uv_poll_start(&poll_, events, OnReady); }

  // `*owner` is where the JavaScript side keeps its pointer: cleared, since this object is gone soon.
  void Close() {
    if (closing_) return;
    closing_ = true;
    if (owner_ != nullptr) *owner_ = nullptr;
    ready_.Reset();
    uv_poll_stop(&poll_);
    uv_close(reinterpret_cast<uv_handle_t*>(&poll_), [](uv_handle_t* handle) {
      auto* self = static_cast<WatchHandle*>(handle->data);
      napi_remove_async_cleanup_hook(self->hook_);
      delete self;
    });
  }

  void SetOwner(WatchHandle** owner) { owner_ = owner; }

 private:
  static void OnEnvironmentEnd(napi_async_cleanup_hook_handle, void* data) { static_cast<WatchHandle*>(data)->Close(); }

  static void OnReady(uv_poll_t* poll, int, int) {
    uv_poll_stop(poll);
    static_cast<WatchHandle*>(poll->data)->Call();
  }

  // By the plain C interface, since a worker that is being terminated refuses the call without any exception.
  void Call() {
    Napi::Env env = env_;
    Napi::HandleScope scope(env);
    napi_value result;
    napi_status status = napi_make_callback(env, context_, env.Global(), ready_.Value(), 0, nullptr, &result);
    if (status == napi_ok || !env.IsExceptionPending()) return;
    napi_value error;
    if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
  }

  Napi::Env env_;
  Napi::AsyncContext context_;
  Napi::FunctionReference ready_;
  uv_poll_t poll_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  WatchHandle** owner_ = nullptr;
  bool closing_ = false;
};

class WatchObject : public Napi::ObjectWrap<WatchObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(
        env, "DescriptorWatch",
        {InstanceMethod<&WatchObject::Readable>("readable"), InstanceMethod<&WatchObject::Writable>("writable"),
         InstanceMethod<&WatchObject::Close>("close")});
  }

  explicit WatchObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Napi::Env env = info.Env();
    int fd;
    if (!ToDescriptor(env, info[0], &fd)) return;
    if (!info[1].IsFunction()) {
      ThrowTypeError(env, "DescriptorWatch(fd, ready)");
      return;
    }
    auto handle = std::make_unique<WatchHandle>(env, info[1].As<Napi::Function>());
    int error = handle->Open(fd);
    if (error != 0) {
      Napi::Error failure = Napi::Error::New(env, std::strerror(-error));
      failure.Value().Set("errno", Napi::Number::New(env, -error));
      failure.ThrowAsJavaScriptException();
      return;
    }
    handle_ = handle.release();
    handle_->SetOwner(&handle_);
  }

  ~WatchObject() override {
    if (handle_ != nullptr) handle_->Close();
  }

 private:
  void Start(const Napi::CallbackInfo& info, int events) {
    if (handle_ == nullptr) {
      ThrowTypeError(info.Env(), "the watch is closed");
      return;
    }
    int error = handle_->Start(events);
    SLEDGE_ASSERT(error == 0, "an open descriptor can be watched");
  }

  void Readable(const Napi::CallbackInfo& info) { Start(info, UV_READABLE); }
  void Writable(const Napi::CallbackInfo& info) { Start(info, UV_WRITABLE); }

  void Close(const Napi::CallbackInfo&) {
    if (handle_ != nullptr) handle_->Close();
  }

  WatchHandle* handle_ = nullptr;
};

}  // namespace

void InitializeAttach(Napi::Env env, Napi::Object exports) {
  exports.Set("netlinkSocket", Napi::Function::New(env, NetlinkSocket, "netlinkSocket"));
  exports.Set("joinNetlinkGroup", Napi::Function::New(env, JoinNetlinkGroup, "joinNetlinkGroup"));
  exports.Set("socketPair", Napi::Function::New(env, SocketPair, "socketPair"));
  exports.Set("startConnect", Napi::Function::New(env, StartConnect, "startConnect"));
  exports.Set("socketError", Napi::Function::New(env, SocketError, "socketError"));
  exports.Set("setLinkOptions", Napi::Function::New(env, SetLinkOptions, "setLinkOptions"));
  exports.Set("sendBytes", Napi::Function::New(env, SendBytes, "sendBytes"));
  exports.Set("receiveBytes", Napi::Function::New(env, ReceiveBytes, "receiveBytes"));
  exports.Set("DescriptorWatch", WatchObject::Define(env));
}

}  // namespace sledge
