// SPDX-License-Identifier: Apache-2.0
// The library of a TensorRT product, whose engines all make the same contexts. It refuses what the real one refuses, and
// ends where that one would be undefined.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "context.hpp"

namespace {

using namespace gantk::testing;

struct Version {
  std::int32_t major = NV_TENSORRT_MAJOR, minor = NV_TENSORRT_MINOR;
};

// That of the headers, or the one that the environment says, e.g. "1.4".
Version version() {
  Version said;
  if (const char* given = std::getenv("STAND_IN_VERSION")) std::sscanf(given, "%d.%d", &said.major, &said.minor);
  return said;
}

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
  Engine(ILogger& logger, std::vector<Range> profiles, int& count)
      : logger_(logger), profiles_(std::move(profiles)), count_(count) {
    ++count_;
  }
  ~Engine() override {
    end_unless(contexts_ == 0, "an engine ends before its contexts");
    --count_;
  }

  std::int32_t getNbIOTensors() const noexcept override { return 2; }
  const char* getIOTensorName(std::int32_t index) const noexcept override { return index == 0 ? "latent" : "picture"; }
  DataType getTensorDataType(const char*) const noexcept override { return DataType::kFLOAT; }
  TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return std::strcmp(name, "latent") == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  TensorLocation getTensorLocation(const char*) const noexcept override { return TensorLocation::kDEVICE; }
  std::int32_t getNbOptimizationProfiles() const noexcept override {
    return static_cast<std::int32_t>(profiles_.size());
  }
  std::int64_t getDeviceMemorySizeV2() const noexcept override {
    std::int64_t most = 0;
    for (const Range& range : profiles_) most = std::max(most, scratch_bytes(range.last));
    return most;
  }
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
    end_unless(has_current_context(), "a context is made while none of CUDA's is current");
    // Others would take what the largest shapes want, each.
    if (strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED) return nullptr;
    return new Context(logger_, profiles_, contexts_, kernels);
  }

  ILogger& logger_;
  std::vector<Range> profiles_;
  int& count_;
  std::atomic<int> contexts_ = 0;
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
  ~Runtime() override { end_unless(engines_ == 0, "a runtime ends before its engines"); }
  IPluginRegistry& getPluginRegistry() noexcept override { return plugins_; }
  void setEngineHostCodeAllowed(bool) noexcept override {}
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept override {
    const std::string_view bytes(static_cast<const char*>(data), size);
    if (bytes.ends_with("with plugins") && !plugins_.has_any() && !plugins_of_the_process().has_any()) {
      logger_.log(ILogger::Severity::kERROR, "the stand-in has no such plugin");
      return nullptr;
    }
    return new Engine(logger_, profiles_of(bytes), engines_);
  }

 private:
  ILogger& logger_;
  Plugins plugins_;
  int engines_ = 0;
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
