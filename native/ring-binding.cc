// `Ring` for JavaScript: a ring, its memory as ArrayBuffers, and its eventfd on Node's loop.
//
//   new Ring(kind: 0 io_uring | 1 threads, entries, threads, wake: () => boolean)   throws with `errno` set
//   .submissions, .completions: ArrayBuffer     .enter(count, spinMicros)  .push(count)  .arm(mayWait)  .close()
//   .loopFd: what tells that Node's own loop has something to do, or -1 where the ring cannot be waited for
//
// Where it can, the thread sleeps in the ring and not in libuv's epoll, in the moment before libuv would: a completion
// then takes one system call and no eventfd. JavaScript keeps a poll of `loopFd` in the ring meanwhile, so that what
// libuv waits for ends that sleep, too, and `wake` returns true when it did.
//
// A ring's native side (RingHandle) outlives the JavaScript object until libuv has let go of the eventfd. Whichever
// comes first ends it: close(), or the end of the environment while I/O is under way.
#include <unistd.h>
#include <uv.h>

#include <cerrno>
#include <cstring>

#include "assert.h"
#include "binding.h"
#include "ring.h"

namespace sledge {

class RingHandle {
 public:
  RingHandle(Napi::Env env, std::unique_ptr<Ring> ring, Napi::Function wake)
      : ring_(std::move(ring)), env_(env), context_(env, "sledge:ring"), wake_(Napi::Persistent(wake)) {}

  // 0 or a libuv error.
  int Open() {
    uv_loop_t* loop = nullptr;
    if (napi_get_uv_event_loop(env_, &loop) != napi_ok) return UV_EINVAL;
    int error = uv_poll_init(loop, &poll_, ring_->eventFd());
    if (error != 0) return error;
    poll_.data = this;
    error = uv_poll_start(&poll_, UV_READABLE, OnReadable);
    SLEDGE_ASSERT(error == 0, "an eventfd can be polled");
    uv_prepare_init(loop, &prepare_);
    prepare_.data = this;
    if (ring_->CanWait()) {
      loopFd_ = uv_backend_fd(loop);
      uv_prepare_start(&prepare_, OnPrepare);
      uv_unref(reinterpret_cast<uv_handle_t*>(&prepare_));
    }
    napi_status status = napi_add_async_cleanup_hook(env_, OnEnvironmentEnd, this, &hook_);
    SLEDGE_ASSERT(status == napi_ok, "a cleanup hook can be added");
    EnvironmentOf(env_)->rings.insert(this);
    QuiesceFirstAtExit(env_);
    return 0;
  }

  Ring* ring() const { return ring_.get(); }
  int loopFd() const { return loopFd_; }

  // JavaScript has nothing to do until something completes. Returns how many are ready already.
  int Arm(bool mayWait) {
    sleeps_ = false;
    if (!mayWait || loopFd_ < 0) return ring_->Arm() == 0 ? 0 : ring_->Enter(0, 0);
    const int ready = ring_->Enter(0, 0);
    sleeps_ = ready == 0;
    return ready;
  }

  // Nothing is under way afterwards, or the ring is given up together with the memory it may still use.
  void Quiesce(Environment* environment) {
    if (quiesced_) return;
    quiesced_ = true;
    if (ring_->Quiesce()) return;
    environment->keepRegions = true;
    keepRing_ = true;
  }

  // `*owner` is where the JavaScript side keeps its pointer: cleared, since this object is gone soon.
  void Close() {
    if (closing_) return;
    closing_ = true;
    if (owner_ != nullptr) *owner_ = nullptr;
    auto& environment = EnvironmentOf(env_);
    Quiesce(environment.get());
    environment->rings.erase(this);
    wake_.Reset();
    sleeps_ = false;
    uv_poll_stop(&poll_);
    uv_prepare_stop(&prepare_);
    uv_close(reinterpret_cast<uv_handle_t*>(&poll_), OnClosed);
    uv_close(reinterpret_cast<uv_handle_t*>(&prepare_), OnClosed);
  }

  void SetOwner(RingHandle** owner) { owner_ = owner; }

 private:
  static void OnEnvironmentEnd(napi_async_cleanup_hook_handle, void* data) { static_cast<RingHandle*>(data)->Close(); }

  static void OnClosed(uv_handle_t* handle) {
    auto* self = static_cast<RingHandle*>(handle->data);
    if (--self->handlesOpen_ > 0) return;
    napi_remove_async_cleanup_hook(self->hook_);
    if (self->keepRing_) self->ring_.release();
    delete self;
  }

  // libuv tells epoll of a new descriptor only when it polls: until then nobody hears of what happens on it.
  static bool HasNewWatchers(const uv_loop_t* loop) {
    const void* next;
    std::memcpy(&next, &loop->watcher_queue, sizeof next);
    return next != &loop->watcher_queue;
  }

  // libuv will look at its descriptors in this round, and not sleep; `OnReadable` follows.
  void Nudge() {
    const uint64_t one = 1;
    const ssize_t written = write(ring_->eventFd(), &one, sizeof one);
    SLEDGE_ASSERT(written == sizeof one || errno == EAGAIN, "the ring's event can be set");
  }

  // libuv is about to poll. With nothing else to do the thread sleeps here instead, until something is due.
  static void OnPrepare(uv_prepare_t* prepare) {
    auto* self = static_cast<RingHandle*>(prepare->data);
    while (self->sleeps_) {
      // Asked for first: with new watchers `uv_backend_timeout` says 0, though libuv itself goes by its timers alone.
      if (HasNewWatchers(prepare->loop)) return self->Nudge();
      uv_update_time(prepare->loop);
      const int milliseconds = uv_backend_timeout(prepare->loop);
      if (milliseconds == 0) return;
      if (self->ring_->Wait(milliseconds) == 0) break;
      self->sleeps_ = false;
      if (self->Wake()) break;
    }
    // libuv may sleep in this round: completions have to wake it. What is there already may end in another wish to sleep, but
    // where a timer is due by then libuv only looks.
    while (self->sleeps_ && self->ring_->Arm() > 0) {
      self->sleeps_ = false;
      self->Wake();
      if (HasNewWatchers(prepare->loop)) return self->Nudge();
      uv_update_time(prepare->loop);
      if (uv_backend_timeout(prepare->loop) == 0) return;
    }
  }

  static void OnReadable(uv_poll_t* poll, int, int) {
    auto* self = static_cast<RingHandle*>(poll->data);
    uint64_t count;
    if (read(self->ring_->eventFd(), &count, sizeof count) < 0 && errno == EAGAIN) return;
    self->ring_->Disarm();
    self->sleeps_ = false;
    self->Wake();
  }

  // By the plain C interface, since a worker that is being terminated refuses the call without any exception.
  // True when Node's own loop has something to do.
  bool Wake() {
    Napi::HandleScope scope(env_);
    napi_value result;
    napi_status status = napi_make_callback(env_, context_, env_.Global(), wake_.Value(), 0, nullptr, &result);
    bool isDue = false;
    if (status == napi_ok) {
      napi_get_value_bool(env_, result, &isDue);
      return isDue;
    }
    napi_value error;
    if (env_.IsExceptionPending() && napi_get_and_clear_last_exception(env_, &error) == napi_ok) {
      napi_fatal_exception(env_, error);
    }
    return true;
  }

  std::unique_ptr<Ring> ring_;
  Napi::Env env_;
  Napi::AsyncContext context_;
  Napi::FunctionReference wake_;
  uv_poll_t poll_;
  uv_prepare_t prepare_;
  int handlesOpen_ = 2;
  int loopFd_ = -1;
  // JavaScript has armed the ring and sleeps, with a poll of `loopFd_` under way.
  bool sleeps_ = false;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  RingHandle** owner_ = nullptr;
  bool closing_ = false;
  bool quiesced_ = false;
  bool keepRing_ = false;
};

void QuiesceRings(Environment* environment) {
  for (RingHandle* ring : environment->rings) ring->Quiesce(environment);
}

namespace {

class RingObject : public Napi::ObjectWrap<RingObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Ring",
                       {InstanceMethod<&RingObject::Enter>("enter"), InstanceMethod<&RingObject::Push>("push"),
                        InstanceMethod<&RingObject::Arm>("arm"), InstanceMethod<&RingObject::Close>("close")});
  }

  explicit RingObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Napi::Env env = info.Env();
    uint32_t kind, entries, threads;
    if (!ToUint32(env, info[0], &kind) || !ToUint32(env, info[1], &entries) || !ToUint32(env, info[2], &threads)) return;
    if (!info[3].IsFunction() || kind > 1 || entries == 0 || entries > 32768 || (entries & (entries - 1)) != 0 ||
        (kind == 1 && (threads == 0 || threads > 256))) {
      ThrowTypeError(env, "Ring(kind, entries, threads, wake)");
      return;
    }
    int error = 0;
    auto ring = kind == 0 ? MakeKernelRing(entries, &error) : MakeThreadRing(entries, threads, &error);
    if (!ring) {
      Fail(env, error);
      return;
    }
    Napi::Object self = info.This().As<Napi::Object>();
    self.Set("submissions", Share(env, ring->submissionMapping(), ring->submissions(), ring->submissionCount() * 64u));
    self.Set("completions", Share(env, ring->completionMapping(), ring->completions(), ring->completionCount() * 16u));
    auto handle = std::make_unique<RingHandle>(env, std::move(ring), info[3].As<Napi::Function>());
    error = handle->Open();
    if (error != 0) {
      Fail(env, -error);
      return;
    }
    handle_ = handle.release();
    handle_->SetOwner(&handle_);
    self.Set("loopFd", Napi::Number::New(env, handle_->loopFd()));
  }

  ~RingObject() override {
    if (handle_ != nullptr) handle_->SetOwner(nullptr);
  }

 private:
  static void Fail(Napi::Env env, int error) {
    Napi::Error failure = Napi::Error::New(env, std::strerror(error));
    failure.Value().Set("errno", Napi::Number::New(env, error));
    failure.ThrowAsJavaScriptException();
  }

  static Napi::Value Share(Napi::Env env, const std::shared_ptr<Mapping>& mapping, uint8_t* address, size_t bytes) {
    return Napi::ArrayBuffer::New(
        env, address, bytes, [](Napi::Env, void*, std::shared_ptr<Mapping>* kept) { delete kept; },
        new std::shared_ptr<Mapping>(mapping));
  }

  Ring* Opened(Napi::Env env) {
    if (handle_ != nullptr) return handle_->ring();
    ThrowTypeError(env, "the ring is closed");
    return nullptr;
  }

  Napi::Value Enter(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint32_t count, spinMicros;
    if (!ToUint32(env, info[0], &count) || !ToUint32(env, info[1], &spinMicros)) return env.Undefined();
    Ring* ring = Opened(env);
    if (ring == nullptr) return env.Undefined();
    if (count > ring->submissionCount() || spinMicros > 1'000'000) {
      ThrowTypeError(env, "enter(count, spinMicros): out of range");
      return env.Undefined();
    }
    return Napi::Number::New(env, ring->Enter(count, spinMicros));
  }

  Napi::Value Push(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint32_t count;
    if (!ToUint32(env, info[0], &count)) return env.Undefined();
    Ring* ring = Opened(env);
    if (ring == nullptr) return env.Undefined();
    if (count > ring->submissionCount()) {
      ThrowTypeError(env, "push(count): out of range");
      return env.Undefined();
    }
    return Napi::Number::New(env, ring->Push(count));
  }

  Napi::Value Arm(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (!info[0].IsBoolean()) {
      ThrowTypeError(env, "arm(mayWait)");
      return env.Undefined();
    }
    if (Opened(env) == nullptr) return env.Undefined();
    return Napi::Number::New(env, handle_->Arm(info[0].As<Napi::Boolean>().Value()));
  }

  void Close(const Napi::CallbackInfo& info) {
    if (Opened(info.Env()) != nullptr) handle_->Close();
  }

  RingHandle* handle_ = nullptr;
};

}  // namespace

void InitializeRing(Napi::Env env, Napi::Object exports) { exports.Set("Ring", RingObject::Define(env)); }

}  // namespace sledge
