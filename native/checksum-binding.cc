// Checksums for JavaScript, any number of blocks in one call.
//
//   checksum(bytes: Uint8Array, offset, length, seed): number
//   checksumWays: { [name]: the same, in this way }, of those that this processor has, the fastest first
//   checksumBlocks(bytes, offset, count, sums: Uint32Array, sumsIndex)
#include "binding.h"
#include "crc32c.h"

namespace sledge {
namespace {

constexpr uint32_t kBlockBytes = 4096;

// Its data is the way to sum.
Napi::Value Checksum(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  ByteRange bytes;
  double offset, length;
  uint32_t seed;
  if (!ToBytes(env, info[0], &bytes) || !ToWhole(env, info[1], kSafeIntegerMax, &offset) ||
      !ToWhole(env, info[2], kSafeIntegerMax, &length) || !ToUint32(env, info[3], &seed)) {
    return env.Undefined();
  }
  if (offset + length > static_cast<double>(bytes.length)) {
    ThrowTypeError(env, "the range is not within the array");
    return env.Undefined();
  }
  const Crc32cSum sum = reinterpret_cast<Crc32cSum>(info.Data());
  return Napi::Number::New(env, sum(seed, bytes.data + static_cast<size_t>(offset), static_cast<size_t>(length)));
}

void ChecksumBlocks(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  ByteRange bytes;
  double offset;
  uint32_t count, index;
  if (!ToBytes(env, info[0], &bytes) || !ToWhole(env, info[1], kSafeIntegerMax, &offset) ||
      !ToUint32(env, info[2], &count) || !ToUint32(env, info[4], &index)) {
    return;
  }
  napi_typedarray_type type;
  size_t sumsLength;
  void* data;
  if (!info[3].IsTypedArray() ||
      napi_get_typedarray_info(env, info[3], &type, &sumsLength, &data, nullptr, nullptr) != napi_ok ||
      type != napi_uint32_array) {
    ThrowTypeError(env, "expected a Uint32Array");
    return;
  }
  if (offset + static_cast<double>(count) * kBlockBytes > static_cast<double>(bytes.length) ||
      static_cast<uint64_t>(index) + count > sumsLength) {
    ThrowTypeError(env, "the range is not within the array");
    return;
  }
  const uint8_t* block = bytes.data + static_cast<size_t>(offset);
  uint32_t* sums = static_cast<uint32_t*>(data) + index;
  for (uint32_t at = 0; at < count; at++, block += kBlockBytes) sums[at] = Crc32c(0, block, kBlockBytes);
}

}  // namespace

void InitializeChecksums(Napi::Env env, Napi::Object exports) {
  Napi::Object ways = Napi::Object::New(env);
  for (const Crc32cWay& way : Crc32cWays()) {
    ways.Set(way.name, Napi::Function::New(env, Checksum, way.name, reinterpret_cast<void*>(way.sum)));
  }
  exports.Set("checksum", Napi::Function::New(env, Checksum, "checksum", reinterpret_cast<void*>(Crc32c)));
  exports.Set("checksumWays", ways);
  exports.Set("checksumBlocks", Napi::Function::New(env, ChecksumBlocks, "checksumBlocks"));
}

}  // namespace sledge
