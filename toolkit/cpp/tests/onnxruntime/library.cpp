// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime with a CUDA provider that is none: the library that STAND_IN_ONNXRUNTIME names computes for it, on its
// CPU provider, when the stream of a session comes to it.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "../gpu/driver.hpp"

// What the provider is told.
struct OrtCUDAProviderOptionsV2 {
  CUstream stream;
};

namespace {

const OrtApi* real;

struct Binding {
  explicit Binding(OrtIoBinding* real_one) : made(real_one) {}
  Binding(const Binding&) = delete;
  Binding& operator=(const Binding&) = delete;
  ~Binding() { real->ReleaseIoBinding(made); }

  OrtIoBinding* made;
  bool is_pending = false, has_run = false;
};

std::mutex mutex;  // Of all that follows.

// What is alive, by what the library knows it by.
std::map<const OrtSessionOptions*, CUstream> told;
std::map<const OrtSession*, CUstream> streams;
std::map<const OrtIoBinding*, std::shared_ptr<Binding>> bindings;
std::set<const OrtRunOptions*> quiet;
bool has_log = false;  // An environment brings it.

struct Run {
  OrtSession* session;
  std::shared_ptr<Binding> binding;
};
std::list<Run> runs;  // A graph may do any of them again.

// Those that bring operators; how many sessions are being made, how many of them enter the operators' domain into the
// table of the process, and whether it is there.
std::set<const OrtSessionOptions*> with_operators;
int made_now = 0, entering = 0;
bool is_entered = false;

bool is_named(const char* variable, const char* name) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::strcmp(value, name) == 0;
}

OrtStatus* refuse(const char* why) { return real->CreateStatus(ORT_FAIL, why); }

void compute(void* given) {
  Run& run = *static_cast<Run*>(given);
  run.binding->is_pending = false;
  if (OrtStatus* status = real->RunWithBinding(run.session, nullptr, run.binding->made)) {
    std::printf("  %s\n", real->GetErrorMessage(status));
    real->ReleaseStatus(status);
  }
}

OrtStatus* get_available_providers(char*** names, int* count) noexcept {
  static char cuda[] = "CUDAExecutionProvider", cpu[] = "CPUExecutionProvider";
  static char* all[] = {cuda, cpu};
  return *names = all, *count = 2, nullptr;
}
OrtStatus* release_available_providers(char**, int) noexcept { return nullptr; }

OrtStatus* create_env(OrtLoggingLevel level, const char* name, OrtEnv** made) noexcept {
  const std::lock_guard lock(mutex);
  OrtStatus* status = real->CreateEnv(level, name, made);
  has_log |= status == nullptr;
  return status;
}

OrtStatus* create_cuda_options(OrtCUDAProviderOptionsV2** made) noexcept {
  return *made = new OrtCUDAProviderOptionsV2{}, nullptr;
}
// ONNX Runtime loads the provider for that, which it tells its log.
OrtStatus* update_cuda_options(OrtCUDAProviderOptionsV2*, const char* const* keys, const char* const* values,
                               std::size_t count) noexcept {
  {
    const std::lock_guard lock(mutex);
    if (!has_log) return refuse("Attempt to use DefaultLogger but none has been registered.");
  }
  if (is_named("STAND_IN_FAULT", "the provider")) {  // As ONNX Runtime 1.31 says it.
    return refuse("/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
                  "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
                  "/home/somebody/a/folder/of/which/the/name/is/rather/long/.venv/lib/python3.12/site-packages/"
                  "onnxruntime/capi/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared "
                  "object file: No such file or directory\n");
  }
  for (std::size_t i = 0; i < count; ++i) std::printf("  %s is %s\n", keys[i], values[i]);
  return nullptr;
}
OrtStatus* update_cuda_option(OrtCUDAProviderOptionsV2* options, const char* key, void* value) noexcept {
  if (std::strcmp(key, "user_compute_stream") != 0) return refuse(key);
  return options->stream = static_cast<CUstream>(value), nullptr;
}
void release_cuda_options(OrtCUDAProviderOptionsV2* options) noexcept { delete options; }
OrtStatus* append_cuda(OrtSessionOptions* options, const OrtCUDAProviderOptionsV2* cuda) noexcept {
  const std::lock_guard lock(mutex);
  return told[options] = cuda->stream, nullptr;
}

// A domain is entered slowly, so that others come meanwhile; none may, for ONNX Runtime has no lock for that.
OrtStatus* create_session(const OrtEnv* env, const void* file, std::size_t size, const OrtSessionOptions* options,
                          OrtSession** made) noexcept {
  std::unique_lock lock(mutex);
  const bool enters = with_operators.contains(options) && !is_entered;
  ++made_now, entering += enters;
  if (entering > 0 && made_now > 1) std::printf("  sessions are made while operators are entered\n");
  lock.unlock();
  if (enters) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  OrtStatus* status = real->CreateSessionFromArray(env, file, size, options, made);
  lock.lock();
  --made_now, entering -= enters, is_entered |= enters;
  if (status == nullptr && told.contains(options)) streams[*made] = told[options];
  return status;
}
OrtStatus* register_operators(OrtSessionOptions* options, const char*) noexcept {
  const std::lock_guard lock(mutex);
  with_operators.insert(options);
  return nullptr;
}
void release_session_options(OrtSessionOptions* options) noexcept {
  {
    const std::lock_guard lock(mutex);
    told.erase(options), with_operators.erase(options);
  }
  real->ReleaseSessionOptions(options);
}
void release_session(OrtSession* session) noexcept {
  {
    const std::lock_guard lock(mutex);
    streams.erase(session);
  }
  real->ReleaseSession(session);
}

OrtStatus* create_memory_info(const char* name, OrtAllocatorType allocator, int device, OrtMemType type,
                              OrtMemoryInfo** made) noexcept {
  const bool is_there = std::strcmp(name, "Cuda") == 0;
  return real->CreateMemoryInfo(is_there ? "Cpu" : name, allocator, device, type, made);
}

#if ORT_API_VERSION >= 23
OrtStatus* get_places(const OrtSession* session, const OrtMemoryInfo** places, std::size_t count) noexcept {
  static OrtMemoryInfo *here = nullptr, *there = nullptr;  // For good.
  OrtAllocator* memory = nullptr;
  OrtStatus* status = real->GetAllocatorWithDefaultOptions(&memory);
  const auto make = [&](const char* name, OrtMemoryInfo*& made) {
    if (status != nullptr || made != nullptr) return;
    status = real->CreateMemoryInfo(name, OrtDeviceAllocator, 0, OrtMemTypeDefault, &made);
  };
  make("Cpu", here), make("Cuda", there);
  for (std::size_t i = 0; status == nullptr && i < count; ++i) {
    char* name = nullptr;
    status = real->SessionGetInputName(session, i, memory, &name);
    if (status != nullptr) break;
    places[i] = is_named("STAND_IN_MAIN_MEMORY", name) ? here : there;
    status = real->AllocatorFree(memory, name);
  }
  return status;
}
#endif

OrtStatus* add_run_config(OrtRunOptions* options, const char* key, const char* value) noexcept {
  const std::lock_guard lock(mutex);
  if (std::strcmp(key, "disable_synchronize_execution_providers") == 0 && *value == '1') quiet.insert(options);
  return real->AddRunConfigEntry(options, key, value);
}
void release_run_options(OrtRunOptions* options) noexcept {
  const std::lock_guard lock(mutex);
  quiet.erase(options);
  real->ReleaseRunOptions(options);
}

OrtStatus* create_binding(OrtSession* session, OrtIoBinding** made) noexcept {
  OrtStatus* status = real->CreateIoBinding(session, made);
  const std::lock_guard lock(mutex);
  if (status == nullptr) bindings[*made] = std::make_shared<Binding>(*made);
  return status;
}
void release_binding(OrtIoBinding* binding) noexcept {
  const std::lock_guard lock(mutex);
  bindings.erase(binding);
}

OrtStatus* run_with_binding(OrtSession* session, const OrtRunOptions* options, const OrtIoBinding* given) noexcept {
  const std::lock_guard lock(mutex);
  static bool has_spoiled_a_capture = false;
  const std::shared_ptr<Binding>& binding = bindings.at(given);
  const CUstream stream = streams.at(session);
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS) return refuse("the stream is gone");
  const bool is_captured = status != CU_STREAM_CAPTURE_STATUS_NONE, is_quiet = quiet.contains(options);
  std::printf("  RunWithBinding%s%s\n", is_captured ? ", captured" : "", is_quiet ? "" : ", waits");
  if (std::exchange(has_spoiled_a_capture, false)) return refuse("a capture failed before");
  // A capture begins when what a session does in its first run of a shape has been done.
  const bool is_ready = binding->has_run && !binding->is_pending && is_quiet;
  if (is_captured && (!is_ready || is_named("STAND_IN_FAULT", "RunWithBinding"))) {
    has_spoiled_a_capture = true;
    return refuse("the stand-in cannot be captured");
  }
  binding->has_run = true;
  binding->is_pending = !is_captured;
  runs.push_back({session, binding});
  if (stand_in_launch(stream, compute, &runs.back()) != CUDA_SUCCESS) return refuse("stand_in_launch");
  // As a provider leaves it of sizes that it computed elsewhere.
  static char size[8], copied[8];
  if (is_named("STAND_IN_LEAVES", "a copy") &&
      cuMemcpyHtoDAsync(reinterpret_cast<CUdeviceptr>(copied), size, sizeof size, stream) != CUDA_SUCCESS) {
    return refuse("cuMemcpyHtoDAsync");
  }
  if (is_named("STAND_IN_LEAVES", "a call") && cuLaunchHostFunc(stream, [](void*) {}, nullptr) != CUDA_SUCCESS) {
    return refuse("cuLaunchHostFunc");
  }
  if (!is_quiet && cuStreamSynchronize(stream) != CUDA_SUCCESS) return refuse("cuStreamSynchronize");
  return nullptr;
}

// On the CPU.
OrtStatus* run(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
               const OrtValue* const* inputs, std::size_t input_count, const char* const* output_names,
               std::size_t output_count, OrtValue** outputs) noexcept {
  stand_in_meet();
  return real->Run(session, options, input_names, inputs, input_count, output_names, output_count, outputs);
}

const OrtApi* make_api(std::uint32_t version) {
  void* library = ::dlopen(std::getenv("STAND_IN_ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL);
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(::dlsym(library, "OrtGetApiBase"))();
  real = base->GetApi(version);
  static OrtApi api = *real;
  api.GetAvailableProviders = get_available_providers;
  api.ReleaseAvailableProviders = release_available_providers;
  api.CreateEnv = create_env;
  api.CreateCUDAProviderOptions = create_cuda_options;
  api.UpdateCUDAProviderOptions = update_cuda_options;
  api.UpdateCUDAProviderOptionsWithValue = update_cuda_option;
  api.ReleaseCUDAProviderOptions = release_cuda_options;
  api.SessionOptionsAppendExecutionProvider_CUDA_V2 = append_cuda;
  api.CreateSessionFromArray = create_session;
  api.ReleaseSession = release_session;
  api.CreateMemoryInfo = create_memory_info;
#if ORT_API_VERSION >= 23
  api.SessionGetMemoryInfoForInputs = get_places;
#endif
  api.AddRunConfigEntry = add_run_config;
  api.ReleaseRunOptions = release_run_options;
  api.CreateIoBinding = create_binding;
  api.ReleaseIoBinding = release_binding;
  api.RunWithBinding = run_with_binding;
  api.Run = run;
  api.RegisterCustomOpsLibrary_V2 = register_operators;
  api.ReleaseSessionOptions = release_session_options;
  return &api;
}

const OrtApi* get_api(std::uint32_t version) noexcept {
  static const OrtApi* const api = make_api(version);
  return api;
}
const char* get_version() noexcept { return "1.23.0"; }

}  // namespace

extern "C" const OrtApiBase* OrtGetApiBase() noexcept {
  static const OrtApiBase base{get_api, get_version};
  return &base;
}
