// The addon's entry: makes the state of this Node environment and collects what the other files export. Loaded by
// src/platform/addon.ts, once for each thread that does I/O.
#include "binding.h"

namespace sledge {

std::shared_ptr<Environment>& EnvironmentOf(Napi::Env env) {
  return *env.GetInstanceData<std::shared_ptr<Environment>>();
}

void QuiesceFirstAtExit(Napi::Env env) {
  Environment* environment = EnvironmentOf(env).get();
  auto hook = [](void* data) { QuiesceRings(static_cast<Environment*>(data)); };
  if (environment->quiesceHooked) napi_remove_env_cleanup_hook(env, hook, environment);
  napi_add_env_cleanup_hook(env, hook, environment);
  environment->quiesceHooked = true;
}

static Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new std::shared_ptr<Environment>(std::make_shared<Environment>()));
  InitializeRing(env, exports);
  InitializeRegions(env, exports);
  InitializeFiles(env, exports);
  InitializeSockets(env, exports);
  InitializeChecksums(env, exports);
  InitializeAttach(env, exports);
  return exports;
}

NODE_API_MODULE(sledge, Initialize)

}  // namespace sledge
