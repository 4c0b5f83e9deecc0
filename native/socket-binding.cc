// Sockets up to where the ring takes over, as descriptors. Everything here returns at once; failures are -errno.
//
//   encodeTcpAddress(host, port, out: Uint8Array), encodeUnixAddress(path, out): length of the sockaddr in `out`
//   listenOn(address: Uint8Array, length, backlog, dualStack): fd      socketFor(address, length): fd, to be connected
//   probeSocket(address, length): whether somebody listens, without waiting
//   nameOf(fd, remote): { family: 'tcp' | 'unix' | 'other', host, port, path, listens } | -errno
//   tune(fd, unixBufferBytes)   shutdownSocket(fd, how)   setNonBlocking(fd, on)   hasHungUp(fd): boolean
//   discardReceived(fd, bytesMax)   closeDescriptor(fd)
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "binding.h"

namespace sledge {
namespace {

Napi::Value Outcome(Napi::Env env, int result) { return Napi::Number::New(env, result < 0 ? -errno : result); }

bool ToText(const Napi::CallbackInfo& info, size_t index, std::string* text) {
  if (info[index].IsString()) {
    *text = info[index].As<Napi::String>().Utf8Value();
    return true;
  }
  ThrowTypeError(info.Env(), "expected a string");
  return false;
}

bool ToAddress(const Napi::CallbackInfo& info, sockaddr_storage* address, socklen_t* length) {
  ByteRange bytes;
  uint32_t count;
  if (!ToBytes(info.Env(), info[0], &bytes) || !ToUint32(info.Env(), info[1], &count)) return false;
  if (count < sizeof(sa_family_t) || count > bytes.length || count > sizeof *address) {
    ThrowTypeError(info.Env(), "not a socket address");
    return false;
  }
  std::memcpy(address, bytes.data, count);
  *length = count;
  return true;
}

Napi::Value PutAddress(const Napi::CallbackInfo& info, size_t index, const void* address, size_t length) {
  ByteRange bytes;
  if (!ToBytes(info.Env(), info[index], &bytes)) return info.Env().Undefined();
  if (bytes.length < length) {
    ThrowTypeError(info.Env(), "no room for the address");
    return info.Env().Undefined();
  }
  std::memcpy(bytes.data, address, length);
  return Napi::Number::New(info.Env(), static_cast<double>(length));
}

// Numeric hosts only (names are looked up above, without blocking): getaddrinfo knows every spelling and the scopes.
Napi::Value EncodeTcpAddress(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string host;
  uint32_t port;
  if (!ToText(info, 0, &host) || !ToUint32(env, info[1], &port)) return env.Undefined();
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (port > 65535 || getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    return Napi::Number::New(env, -EINVAL);
  }
  Napi::Value length = PutAddress(info, 2, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return length;
}

Napi::Value EncodeUnixAddress(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!ToText(info, 0, &path)) return env.Undefined();
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.find('\0') != std::string::npos) return Napi::Number::New(env, -EINVAL);
  if (path.size() >= sizeof address.sun_path) return Napi::Number::New(env, -ENAMETOOLONG);
  std::memcpy(address.sun_path, path.data(), path.size());
  return PutAddress(info, 1, &address, offsetof(sockaddr_un, sun_path) + path.size() + 1);
}

Napi::Value ListenOn(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  sockaddr_storage address = {};
  socklen_t length;
  int backlog;
  if (!ToAddress(info, &address, &length) || !ToDescriptor(env, info[2], &backlog)) return env.Undefined();
  int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Outcome(env, fd);
  int on = 1, off = 0;
  int result = 0;
  if (address.ss_family != AF_UNIX) result = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (result == 0 && address.ss_family == AF_INET6) {
    const int* only = info[3].ToBoolean() ? &off : &on;
    result = setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, only, sizeof on);
  }
  if (result == 0) result = bind(fd, reinterpret_cast<const sockaddr*>(&address), length);
  if (result == 0) result = listen(fd, backlog);
  if (result == 0) return Napi::Number::New(env, fd);
  Napi::Value failure = Outcome(env, result);
  close(fd);
  return failure;
}

Napi::Value SocketFor(const Napi::CallbackInfo& info) {
  sockaddr_storage address = {};
  socklen_t length;
  if (!ToAddress(info, &address, &length)) return info.Env().Undefined();
  return Outcome(info.Env(), socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

// A connection attempt that does not wait: 0 where somebody accepts, -ECONNREFUSED where nobody listens any more, -EAGAIN
// where a listener's queue is full.
Napi::Value ProbeSocket(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  sockaddr_storage address = {};
  socklen_t length;
  if (!ToAddress(info, &address, &length)) return env.Undefined();
  int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Outcome(env, fd);
  Napi::Value outcome = Outcome(env, connect(fd, reinterpret_cast<const sockaddr*>(&address), length));
  close(fd);
  return outcome;
}

Napi::Value NameOf(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  if (!ToDescriptor(env, info[0], &fd)) return env.Undefined();
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  int result = info[1].ToBoolean() ? getpeername(fd, generic, &length) : getsockname(fd, generic, &length);
  if (result < 0) return Outcome(env, result);
  Napi::Object name = Napi::Object::New(env);
  const char* family = "other";
  std::string host, path;
  int port = 0;
  if (address.ss_family == AF_UNIX) {
    family = "unix";
    const size_t start = offsetof(sockaddr_un, sun_path);
    if (length > start) path.assign(reinterpret_cast<sockaddr_un*>(&address)->sun_path, length - start);
    while (!path.empty() && path.back() == '\0') path.pop_back();
  } else if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
    family = "tcp";
    char hostText[NI_MAXHOST], portText[NI_MAXSERV];
    const int flags = NI_NUMERICHOST | NI_NUMERICSERV;
    if (getnameinfo(generic, length, hostText, sizeof hostText, portText, sizeof portText, flags) == 0) {
      host = hostText;
      port = std::atoi(portText);
    }
  }
  name.Set("family", family);
  name.Set("host", host);
  name.Set("port", port);
  name.Set("path", path);
  int listens = 0;
  socklen_t listensLength = sizeof listens;
  getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listensLength);
  name.Set("listens", Napi::Boolean::New(env, listens != 0));
  return name;
}

// Best effort: a socket that refuses an option still works.
void SetBuffer(int fd, int forced, int option, int bytes) {
  if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) < 0) setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof bytes);
}

void Tune(const Napi::CallbackInfo& info) {
  int fd, bufferBytes;
  if (!ToDescriptor(info.Env(), info[0], &fd) || !ToDescriptor(info.Env(), info[1], &bufferBytes)) return;
  int family = 0;
  socklen_t length = sizeof family;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) < 0) return;
  if (family == AF_UNIX) {
    SetBuffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, bufferBytes);
    SetBuffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, bufferBytes);
  } else {
    int on = 1;
    int idleSeconds = 60, intervalSeconds = 15, probes = 4;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // A client that lost its power or its network says nothing: its session would stay for ever.
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idleSeconds, sizeof idleSeconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &intervalSeconds, sizeof intervalSeconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  }
}

// Whether the peer has closed or shut down its sending half, or the connection is lost: known to the kernel before what was
// sent earlier has been received.
Napi::Value HasHungUp(const Napi::CallbackInfo& info) {
  int fd;
  if (!ToDescriptor(info.Env(), info[0], &fd)) return info.Env().Undefined();
  pollfd polled = {fd, POLLRDHUP, 0};
  return Napi::Boolean::New(info.Env(), poll(&polled, 1, 0) > 0);
}

Napi::Value ShutdownSocket(const Napi::CallbackInfo& info) {
  int fd, how;
  if (!ToDescriptor(info.Env(), info[0], &fd) || !ToDescriptor(info.Env(), info[1], &how)) return info.Env().Undefined();
  return Outcome(info.Env(), shutdown(fd, how));
}

Napi::Value SetNonBlocking(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  if (!ToDescriptor(env, info[0], &fd)) return env.Undefined();
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return Outcome(env, flags);
  flags = info[1].ToBoolean() ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  return Outcome(env, fcntl(fd, F_SETFL, flags));
}

// A TCP socket that is closed with bytes unread resets the connection, which takes back what was sent before.
Napi::Value DiscardReceived(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd, bytesMax;
  if (!ToDescriptor(env, info[0], &fd) || !ToDescriptor(env, info[1], &bytesMax)) return env.Undefined();
  int discarded = 0;
  while (discarded < bytesMax) {
    char waste[16384];
    ssize_t count = recv(fd, waste, sizeof waste, MSG_DONTWAIT);
    if (count <= 0) break;
    discarded += static_cast<int>(count);
  }
  return Napi::Number::New(env, discarded);
}

Napi::Value CloseDescriptor(const Napi::CallbackInfo& info) {
  int fd;
  if (!ToDescriptor(info.Env(), info[0], &fd)) return info.Env().Undefined();
  return Outcome(info.Env(), close(fd));
}

}  // namespace

void InitializeSockets(Napi::Env env, Napi::Object exports) {
  exports.Set("encodeTcpAddress", Napi::Function::New(env, EncodeTcpAddress, "encodeTcpAddress"));
  exports.Set("encodeUnixAddress", Napi::Function::New(env, EncodeUnixAddress, "encodeUnixAddress"));
  exports.Set("listenOn", Napi::Function::New(env, ListenOn, "listenOn"));
  exports.Set("socketFor", Napi::Function::New(env, SocketFor, "socketFor"));
  exports.Set("probeSocket", Napi::Function::New(env, ProbeSocket, "probeSocket"));
  exports.Set("nameOf", Napi::Function::New(env, NameOf, "nameOf"));
  exports.Set("tune", Napi::Function::New(env, Tune, "tune"));
  exports.Set("shutdownSocket", Napi::Function::New(env, ShutdownSocket, "shutdownSocket"));
  exports.Set("hasHungUp", Napi::Function::New(env, HasHungUp, "hasHungUp"));
  exports.Set("setNonBlocking", Napi::Function::New(env, SetNonBlocking, "setNonBlocking"));
  exports.Set("discardReceived", Napi::Function::New(env, DiscardReceived, "discardReceived"));
  exports.Set("closeDescriptor", Napi::Function::New(env, CloseDescriptor, "closeDescriptor"));
}

}  // namespace sledge
