// I/O memory for JavaScript: page-aligned mappings as ArrayBuffers.
//
//   allocate(bytes, soon = false): ArrayBuffer | undefined    addressOf(buffer: ArrayBuffer): number
//
// A mapping goes when its ArrayBuffer is collected. That no I/O is under way in it by then is the platform's duty: its
// table of operations holds the region. Only at the end of an environment is everything finalized regardless; rings are
// brought to rest before that (binding.h).
#include "binding.h"
#include "ring.h"

namespace sledge {
namespace {

constexpr double kRegionBytesMax = 64.0 * 1024 * 1024 * 1024;
constexpr uint32_t kPageBytes = 4096;

struct KeptRegion {
  std::shared_ptr<Mapping> mapping;
  std::shared_ptr<Environment> environment;
};

Napi::Value Allocate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  double bytes;
  if (!ToWhole(env, info[0], kRegionBytesMax, &bytes)) return env.Undefined();
  if (!info[1].IsUndefined() && !info[1].IsBoolean()) {
    ThrowTypeError(env, "allocate(bytes, soon)");
    return env.Undefined();
  }
  const auto length = static_cast<size_t>(bytes);
  if (length == 0 || length % kPageBytes != 0) {
    ThrowTypeError(env, "a region is a whole number of pages");
    return env.Undefined();
  }
  auto mapping = Mapping::Anonymous(length);
  if (!mapping) return env.Undefined();
  if (info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value()) Mapping::TouchBeside(mapping);
  void* address = mapping->address();
  auto* kept = new KeptRegion{std::move(mapping), EnvironmentOf(env)};
  auto buffer = Napi::ArrayBuffer::New(
      env, address, length,
      [](Napi::Env, void*, KeptRegion* kept) {
        if (kept->environment->keepRegions) new std::shared_ptr<Mapping>(kept->mapping);
        delete kept;
      },
      kept);
  // A worker that is being terminated makes nothing any more.
  if (buffer.IsEmpty()) {
    delete kept;
    return env.Undefined();
  }
  QuiesceFirstAtExit(env);
  return buffer;
}

Napi::Value AddressOf(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsArrayBuffer()) {
    ThrowTypeError(env, "expected an ArrayBuffer");
    return env.Undefined();
  }
  return Napi::Number::New(env, static_cast<double>(reinterpret_cast<uintptr_t>(info[0].As<Napi::ArrayBuffer>().Data())));
}

}  // namespace

void InitializeRegions(Napi::Env env, Napi::Object exports) {
  exports.Set("allocate", Napi::Function::New(env, Allocate, "allocate"));
  exports.Set("addressOf", Napi::Function::New(env, AddressOf, "addressOf"));
}

}  // namespace sledge
