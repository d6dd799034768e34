// SPDX-License-Identifier: Apache-2.0
// The library of a TensorRT product, whose every engine is latent: float32[N x 4] -> picture: float32[N x 3 x 8 x 8],
// each pixel its index and the sum of the sample's latent vector. It refuses what the real one does not survive.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <numeric>
#include <string>
#include <string_view>

#include "../gpu/driver.hpp"

namespace {

using namespace nvinfer1;

constexpr std::int64_t latent_size = 4, pixels = 3 * 8 * 8;
constexpr std::size_t scratch_bytes = 64;

// Whether a function is to fail.
bool is_faulty(const char* function) {
  const char* fault = std::getenv("STAND_IN_FAULT");
  return fault != nullptr && std::strcmp(fault, function) == 0;
}

struct Version {
  std::int32_t major = NV_TENSORRT_MAJOR, minor = NV_TENSORRT_MINOR;
};

// That of the headers, or the one that the environment says, e.g. "1.4".
Version version() {
  Version said;
  if (const char* given = std::getenv("STAND_IN_VERSION")) std::sscanf(given, "%d.%d", &said.major, &said.minor);
  return said;
}

struct Run {
  const float* latent;
  float* picture;
  std::int64_t batch;
  bool is_pending;
};

void compute(void* given) {
  Run& run = *static_cast<Run*>(given);
  run.is_pending = false;
  for (std::int64_t i = 0; i < run.batch * pixels; ++i) {
    const float* latent = run.latent + i / pixels * latent_size;
    run.picture[i] = std::accumulate(latent, latent + latent_size, static_cast<float>(i % pixels));
  }
}

// Kernels are "k", for each batch the number as a digit, and "!".
class Kernels : public IRuntimeCache {
 public:
  class Blob : public IHostMemory {
   public:
    explicit Blob(std::string bytes) : bytes_(std::move(bytes)) {}
    void* data() const noexcept override { return const_cast<char*>(bytes_.data()); }
    std::size_t size() const noexcept override { return bytes_.size(); }

   private:
    std::string bytes_;
  };

  IHostMemory* serialize() const noexcept override {
    const std::lock_guard lock(mutex_);
    return new Blob("k" + batches_ + "!");
  }
  bool deserialize(const void* blob, std::size_t size) noexcept override {
    const std::string_view bytes(static_cast<const char*>(blob), size);
    std::printf("  deserialize %.*s\n", static_cast<int>(size), bytes.data());
    if (!bytes.starts_with('k') || !bytes.ends_with('!') || is_faulty("deserialize")) return false;
    batches_ = bytes.substr(1, size - 2);
    return true;
  }

  // Each is compiled once.
  void want(std::int64_t batch) const {
    const std::lock_guard lock(mutex_);
    const char digit = static_cast<char>('0' + batch);
    if (batches_.find(digit) != batches_.npos) return;
    std::printf("  compiles for batch %c\n", digit);
    batches_ += digit;
  }

 private:
  mutable std::mutex mutex_;  // Contexts of several threads share them.
  mutable std::string batches_;
};

class Context : public IExecutionContext {
 public:
  Context(ILogger& logger, bool is_given_memory, const Kernels* kernels)
      : logger_(logger), is_given_memory_(is_given_memory), kernels_(kernels) {}

  bool setOptimizationProfileAsync(std::int32_t, cudaStream_t) noexcept override { return true; }
  bool setInputShape(const char*, const Dims& dims) noexcept override {
    batch_ = dims.d[0];
    return true;
  }
  Dims getTensorShape(const char* name) const noexcept override {
    if (std::strcmp(name, "latent") == 0) return {2, {batch_, latent_size}};
    return {4, {batch_, 3, 8, 8}};
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    if (std::strcmp(name, "latent") == 0) latent_ = static_cast<const float*>(data);
    else picture_ = static_cast<float*>(data);
    return reinterpret_cast<std::uintptr_t>(data) % 256 == 0;
  }
  std::size_t updateDeviceMemorySizeForShapes() noexcept override { return scratch_bytes; }
  void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept override {
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(memory) % 512 == 0;
    has_memory_ = memory != nullptr && is_aligned && size >= static_cast<std::int64_t>(scratch_bytes);
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS) return false;
    const bool is_captured = status != CU_STREAM_CAPTURE_STATUS_NONE;
    std::printf("  enqueueV3%s\n", is_captured ? ", captured" : "");
    // A capture begins when what a context does in its first run has been done.
    const bool is_ready = !is_captured || (!runs_.empty() && !runs_.back().is_pending);
    const bool is_refused = is_captured && is_faulty("enqueueV3");
    if (batch_ == 0 || latent_ == nullptr || picture_ == nullptr || has_memory_ != is_given_memory_ || !is_ready ||
        is_refused) {
      logger_.log(ILogger::Severity::kERROR, "the stand-in does not run");
      return false;
    }
    if (!is_captured) stand_in_meet();
    if (kernels_ != nullptr) kernels_->want(batch_);
    runs_.push_back({latent_, picture_, batch_, !is_captured});
    return stand_in_launch(stream, compute, &runs_.back()) == CUDA_SUCCESS;
  }
#ifdef TRT_MAJOR_RTX
  bool isStreamCapturable(cudaStream_t) const noexcept override { return !is_faulty("isStreamCapturable"); }
#endif

 private:
  ILogger& logger_;
  bool is_given_memory_, has_memory_ = false;
  const Kernels* kernels_;
  std::int64_t batch_ = 0;
  const float* latent_ = nullptr;
  float* picture_ = nullptr;
  std::list<Run> runs_;  // A graph may do any of them again.
};

class Configuration : public IRuntimeConfig {
 public:
  void setExecutionContextAllocationStrategy(ExecutionContextAllocationStrategy given) noexcept override {
    allocation = given;
  }
  bool setDynamicShapesKernelSpecializationStrategy(DynamicShapesKernelSpecializationStrategy given) noexcept override {
    std::printf("  kernels of a shape are compiled %s\n",
                given == DynamicShapesKernelSpecializationStrategy::kEAGER ? "first" : "meanwhile");
    return true;
  }

  IRuntimeCache* createRuntimeCache() const noexcept override {
    return is_faulty("createRuntimeCache") ? nullptr : new Kernels();
  }
  bool setRuntimeCache(const IRuntimeCache& cache) noexcept override {
    kernels = static_cast<const Kernels*>(&cache);
    return true;
  }

  ExecutionContextAllocationStrategy allocation = ExecutionContextAllocationStrategy::kSTATIC;
  const Kernels* kernels = nullptr;
};

class Engine : public ICudaEngine {
 public:
  explicit Engine(ILogger& logger) : logger_(logger) {}

  std::int32_t getNbIOTensors() const noexcept override { return 2; }
  const char* getIOTensorName(std::int32_t index) const noexcept override { return index == 0 ? "latent" : "picture"; }
  DataType getTensorDataType(const char*) const noexcept override { return DataType::kFLOAT; }
  TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return std::strcmp(name, "latent") == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  TensorLocation getTensorLocation(const char*) const noexcept override { return TensorLocation::kDEVICE; }
  std::int32_t getNbOptimizationProfiles() const noexcept override { return 1; }
  std::int64_t getDeviceMemorySizeV2() const noexcept override { return 3 << 20; }
  IRuntimeConfig* createRuntimeConfig() noexcept override { return new Configuration(); }
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
    return make(strategy, nullptr);
  }
  IExecutionContext* createExecutionContext(IRuntimeConfig* configuration) noexcept override {
    const auto& given = *static_cast<Configuration*>(configuration);
    return make(given.allocation, given.kernels);
  }

 private:
  IExecutionContext* make(ExecutionContextAllocationStrategy strategy, const Kernels* kernels) {
    std::printf("  createExecutionContext\n");
    return new Context(logger_, strategy == ExecutionContextAllocationStrategy::kUSER_MANAGED, kernels);
  }

  ILogger& logger_;
};

class Plugins : public IPluginRegistry {
 public:
  bool registerCreator(IPluginCreatorInterface&, const char*) noexcept override { return ++count_ > 0; }
  void* loadLibrary(const char* path) noexcept override {
    std::printf("  loadLibrary %s\n", path);
    void* library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void* found = library == nullptr ? nullptr : ::dlsym(library, "getCreators");
    if (found == nullptr) return nullptr;
    int here = 0;
    reinterpret_cast<IPluginCreatorInterface* const* (*)(int&)>(found)(here);
    return count_ += here, library;
  }
  bool has_any() const { return count_ > 0; }

 private:
  int count_ = 0;
};

Plugins& plugins_of_the_process() {
  static Plugins all;
  return all;
}

class Runtime : public IRuntime {
 public:
  explicit Runtime(ILogger& logger) : logger_(logger) {}
  IPluginRegistry& getPluginRegistry() noexcept override { return plugins_; }
  void setEngineHostCodeAllowed(bool) noexcept override {}
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept override {
    const std::string_view bytes(static_cast<const char*>(data), size);
    if (bytes.ends_with("with plugins") && !plugins_.has_any() && !plugins_of_the_process().has_any()) {
      logger_.log(ILogger::Severity::kERROR, "the stand-in has no such plugin");
      return nullptr;
    }
    return new Engine(logger_);
  }

 private:
  ILogger& logger_;
  Plugins plugins_;
};

}  // namespace

extern "C" {

std::int32_t getInferLibMajorVersion() { return version().major; }
std::int32_t getInferLibMinorVersion() { return version().minor; }
std::int32_t getInferLibPatchVersion() { return 0; }
std::int32_t getInferLibBuildVersion() { return 0; }
nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return &plugins_of_the_process(); }
void* createInferRuntime_INTERNAL(void* logger, std::int32_t) noexcept {
  return static_cast<IRuntime*>(new Runtime(*static_cast<ILogger*>(logger)));
}

}  // extern "C"
