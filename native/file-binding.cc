// What the platform needs of files besides the ring and node:fs.
//
//   writeAt(fd, bytes: Uint8Array, offset, length, position): bytes written or -errno; done when it returns
//   directAlignment(fd): bytes, 0 where unknown
//   blockDevice(fd): { sizeBytes, sectorBytes } | -errno
//   takeSpace(fd, position, length): 0 or -errno; the file's length stays, and what is written there later finds room
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>

#include "binding.h"
#include "statx.h"

namespace sledge {
namespace {

Napi::Value WriteAt(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  ByteRange bytes;
  double offset, length, position;
  if (!ToDescriptor(env, info[0], &fd) || !ToBytes(env, info[1], &bytes) ||
      !ToWhole(env, info[2], kSafeIntegerMax, &offset) || !ToWhole(env, info[3], kSafeIntegerMax, &length) ||
      !ToWhole(env, info[4], kSafeIntegerMax, &position)) {
    return env.Undefined();
  }
  if (offset + length > static_cast<double>(bytes.length)) {
    ThrowTypeError(env, "the range is not within the array");
    return env.Undefined();
  }
  const uint8_t* from = bytes.data + static_cast<size_t>(offset);
  const auto left = static_cast<size_t>(length);
  size_t done = 0;
  while (done < left) {
    ssize_t written = pwrite(fd, from + done, left - done, static_cast<off_t>(position) + static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Napi::Number::New(env, -errno);
    if (written == 0) return Napi::Number::New(env, -EIO);
    done += static_cast<size_t>(written);
  }
  return Napi::Number::New(env, length);
}

Napi::Value DirectAlignmentOf(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  if (!ToDescriptor(env, info[0], &fd)) return env.Undefined();
  return Napi::Number::New(env, DirectAlignment(fd));
}

Napi::Value BlockDevice(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  if (!ToDescriptor(env, info[0], &fd)) return env.Undefined();
  uint64_t sizeBytes = 0;
  int sectorBytes = 0;
  if (ioctl(fd, BLKGETSIZE64, &sizeBytes) < 0 || ioctl(fd, BLKSSZGET, &sectorBytes) < 0) {
    return Napi::Number::New(env, -errno);
  }
  Napi::Object device = Napi::Object::New(env);
  device.Set("sizeBytes", Napi::Number::New(env, static_cast<double>(sizeBytes)));
  device.Set("sectorBytes", Napi::Number::New(env, sectorBytes));
  return device;
}

Napi::Value TakeSpace(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd;
  double position, length;
  if (!ToDescriptor(env, info[0], &fd) || !ToWhole(env, info[1], kSafeIntegerMax, &position) ||
      !ToWhole(env, info[2], kSafeIntegerMax, &length)) {
    return env.Undefined();
  }
  int result;
  do {
    result = fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(position), static_cast<off_t>(length));
  } while (result < 0 && errno == EINTR);
  return Napi::Number::New(env, result < 0 ? -errno : 0);
}

}  // namespace

void InitializeFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("writeAt", Napi::Function::New(env, WriteAt, "writeAt"));
  exports.Set("directAlignment", Napi::Function::New(env, DirectAlignmentOf, "directAlignment"));
  exports.Set("takeSpace", Napi::Function::New(env, TakeSpace, "takeSpace"));
  exports.Set("blockDevice", Napi::Function::New(env, BlockDevice, "blockDevice"));
}

}  // namespace sledge
