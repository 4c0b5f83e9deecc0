// What the files that face JavaScript share: the state of one Node environment (the main thread or a worker), and the
// checks of arguments. JavaScript validates for people; these checks only make sure that a mistake there is a TypeError
// and never a wild pointer.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <set>

namespace sledge {

class RingHandle;

struct Environment {
  std::set<RingHandle*> rings;
  // A ring that could not be brought to rest may still write to regions: then they stay mapped.
  bool keepRegions = false;
  bool quiesceHooked = false;
};

// Shared, for finalizers of regions may run after everything else of the environment is gone.
std::shared_ptr<Environment>& EnvironmentOf(Napi::Env env);

// Asks (again) to be told of the environment's end before anything that was made until now is finalized: hooks run in
// reverse order of asking, and rings have to be at rest before the memory they write to is unmapped.
void QuiesceFirstAtExit(Napi::Env env);
void QuiesceRings(Environment* environment);

void InitializeRing(Napi::Env env, Napi::Object exports);
void InitializeRegions(Napi::Env env, Napi::Object exports);
void InitializeFiles(Napi::Env env, Napi::Object exports);
void InitializeSockets(Napi::Env env, Napi::Object exports);
void InitializeChecksums(Napi::Env env, Napi::Object exports);
void InitializeAttach(Napi::Env env, Napi::Object exports);

inline void ThrowTypeError(Napi::Env env, const char* message) {
  if (!env.IsExceptionPending()) Napi::TypeError::New(env, message).ThrowAsJavaScriptException();
}

constexpr double kSafeIntegerMax = 9007199254740991.0;

// A whole number of 0 to `max`; else throws a TypeError and returns false.
inline bool ToWhole(Napi::Env env, napi_value value, double max, double* result) {
  if (napi_get_value_double(env, value, result) != napi_ok || !(*result >= 0 && *result <= max) ||
      std::floor(*result) != *result) {
    ThrowTypeError(env, "expected a whole number within range");
    return false;
  }
  return true;
}

inline bool ToUint32(Napi::Env env, napi_value value, uint32_t* result) {
  double number;
  if (!ToWhole(env, value, 4294967295.0, &number)) return false;
  *result = static_cast<uint32_t>(number);
  return true;
}

inline bool ToDescriptor(Napi::Env env, napi_value value, int* result) {
  double number;
  if (!ToWhole(env, value, 2147483647.0, &number)) return false;
  *result = static_cast<int>(number);
  return true;
}

struct ByteRange {
  uint8_t* data;
  size_t length;
};

// A Uint8Array; else throws a TypeError and returns false.
inline bool ToBytes(Napi::Env env, napi_value value, ByteRange* result) {
  bool isTypedArray = false;
  napi_typedarray_type type;
  void* data;
  if (napi_is_typedarray(env, value, &isTypedArray) != napi_ok || !isTypedArray ||
      napi_get_typedarray_info(env, value, &type, &result->length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array) {
    ThrowTypeError(env, "expected a Uint8Array");
    return false;
  }
  result->data = static_cast<uint8_t*>(data);
  return true;
}

}  // namespace sledge
